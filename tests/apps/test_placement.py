"""Centres that follow a signal: who says where, when they are placed, and the reason where nobody can."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fieldforge.apps.bench.scene import ball
from fieldforge.apps.fit.audio.job import AudioJob
from fieldforge.apps.fit.image.job import ImageJob
from fieldforge.apps.fit.job import Job, Plan
from fieldforge.apps.fit.placement import raster_places
from fieldforge.apps.fit.scene.job import SceneJob
from fieldforge.apps.fit.shape.job import ShapeJob
from fieldforge.apps.fit.video.job import VideoJob
from fieldforge.apps.sounds import Clip
from fieldforge.apps.videos import Film
from fieldforge.encodings.neurbf import NeuRBF
from fieldforge.registry import ConfigError

SPOT = Path(__file__).resolve().parents[2] / "data/meshes/spot.ply"
SMALL: dict[str, Any] = {"otype": "NeuRBF", "n_centers": 60, "n_features": 4, "resolution": 12}


def picture() -> np.ndarray:
    """An edge at a third of the width."""
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:, 10:] = 200
    return pixels


def fitted(job: Job[Any], encoding: dict[str, Any] = SMALL) -> Any:
    network = {"otype": "MLP", "n_neurons": 8, "n_hidden_layers": 1}
    sections = {"encoding": encoding, "network": network}
    plan = Plan(preset="fast", config=sections, overrides=["fit.batch_size=64"], steps=2, progress="quiet")
    return job.run(plan).field


def test_slopes_of_a_raster_are_its_weights() -> None:
    points, weights = raster_places(picture(), 0)
    assert len(points) == 600
    is_edge = (points[:, 0] * 30 - 10).abs() < 1
    assert bool((weights[is_edge] > 0).all())
    assert not bool(weights[~is_edge].any())
    ramp = np.arange(5.0)[:, None, None] * np.ones((5, 4, 1))
    torch.testing.assert_close(raster_places(ramp, 0)[1], torch.ones(20, dtype=torch.float64))


def test_large_signals_are_looked_at_here_and_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fieldforge.apps.fit.placement.N_PLACES", 50)
    points, _ = raster_places(picture(), 3)
    assert len(set(map(tuple, points.tolist()))) == 50


def test_centres_stand_at_the_edge_of_a_picture() -> None:
    encoding = fitted(ImageJob(picture()), SMALL | {"n_centers": 30}).encoding
    assert float((encoding.centers[:, 0] - 1 / 3).abs().max()) < 0.06
    even = fitted(ImageJob(picture()), SMALL | {"placement": "Even"}).encoding
    assert torch.equal(even.centers, NeuRBF(2, n_centers=60).centers)


def test_same_seed_same_places() -> None:
    one, other = (fitted(ImageJob(picture())) for _ in range(2))
    assert torch.equal(one.encoding.centers, other.encoding.centers)
    assert torch.equal(one.encoding.weights, other.encoding.weights)


def test_a_part_of_a_composite_sees_its_own_coordinates() -> None:
    """Of a film whose pictures are alike: the last coordinate alone has no edge, the first alone has."""
    frames = np.repeat(picture()[None], 4, 0)
    nested = [SMALL | {"n_dims_to_encode": 1}, {"otype": "Identity", "n_dims_to_encode": 2}]
    field = fitted(VideoJob(Film.from_array(frames)), {"otype": "Composite", "nested": nested})
    assert float((field.encoding.parts[0].centers - 1 / 3).abs().max()) < 0.06


def test_centres_of_a_sound_stand_where_it_is_loud() -> None:
    samples = np.sin(np.arange(2000) / 3.0) * (np.arange(2000) > 1500)
    encoding = fitted(AudioJob(Clip.from_array(samples, 8000))).encoding
    assert float((encoding.centers > 0.74).float().mean()) > 0.9


def test_places_of_a_shape_weigh_most_near_its_surface(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fieldforge.apps.fit.shape.job.N_PLACES", 2**12)
    job = ShapeJob(SPOT)
    points, weights = job.places(0)
    encoding = NeuRBF(3, n_centers=60, resolution=4)
    encoding.place(points, weights, generator=torch.Generator().manual_seed(0))
    near, anywhere = (float(np.abs(job.truth.distance(x.double().numpy())).mean()) for x in (encoding.centers, points))
    assert near < 0.7 * anywhere


def test_a_scene_gives_the_reason_and_the_way_out() -> None:
    job = SceneJob(ball(side=8))
    config = {"encoding": SMALL}
    with pytest.raises(ConfigError, match="a scene does not say where centres are of use; placement=Even"):
        job.run(Plan(preset="fast", config=config, steps=1, progress="quiet"))


def test_centres_that_cannot_see_the_places_are_refused() -> None:
    with pytest.raises(ConfigError, match="placement: Signal is of a NeuRBF that is the encoding of the field"):
        fitted(ImageJob(picture()), {"otype": "SAPE", "nested": SMALL, "resolution": 4})
