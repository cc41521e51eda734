"""What belongs to rays and photos: moving scenes, exposures of photos, what is behind, cameras off their place."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import trimesh
from torch import Tensor

from fieldforge.apps.cli import main
from fieldforge.apps.fit.job import Plan
from fieldforge.apps.fit.scene.job import SceneJob, fit_scene
from fieldforge.apps.fit.scene.options import SceneOptions
from fieldforge.apps.fit.scene.poses import PoseRefinement, common_movement, move, pose_errors
from fieldforge.apps.fit.scene.rays import RayDraw
from fieldforge.apps.fit.scene.step import scene_step
from fieldforge.apps.render.refined import as_refined
from fieldforge.apps.scenes import Scene
from fieldforge.apps.scenes.photos import Photos
from fieldforge.apps.scenes.scene import Bounds, View
from fieldforge.fields.file import load_field
from fieldforge.kernels import cpu_door
from fieldforge.renderers.cameras import Cameras
from fieldforge.renderers.cameras.paths import orbit

needs_native = pytest.mark.skipif(cpu_door.missing() is not None, reason=f"no native kernels: {cpu_door.missing()}")
SIDE, N = 20, 20
SMALL = [
    "encoding.n_levels=4", "encoding.log2_hashmap_size=12", "encoding.per_level_scale=1.6", "fit.batch_size=4096",
    "network.n_neurons=16", "rgb_network.n_neurons=16", "rgb_network.n_hidden_layers=1", "fit.samples_across=64",
    "fit.occupancy=16", "fit.update_every=8",
]  # fmt: skip

SHORT = ["encoding.n_time_levels=2", "encoding.time_resolution=6", "encoding.log2_time_hashmap_size=14"]
"""Of photos that have times."""


def poses_around() -> Tensor:
    """(N, 3, 4) cameras all around, at many heights, that look at the middle."""
    rings = [
        orbit(
            torch.zeros(3), distance=3.0, up=torch.tensor([0.0, 0.0, 1.0]), elevation=-50 + 100 * ((7 * i) % N) / N,
            n_frames=N, width=SIDE, height=SIDE, focal=24.0,
        ).poses[(9 * i) % N]
        for i in range(N)
    ]  # fmt: skip
    return torch.stack(rings).double()


def ball_scene(*, moves: bool = False, behind: bool = False, exposure: bool = False, is_marbled: bool = False) -> Scene:
    """A ball whose colours are its normals; it may go up and down, before nothing or colours of the direction, in
    photos of different exposure; marbled it is larger, in larger photos; every fifth is held out."""
    poses = poses_around()
    side, radius = (2 * SIDE, 0.8) if is_marbled else (SIDE, 0.5)
    intrinsics = side / SIDE * torch.tensor([[24.0, 24.0, SIDE / 2, SIDE / 2]]).expand(N, 4).double()
    cameras = Cameras(poses, intrinsics, torch.full((N, 2), side))
    times = torch.linspace(0, 1, N)
    pictures = torch.zeros(N, side, side, 4)
    for view in range(N):
        origins, directions = (rays.float() for rays in cameras.picture_rays(view))
        middle = torch.tensor([0.0, 0.0, 0.5 * float(torch.sin(3 * times[view])) - 0.2 if moves else 0.0])
        from_middle = origins - middle
        nearest = -(from_middle * directions).sum(-1)
        under = radius**2 - (from_middle.square().sum(-1) - nearest**2)
        place = from_middle + (nearest - under.clamp(min=0).sqrt())[:, None] * directions
        is_ball = (under > 0)[:, None]
        on_ball = 0.5 + 0.4 * torch.sin(4 * place) if is_marbled else 0.5 + place
        color = torch.where(is_ball, on_ball, 0.5 + 0.4 * directions if behind else torch.zeros(3))
        if exposure:
            color = color * (0.5 + 0.5 * ((7 * view) % N) / N)
        pictures[view] = torch.cat([color, is_ball.float()], -1).view(side, side, 4)
    if behind or exposure:
        pictures = pictures[..., :3]
    array = (pictures.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    views = tuple(
        View(f"p{i:02}", None, "test" if i % 5 == 2 else "train", float(times[i]) if moves else None) for i in range(N)
    )
    box = torch.tensor([[-1.0] * 3, [1.0] * 3]).double()
    return Scene("ball", "arrays", cameras, views, Photos.from_array(array), Bounds(box, 1.0, 5.0, True, "known"))


def fit(scene: Scene, *more: str, steps: int, **keywords: Any) -> Any:
    return fit_scene(scene, overrides=[*SMALL, *more], steps=steps, progress="quiet", **keywords)


@needs_native
def test_a_field_with_time_sees_a_moving_ball_and_one_without_does_not() -> None:
    scene = ball_scene(moves=True)
    moving = fit(scene, *SHORT, steps=200)
    still = fit(scene, *SHORT, "fit.time=off", steps=200)
    assert moving.field.has_time
    assert not still.field.has_time
    assert moving.training_step.startswith("native")
    assert moving.psnr > still.psnr + 3
    assert "changes with time" in moving.notes[-1]
    assert "stands still" in still.notes[-1]


@needs_native
@pytest.mark.parametrize("moves", [False, True])
def test_native_steps_of_what_belongs_to_rays_are_the_plain_ones(moves: bool) -> None:
    """Losses of the first steps, in which the vectors of photos and the background move too."""
    scene, losses = ball_scene(moves=moves, behind=True), []
    for is_plain in (False, True):
        job = SceneJob(scene)
        config, _ = job.run_config(Plan(overrides=[*SMALL, "fit.appearance=4", "fit.background=learned"]))
        field = job.make_field(config, 0)
        draw = RayDraw(scene, job.train, background=None, seed=0)
        step = scene_step(field, draw, config, SceneOptions.of(config["fit"]))  # type: ignore[arg-type]
        assert not step.why_plain
        if is_plain:
            step.native = None
        losses.append([step(i, 1.0)[0] for i in range(6)])
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)
    assert losses[0][-1] < losses[0][0]


def test_what_is_behind_is_learnt() -> None:
    scene = ball_scene(behind=True)
    black, learned = (fit(scene, f"fit.background={kind}", steps=150).psnr for kind in ("black", "learned"))
    assert learned > 20
    assert learned > black + 3


def test_vectors_of_photos_take_their_exposure() -> None:
    """Where colours do not depend on the direction, training photos are met better, each with its own vector."""
    scene = ball_scene(exposure=True)
    one, each = (
        fit(scene, f"fit.appearance={n}", "dir_encoding.degree=1", steps=150).state.history[-1]["psnr"] for n in (0, 4)
    )
    assert each > one + 2


def test_refined_cameras_are_remembered() -> None:
    """They move in training, each by itself, and a file's header brings them back."""
    scene, job = ball_scene(), SceneJob(ball_scene())
    result = job.run(
        Plan(overrides=[*SMALL, "fit.refine_cameras=true", "fit.camera_start=0.2"], steps=10, progress="quiet")
    )
    assert "PyTorch, as refining cameras" in result.training_step
    poses = job.seen_scene().cameras.poses
    moved = (poses - scene.cameras.poses)[scene.of("train")].abs().amax((1, 2))
    assert 1e-4 < float(moved.min()) <= float(moved.max()) < 0.1
    again = as_refined(scene, {"signal": json.loads(json.dumps(job.metadata()))})
    assert float((again.cameras.poses - poses).abs().max()) < 1e-6


