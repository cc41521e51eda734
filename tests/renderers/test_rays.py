"""Where rays enter and leave a box, in both versions."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from reference.marching import intersect

from fieldforge.backends import use_backend
from fieldforge.kernels import cpu_door
from fieldforge.renderers.rays import intersect_box, intersect_slabs

LOW, HIGH = (-1.0, 0.0, 0.5), (1.0, 0.25, 3.0)
UNIT = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


@pytest.fixture(params=["reference", "cpu"], autouse=True)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "cpu" and cpu_door.missing() is not None:
        pytest.skip(f"no native kernels: {cpu_door.missing()}")
    with use_backend(request.param):
        yield request.param


def one(origin: list[float], direction: list[float], near: float = 0.0, far: float = math.inf) -> tuple[float, float]:
    rays = torch.tensor([origin], dtype=torch.float32), torch.tensor([direction], dtype=torch.float32)
    t_near, t_far = intersect_box(*rays, *UNIT, near, far)
    return float(t_near), float(t_far)


def test_random_rays_meet_the_box_where_exact_arithmetic_says(generator: torch.Generator) -> None:
    origins = torch.randn(400, 3, generator=generator) * 2
    directions = torch.randn(400, 3, generator=generator)
    directions[200:] -= origins[200:]  # towards the box
    directions[:100] = directions[:100].round()  # many zeros: parallel to faces
    origins[50:150] = origins[50:150].round()  # and in the planes of some
    n_hits = 0
    for near, far in ((0.0, math.inf), (0.5, 2.0)):
        t_near, t_far = intersect_box(origins, directions, LOW, HIGH, near, far)
        for i in range(len(origins)):
            expected = intersect(origins[i].tolist(), directions[i].tolist(), list(LOW), list(HIGH), near, far)
            if expected is None:
                assert t_far[i] == t_near[i] == near or float(t_far[i] - t_near[i]) < 1e-6
            else:
                n_hits += 1
                assert float(t_near[i]) == pytest.approx(float(expected[0]), rel=1e-6)
                assert float(t_far[i]) == pytest.approx(float(expected[1]), rel=1e-6)
    assert n_hits > 50


def test_a_ray_from_inside_begins_at_near() -> None:
    assert one([0.5, 0.5, 0.5], [0, 0, 2]) == (0, 0.25)
    assert one([0.5, 0.5, 0.5], [0, 0, 2], near=0.125) == (0.125, 0.25)
    assert one([0.5, 0.5, 0.5], [0, 0, -1], far=0.25) == (0, 0.25)


def test_a_ray_in_a_face_hits_and_one_beside_it_misses() -> None:
    assert one([-1, 1, 0.5], [1, 0, 0]) == (1, 2)
    assert one([-1, 1, 0], [1, -0.0, 0]) == (1, 2)  # along an edge
    assert one([-1, 1.0001, 0.5], [1, 0, 0]) == (0, 0)


def test_a_diagonal_runs_from_corner_to_corner() -> None:
    assert one([-1, -1, -1], [1, 1, 1]) == (1, 2)
    assert one([2, 2, 2], [-1, -1, -1]) == (1, 2)


@pytest.mark.parametrize(
    ("origin", "direction"),
    [
        ([2, 0.5, 0.5], [1, 0, 0]),  # behind the ray
        ([-1, 3, 0.5], [1, 0.1, 0]),
        ([0.5, 0.5, 0.5], [0, 0, 0]),
        ([-1, 1, 0.5], [1, 1, 0]),  # above when it comes to the box
        ([-1, 0, 0.5], [1, -1, 0]),
        ([-0.5, 1.5, 0.5], [-1, -1, 0]),
    ],
)
def test_a_miss_has_no_length(origin: list[float], direction: list[float]) -> None:
    assert one(origin, direction) == (0, 0)
    assert one(origin, direction, near=0.5) == (0.5, 0.5)


def test_touching_a_single_edge_is_a_miss() -> None:
    assert one([-1, 0, 0.5], [1, 1, 0]) == (0, 0)  # x is in [0, 1] for t in [1, 2], y for t in [0, 1]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("axis", [0, 2])
def test_numbers_that_are_not_finite_miss(bad: float, axis: int) -> None:
    broken = [0.5, 0.5, 0.5]
    broken[axis] = bad
    assert one(broken, [1, 0, 0]) == (0, 0)
    assert one([0.5, 0.5, 0.5], broken) == (0, 0)


def test_huge_and_tiny_numbers_do_no_harm() -> None:
    assert one([3e38, 0.5, 0.5], [-1, 0, 0]) == (0, 0)  # the box has no length that float32 could tell there
    t_near, t_far = one([0.5, 0.5, 0.5], [1e-30, 0, 0])
    assert t_near == 0
    assert t_far == pytest.approx(5e29)


def test_no_rays_give_no_answers() -> None:
    t_near, t_far = intersect_box(torch.empty(0, 3), torch.empty(0, 3), *UNIT)
    assert t_near.shape == t_far.shape == (0,)


def test_both_versions_give_the_same_bits(generator: torch.Generator) -> None:
    origins = torch.randn(5001, 3, generator=generator)
    directions = torch.randn(5001, 3, generator=generator) * (torch.rand(5001, 3, generator=generator) > 0.2)
    got = intersect_box(origins, directions, LOW, HIGH, 0.1, 5.0)
    expected = intersect_slabs(origins, directions, LOW, HIGH, 0.1, 5.0)
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])


def test_distances_to_the_box_have_gradients(backend: str) -> None:
    if backend == "cpu":
        pytest.skip("the native version has no gradients")
    origins = torch.tensor([[-1.0, 0.3, 0.4], [0.2, 0.5, 3.0]], dtype=torch.float64, requires_grad=True)
    directions = torch.tensor([[1.0, 0.1, 0.2], [0.0, 0.1, -1.0]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda o, d: intersect_box(o, d, *UNIT), (origins, directions))


def test_wrong_calls_are_refused() -> None:
    rays = torch.zeros(2, 3), torch.ones(2, 3)
    with pytest.raises(TypeError, match="origins: expected floating-point"):
        intersect_box(rays[0].long(), rays[1], *UNIT)
    with pytest.raises(ValueError, match=r"directions: expected \(N, 3\) origins and a direction for each"):
        intersect_box(rays[0], rays[1][:1], *UNIT)
    with pytest.raises(TypeError, match=r"directions: expected torch\.float32"):
        intersect_box(rays[0], rays[1].double(), *UNIT)
    with pytest.raises(ValueError, match="low, high: expected corners of a box"):
        intersect_box(*rays, (0, 0, 0), (1, 0, 1))
    with pytest.raises(ValueError, match="low, high: expected corners of a box"):
        intersect_box(*rays, (0, 0, math.nan), (1, 1, 1))
    with pytest.raises(ValueError, match="near, far: expected 0 <= near <= far, got 2 and 1"):
        intersect_box(*rays, *UNIT, near=2, far=1)
