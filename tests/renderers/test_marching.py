"""Marching, in both versions: the samples are those that the definition names, one by one."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from reference.marching import march as march_by_hand

from fieldforge.backends import use_backend
from fieldforge.kernels import cpu_door
from fieldforge.renderers.marching import march
from fieldforge.renderers.occupancy import OccupancyGrid
from fieldforge.renderers.rays import intersect_box

CUBE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


@pytest.fixture(params=["reference", "cpu"], autouse=True)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "cpu" and cpu_door.missing() is not None:
        pytest.skip(f"no native kernels: {cpu_door.missing()}")
    with use_backend(request.param):
        yield request.param


def ray(*numbers: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Origin and direction of one ray."""
    both = torch.tensor(numbers, dtype=torch.float32).view(2, 1, 3)
    return both[0], both[1]


def full(resolution: int = 4) -> OccupancyGrid:
    return OccupancyGrid(*CUBE, resolution=resolution)


@pytest.mark.parametrize(
    ("resolution", "n_cascades", "cone_angle", "max_step"),
    [((1, 1, 1), 1, 0.0, math.inf), ((7, 7, 7), 1, 0.0, math.inf), ((16, 5, 3), 2, 0.0, math.inf),
     ((6, 6, 6), 3, 0.02, math.inf), ((8, 8, 8), 3, 0.1, 0.15)],
)  # fmt: skip
def test_the_samples_are_those_of_the_definition(
    resolution: tuple[int, int, int], n_cascades: int, cone_angle: float, max_step: float, generator: torch.Generator
) -> None:
    cells = torch.rand(n_cascades, *resolution, generator=generator) < 0.3
    cells[0, 0, 0, 0] = True
    grid = OccupancyGrid.from_cells(cells, *CUBE)
    targets = torch.rand(12, 3, generator=generator)
    origins = torch.randn(12, 3, generator=generator) * 1.5 + 0.5
    directions = torch.nn.functional.normalize(targets - origins, dim=-1)
    samples = march(origins, directions, grid, step=0.03, cone_angle=cone_angle, max_step=max_step)
    cascades = grid.cascades
    start, end = intersect_box(origins, directions, cascades.low[-1], cascades.high[-1])
    lists = [list(low) for low in cascades.low], [list(per) for per in cascades.cells_per_length]
    for i in range(12):
        expected = march_by_hand(
            origins[i].tolist(), directions[i].tolist(), float(start[i]), float(end[i]), cells.numpy(), *lists,
            0.03, cone_angle, max_step,
        )  # fmt: skip
        rows = slice(int(samples.offsets[i]), int(samples.offsets[i + 1]))
        assert list(zip(samples.t0[rows].tolist(), samples.t1[rows].tolist(), strict=True)) == expected
    assert samples.n_samples > 0


def test_samples_of_a_full_grid_join_without_gaps() -> None:
    samples = march(*ray(-1, 0.3, 0.6, 1, 0, 0), full(), step=0.1)
    assert samples.n_samples == 10
    assert float(samples.t0[0]) == 1
    assert torch.equal(samples.t0[1:], samples.t1[:-1])
    assert torch.allclose(samples.dt, torch.full((10,), 0.1), atol=1e-6)


def test_an_empty_grid_has_no_samples() -> None:
    grid = OccupancyGrid.from_cells(torch.zeros(5, 5, 5, dtype=torch.bool), *CUBE)
    assert march(*ray(-1, 0.3, 0.6, 1, 0, 0), grid, step=0.01).n_samples == 0


def test_the_middle_of_each_sample_is_occupied_and_no_other_middle_is(generator: torch.Generator) -> None:
    cells = torch.rand(2, 13, 9, 20, generator=generator) < 0.2
    grid = OccupancyGrid.from_cells(cells, *CUBE)
    everywhere = OccupancyGrid.from_cells(torch.ones_like(cells), *CUBE)
    origins, directions = torch.rand(2, 300, 3, generator=generator).mul(2).sub(1)
    some, every = (march(origins, directions, one, step=0.02) for one in (grid, everywhere))
    is_occupied = grid.occupied(origins[every.ray_index] + every.t_mid[:, None] * directions[every.ray_index])
    assert torch.equal(every.t0[is_occupied], some.t0)
    assert torch.equal(every.t1[is_occupied], some.t1)
    assert torch.equal(every.ray_index[is_occupied], some.ray_index)
    assert torch.equal(every.keep(is_occupied).offsets, some.offsets)
    assert 0.05 < some.n_samples / every.n_samples < 0.4


def test_near_and_far_cut_the_ray() -> None:
    samples = march(*ray(-1, 0.5, 0.5, 1, 0, 0), full(), step=0.125, near=1.25, far=1.625)
    assert samples.t0.tolist() == [1.25, 1.375, 1.5]
    assert march(*ray(-1, 0.5, 0.5, 1, 0, 0), full(), step=0.125, near=3).n_samples == 0
    assert march(*ray(-1, 0.5, 0.5, 1, 0, 0), full(), step=0.125, far=1).n_samples == 0
    assert march(*ray(0.5, 0.5, 0.5, 1, 0, 0), full(), step=0.125).t0.tolist() == [0, 0.125, 0.25, 0.375]


def test_t_counts_in_units_of_the_direction() -> None:
    samples = march(*ray(-1, 0.5, 0.5, 2, 0, 0), full(), step=0.125)
    assert samples.t0.tolist() == [0.5, 0.625, 0.75, 0.875]


