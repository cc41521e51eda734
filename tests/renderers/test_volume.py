"""Volume rendering of scenes whose pictures are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fieldforge.renderers.cameras import look_at
from fieldforge.renderers.occupancy import OccupancyGrid
from fieldforge.renderers.volume import planar_z, render, render_in_parts

RADIUS, SIGMA = 0.6, 3.0
BOX = (-1.0, -1.0, -1.0), (1.0, 1.0, 1.0)


def ball(points: Tensor, sigma: float = SIGMA) -> Tensor:
    return sigma * (points.norm(dim=-1) < RADIUS).float()


def colored(points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    return ball(points), torch.tensor([0.9, 0.5, 0.1]).expand(len(points), 3)


def wall(points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    return ball(points, 500.0), (0.5 + 0.5 * torch.sin(7 * points)).float()


def chord(origins: Tensor, directions: Tensor) -> Tensor:
    """Length of each ray inside the ball."""
    nearest = -(origins * directions).sum(-1)
    squared = RADIUS**2 - (origins.square().sum(-1) - nearest**2)
    return 2 * squared.clamp(min=0).sqrt()


def test_a_ball_of_fog_has_the_opacity_of_its_chords() -> None:
    origins, directions = look_at((0, -3, 1), (0, 0, 0), width=40, height=40).rays()
    grid = OccupancyGrid(*BOX, resolution=8)
    seen = render(origins, directions, colored, grid, step=1e-3, background=torch.ones(3))
    expected = 1 - torch.exp(-SIGMA * chord(origins, directions))
    # a chord is wrong by up to half a step at each end
    assert (seen.opacity - expected).abs().max() < 1.01 * SIGMA * 1e-3
    color = expected[:, None] * torch.tensor([0.9, 0.5, 0.1]) + (1 - expected[:, None])
    assert (seen.color - color).abs().max() < 1.01 * SIGMA * 1e-3


def test_distance_runs_along_the_ray_and_planar_z_along_the_camera() -> None:
    camera = look_at((0, -3, 0), (0, 0, 0), width=9, height=9, field_of_view=20)
    origins, directions = camera.rays()
    grid = OccupancyGrid(*BOX, resolution=8)
    seen = render(origins, directions, wall, grid, step=2e-3)
    first = -(origins * directions).sum(-1) - chord(origins, directions) / 2
    is_hit = chord(origins, directions) > 0.2
    assert is_hit.any()
    assert (seen.distance - first).abs()[is_hit].max() < 4e-3
    z = planar_z(seen.distance, directions, -camera.rotation[:, 2])
    points = origins + seen.distance[:, None] * directions
    torch.testing.assert_close(z[is_hit], points[is_hit, 1] + 3)
    assert (z[is_hit] < seen.distance[is_hit]).sum() >= is_hit.sum() - 1  # equal in the middle only


def test_nothing_is_infinitely_far() -> None:
    seen = render(torch.tensor([[0.0, 0, 3]]), torch.tensor([[1.0, 0, 0]]), colored, OccupancyGrid(*BOX), step=0.1)
    assert seen.opacity.tolist() == [0]
    assert seen.distance.tolist() == [math.inf]
    assert seen.color.tolist() == [[0, 0, 0]]


def test_occupancy_and_early_stop_give_the_dense_picture_from_few_samples() -> None:
    origins, directions = look_at((1, -3, 1), (0, 0, 0), width=48, height=48).rays()
    dense_grid, grid = OccupancyGrid(*BOX, resolution=64), OccupancyGrid(*BOX, resolution=64)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        grid.update(lambda points: ball(points, 500.0), 0, generator=generator)
    dense = render(origins, directions, wall, dense_grid, step=0.005, early_stop=0.0)
    seen = render(origins, directions, wall, grid, step=0.005, density=lambda points: ball(points, 500.0))
    error = (seen.color - dense.color).square().mean()
    assert -10 * math.log10(float(error)) > 45
    assert seen.n_evaluated < 0.1 * dense.n_evaluated


@pytest.mark.parametrize("early_stop", [1e-2, 1e-4])
def test_early_stop_is_wrong_by_no_more_than_it_says(early_stop: float) -> None:
    origins, directions = look_at((0, -3, 1), (0, 0, 0), width=16, height=16).rays()
    grid = OccupancyGrid(*BOX, resolution=8)

    def fog(points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        return ball(points, 12.0), 0.5 + 0.5 * torch.sin(7 * points)

    full = render(origins, directions, fog, grid, step=0.01, early_stop=0.0)
    cut = render(
        origins, directions, fog, grid, step=0.01, density=lambda points: ball(points, 12.0), early_stop=early_stop
    )
    assert cut.n_evaluated < full.n_evaluated
    assert 0 < (cut.color - full.color).abs().max() <= early_stop


def test_parts_and_pieces_change_nothing() -> None:
    camera = look_at((0, -3, 1), (0, 0, 0), width=13, height=11)
    origins, directions = camera.rays()
    grid = OccupancyGrid(*BOX, resolution=8)
    whole = render(origins, directions, wall, grid, step=0.01, density=ball)

    def see(origins: Tensor, directions: Tensor):  # type: ignore[no-untyped-def]
        return render(origins, directions, wall, grid, step=0.01, density=ball, n_points_at_once=997)

    parts = list(render_in_parts(lambda a, b: (origins[a:b], directions[a:b]), 143, see, n_rays_at_once=17))
    assert torch.equal(torch.cat([part.color for part in parts]), whole.color)
    assert torch.equal(torch.cat([part.distance for part in parts]), whole.distance)


def test_no_rays_are_a_picture_too() -> None:
    seen = render(torch.empty(0, 3), torch.empty(0, 3), colored, OccupancyGrid(*BOX), step=0.1, density=ball)
    assert seen.color.shape == (0, 3)
    assert seen.opacity.shape == (0,)


def test_gradients_of_a_picture_are_those_of_finite_differences() -> None:
    """One ray through a fog whose density and colour hang on three numbers."""
    grid = OccupancyGrid(*BOX, resolution=4)
    origins, directions = torch.tensor([[0.1, 0.2, -3.0]]), torch.tensor([[0.0, 0.0, 1.0]])
    knobs = torch.tensor([0.3, -0.2, 0.9], requires_grad=True)

    def see(knobs: Tensor) -> Tensor:
        def fog(points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
            return torch.exp(knobs[0] + points[:, 2] * knobs[1]), torch.sigmoid(points * knobs[2])

        return render(origins, directions, fog, grid, step=0.05, background=torch.full((3,), 0.25)).color.sum()

    (grad,) = torch.autograd.grad(see(knobs), knobs)
    for i in range(3):
        nudge = torch.zeros(3).index_fill(0, torch.tensor([i]), 1e-2)
        with torch.no_grad():
            slope = (see(knobs + nudge) - see(knobs - nudge)) / 2e-2
        torch.testing.assert_close(grad[i], slope, rtol=2e-3, atol=2e-4)


def test_whoever_asks_is_told_the_ray_of_each_point() -> None:
    """Rays of their own densities: in pieces, with a first look at the density alone, as all at once."""
    origins, directions = look_at((0, -3, 1), (0, 0, 0), width=8, height=8).rays()
    sigma = torch.linspace(0, 4, 64)
    grid = OccupancyGrid(*BOX, resolution=8)

    def radiance(points: Tensor, along: Tensor, ray: Tensor) -> tuple[Tensor, Tensor]:
        assert torch.equal(along, directions[ray])
        return sigma[ray], torch.ones(len(points), 3)

    seen = render(
        origins, directions, radiance, grid, step=1e-2, density=lambda points, ray: sigma[ray], tell_rays=True,
        n_points_at_once=1000,
    )  # fmt: skip
    for ray in (5, 36):
        alone = render(
            origins[ray : ray + 1], directions[ray : ray + 1],
            lambda points, along, s=float(sigma[ray]): (torch.full((len(points),), s), torch.ones(len(points), 3)),
            grid, step=1e-2,
        )  # fmt: skip
        torch.testing.assert_close(seen.opacity[ray], alone.opacity[0], rtol=0, atol=2e-4)


def test_gradients_reach_the_rays_themselves() -> None:
    """In places and directions, by finite differences; the intervals on the rays stay."""
    origin = torch.tensor([[0.1, -3.0, 0.2]], requires_grad=True)
    direction = torch.tensor([[0.0, 1.0, 0.0]], requires_grad=True)
    grid = OccupancyGrid(*BOX, resolution=8)

    def wave(points: Tensor, along: Tensor) -> tuple[Tensor, Tensor]:
        return 1 + points[:, 0] ** 2, torch.sin(points) * (1 + along[:, :1])

    seen = render(origin, direction, wave, grid, step=1e-2)
    of_origin, of_direction = torch.autograd.grad(seen.color.sum(), [origin, direction])
    for axis, (moved, grad) in ((0, (origin, of_origin)), (2, (origin, of_origin)), (0, (direction, of_direction))):
        step = torch.zeros(1, 3)
        step[0, axis] = 1e-2
        both = [
            (origin + sign * step, direction) if moved is origin else (origin, direction + sign * step)
            for sign in (1, -1)
        ]
        with torch.no_grad():
            ahead, back = (float(render(o, d, wave, grid, step=1e-2).color.sum()) for o, d in both)
        assert (ahead - back) / 2e-2 == pytest.approx(float(grad[0, axis]), rel=2e-2, abs=1e-3)
