"""Every registered part in every kind of fit: it trains, or the reason why not is the error.

Two training steps on a signal of a few samples, through the configuration and the training step that a fit has.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from scene_files import ball
from torch import Tensor

from fieldforge.apps.fit.audio.job import AudioJob
from fieldforge.apps.fit.diagnostics.spectra import Spectrum
from fieldforge.apps.fit.image.job import ImageJob
from fieldforge.apps.fit.job import Job, Plan
from fieldforge.apps.fit.scene.job import SceneJob
from fieldforge.apps.fit.shape import job as shape_job
from fieldforge.apps.fit.shape.job import ShapeJob
from fieldforge.apps.fit.stages import Stages, carried_by
from fieldforge.apps.fit.video.job import VideoJob
from fieldforge.apps.images import Picture
from fieldforge.apps.shapes import quality
from fieldforge.apps.shapes.read import Mesh
from fieldforge.apps.sounds import Clip
from fieldforge.apps.videos import Film
from fieldforge.registry import ConfigError, available

SIGNALS = ("image", "audio", "video", "shape", "scene")
IDENTITY = {"otype": "Identity", "scale": 2.0, "offset": -1.0}
SMALL_MLP = {"otype": "MLP", "n_neurons": 16, "n_hidden_layers": 1, "has_bias": True}
LATTICE = {"n_levels": 2, "base_resolution": 4, "log2_hashmap_size": 6, "per_level_scale": 1.6}
SETTINGS: dict[tuple[str, str], dict[str, Any]] = {
    **{("encoding", name): LATTICE for name in ("Grid", "HashGrid", "DenseGrid", "TiledGrid")},
    ("encoding", "Composite"): {"nested": [{"otype": "HashGrid", **LATTICE}]},
    ("encoding", "KPlanes"): {"resolution": 8, "n_features": 2},
    ("encoding", "PREF"): {"resolution": 6, "n_features": 2},
    ("encoding", "RandomFourier"): {"n_features": 8},
    ("encoding", "SAPE"): {"nested": {"otype": "Frequency", "n_frequencies": 3}, "resolution": 8},
    ("encoding", "TensorCP"): {"resolution": 8, "n_components": 2},
    ("encoding", "TensorVM"): {"resolution": 8, "n_components": 2},
    ("encoding", "TimeGrid"): {"n_levels": 2, "n_time_levels": 2, "log2_hashmap_size": 6, "log2_time_hashmap_size": 6},
    ("gradient_transform", "IGA"): {"start": 1, "end": 2, "patch": 4},
    ("encoding", "TriPlane"): {"resolution": 8, "n_features": 2},
}
"""For those whose defaults are large or that need keys."""


def configured(kind: str, name: str) -> dict[str, Any]:
    """Sections of a run file that have a part of this kind and name."""
    part = {"otype": name, **SETTINGS.get((kind, name), {})}
    if kind == "encoding":
        return {"encoding": part}
    if kind == "network":
        return {"network": part, "encoding": {"otype": "Frequency", "n_frequencies": 5}}
    if kind in ("activation", "modulation", "reparameterisation"):
        return {"network": SMALL_MLP | {"n_hidden_layers": 2, kind: part}}
    return {kind: part}


OVERRIDES: dict[str, list[str]] = {
    "image": ["fit.batch_size=64"],
    "audio": ["fit.batch_size=64"],
    "video": ["fit.batch_size=64"],
    "shape": ["fit.batch_size=64", "fit.pool_size=128"],
    "scene": ["fit.batch_size=64", "fit.samples_across=16", "fit.occupancy=8", "fit.update_every=1"],
}


class BallPools:
    """Samples of a ball."""

    def __init__(self, *described: Any, **options: Any) -> None:
        self.n = options["n"]

    def get(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        points = np.random.default_rng(number).random((self.n, 3), np.float32)
        return points, np.linalg.norm(points - 0.5, axis=-1) - np.float32(0.3)

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Job[Any]]]:
    """A signal of each kind, of a few samples."""
    random = np.random.default_rng(0)
    body = trimesh.creation.icosphere(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shape_job, "Pools", BallPools)  # the real ones come from a process of their own
        patch.setattr(quality, "IOU_POINTS", 2**8)
        yield {
            "image": ImageJob(Picture.from_array(random.integers(0, 256, (12, 16, 3), dtype=np.uint8))),
            "audio": AudioJob(Clip.from_array(np.sin(np.arange(200) / 5), 8000)),
            "video": VideoJob(Film.from_array(random.integers(0, 256, (3, 6, 8, 3), dtype=np.uint8))),
            "shape": ShapeJob(Mesh(np.asarray(body.vertices), np.asarray(body.faces))),
            "scene": SceneJob(ball(tmp_path_factory.mktemp("scene") / "ball.npz")),
        }


def trained(job: Job[Any], sections: Mapping[str, Any]) -> list[float]:
    """Losses of two steps."""
    ground = {"encoding": IDENTITY, "network": SMALL_MLP}
    plan = Plan(preset="fast", config=ground | dict(sections), overrides=OVERRIDES[job.signal], steps=2)
    config, _ = job.run_config(plan)
    fitted = job.make_field(config, 0)
    losses = []
    with job.training(fitted, config, 0, ()) as training:
        stages = Stages(fitted, carried_by(training.advance))
        for step in range(2):
            with stages.at(step, 2):
                losses.append(training.advance(step, 1.0)[0])
    assert all(bool(torch.isfinite(parameter).all()) for parameter in fitted.parameters())
    return losses


KINDS = ("encoding", "network", "activation", "modulation", "reparameterisation", "selection", "gradient_transform")
PARTS = [(kind, name) for kind in KINDS for name in available(kind) if "." not in name]

_COORDINATES = r"^encoding\.otype: {} does not fit here: n_input_dims: .* got \d"
_ALONE = r"so it is of image fits alone; this fit reads .*encoding, network"
_SAMPLES = r"a film has too many pixels .* shape or a scene is drawn anew for every step, .*; this fit reads .*encoding"
REFUSED: dict[tuple[str, str], tuple[tuple[str, ...], str]] = {
    ("encoding", "KPlanes"): (("image", "audio"), _COORDINATES),
    ("encoding", "TimeGrid"): (("image", "audio"), _COORDINATES),
    ("encoding", "NRC"): (SIGNALS, _COORDINATES),
    ("encoding", "OneBlobFrequency"): (SIGNALS, _COORDINATES),
    ("encoding", "PREF"): (("audio",), _COORDINATES),
    ("encoding", "SphericalHarmonics"): (("image", "audio"), _COORDINATES),
    ("encoding", "TensorCP"): (("audio",), _COORDINATES),
    ("encoding", "TensorVM"): (("image", "audio"), _COORDINATES),
    ("encoding", "TriPlane"): (("audio",), _COORDINATES),
    ("encoding", "SAPE"): (("scene",), "SAPE opens by the errors at places, and photos of a scene tell those along"),
    ("network", "DotProduct"): (SIGNALS, r"^network\.(n_basis: .* more features will do$|otype: .* nothing to train)"),
    ("network", "Sum"): (SIGNALS, r"^network\.otype: Sum (does not fit here|after the encoding .* nothing to train)"),
    ("network", "ResidualMLP"): (("scene",), r"network\.norm: statistics of a batch .*; layer or none will do"),
    ("selection", "INT"): (SIGNALS[2:], _SAMPLES),
    ("selection", "NINT"): (SIGNALS[2:], _SAMPLES),
    ("gradient_transform", "IGA"): (SIGNALS[1:], _ALONE),
}
"""Where a part cannot be, with its defaults or `SETTINGS`, and what is said of it."""


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_it_trains_or_says_why_not(kind: str, name: str, signal: str, jobs: dict[str, Job[Any]]) -> None:
    where, message = REFUSED.get((kind, name), ((), ""))
    if signal in where:
        with pytest.raises(ConfigError, match=message.format(name)):
            trained(jobs[signal], configured(kind, name))
        return
    assert all(math.isfinite(loss) for loss in trained(jobs[signal], configured(kind, name)))


TABLE = {"otype": "DenseGrid", "n_levels": 1, "base_resolution": 4, "n_features_per_level": 8}
HEADS: dict[str, dict[str, Any]] = {
    "Sum": {"encoding": TABLE},
    "DotProduct": {"encoding": TABLE, "network": {"otype": "DotProduct", "n_basis": 2}},
    "ResidualMLP": {"network": {"otype": "ResidualMLP", "norm": "layer"}},
}
"""What lets a head in where its defaults do not."""


@pytest.mark.parametrize(
    ("name", "signal"), [("Sum", "audio"), ("Sum", "shape"), ("DotProduct", "image"), ("ResidualMLP", "scene")]
)
def test_what_the_message_says_will_do_does(name: str, signal: str, jobs: dict[str, Job[Any]]) -> None:
    sections = configured("network", name) | HEADS[name]
    assert all(math.isfinite(loss) for loss in trained(jobs[signal], sections))


OF_PLANES = ("Spectrum", "MeanFrequency", "LempelZiv", "PolynomialOrder")


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("name", available("diagnostic"))
def test_it_is_diagnosed_or_says_why_not(name: str, signal: str, jobs: dict[str, Job[Any]]) -> None:
    job = jobs[signal]
    plan = Plan(
        preset="fast", config={"encoding": IDENTITY, "network": SMALL_MLP}, overrides=OVERRIDES[signal], steps=1,
        diagnose=(name,), progress="quiet",
    )  # fmt: skip
    try:
        (found, *_) = job.slices(8)
    except ConfigError:  # no samples on a lattice
        with pytest.raises(
            ConfigError, match=rf"^a {signal} (has no regular|is known along).* neither .* nor --diagnose"
        ):
            job.run(plan)
        return
    if found.points.ndim == 2 and name in OF_PLANES:
        with pytest.raises(ValueError, match=f"^{name}: needs a lattice of rows and columns, not of 1 axis"):
            job.run(plan)
        return
    rows = job.run(plan).diagnostics
    assert rows[-1]["step"] == 1
    assert len(rows[-1]) == 2


def test_the_error_of_a_shape_is_that_of_its_plane(jobs: dict[str, Job[Any]]) -> None:
    """A distance has no axis of channels: (64, 64) minus (64, 64, 1) would be something else."""
    job = jobs["shape"]
    (plane, *_) = job.slices(16)

    class Truth(torch.nn.Module):
        def forward(self, points: Tensor) -> Tensor:
            assert points.shape == plane.points.shape
            return plane.values[..., 0]

    found = Spectrum()(Truth(), plane)  # type: ignore[arg-type]
    assert np.nanmax(found["error"]) == 0.0
