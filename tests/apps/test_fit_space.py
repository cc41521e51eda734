"""Scenes that go on beyond any box: which space is chosen, and fits in it."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fieldforge.apps.fit.job import Plan
from fieldforge.apps.fit.scene.job import SceneJob, fit_scene
from fieldforge.apps.fit.scene.options import SceneOptions
from fieldforge.apps.fit.scene.rays import RayDraw
from fieldforge.apps.fit.scene.space import settled
from fieldforge.apps.render.pictures import compare, look
from fieldforge.apps.render.radiance import eye_of
from fieldforge.apps.scenes import Scene, read_scene
from fieldforge.apps.scenes.bounds import around_cameras
from fieldforge.apps.scenes.scene import Bounds
from fieldforge.fields.file import load_field
from fieldforge.fields.kinds.inside_outside import InsideOutsideField
from fieldforge.fields.kinds.ndc import NDCField
from fieldforge.fields.space import Contraction
from fieldforge.kernels import cpu_door
from fieldforge.registry import ConfigError
from fieldforge.renderers.cameras import Cameras
from fieldforge.renderers.cameras.paths import orbit

needs_native = pytest.mark.skipif(cpu_door.missing() is not None, reason=f"no native kernels: {cpu_door.missing()}")

SIDE, FOCAL = 24, 16.0
SMALL = [
    "encoding.n_levels=4", "encoding.log2_hashmap_size=12", "encoding.per_level_scale=1.6", "fit.batch_size=4096",
    "network.n_neurons=16", "rgb_network.n_neurons=16", "rgb_network.n_hidden_layers=1", "fit.samples_across=64",
    "fit.occupancy=16", "fit.update_every=8",
]  # fmt: skip


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Cameras around nothing, in the middle of a large ball whose inside shows the direction as a colour."""
    cameras = orbit(
        torch.zeros(3), distance=1.0, up=torch.tensor([0.0, 0.0, 1.0]), elevation=20.0, n_frames=16, width=SIDE,
        height=SIDE, focal=FOCAL,
    )  # fmt: skip
    pictures = np.zeros((16, SIDE, SIDE, 3), np.uint8)
    for view in range(16):
        origins, directions = cameras.picture_rays(view)
        nearest = (origins * directions).sum(-1)
        far = -nearest + (nearest.square() + 12.0**2 - origins.square().sum(-1)).sqrt()
        color = 0.5 + 0.5 * (origins + far[:, None] * directions) / 12.0
        pictures[view] = (color * 255).round().to(torch.uint8).view(SIDE, SIDE, 3).numpy()
    poses = torch.eye(4).repeat(16, 1, 1)
    poses[:, :3] = cameras.poses
    path = tmp_path_factory.mktemp("scene") / "hall.npz"
    np.savez_compressed(path, images=pictures, poses=poses.numpy(), focal=FOCAL)
    found = read_scene(path)
    return dataclasses.replace(found, bounds=around_cameras(found.cameras, "how the cameras stand"))


def config_of(scene: Scene, *overrides: str) -> tuple[dict[str, Any], list[str]]:
    return SceneJob(scene).run_config(Plan(overrides=[*SMALL, *overrides]))


def test_a_scene_without_an_end_is_contracted_and_it_is_said_so(scene: Scene) -> None:
    assert not scene.bounds.is_bounded
    config, notices = config_of(scene)
    assert config["fit"]["space"] == "contraction"
    assert 2 <= config["fit"]["cascades"] <= 8
    assert 0 < config["fit"]["cone_angle"] < 0.1
    assert any("space: contraction; the box and" in notice for notice in notices)
    bounded = dataclasses.replace(scene, bounds=dataclasses.replace(scene.bounds, is_bounded=True))
    config, notices = config_of(bounded)
    assert (config["fit"]["space"], config["fit"]["cascades"], config["fit"]["cone_angle"]) == ("box", 1, 0.0)
    assert not notices