def test_an_offset_shifts_each_ray_by_part_of_a_sample() -> None:
    origins, directions = (tensor.expand(2, 3) for tensor in ray(-1, 0.5, 0.5, 1, 0, 0))
    samples = march(origins, directions, full(), step=0.25, offset=torch.tensor([0.0, 0.5]))
    assert samples.t0.tolist() == [1, 1.25, 1.5, 1.75, 1.125, 1.375, 1.625]
    cone = march(origins, directions, full(), step=0.01, cone_angle=0.25, offset=torch.tensor([0.0, 0.5]))
    assert cone.t0.tolist()[:1] == [1]
    assert float(cone.t0[cone.ray_index == 1][0]) == 1.125


def test_samples_grow_with_distance_between_two_lengths() -> None:
    grid = OccupancyGrid(*CUBE, resolution=4, n_cascades=6)
    samples = march(*ray(0.5, 0.5, 0.5, 1, 0, 0), grid, step=0.1, cone_angle=0.05, max_step=0.4)
    expected = (samples.t0 * 0.05).clamp(0.1, 0.4)
    assert torch.allclose(samples.dt, expected, atol=2e-6)
    assert float(samples.dt.min()) == pytest.approx(0.1, abs=1e-5)
    assert float(samples.dt.max()) == pytest.approx(0.4, abs=1e-5)
    assert torch.equal(samples.t0[1:], samples.t1[:-1])
    assert float(samples.t1[-1]) == pytest.approx(16, abs=0.4)


def test_the_first_samples_of_each_ray_are_kept(generator: torch.Generator) -> None:
    grid = OccupancyGrid.from_cells(torch.rand(11, 11, 11, generator=generator) < 0.3, *CUBE)
    origins, directions = torch.rand(2, 50, 3, generator=generator)
    for cone_angle in (0.0, 0.05):
        every = march(origins, directions, grid, step=0.01, cone_angle=cone_angle)
        for most in (1, 5, 17):
            some = march(origins, directions, grid, step=0.01, cone_angle=cone_angle, max_samples_per_ray=most)
            place = torch.arange(every.n_samples) - every.offsets[every.ray_index]
            assert torch.equal(some.t0, every.t0[place < most])
            assert torch.equal(some.counts, every.counts.clamp(max=most))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_rays_that_are_none_have_no_samples(bad: float) -> None:
    origins, directions = torch.full((5, 3), 0.5), torch.tensor([[1.0, 0, 0]]).repeat(5, 1)
    directions[0] = 0
    directions[1, 2] = bad
    origins[2, 1] = bad
    origins[3, 1] = 2.0
    for cone_angle in (0.0, 0.1):
        counts = march(origins, directions, full(), step=0.1, cone_angle=cone_angle).counts.tolist()
        assert counts[:4] == [0, 0, 0, 0]
        assert counts[4] > 0


def test_no_rays_have_no_samples() -> None:
    samples = march(torch.empty(0, 3), torch.empty(0, 3), full(), step=0.1)
    assert (samples.n_rays, samples.n_samples) == (0, 0)
    missing = march(*ray(-1, 5, 5, 1, 0, 0), full(), step=0.1)
    assert (missing.n_rays, missing.n_samples) == (1, 0)
    assert missing.offsets.tolist() == [0, 0]


def test_wrong_calls_are_refused() -> None:
    rays = ray(-1, 0.5, 0.5, 1, 0, 0)
    for step in (0.0, -0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="step: expected a finite number above"):
            march(*rays, full(), step=step)
    with pytest.raises(TypeError, match=r"origins: expected float32, got torch\.float64"):
        march(rays[0].double(), rays[1].double(), full(), step=0.1)
    with pytest.raises(ValueError, match=r"cone_angle: expected a finite number of at least 0, got -1"):
        march(*rays, full(), step=0.1, cone_angle=-1)
    with pytest.raises(ValueError, match=r"max_step: expected a number of at least step = 0\.1"):
        march(*rays, full(), step=0.1, max_step=0.01)
    with pytest.raises(ValueError, match="offset: expected one number for each of 1 rays"):
        march(*rays, full(), step=0.1, offset=torch.zeros(2))
    for bad in (1.0, -0.1, math.nan):
        with pytest.raises(ValueError, match=r"offset: expected numbers in \[0, 1\)"):
            march(*rays, full(), step=0.1, offset=torch.tensor([bad]))
    with pytest.raises(ValueError, match="max_samples_per_ray: expected an integer of at least 1, got 0"):
        march(*rays, full(), step=0.1, max_samples_per_ray=0)


def test_a_step_that_is_too_small_is_an_error_with_the_figure() -> None:
    with pytest.raises(ValueError, match=r"a length of 1e-09 at t = 2 is 2e\+09 steps from the ray's origin"):
        march(*ray(-1, 0.5, 0.5, 1, 0, 0), full(), step=1e-9)
    with pytest.raises(ValueError, match=r"steps from the ray's origin; at most 1048576"):
        march(*ray(-1e7, 0.5, 0.5, 1, 0, 0), full(), step=1.0)  # far away float32 has no points of a cube
    with pytest.raises(ValueError, match=r"steps from the ray's origin"):
        march(*ray(0.5, 0.5, 0.5, 1e-40, 0, 0), full(), step=0.01)
    with pytest.raises(ValueError, match=r"max_samples: \d+ samples and more on 1 rays, at most 99"):
        march(*ray(-1, 0.5, 0.5, 1, 0, 0), full(), step=0.01, max_samples=99)
    assert march(*ray(-1, 0.5, 0.5, 1, 0, 0), full(), step=0.01, max_samples=100).n_samples == 100
