"""Native marching finds the samples of the plain version, all of them and no others, to the last bit."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from fieldforge.kernels import cpu_door, cpu_marching
from fieldforge.kernels.cpu_marching import Walk
from fieldforge.renderers import marching, occupancy
from fieldforge.renderers.marching import count_steps, make_stride, march, march_rays
from fieldforge.renderers.occupancy import OccupancyGrid
from fieldforge.renderers.rays import intersect_box

pytestmark = pytest.mark.skipif(cpu_door.missing() is not None, reason=f"no native kernels: {cpu_door.missing()}")

BOX = (-1.0, 0.0, 2.0), (1.0, 0.5, 3.0)
Rays = tuple[torch.Tensor, torch.Tensor]


def both(origins: torch.Tensor, directions: torch.Tensor, grid: OccupancyGrid, step: float, **keys: Any) -> Any:
    """What a march is told, and what the plain version makes of them."""
    stride = make_stride(step, keys.pop("cone_angle", 0.0), keys.pop("max_step", math.inf))
    start, end = intersect_box(origins, directions, grid.cascades.low[-1], grid.cascades.high[-1])
    stride = marching.replace(stride, n_most=max(1, count_steps(start, end, stride)))
    most = keys.pop("max_samples_per_ray", 2**28)
    walk = Walk(origins, directions, start, end, grid.cascades, grid.bricks, grid.superbricks, stride, most, 2**28)
    return walk, march_rays(walk)


def assert_same(origins: torch.Tensor, directions: torch.Tensor, grid: OccupancyGrid, step: float, **keys: Any) -> int:
    walk, expected = both(origins, directions, grid, step, **keys)
    got = cpu_marching.march(walk)
    assert not isinstance(got, int)
    for mine, other in zip(got, expected, strict=True):
        assert torch.equal(mine, other)
    return len(got[0])


def cells_of(kind: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    cells = torch.zeros(shape, dtype=torch.bool)
    if kind == "full":
        cells[:] = True
    elif kind == "one":
        cells.view(-1)[cells.numel() // 2] = True
    elif kind == "shell":
        axes = [torch.linspace(-1, 1, n) if n > 1 else torch.zeros(1) for n in shape[1:]]
        radius = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).norm(dim=-1)
        cells[:] = (radius - 0.7).abs() < 0.2
    elif kind != "empty":
        cells = torch.rand(shape, generator=generator) < float(kind)
    return cells


def random_rays(n_rays: int, generator: torch.Generator) -> Rays:
    """From outside and inside, at the box and past it; some along axes, planes and diagonals."""
    low, high = torch.tensor(BOX)
    origins = torch.randn(n_rays, 3, generator=generator) * 1.5 + (low + high) / 2
    targets = low + torch.rand(n_rays, 3, generator=generator) * (high - low)
    directions = torch.nn.functional.normalize(targets - origins, dim=-1)
    directions[::5] = torch.randn(directions[::5].shape, generator=generator).sign()
    directions[1::5] *= (torch.rand(directions[1::5].shape, generator=generator) < 0.5).float()
    directions = torch.nn.functional.normalize(directions, dim=-1)  # some stay 0
    origins[::10] = low + (origins[::10] * 8).round() / 8
    origins[3::10] = targets[3::10]
    return origins, directions


@pytest.mark.parametrize("kind", ["full", "empty", "one", "shell", "0.02", "0.5"])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (1, 7, 7, 7), (1, 16, 5, 3), (1, 64, 33, 40), (3, 8, 8, 8), (3, 33, 17, 5)]
)
def test_samples_are_those_of_the_plain_version(kind: str, shape: tuple[int, ...], generator: torch.Generator) -> None:
    grid = OccupancyGrid.from_cells(cells_of(kind, shape, generator), *BOX)
    rays = random_rays(203, generator)
    count = assert_same(*rays, grid, 0.03)
    assert_same(*rays, grid, 0.007)
    assert_same(*rays, grid, 0.01, cone_angle=0.03)
    assert_same(*rays, grid, 0.01, cone_angle=0.1, max_step=0.2)
    assert_same(*rays, grid, 0.01, max_samples_per_ray=7)
    assert count > 0 if kind in ("full", "0.5") else count == 0 or kind != "empty"


@pytest.mark.parametrize("n_cascades", [1, 2, 5])
def test_cascades_are_crossed_as_in_the_plain_version(n_cascades: int, generator: torch.Generator) -> None:
    """Few cells in large empty cascades: blocks that reach into an inner cascade must not be skipped."""
    for resolution in ((1, 1, 1), (4, 4, 4), (16, 16, 16), (37, 20, 6)):
        cells = torch.rand(n_cascades, *resolution, generator=generator) < 0.02
        cells[0] = torch.rand(resolution, generator=generator) < 0.3
        cells[0, 0, 0, 0] = True
        grid = OccupancyGrid.from_cells(cells, *BOX)
        origins, directions = random_rays(101, generator)
        origins = origins * 2.0 ** torch.rand(101, 1, generator=generator).mul(n_cascades).sub(1)
        assert assert_same(origins, directions, grid, 0.05 * 2 ** (n_cascades / 2))
        assert_same(origins, directions, grid, 0.05, cone_angle=0.05)


def test_rays_through_edges_and_corners_of_cells(generator: torch.Generator) -> None:
    cells = torch.rand(8, 8, 8, generator=generator) < 0.4
    grid = OccupancyGrid.from_cells(cells, (0, 0, 0), (1, 1, 1))
    corners = torch.cartesian_prod(*[torch.arange(0, 9) / 8.0] * 2)
    along_z = torch.cat([corners, torch.full((81, 1), -0.5)], 1)
    assert assert_same(along_z, torch.tensor([0.0, 0, 1]).repeat(81, 1), grid, 1 / 64)
    assert_same(along_z.flip(1), torch.tensor([1.0, -0.0, 0]).repeat(81, 1), grid, 1 / 64)
    for direction in ([1.0, 1, 1], [1, 1, 0], [0, -1, 1], [-1, -1, -1]):
        slope = torch.tensor(direction).float().repeat(81, 1)
        origins = torch.cat([corners, torch.full((81, 1), 0.5)], 1) - slope
        assert assert_same(origins, slope, grid, 1 / 64)
        assert assert_same(origins, slope, grid, 0.0123)


def test_far_origins_and_odd_boxes_lose_the_same_bits(generator: torch.Generator) -> None:
    """Where positions are rounded coarsely, both versions see the same wrong cells."""
    cells = torch.rand(40, 40, 40, generator=generator) < 0.1
    grid = OccupancyGrid.from_cells(cells, (1000.1, -3000.7, 0.3), (1001.3, -2999.9, 1.7))
    targets = torch.tensor([1000.1, -3000.7, 0.3]) + torch.rand(400, 3, generator=generator)
    origins = targets + torch.randn(400, 3, generator=generator) * 10 ** torch.rand(400, 1, generator=generator).mul(4)
    directions = torch.nn.functional.normalize(targets - origins, dim=-1)
    assert assert_same(origins, directions, grid, 0.05)
    assert assert_same(origins, directions, grid, 0.05, cone_angle=1e-5)
    assert_same(origins, directions * torch.rand(400, 1, generator=generator).mul(100).add(1), grid, 0.05)


def test_any_number_of_threads_and_rays_gives_the_same_bits(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = OccupancyGrid.from_cells(cells_of("shell", (2, 32, 32, 32), generator), *BOX)
    for n_rays in (0, 1, 15, 17, 1009):
        rays = random_rays(n_rays, generator)
        for keys in ({}, {"cone_angle": 0.02}):
            walk, expected = both(*rays, grid, 0.01, **keys)
            for n_threads in ("1", "2", "3"):
                monkeypatch.setenv("FIELDFORGE_NUM_THREADS", n_threads)
                for max_words in (2**23, 97):  # the second: many small parts
                    monkeypatch.setattr(cpu_marching, "MAX_WORDS", max_words)
                    got = cpu_marching.march(walk)
                    assert not isinstance(got, int)
                    assert all(torch.equal(mine, other) for mine, other in zip(got, expected, strict=True))
            assert n_rays < 100 or len(expected[0])


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 7, 3, 5), (1, 16, 5, 3), (3, 33, 18, 70)])
def test_grids_are_updated_and_packed_as_in_the_plain_version(
    shape: tuple[int, ...], generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    cascades = OccupancyGrid(*BOX, resolution=shape[1:], n_cascades=shape[0]).cascades
    density = torch.rand(shape, generator=generator)
    drawn = (torch.rand(density.numel(), generator=generator) < 0.5).nonzero()[:, 0]
    fresh = torch.rand(len(drawn), generator=generator)
    points = torch.randn(1009, 3, generator=generator) * 4
    plain = density.clone()
    occupancy.decay_max(plain, drawn, fresh, 0.9)
    bricks, superbricks = occupancy.pack_reference(plain, 0.6, cascades)
    for n_threads in ("1", "3"):
        monkeypatch.setenv("FIELDFORGE_NUM_THREADS", n_threads)
        native = density.clone()
        cpu_marching.decay_max(native, drawn, fresh, 0.9)
        assert torch.equal(native, plain)
        packed = cpu_marching.pack(native, 0.6, cascades)
        assert torch.equal(packed[0], bricks)
        assert torch.equal(packed[1], superbricks)
        for n in (0, 1, 15, 17, 1009):
            got = cpu_marching.look_up(points[:n], cascades, bricks)
            assert torch.equal(got, occupancy.look_up(points[:n], cascades, bricks))


def test_a_density_that_is_not_a_number_is_not_above_a_threshold() -> None:
    cascades = OccupancyGrid(*BOX, resolution=4).cascades
    density = torch.full((1, 4, 4, 4), math.nan)
    assert not any(blocks.any() for blocks in cpu_marching.pack(density, 0.5, cascades))
    density = torch.ones(3)
    cpu_marching.decay_max(density, torch.tensor([0, 2]), torch.tensor([math.nan, 0.0]), 0.5)
    assert density.isnan().tolist() == [True, False, False]


def test_wrong_tensors_never_reach_the_kernels() -> None:
    grid = OccupancyGrid(*BOX, resolution=8)
    rays = torch.zeros(2, 3), torch.ones(2, 3)
    walk, _ = both(*rays, grid, 0.1)
    with pytest.raises(TypeError, match="origins: expected float32 on the CPU"):
        cpu_marching.march(walk._replace(origins=rays[0].double()))
    with pytest.raises(ValueError, match=r"directions: expected shape \(2, 3\)"):
        cpu_marching.march(walk._replace(directions=rays[1][:1]))
    with pytest.raises(ValueError, match=r"end: expected shape \(2,\)"):
        cpu_marching.march(walk._replace(end=walk.end[:1]))
    with pytest.raises(ValueError, match=r"bricks: expected shape \(1, 2, 2, 2\)"):
        cpu_marching.march(walk._replace(bricks=grid.bricks[:, :1]))
    with pytest.raises(TypeError, match="bricks: expected int64"):
        cpu_marching.look_up(rays[0], grid.cascades, grid.bricks.int())
    with pytest.raises(ValueError, match="step: expected 0 < step"):
        cpu_marching.march(walk._replace(stride=marching.Stride(-1.0, n_most=4)))
    with pytest.raises(ValueError, match="cells: expected ascending numbers from 0 to 4"):
        cpu_marching.decay_max(torch.zeros(5), torch.tensor([5]), torch.zeros(1), 0.5)
    with pytest.raises(ValueError, match="density: expected a contiguous tensor"):
        cpu_marching.decay_max(torch.zeros(5, 2)[:, 0], torch.tensor([0]), torch.zeros(1), 0.5)
    with pytest.raises(ValueError, match=r"fresh: expected shape \(1,\)"):
        cpu_marching.decay_max(torch.zeros(5), torch.tensor([0]), torch.zeros(2), 0.5)


def test_rays_in_any_memory_order_march_alike(generator: torch.Generator) -> None:
    grid = OccupancyGrid.from_cells(cells_of("0.5", (1, 9, 9, 9), generator), *BOX)
    origins, directions = random_rays(31, generator)
    columns = origins.t().contiguous().t(), directions.t().contiguous().t()
    assert torch.equal(march(origins, directions, grid, step=0.05).t0, march(*columns, grid, step=0.05).t0)


@pytest.mark.slow
def test_a_million_points_and_many_rays(generator: torch.Generator) -> None:
    grid = OccupancyGrid.from_cells(cells_of("shell", (2, 128, 128, 128), generator), *BOX)
    points = torch.randn(1000003, 3, generator=generator) * 2
    assert torch.equal(grid.occupied(points), occupancy.look_up(points, grid.cascades, grid.bricks))
    assert assert_same(*random_rays(5003, generator), grid, 0.004)
