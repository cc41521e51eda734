"""SAPE in a fit: cells that open by the errors there; and that what opens is saved with a fit, for PINs too."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference import exposure as loops

from fieldforge.apps.fit.exposure import (
    Exposure,
    GlobalExposure,
    SpatialExposure,
    expect_none,
    exposures_of,
)
from fieldforge.apps.fit.image.job import ImageFit, ImageJob, fit
from fieldforge.apps.fit.job import Plan
from fieldforge.apps.fit.loop import NonFiniteError
from fieldforge.apps.fit.losses.shape_base import ShapeLoss
from fieldforge.apps.fit.shape.job import shape_step, step_of
from fieldforge.apps.fit.shape.step import WithDistances
from fieldforge.apps.render.image import render
from fieldforge.encodings.sape import SAPE
from fieldforge.fields.file import load_field
from fieldforge.fields.kinds.image import ImageField
from fieldforge.fields.kinds.shape import SDFField
from fieldforge.registry import ConfigError, build

WAVES = {"otype": "Frequency", "n_frequencies": 4}
NETWORK = {"otype": "MLP", "n_neurons": 16, "n_hidden_layers": 2, "has_bias": True}
SPATIAL = {"otype": "SAPE", "nested": WAVES, "resolution": 6, "tolerance": 2e-3}
PICTURE = (np.random.default_rng(0).random((12, 10, 3)) * 255).astype(np.uint8)
PICTURE[:, :5] = 128  # one half is easy


def sape(**keys: Any) -> SAPE:
    return SAPE(2, **({"nested": WAVES, "resolution": 5, "tolerance": 0.5} | keys))


def told(exposure: Exposure, step: int, x: torch.Tensor, loss: torch.Tensor) -> None:
    exposure.follow(step, x, loss)


def test_cells_open_as_the_loop_says(generator: torch.Generator) -> None:
    """Three turns of two steps; a cell that was good enough once stays as it is."""
    encoding = sape()
    exposure = SpatialExposure(encoding, n_steps=16)  # four blocks in half of the steps
    level = dict.fromkeys(itertools.product(range(5), repeat=2), 0)
    for turn in range(3):
        x = torch.rand(2, 9, 2, generator=generator)
        loss = torch.rand(2, 9, generator=generator) * 1.1
        for i in range(2):
            told(exposure, 2 * turn + i, x[i], loss[i])
        mean = loops.mean_losses(x.double().flatten(0, 1).tolist(), loss.double().flatten().tolist(), 5)
        for cell in level:
            if level[cell] == turn and mean[cell] > 0.5:
                level[cell] = turn + 1
        assert {cell: int(encoding.level[cell]) for cell in level} == level, turn
    assert len(set(level.values())) > 2  # the test saw cells that left


def test_no_cell_returns() -> None:
    encoding = sape()
    exposure = SpatialExposure(encoding, n_steps=8)
    x = torch.rand(50, 2)
    for step, loss in enumerate([1.0, 0.1, 1.0, 1.0, 1.0]):
        told(exposure, step, x, torch.full((50,), loss))
    assert (encoding.level == 1).all()


def test_all_blocks_are_out_after_the_share() -> None:
    for n_steps, n_turns in ((80, 40), (6, 2), (2, 1)):
        encoding = sape()
        exposure = SpatialExposure(encoding, n_steps)
        for step in range(n_turns):
            assert int(encoding.level.max()) < 4
            told(exposure, step, torch.rand(900, 2), torch.ones(900))
        assert (encoding.level == 4).all()
        told(exposure, n_turns, torch.rand(900, 2), torch.ones(900))
        assert (encoding.level == 4).all()


def test_the_global_block_fades_in_and_stops_when_a_batch_is_good_enough() -> None:
    encoding = sape(scope="Global")
    exposure = GlobalExposure(encoding, n_steps=32)  # a turn is 6 steps
    seen = []
    for step in range(14):
        told(exposure, step, torch.empty(1, 2), torch.tensor([1.0 if step < 12 else 0.4]))
        seen.append(float(encoding.level) + float(encoding.ramp))
    third = [1 / 3, 2 / 3, 1, 1, 1, 1]
    assert seen == pytest.approx([*third, *(1 + s for s in third), 2, 2])


def fitted(steps: int = 40, encoding: Any = SPATIAL, network: Any = NETWORK, **plan: Any) -> ImageFit:
    config = {"encoding": encoding, "network": network, "optimizer": {"otype": "Adam", "learning_rate": 3e-3},
              "loss": {"otype": "L2"}}  # fmt: skip
    overrides = ["fit.batch_size=60", "fit.storage=float32"]
    return fit(PICTURE, config=config, overrides=overrides, steps=steps, progress="quiet", **plan)


class StopAt:
    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, step: int, per_sample_loss: torch.Tensor) -> None:
        if step == self.step:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    ("encoding", "network"),
    [
        (SPATIAL, NETWORK),
        ({"otype": "SAPE", "nested": {"otype": "DenseGrid", "n_levels": 3, "base_resolution": 3}, "scope": "Global"},
         NETWORK),
        (WAVES, {"otype": "PINs", "n_levels": 3, "n_neurons": 12, "progressive": True}),
    ],
    ids=["spatial", "global", "PINs"],
)  # fmt: skip
def test_a_resumed_fit_ends_with_the_same_bits(encoding: Any, network: Any, tmp_path: Path) -> None:
    whole = fitted(encoding=encoding, network=network, output=tmp_path / "whole.field")
    path = tmp_path / "resumed.field"
    broken = fitted(encoding=encoding, network=network, output=path, hooks=[StopAt(13)])
    assert broken.state.stopped_by == "signal"
    resumed = fitted(encoding=encoding, network=network, output=path, resume=True)
    assert resumed.state.step == 40
    for name, tensor in whole.field.state_dict().items():
        assert torch.equal(tensor, resumed.field.state_dict()[name]), name
    loaded, _ = load_field(path)
    assert isinstance(loaded, ImageField)
    assert np.array_equal(render(loaded), render(whole.field))


def test_what_is_good_enough_stays_coarse_beside_what_is_not(generator: torch.Generator) -> None:
    """Coordinates are x and y: the wrong half is the second of the first axis."""
    encoding = sape(resolution=16)
    exposure = SpatialExposure(encoding, n_steps=8)
    for step in range(4):
        x = torch.rand(900, 2, generator=generator)
        told(exposure, step, x, (x[:, 0] > 0.5).float())
    assert (encoding.level[12:] == 4).all()
    assert not encoding.level[:4].any()


def test_both_backends_see_the_same_mask() -> None:
    """The native step reads features that were masked before; it learns the same levels."""
    pytest.importorskip("fieldforge.kernels._cpu")
    reference, native = (fitted(backend=backend) for backend in ("reference", "cpu"))
    assert native.training_step.startswith("native")
    assert torch.equal(reference.field.encoding.level, native.field.encoding.level)
    assert native.psnr == pytest.approx(reference.psnr, abs=0.1)


def test_a_fit_that_steps_back_takes_its_levels_back() -> None:
    class Blow:
        def __init__(self) -> None:
            self.levels: list[torch.Tensor] = []

        def __call__(self, step: int, per_sample_loss: torch.Tensor) -> None:
            if step == 12:
                self.levels.append(field.encoding.level.clone())
                next(field.parameters()).data.fill_(float("nan"))

    job = ImageJob(PICTURE)
    config, _ = job.run_config(Plan(config={"encoding": SPATIAL, "network": NETWORK}, steps=40))
    field = job.make_field(config, 0)
    blow = Blow()
    from fieldforge.apps.fit.loop import Budget, train

    with job.training(field, config, 0, [blow]) as training, pytest.raises(NonFiniteError):
        train(training.advance, training.optimizer, lambda step, n: 1.0, Budget(40), batch_size=60)
    assert all(torch.equal(level, blow.levels[0]) for level in blow.levels)
    assert len(blow.levels) == 10


@pytest.mark.parametrize(
    "loss", [{"otype": "L2"}, {"otype": "Eikonal", "loss": {"otype": "L2"}}], ids=["L2", "Eikonal"]
)
def test_fits_of_shapes_feed_it_too(loss: dict[str, Any], generator: torch.Generator) -> None:
    field = SDFField(encoding=SPATIAL | {"resolution": 4}, network=NETWORK, low=[2, 2, 2], side=3)
    config = {"optimizer": {"otype": "Adam"}, "loss": loss, "fit": {"n_steps": 8}}

    def draw(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.rand(300, 3, generator=generator), torch.full((300, 1), 5.0)

    built = build("loss", loss)
    if isinstance(built, ShapeLoss):
        training = shape_step(field, built, config, WithDistances(draw), [])
    else:
        training = step_of(field, "sdf", config, draw)
    for step in range(4):
        assert int(field.encoding.level.max()) == step
        training.advance(step, 1.0)
    assert (field.encoding.level == 4).all()


def test_a_sape_inside_of_another_encoding_is_refused() -> None:
    composite = {"otype": "Composite", "nested": [{"otype": "Identity", "n_dims_to_encode": 1}, SPATIAL]}
    field = ImageField(encoding=composite, network=NETWORK, width=4, height=4)
    with pytest.raises(ConfigError, match="put what is around it inside"):
        exposures_of(field, 10)


def test_fits_that_know_no_errors_at_places_refuse() -> None:
    field = ImageField(encoding=SPATIAL, network=NETWORK, width=4, height=4)
    with pytest.raises(ConfigError, match=r"^encoding: SAPE opens by the errors at places, and rays have none"):
        expect_none(field, "rays have none")
    expect_none(ImageField(encoding=WAVES, network=NETWORK, width=4, height=4), "rays have none")
