"""Occupancy grids: which cell a point is in, what is drawn, what is kept, in both versions."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from reference.marching import cell_of

from fieldforge.backends import use_backend
from fieldforge.kernels import cpu_door
from fieldforge.renderers.occupancy import WARM_UP, OccupancyGrid, make_cascades, pack_bits

CUBE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
RESOLUTIONS = [(1, 1, 1), (7, 7, 7), (16, 5, 3), (4, 8, 33)]


@pytest.fixture(params=["reference", "cpu"], autouse=True)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "cpu" and cpu_door.missing() is not None:
        pytest.skip(f"no native kernels: {cpu_door.missing()}")
    with use_backend(request.param):
        yield request.param


@pytest.mark.parametrize("resolution", RESOLUTIONS)
@pytest.mark.parametrize("n_cascades", [1, 3])
def test_packed_cells_are_the_cells(
    resolution: tuple[int, int, int], n_cascades: int, generator: torch.Generator
) -> None:
    cells = torch.rand(n_cascades, *resolution, generator=generator) < 0.4
    grid = OccupancyGrid.from_cells(cells, *CUBE)
    assert torch.equal(grid.cells, cells)
    assert torch.equal(grid.bricks, pack_bits(cells))
    assert torch.equal(grid.superbricks, pack_bits(grid.bricks != 0))
    n_bits = sum(int(word & 2**64 - 1).bit_count() for word in grid.bricks.flatten().tolist())
    assert n_bits == int(cells.sum())  # none beyond the resolution


@pytest.mark.parametrize("resolution", RESOLUTIONS)
@pytest.mark.parametrize("n_cascades", [1, 3])
def test_a_point_is_looked_up_in_the_smallest_cascade_that_holds_it(
    resolution: tuple[int, int, int], n_cascades: int, generator: torch.Generator
) -> None:
    cells = torch.rand(n_cascades, *resolution, generator=generator) < 0.5
    grid = OccupancyGrid.from_cells(cells, (-1.0, 0.0, 2.0), (1.0, 0.5, 3.0))
    points = (torch.rand(600, 3, generator=generator) - 0.5) * torch.tensor([9.0, 2.5, 5.0]) + torch.tensor(
        [0, 0.25, 2.5]
    )
    corners = torch.cartesian_prod(
        torch.tensor([-1.0, 0, 1]), torch.tensor([0, 0.25, 0.5]), torch.tensor([2.0, 2.5, 3])
    )
    points = torch.cat([points, corners])
    cascades = grid.cascades
    lists = [list(low) for low in cascades.low], [list(per) for per in cascades.cells_per_length]
    found = [cell_of([np.float32(x) for x in point], *lists, list(resolution)) for point in points.tolist()]
    expected = [cell is not None and bool(cells[cell]) for cell in found]
    assert grid.occupied(points).tolist() == expected
    assert {cell[0] for cell in found if cell} == set(range(n_cascades))
    assert None in found
    assert grid.occupied(points[:600].reshape(2, 300, 3)).shape == (2, 300)


def test_nothing_is_occupied_outside_or_nowhere() -> None:
    grid = OccupancyGrid(*CUBE, resolution=5)
    points = torch.full((5, 3), 0.5)
    points[1:, 1] = torch.tensor([-1e-9, 1.0, math.nan, math.inf])
    assert grid.occupied(points).tolist() == [True, False, False, False, False]
    assert grid.occupied(torch.empty(0, 3)).shape == (0,)


def test_cascades_double_around_one_centre() -> None:
    cascades = make_cascades((-1, 0, 1), (1, 3, 2), (8, 4, 2), 3)
    assert cascades.low == ((-1, 0, 1), (-2, -1.5, 0.5), (-4, -4.5, -0.5))
    assert cascades.high == ((1, 3, 2), (2, 4.5, 2.5), (4, 7.5, 3.5))
    assert cascades.cells_per_length[0] == pytest.approx((4, 4 / 3, 2))
    assert cascades.cells_per_length[2] == pytest.approx((1, 1 / 3, 0.5))


def test_every_cell_is_occupied_before_the_first_update() -> None:
    assert OccupancyGrid(*CUBE, resolution=(3, 9, 2), n_cascades=2).cells.all()


def test_warm_up_draws_a_point_in_every_cell(generator: torch.Generator) -> None:
    grid = OccupancyGrid(*CUBE, resolution=(7, 3, 2), n_cascades=2)
    cells, points = grid.draw(WARM_UP - 1, generator)
    assert cells.tolist() == list(range(2 * 42))
    places = (points - grid.points_in(cells, torch.zeros_like(points))) * torch.tensor(grid.cascades.cells_per_length)[
        cells // 42
    ]
    assert -1e-5 < float(places.min()) < 0.1
    assert 0.9 < float(places.max()) < 1 + 1e-5


def test_later_a_quarter_of_all_cells_and_as_many_occupied_ones_are_drawn(generator: torch.Generator) -> None:
    n_cells = 32**3
    few, many = (torch.rand(32, 32, 32, generator=generator) < share for share in (0.1, 0.9))
    for cells, share in ((few, 1.0), (many, 0.25 + 0.75 * 0.25 / 0.9)):
        grid = OccupancyGrid.from_cells(cells, *CUBE)
        drawn, _ = grid.draw(WARM_UP, generator)
        is_drawn = torch.zeros(n_cells, dtype=torch.bool).index_fill(0, drawn, True)
        assert (drawn[1:] > drawn[:-1]).all()
        assert float(is_drawn[cells.flatten()].float().mean()) == pytest.approx(share, abs=0.02)
        assert float(is_drawn[~cells.flatten()].float().mean()) == pytest.approx(0.25, abs=0.03)


def test_the_same_generator_draws_the_same() -> None:
    grid = OccupancyGrid(*CUBE, resolution=9)
    first, second = (grid.draw(WARM_UP, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_a_cell_keeps_the_larger_of_what_fades_and_what_is_found() -> None:
    grid = OccupancyGrid(*CUBE, resolution=(5, 1, 1), decay=0.5, threshold=1.0)
    grid.insert(torch.arange(5), torch.tensor([8.0, 8.0, 0.0, 0.5, 0.0]))
    grid.insert(torch.tensor([0, 1, 2]), torch.tensor([1.0, 6.0, 3.0]))
    assert grid.density.flatten().tolist() == [4.0, 6.0, 3.0, 0.5, 0.0]
    assert grid.cells.flatten().tolist() == [True, True, True, False, False]


def test_the_threshold_is_the_mean_where_that_is_lower() -> None:
    grid = OccupancyGrid(*CUBE, resolution=(4, 1, 1), threshold=100.0)
    grid.insert(torch.arange(4), torch.tensor([1.0, 3.0, 2.0, 4.0]))
    assert grid.cells.flatten().tolist() == [False, True, False, True]  # mean 2.5
    grid.insert(torch.arange(4), torch.full((4,), 1e6))
    assert grid.cells.all()
    grid.threshold = 2e6
    grid.insert(torch.arange(4), torch.full((4,), 1e6))
    assert not grid.cells.any()  # no cell exceeds the mean


def test_a_grid_finds_a_ball(generator: torch.Generator) -> None:
    def density(points: torch.Tensor) -> torch.Tensor:
        assert len(points) <= 1000
        assert not torch.is_grad_enabled()
        return 50.0 * (points.norm(dim=-1) < 0.5)

    grid = OccupancyGrid((-1, -1, -1), (1, 1, 1), resolution=16)
    for iteration in range(0, 400, 40):
        grid.update(density, iteration, generator=generator, n_points_at_once=1000)
    centers = grid.points_in(torch.arange(16**3), torch.full((16**3, 3), 0.5))
    radius = centers.norm(dim=-1)
    is_occupied = grid.cells.flatten()
    diagonal = math.sqrt(3) / 16
    assert is_occupied[radius < 0.5 - diagonal].all()
    assert not is_occupied[radius > 0.5 + diagonal].any()


def test_larger_cells_are_occupied_by_thinner_things(generator: torch.Generator) -> None:
    """What counts is the way through a cell times the density there."""
    grid = OccupancyGrid(*CUBE, resolution=4, n_cascades=3, threshold=8.0)
    for density, n_occupied in ((9.0, 3), (5.0, 2), (3.0, 1), (1.0, 0)):
        cells = torch.arange(grid.density.numel())
        # one cell of each cascade holds far more: else the mean would be the threshold
        found = torch.full((grid.density.numel(),), density).view(3, -1)
        found[:, 0] = 1e4
        grid.density.zero_()
        grid.insert(cells, found.flatten())
        assert [bool(cells.all()) for cells in grid.cells] == [False] * (3 - n_occupied) + [True] * n_occupied


def test_thin_things_are_kept_near_and_far_as_long_as_there_is_nothing_else(generator: torch.Generator) -> None:
    """A threshold is no higher than the mean of its own cascade, however thick another one is."""
    grid = OccupancyGrid(*CUBE, resolution=4, n_cascades=2, threshold=8.0)
    rank = torch.arange(64.0)
    grid.insert(torch.arange(128), torch.cat([0.001 + 0.0001 * rank, 100.0 + rank]))
    assert grid.cells[0].float().mean() == 0.5
    assert grid.cells[1].all()


def test_cells_that_no_camera_sees_are_closed_for_good(generator: torch.Generator) -> None:
    grid = OccupancyGrid((-1, -1, -1), (1, 1, 1), resolution=8, n_cascades=2)
    grid.mark_invisible(lambda points: points[:, 0] > 0.3, lambda points: points[:, 0] > 0.1)
    is_open = grid.density >= 0
    assert is_open[0, 4:].all()  # cell 4 is [0, 0.25]: its far corners are seen
    assert not is_open[0, :4].any()
    assert is_open[1, 4:].all()
    assert torch.equal(grid.cells, is_open)
    grid.update(lambda points: torch.full_like(points[:, 0], 100.0), 0, generator=generator)
    assert (grid.density[~is_open] == -1).all()
    assert not grid.cells[~is_open].any()
    grid.mark_invisible(lambda points: points[:, 0] > -2)  # a camera more
    assert (grid.density >= 0).all()
    assert (grid.density[is_open] == 100).all()


def test_what_is_saved_is_what_is_loaded(generator: torch.Generator) -> None:
    grid = OccupancyGrid(*CUBE, resolution=(9, 17, 4), n_cascades=2)
    grid.update(lambda points: 9 * points[:, 0].abs(), 0, generator=generator)
    state = grid.state_dict()
    assert set(state) == {"density", "bricks"}
    other = OccupancyGrid(*CUBE, resolution=(9, 17, 4), n_cascades=2)
    other.load_state_dict(state)
    for name in ("density", "bricks", "superbricks"):
        assert torch.equal(getattr(grid, name), getattr(other, name))


def test_wrong_calls_are_refused() -> None:
    grid = OccupancyGrid(*CUBE, resolution=4)
    two = torch.tensor([3, 5])
    for bad in (math.nan, math.inf, -1.0):
        with pytest.raises(ValueError, match=r"density: expected finite numbers of at least 0, got .* in cell 5"):
            grid.insert(two, torch.tensor([1.0, bad]))
    for cells in ([5, 3], [3, 3], [-1, 3], [3, 64]):
        with pytest.raises(ValueError, match="cells: expected ascending numbers from 0 to 63, each once"):
            grid.insert(torch.tensor(cells), torch.ones(2))
    with pytest.raises(ValueError, match="density: expected one number for each cell"):
        grid.insert(two, torch.ones(2, 1))
    with pytest.raises(TypeError, match=r"points: expected floating-point coordinates, got torch\.int64"):
        grid.occupied(torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="resolution: 1 x 4096 x 4096 x 4096 = 68719476736 cells; at most"):
        OccupancyGrid(*CUBE, resolution=4096)
    with pytest.raises(ValueError, match=r"resolution: cells of .* at coordinates of .* are too small for float32"):
        OccupancyGrid((1e6, 0, 0), (1e6 + 1, 1, 1), resolution=128)
    with pytest.raises(ValueError, match="resolution: expected one integer, or one for each of three axes"):
        OccupancyGrid(*CUBE, resolution=(4, 4))
    with pytest.raises(ValueError, match="n_cascades: expected an integer from 1 to 16"):
        OccupancyGrid(*CUBE, n_cascades=17)
    with pytest.raises(TypeError, match="cells: expected booleans"):
        OccupancyGrid.from_cells(torch.zeros(4, 4, 4), *CUBE)
    assert torch.equal(grid.density, torch.zeros(1, 4, 4, 4))  # nothing of it was done