def test_what_is_asked_for_is_what_is_taken(scene: Scene) -> None:
    config, _ = config_of(scene, "fit.space=contraction2", "fit.cascades=3", "fit.cone_angle=0.05")
    field = SceneJob(scene).make_field(config, 0)
    assert field.config()["space"] == {"otype": "Contraction", "norm": "2"}
    assert field.config()["n_cascades"] == 3
    config, notices = config_of(scene, "fit.space=box")
    assert SceneJob(scene).make_field(config, 0).config()["space"] == {"otype": "Box"}
    assert notices == ["space: box, though the photos may show more than it holds"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("fit.space=sphere", r"fit\.space: expected one of auto, box"),
        ("fit.cascades=0", r"fit\.cascades: expected an integer from 1 to 16, got 0"),
        ("fit.cascades=many", r"fit\.cascades: expected one of auto"),
        ("fit.cone_angle=-1", r"fit\.cone_angle: expected a finite number"),
    ],
)
def test_what_makes_no_sense_is_named(scene: Scene, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(scene, override)


@pytest.mark.parametrize("space", ["contraction", "contraction2"])
def test_a_hall_is_learnt_from_inside(scene: Scene, space: str, tmp_path: Path) -> None:
    """Its walls are twelve times as far as the cameras are from one another; the file shows the same."""
    path = tmp_path / "hall.field"
    result = fit_scene(
        scene, output=path, overrides=[*SMALL, f"fit.space={space}", "fit.cone_angle=0.05"], steps=80, progress="quiet"
    )
    assert result.psnr > 22
    field, metadata = load_field(path)
    view = int(scene.of("test")[0])
    again, first = (compare(scene, view, eye_of(one, metadata)) for one in (field, result.field))  # type: ignore[arg-type]
    assert np.array_equal(again.picture.color, first.picture.color)
    assert first.psnr == pytest.approx(result.psnr, abs=3)
    assert metadata["run"]["fit"]["cone_angle"] > 0
    assert isinstance(field.space, Contraction)  # type: ignore[union-attr]


def test_inside_and_outside_are_learnt_together(scene: Scene, tmp_path: Path) -> None:
    """Nothing is inside the sphere of the cameras, and all colours are outside; the file shows the same."""
    path = tmp_path / "hall.field"
    result = fit_scene(
        scene, output=path, overrides=[*SMALL, "fit.space=nerfpp", "fit.batch_size=8192"], steps=60, progress="quiet"
    )
    assert result.psnr > 17
    assert any("space: nerfpp; the sphere around" in note for note in result.notes)
    field, metadata = load_field(path)
    assert isinstance(field, InsideOutsideField)
    places = torch.tensor(field.center) - scene.cameras.positions
    assert (places.norm(dim=-1) < field.radius).all()
    view = int(scene.of("test")[0])
    again, first = (compare(scene, view, eye_of(one, metadata)) for one in (field, result.field))  # type: ignore[arg-type]
    assert np.array_equal(again.picture.color, first.picture.color)
    with pytest.raises(ConfigError, match=r"fit\.space: nerfpp goes with the sampler Occupancy"):
        config_of(scene, "fit.space=nerfpp", "sampler.otype=Proposal")


def test_what_is_dark_is_not_taken_for_nothing(scene: Scene) -> None:
    """Behind photos without alpha is another colour each time, where a scene goes on; they show none of it."""
    draws = [
        RayDraw(scene, scene.of("train"), background=None, must_end=must_end, seed=0)(0, 100)
        for must_end in (False, True)
    ]
    assert torch.equal(draws[0].target, draws[1].target)
    assert not draws[0].background.any()
    assert len(draws[1].background.unique(dim=0)) == 100


@needs_native
def test_native_steps_in_a_contraction_are_the_plain_ones(scene: Scene) -> None:
    losses: list[list[float]] = []
    for is_plain in (False, True):
        job = SceneJob(scene)
        config, _ = config_of(scene, "fit.cone_angle=0.1", "fit.batch_size=1024")
        with job.training(job.make_field(config, 0), config, 0, ()) as (step, _, why_plain):
            assert not why_plain
            if is_plain:
                step.native = None  # type: ignore[attr-defined]
            losses.append([step(i, 1.0)[0] for i in range(4)])
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)


