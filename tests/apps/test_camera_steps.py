"""Cameras find their place: the gradient of a picture in them, and fits that bring them back."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.apps.test_fit_rays import SMALL, ball_scene, fit
from torch import Tensor

from fieldforge.apps.fit.job import Plan
from fieldforge.apps.fit.scene.camera_steps import CameraSteps
from fieldforge.apps.fit.scene.job import SceneJob
from fieldforge.apps.fit.scene.options import SceneOptions
from fieldforge.apps.fit.scene.poses import PoseRefinement, pose_errors
from fieldforge.apps.fit.scene.rays import RayDraw
from fieldforge.apps.fit.scene.step import scene_step
from fieldforge.apps.scenes import Scene
from fieldforge.renderers.occupancy import OccupancyGrid
from fieldforge.renderers.volume import render

COARSE = [*SMALL, "encoding.per_level_scale=1.2", "encoding.base_resolution=8", "dir_encoding.degree=1"]
"""Levels whose cells are no smaller than what cameras are off by: finer ones learn each photo where it stands."""


def blobs(points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Two soft ones of many colours, in a box so large that what leaves it does not count."""
    middles = points.new_tensor([[0.2, 0.1, -0.1], [-0.3, -0.2, 0.2]])
    density = 4 * torch.exp(-8 * (points[:, None] - middles).square().sum(-1)).sum(-1)
    return density, 0.5 + 0.3 * torch.sin(3 * points) + 0.1 * directions


def test_the_gradient_in_a_movement_is_the_slope_of_the_loss(generator: torch.Generator) -> None:
    """Of autograd, and the sum over rays that camera steps read, against differences of the rendered loss."""
    grid = OccupancyGrid((-4.0,) * 3, (4.0,) * 3, resolution=4)
    poses = PoseRefinement(2, torch.tensor([0.1, -0.2, 0.3]), 1.5)
    origins = torch.tensor([[0.0, 0.0, -2.0]]).repeat(400, 1) + 0.1 * torch.randn(400, 3, generator=generator)
    directions = torch.nn.functional.normalize(-origins + 0.3 * torch.randn(400, 3, generator=generator), dim=-1)
    photo = torch.arange(400) % 2
    target = torch.rand(400, 3, generator=generator)

    def loss() -> Tensor:
        moved = poses(origins, directions, photo)
        seen = render(*moved, blobs, grid, step=0.02, early_stop=0.0, background=torch.ones(3))
        return (seen.color - target).square().mean()

    loss().backward()
    gradient = poses.movements.grad
    assert gradient is not None
    slopes, _ = poses.slopes()
    assert slopes is not None
    of_photos = torch.zeros(2, 6).index_add_(0, photo, slopes)
    assert torch.allclose(of_photos, gradient, rtol=1e-3, atol=1e-6)
    for camera in range(2):
        for number in range(6):
            ends = []
            for side in (1, -1):
                with torch.no_grad():
                    poses.movements.zero_()[camera, number] = side * 0.01
                    ends.append(float(loss()))
            assert (ends[0] - ends[1]) / 0.02 == pytest.approx(float(gradient[camera, number]), rel=0.02, abs=3e-4)


def moved_cameras(scene: Scene, which: Tensor, *, turn: float, shift: float) -> Scene:
    """Some turned by so many degrees around themselves, and shifted."""
    generator = torch.Generator().manual_seed(0)

    def anywhere() -> Tensor:
        return torch.nn.functional.normalize(torch.randn(len(which), 3, generator=generator), dim=-1)

    movements = PoseRefinement(len(which), torch.zeros(3), 1.0)
    movements.movements.data[:, 3:] = anywhere() * turn * torch.pi / 180
    poses = scene.cameras.poses.clone()
    poses[which, :, :3] = movements.matrices().detach().double()[:, :3, :3] @ poses[which][:, :, :3]
    poses[which, :, 3] += shift * anywhere().double()
    return dataclasses.replace(scene, cameras=dataclasses.replace(scene.cameras, poses=poses))


@pytest.mark.slow
def test_a_camera_that_is_off_finds_back_to_a_field_that_stands() -> None:
    """To a third of 3 degrees and of its shift, in a field that was trained with all cameras in their places."""
    scene = ball_scene(is_marbled=True)
    field = fit(scene, *COARSE, steps=400).field
    which = torch.tensor([3, 7])
    off = moved_cameras(scene, scene.of("train")[which], turn=3.0, shift=0.03)
    job = SceneJob(off)
    more = ["fit.refine_cameras=true", "fit.camera_start=0.1", "optimizer.learning_rate=1e-12"]
    config, _ = job.run_config(Plan(overrides=[*COARSE, *more], steps=300))
    step = scene_step(field, RayDraw(off, job.train, background=None, seed=0), config, SceneOptions.of(config["fit"]))
    for i in range(300):
        step(i, 0.1 ** (i / 300))
    assert step.poses is not None
    poses = step.poses.refined(off.cameras.poses[job.train])
    for camera in which.tolist():
        now, right = poses[camera], scene.cameras.poses[job.train[camera]]
        turn = torch.rad2deg(torch.acos((((now[:, :3] * right[:, :3]).sum() - 1) / 2).clamp(-1, 1)))
        assert float(turn) < 1.0, camera
        assert float(torch.linalg.vector_norm(now[:, 3] - right[:, 3])) < 0.01, camera


@pytest.mark.slow
def test_cameras_of_which_half_are_off_come_nearer_to_their_places() -> None:
    """While the field is learnt from them; but for a movement of all of them, which photos do not tell."""
    scene = ball_scene(is_marbled=True)
    train = scene.of("train")
    off, right = moved_cameras(scene, train[1::2], turn=3.0, shift=0.1), scene.cameras.poses[train]
    job = SceneJob(off)
    job.run(Plan(overrides=[*COARSE, "fit.refine_cameras=true"], steps=600, progress="quiet"))
    before = pose_errors(off.cameras.poses[train], right, 1.0)
    after = pose_errors(job.seen_scene().cameras.poses[train], right, 1.0)
    assert after[0] < 0.7 * before[0]
    assert after[1] < 0.9 * before[1]


def test_cameras_of_which_no_ray_tells_anything_stay() -> None:
    poses = PoseRefinement(3, torch.zeros(3), 1.0)
    optimizer = CameraSteps(poses, first=1)
    optimizer.step()
    for _ in range(3):
        origins, _ = poses(torch.ones(4, 3), torch.eye(3)[[0, 0, 1, 2]], torch.tensor([0, 0, 0, 1]))
        per_ray = origins.square().sum(-1)
        optimizer.zero_grad()
        per_ray.mean().backward()
        optimizer.note(per_ray.detach())
        optimizer.step()
    assert not poses.movements.any()  # the loss says nothing of directions
