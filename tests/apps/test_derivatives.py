"""Fine-tuned derivatives come nearer to the polynomial's, values stay, and nothing is left half done."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from fieldforge.apps.bench.operators import SOLIDS, figures, fit_solid
from fieldforge.apps.fit.derivatives import finetune_derivatives
from fieldforge.apps.fit.loop import Progress
from fieldforge.apps.fit.shape.job import fit_shape
from fieldforge.apps.fit.shape.presets import preset
from fieldforge.apps.shapes import quality
from fieldforge.apps.shapes.read import Mesh
from fieldforge.fields.kinds.shape import SDFField, UDFField

NETWORK = {"otype": "MLP", "n_neurons": 16, "n_hidden_layers": 1, "activation": "ReLU"}


def small() -> SDFField:
    """A fit of a ball that takes a moment, rough as such are."""
    config = preset("tiny", "sdf")
    config["encoding"] |= {"n_levels": 4, "per_level_scale": 1.6}
    config["fit"] |= {"batch_size": 2**12, "pool_size": 2**14, "storage": "float32", "n_steps": 100}
    return fit_solid(SOLIDS["ball"], config)


def on_ball(n: int) -> torch.Tensor:
    return torch.from_numpy(SOLIDS["ball"].sample_surface(n, np.random.default_rng(5))[0])


def test_normals_get_better_and_values_stay() -> None:
    field = small()
    points = on_ball(2000)
    before, level = figures(field, SOLIDS["ball"], "autodiff", None, 2000), field.level(points)
    state = finetune_derivatives(field, on_ball(2**14), n_steps=60, batch_size=2**11)
    after = figures(field, SOLIDS["ball"], "autodiff", None, 2000)
    assert state.stopped_by == "steps"
    assert state.history[-1]["degrees"] < 0.75 * state.history[0]["degrees"]
    assert after["mean_degrees"] < 0.75 * before["mean_degrees"]
    assert (field.level(points) - level).abs().mean() < 0.1 * field.finest_cell
    assert not any(parameter.requires_grad for parameter in field.parameters())


def test_an_interrupted_fine_tuning_leaves_the_field_as_it_was() -> None:
    field = SDFField(encoding={"otype": "HashGrid", "n_levels": 2}, network=NETWORK)
    before = {name: tensor.clone() for name, tensor in field.state_dict().items()}

    def interrupt(progress: Progress) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    state = finetune_derivatives(field, torch.rand(50, 3), n_steps=10**6, batch_size=64, observe=interrupt)
    assert state.stopped_by == "signal"
    assert 0 < state.step < 10**6
    for name, tensor in field.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    assert all(parameter.requires_grad for parameter in field.parameters())


@pytest.mark.parametrize(
    ("field", "points", "message"),
    [
        (UDFField(encoding="HashGrid", network=NETWORK), torch.rand(5, 3), "UDFField has no normals on its sheet"),
        (
            SDFField(encoding={"otype": "HashGrid", "interpolation": "Nearest"}, network=NETWORK),
            torch.rand(5, 3),
            "made of steps",
        ),
        (SDFField(encoding="Identity", network=NETWORK), torch.rand(0, 3), "points: expected at least one"),
        (SDFField(encoding="Identity", network=NETWORK), torch.rand(5, 2), "points: expected"),
    ],
)
def test_what_has_nothing_to_tune_is_refused(field: SDFField, points: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        finetune_derivatives(field, points)


def test_a_fit_is_tuned_before_it_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "IOU_POINTS", 2**10)
    import trimesh

    made = trimesh.creation.icosphere(2)
    mesh = Mesh(np.asarray(made.vertices), np.asarray(made.faces))
    overrides = ["encoding.n_levels=2", "encoding.log2_hashmap_size=10", "fit.batch_size=1024", "fit.pool_size=4096"]
    plain = fit_shape(mesh, overrides=overrides, steps=3, progress="quiet")
    tuned = fit_shape(
        mesh, overrides=overrides, steps=3, smooth_derivatives=1, output=tmp_path / "x.field", progress="quiet"
    )
    assert not torch.equal(plain.field.encoding.table, tuned.field.encoding.table)
    assert (tmp_path / "x.field").exists()
    with pytest.raises(ValueError, match="smooth_derivatives: an unsigned distance"):
        fit_shape(mesh, kind="udf", smooth_derivatives=1)


@pytest.mark.slow
def test_the_polynomial_is_four_times_as_good_as_autodiff_on_a_ball() -> None:
    """The bar of the study, with the preset that is the default: sigma as a field chooses it."""
    ball = SOLIDS["ball"]
    field = fit_solid(ball, preset("balanced", "sdf"))
    autodiff = figures(field, ball, "autodiff", None)
    fitted = figures(field, ball, "quadratic", 2.0)
    assert fitted["median_degrees"] <= autodiff["median_degrees"] / 4
    assert figures(field, ball, "quadratic", 4.0)["curvature_error"] < 0.05
