"""Networks other than the MLP in fits of pictures, shapes and scenes; or the reason why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fieldforge.apps.bench.scene import QUICK, ball
from fieldforge.apps.cli import main
from fieldforge.apps.fit.job import Plan
from fieldforge.apps.fit.scene.job import SceneJob
from fieldforge.apps.fit.shape.job import ShapeJob
from fieldforge.fields.file import load_field
from fieldforge.fields.kinds.shape import SDFField
from fieldforge.registry import ConfigError, build

NETWORKS = ("RBF", "FAN", "KAN", "SplineMLP", "SKAN", "ResidualMLP")
SPOT = Path(__file__).resolve().parents[2] / "data/meshes/spot.ply"
EVERY = pytest.mark.parametrize("otype", NETWORKS)


@pytest.fixture(scope="module")
def spot() -> ShapeJob:
    return ShapeJob(SPOT)


@EVERY
def test_the_command_line_fits_a_picture_with_it(otype: str, tmp_path: Path) -> None:
    """The keys that the preset's MLP has and this one not go away by themselves."""
    x = np.linspace(0, 1, 32)
    ramp = np.stack([np.add.outer(x, x) / 2, np.outer(x, x), np.subtract.outer(x, x) / 2 + 0.5], -1)
    Image.fromarray((255 * ramp).astype(np.uint8)).save(tmp_path / "ramp.png")
    out = tmp_path / "ramp.field"
    settings = [f"network.otype={otype}", "network.n_neurons=16", "encoding.otype=Identity", "encoding.scale=2"]
    settings += ["encoding.offset=-1", "optimizer.learning_rate=0.01", "fit.batch_size=256"]
    settings += ["network.initial=silu"] if otype == "SplineMLP" else []
    options = [word for one in settings for word in ("--set", one)]
    command = ["fit", "image", str(tmp_path / "ramp.png"), "-o", str(out), "--steps", "60", *options]
    assert main(command) == 0
    field, metadata = load_field(out)
    assert field.network.otype == otype
    assert metadata["run"]["training_step"].startswith(f"PyTorch, as it needs an MLP, not {otype}")
    assert metadata["metrics"]["psnr"] > 12


@EVERY
def test_a_loss_of_slopes_trains_it(otype: str, spot: ShapeJob) -> None:
    """The eikonal term differentiates the slope once more, in the parameters."""
    network: dict[str, Any] = {"otype": otype, "n_neurons": 8}
    network |= {"norm": "layer", "activation": "Softplus"} if otype == "ResidualMLP" else {}
    plan = Plan(
        preset="siren",
        config={"network": network, "encoding": {"otype": "Identity", "scale": 2.0, "offset": -1.0}},
        overrides=["fit.batch_size=64", "fit.pool_size=1024", "fit.sphere=0"],
        steps=2,
        progress="quiet",
    )
    config, _ = spot.run_config(plan)
    fitted = spot.make_field(config, 0)
    with spot.training(fitted, config, 0, ()) as training:
        losses = [training.advance(step, 1.0)[0] for step in range(2)]
    assert np.isfinite(losses).all()
    assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in fitted.parameters())


@pytest.mark.parametrize(
    ("network", "smoothness"),
    [
        ({"otype": "KAN", "degree": 1}, 0),
        ({"otype": "SplineMLP", "degree": 1}, 0),
        ({"otype": "ResidualMLP", "norm": "none"}, 0),
        ({"otype": "KAN", "activation": "ReLU"}, 0),
    ],
)
def test_a_network_with_corners_is_refused_by_such_a_loss(network: dict[str, Any], smoothness: int) -> None:
    field = SDFField(encoding="Identity", network=network)
    assert field.smoothness == smoothness
    assert "smooth" in build("loss", "IGR").refuses(field)


@EVERY
def test_a_scene_is_fitted_with_it(otype: str) -> None:
    job = SceneJob(ball())
    settings = [f"network.otype={otype}", f"rgb_network.otype={otype}", "rgb_network.n_neurons=8"]
    settings += ["network.n_neurons=8", "rgb_network.output_activation=Sigmoid"]
    if otype == "ResidualMLP":
        with pytest.raises(ConfigError, match=r"network\.norm: statistics of a batch"):
            job.make_field(job.run_config(Plan(overrides=settings))[0], 0)
        settings += ["network.norm=layer", "rgb_network.norm=layer"]
    config, _ = job.run_config(Plan(overrides=[*QUICK, *settings]))
    fitted = job.make_field(config, 0)
    with job.training(fitted, config, 0, ()) as training:
        assert np.isfinite(training.advance(0, 1.0)[0])