def test_settled_options_stay_as_they_are(scene: Scene) -> None:
    options = settled(SceneOptions(), scene)
    assert settled(options, scene) == options
    assert not math.isnan(float(options.cone_angle))


@pytest.fixture(scope="module")
def wall(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Cameras side by side before a coloured wall that is 4 away, and a square of it that is 2 away."""
    places = torch.cartesian_prod(torch.linspace(-0.4, 0.4, 4), torch.linspace(-0.4, 0.4, 4))
    poses = torch.eye(4).repeat(16, 1, 1)
    poses[:, :2, 3] = places
    pictures = np.zeros((16, SIDE, SIDE, 3), np.uint8)
    cameras = Cameras(poses[:, :3], torch.tensor([[30.0, 30.0, 12, 12]]).expand(16, 4), torch.full((16, 2), SIDE))
    for view in range(16):
        origins, directions = cameras.picture_rays(view)
        near, far = (origins + directions * (depth / -directions[:, 2:]) for depth in (2.0, 4.0))
        is_near = (near[:, :2].abs() < 0.3).all(-1, keepdim=True)
        at = torch.where(is_near, near, far)
        color = 0.5 + 0.4 * torch.stack([(4 * at[:, 0]).sin(), (5 * at[:, 1]).cos(), is_near[:, 0].float()], -1)
        pictures[view] = (color * 255).round().to(torch.uint8).view(SIDE, SIDE, 3).numpy()
    path = tmp_path_factory.mktemp("scene") / "wall.npz"
    np.savez_compressed(path, images=pictures, poses=poses.numpy(), focal=30.0)
    found = read_scene(path)
    box = torch.tensor([[-3.0, -3.0, -5.0], [3.0, 3.0, 0.0]], dtype=torch.float64)
    return dataclasses.replace(found, bounds=Bounds(box, 1.0, 8.0, True, "known"))


def test_cameras_that_look_the_same_way_are_fitted_in_their_frustum(wall: Scene, tmp_path: Path) -> None:
    path = tmp_path / "wall.field"
    result = fit_scene(wall, overrides=SMALL, steps=400, output=path, progress="quiet")
    assert any("space: ndc" in note for note in result.notes)
    assert result.psnr > 22  # before black it is 16: colours go white behind a fog
    field, metadata = load_field(path)
    assert isinstance(field, NDCField)
    cameras, view = wall.cameras.to(torch.float32), int(wall.of("test")[0])
    found = look(eye_of(field, metadata), cameras, view)
    again, first = (compare(wall, view, eye_of(one, metadata)) for one in (field, result.field))
    assert np.array_equal(again.picture.color, first.picture.color)
    z = found.planar_z
    assert np.median(z) == pytest.approx(4.0, rel=0.1)
    assert z.min() == pytest.approx(2.0, rel=0.2)


@needs_native
def test_steps_in_a_frustum_are_native(wall: Scene) -> None:
    assert fit_scene(wall, overrides=SMALL, steps=2, progress="quiet").training_step.startswith("native")


def test_a_frustum_is_refused_where_cameras_look_all_around(scene: Scene, wall: Scene) -> None:
    with pytest.raises(ConfigError, match="do not look the same way"):
        config_of(scene, "fit.space=ndc")
    with pytest.raises(ConfigError, match="cameras are not refined there"):
        config_of(wall, "fit.refine_cameras=true")
    with pytest.raises(ConfigError, match="goes with the sampler Occupancy"):
        config_of(wall, "sampler.otype=Proposal")
    among = dataclasses.replace(wall, bounds=dataclasses.replace(wall.bounds, near=0.0))
    assert config_of(among)[0]["fit"]["space"] == "box"
