"""Rays meet spheres and boxes where geometry says, also when the function is steeper or flatter than a distance."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fieldforge.renderers.cameras import look_at
from fieldforge.renderers.marching import march
from fieldforge.renderers.occupancy import OccupancyGrid
from fieldforge.renderers.sphere_tracing import Hits, ambient_occlusion, soft_shadow, sphere_trace, walk

RADIUS = 0.5


def sphere(points: Tensor) -> Tensor:
    return torch.linalg.vector_norm(points, dim=-1) - RADIUS


def trace(function: object, size: int = 40, **keywords: object) -> tuple[Hits, Tensor, Tensor]:
    origins, directions = look_at((0.3, -3.0, 0.4), (0.0, 0.0, 0.0), width=size, height=size).rays()
    near, far = torch.full((size * size,), 1.0), torch.full((size * size,), 6.0)
    options = {"tolerance": 1e-4, **keywords}
    return sphere_trace(function, origins, directions, near, far, **options), origins, directions  # type: ignore[arg-type]


def exact(origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    b = (origins * directions).sum(-1)
    under = b * b - ((origins * origins).sum(-1) - RADIUS**2)
    return under > 0, -b - under.clamp(min=0).sqrt()


@pytest.mark.parametrize("relaxation", [1.0, 1.2, 1.8])
def test_a_sphere_is_met_where_it_is(relaxation: float) -> None:
    hits, origins, directions = trace(sphere, relaxation=relaxation)
    is_hit, t = exact(origins, directions)
    clear = (origins + t[:, None] * directions).abs().max() < 10  # all of them
    assert clear
    assert (hits.is_hit != is_hit).float().mean() < 0.01  # grazing rays
    both = hits.is_hit & is_hit
    # a hit within the tolerance of the surface lies farther from it along a grazing ray
    cosine = -((origins + t[:, None] * directions) / RADIUS * directions).sum(-1)
    sure = both & (cosine > 0.3)
    torch.testing.assert_close(hits.t[sure], t[sure], atol=5e-4, rtol=0)
    assert torch.isinf(hits.t[~hits.is_hit]).all()


def test_relaxation_saves_steps_along_a_floor() -> None:
    origins, directions = look_at((0.0, -3.0, 0.3), (0.0, 0.0, 0.0), width=40, height=40).rays()
    near, far = torch.full((1600,), 0.1), torch.full((1600,), 20.0)

    def asked(relaxation: float) -> int:
        floor = lambda p: p[:, 2]  # noqa: E731
        return sphere_trace(
            floor, origins, directions, near, far, tolerance=1e-4, relaxation=relaxation
        ).n_evaluations  # fmt: skip

    assert asked(1.5) < 0.85 * asked(1.0)


def test_a_function_too_steep_is_met_by_the_change_of_sign() -> None:
    hits, origins, directions = trace(lambda p: 1.15 * sphere(p), relaxation=1.0)
    is_hit, t = exact(origins, directions)
    centre = is_hit & (t < 2.65)
    assert hits.is_hit[centre].all()
    torch.testing.assert_close(hits.t[centre], t[centre], atol=1e-3, rtol=0)


def test_a_thin_plate_is_not_stepped_over_with_the_right_slope() -> None:
    plate = lambda p: torch.maximum(p[:, 1].abs() - 2e-3, p[:, :3:2].abs().amax(-1) - 0.4)  # noqa: E731
    hits, _, _ = trace(lambda p: 2 * plate(p), size=20, slope=2.0)
    middle = hits.is_hit.view(20, 20)[8:12, 8:12]
    assert middle.all()


def test_rays_that_begin_inside_hit_at_once() -> None:
    hits = sphere_trace(
        sphere, torch.zeros(1, 3), torch.tensor([[1.0, 0, 0]]), torch.zeros(1), torch.ones(1), tolerance=1e-4
    )
    assert hits.is_hit.item()
    assert hits.t.item() == 0


def test_no_rays_and_rays_without_a_way_miss() -> None:
    none = torch.empty(0)
    assert sphere_trace(sphere, none.view(0, 3), none.view(0, 3), none, none, tolerance=1e-4).t.shape == (0,)
    one = torch.ones(1)
    hits = sphere_trace(sphere, torch.zeros(1, 3), torch.tensor([[1.0, 0, 0]]), 2 * one, one, tolerance=1e-4)
    assert not hits.is_hit.item()
    assert hits.n_evaluations == 0


def test_a_plane_is_open_and_a_pit_is_not() -> None:
    point, normal = torch.zeros(1, 3), torch.tensor([[0.0, 0, 1]])
    assert ambient_occlusion(lambda p: p[:, 2], point, normal, reach=0.3).item() == pytest.approx(1.0)
    pit = lambda p: torch.minimum(p[:, 2], 0.02 - p[:, 0].abs())  # noqa: E731
    assert ambient_occlusion(pit, point, normal, reach=0.3).item() < 0.4


def test_a_camera_looks_where_it_is_told() -> None:
    camera = look_at((1.0, 2.0, 3.0), (0.0, 0.0, 0.0), width=101, height=61)
    origins, directions = camera.rays()
    middle = directions.view(61, 101, 3)[30, 50]
    torch.testing.assert_close(middle, -origins[0] / origins[0].norm(), atol=1e-5, rtol=0)
    top, bottom = directions.view(61, 101, 3)[0, 50], directions.view(61, 101, 3)[60, 50]
    assert top[2] > bottom[2]
    torch.testing.assert_close(torch.cat([camera.rays(0, 20)[1], camera.rays(20)[1]]), directions)
    with pytest.raises(ValueError, match="along the direction that is to be up"):
        look_at((0, 0, 3), (0, 0, 0), width=4, height=4)


def test_walking_finds_the_first_change_of_sign() -> None:
    """Of a function that is no distance: two shells, of which the outer one is seen."""
    origins, directions = look_at((0.3, -3.0, 0.4), (0.0, 0.0, 0.0), width=24, height=24).rays()
    step = lambda p: torch.sign(sphere(p)) * (sphere(p).abs() > 0.1 - 1e-4).float().add(1)  # noqa: E731
    grid = OccupancyGrid.from_cells(torch.ones(4, 4, 4, dtype=torch.bool), (-1, -1, -1), (1, 1, 1))
    hits = walk(step, origins, directions, march(origins.contiguous(), directions, grid, step=0.01))
    is_hit, t = exact(origins, directions)
    sure = is_hit & (t < 2.8)
    assert hits.is_hit[sure].all()
    assert not hits.is_hit[~is_hit].any()
    torch.testing.assert_close(hits.t[sure], t[sure], atol=2e-3, rtol=0)
    assert walk(step, origins[:0], directions[:0], march(origins[:0], directions[:0], grid, step=0.01)).t.shape == (0,)


def ball_over_floor(points: Tensor) -> Tensor:
    return torch.minimum(torch.linalg.vector_norm(points - torch.tensor([0.0, 0, 1]), dim=-1) - 0.3, points[:, 2])


def test_the_shadow_of_a_ball_on_a_floor_ends_where_geometry_says() -> None:
    """Light from straight above: dark below the ball, lit where it passes at an angle of more than `width`."""
    width, off = 0.2, 1e-3
    x = torch.linspace(0, 0.8, 161)
    points = torch.stack([x, torch.zeros_like(x), torch.full_like(x, off)], -1)
    up = torch.tensor([0.0, 0, 1])
    lit = soft_shadow(ball_over_floor, points, up, reach=2.0, width=width, slope=1.0, max_steps=200)
    t = torch.linspace(0.1, 2.0, 4001, dtype=torch.float64)
    rays = points.double()[:, None] + t[:, None] * up
    passes = torch.linalg.vector_norm(rays - torch.tensor([0.0, 0, 1], dtype=torch.float64), dim=-1) - 0.3
    share = (passes / (width * t)).amin(1).clamp(0, 1)
    expected = share**2 * (3 - 2 * share)
    assert (lit[x < 0.3] == 0).all()  # umbra: the ball is straight above
    assert (lit[expected == 1] > 0.97).all()
    assert ((lit > 0.02) & (lit < 0.98)).sum() > 20  # a penumbra between
    assert (lit.diff() > -0.01).all()
    torch.testing.assert_close(lit.double(), expected, atol=0.1, rtol=0)  # between steps it is estimated


def test_a_wider_light_has_a_wider_penumbra_and_a_far_thing_throws_none() -> None:
    point, up = torch.tensor([[0.35, 0.0, 1e-3]]), torch.tensor([0.0, 0, 1])
    narrow, wide = (soft_shadow(ball_over_floor, point, up, reach=2.0, width=width).item() for width in (0.04, 0.4))
    assert narrow > 0.9 > 0.2 > wide
    assert soft_shadow(ball_over_floor, torch.tensor([[0.0, 0, 1e-3]]), up, reach=0.3).item() > 0.9
    assert soft_shadow(ball_over_floor, point[:0], up, reach=1.0).shape == (0,)