def test_a_movement_of_all_cameras_is_found_and_undone() -> None:
    poses = poses_around()
    all_of_it = PoseRefinement(1, torch.zeros(3), 2.0)
    all_of_it.movements.data[0] = torch.tensor([0.1, -0.2, 0.3, 0.4, 0.1, -0.6])
    moved = PoseRefinement(N, torch.zeros(3), 2.0)
    moved.movements.data[:] = all_of_it.movements.data
    after = moved.refined(poses)
    assert float((move(poses, common_movement(poses, after, 1.0)) - after).abs().max()) < 1e-5
    turn, shift = pose_errors(after, poses, 1.0)
    assert turn < 0.1
    assert shift < 1e-5
    assert float((after - poses).abs().max()) > 0.1


@pytest.mark.parametrize("metadata", [{}, {"signal": 3}, {"signal": {"movement": [[1, 2]], "refined_poses": {}}},
    {"signal": {"movement": [[2.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], "refined_poses": {"p00": "x"}}},
    {"signal": {"movement": [[1, 0, 0, float("nan")], [0, 1, 0, 0], [0, 0, 1, 0]], "refined_poses": []}}])  # fmt: skip
def test_strange_poses_of_a_header_are_looked_past(metadata: dict[str, Any]) -> None:
    scene = ball_scene()
    assert as_refined(scene, metadata) is scene


@pytest.mark.parametrize("refines", [False, True])
def test_an_interrupted_fit_resumes_with_photos_background_and_cameras(refines: bool, tmp_path: Path) -> None:
    def interrupt(step: int, ray_loss: Tensor) -> None:
        if step == 5:
            os.kill(os.getpid(), signal.SIGINT)

    scene, path = ball_scene(behind=True), tmp_path / "x.field"
    options = ("fit.appearance=3", "fit.background=learned", f"fit.refine_cameras={str(refines).lower()}")
    stopped = fit(scene, *options, steps=12, output=path, hooks=(interrupt,))
    assert stopped.state.stopped_by == "signal"
    fit(scene, *options, steps=12, output=path, resume=True)
    fit(scene, *options, steps=12, output=tmp_path / "whole.field")
    (first, of_first), (second, of_second) = load_field(path), load_field(tmp_path / "whole.field")
    assert "photo_vectors" in first.state_dict()
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    assert of_first["signal"] == of_second["signal"]
    assert ("refined_poses" in of_first["signal"]) == refines


def test_a_file_of_a_moving_scene_is_shown_at_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.field"
    fit(ball_scene(moves=True), *SHORT, steps=120, output=path)
    pictures = []
    for time in ("0", "0.5"):
        assert main(["render", str(path), "-o", str(tmp_path / "x.png"), "--time", time, "--quiet"]) == 0
        pictures.append((tmp_path / "x.png").read_bytes())
    assert pictures[0] != pictures[1]
    normals = ["render", str(path), "-o", str(tmp_path / "x.png"), "--normals", "--time", "0.5", "--quiet"]
    assert main(normals) == 0
    assert main(["render", str(path), "-o", str(tmp_path / "x.mp4"), "--frames", "3", "--quiet"]) == 0
    heights = []
    for time in ("0", "0.5"):
        mesh = str(tmp_path / "x.ply")
        export = ["export", str(path), "-o", mesh, "--time", time, "--level", "2", "--quiet"]
        assert main([*export, "--to", "mesh", "--resolution", "24"]) == 0
        heights.append(trimesh.load(mesh).vertices[:, 2].mean())
        assert main([*export, "--to", "cloud", "--n", "200"]) == 0
    assert heights[1] > heights[0] + 0.2  # where the ball has gone
    assert main(["mesh", str(path), "-o", str(tmp_path / "x.obj"), "--quiet"]) == 2
    assert "a shape is needed" in capsys.readouterr().err
    still = tmp_path / "s.field"
    fit(ball_scene(), steps=2, output=still)
    for command in (["render", str(still), "-o", str(tmp_path / "x.png")], ["export", str(still), "-o", mesh]):
        assert main([*command, "--time", "0.5", "--quiet"]) == 2
        assert "stands still" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("fit.background=learned", "photos with alpha have nothing behind them"),
        ("fit.time=maybe", "fit.time"),
        ("fit.duration=0", "fit.duration"),
        ("fit.appearance=-1", "fit.appearance"),
        ("fit.refine_cameras=3", "fit.refine_cameras"),
        ("fit.camera_rate=0", "fit.camera_rate"),
    ],
)
def test_what_cannot_be_asked_of_rays_is_named(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(ball_scene(), override, steps=1)
