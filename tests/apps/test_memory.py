"""Points whose teacher's answers serve many steps, and cells that are closed in the end."""

from __future__ import annotations

import torch
from torch import Tensor

from fieldforge.apps.convert.answers import Answers
from fieldforge.apps.convert.memory import Memory, points_of_rows, rays_of_rows, rows_of_points, rows_of_rays
from fieldforge.apps.convert.points import Points, close_faint
from fieldforge.renderers.occupancy import OccupancyGrid


class Asked:
    """Rows that tell their number, counted."""

    def __init__(self) -> None:
        self.n = 0

    def __call__(self, number: int) -> Tensor:
        self.n += 4
        return (100 * number + torch.arange(4.0))[:, None].expand(4, 2)


def memory_of(asked: Asked, most: int = 20) -> Memory:
    return Memory(asked, n_fresh=4, seed=1, most=most)


def test_a_step_asks_for_a_few_rows_and_learns_from_many() -> None:
    asked = Asked()
    memory = memory_of(asked)
    for number in range(9):
        rows = memory(number, 32)
        assert asked.n == 4 * (number + 1)
        assert rows.shape == (32, 2)
        assert torch.equal(rows[:4], Asked()(number))
        known = {100 * other + i for other in range(max(0, number - 4), number + 1) for i in range(4)}
        assert set(rows[:, 0].tolist()) <= known
    assert len(set((rows[:, 0] // 100).tolist())) > 3
    assert torch.equal(memory(9, 3), Asked()(9)[:3])


def test_what_a_step_is_given_follows_from_its_number() -> None:
    whole = memory_of(Asked())
    for number in range(12):
        rows = whole(number, 32)
    asked = Asked()
    resumed = memory_of(asked)
    assert torch.equal(resumed(11, 32), rows)
    assert asked.n == 20  # what is still kept, no more
    earlier = resumed(3, 32)
    assert torch.equal(earlier, memory_of(Asked())(3, 32))
    assert not torch.equal(earlier, rows)


def test_a_memory_smaller_than_what_is_new_keeps_that() -> None:
    assert set(memory_of(Asked(), most=1)(5, 32)[:, 0].tolist()) == {500.0, 501.0, 502.0, 503.0}


def test_points_and_rays_come_back_as_they_were() -> None:
    parts = torch.rand(5, 13, generator=torch.Generator().manual_seed(0))
    at, told = Points(parts[:, :3], parts[:, 3:6]), Answers(parts[:, 6], parts[:, 7:10], None)
    points, answers = points_of_rows(rows_of_points(at, told))
    assert torch.equal(points.points, at.points)
    assert torch.equal(points.directions, at.directions)
    assert torch.equal(answers.log_density, told.log_density)
    assert answers.color is not None
    assert torch.equal(answers.color, parts[:, 7:10])
    assert torch.equal(rows_of_rays(rays_of_rows(parts), parts[:, 6:9]), parts)
    assert torch.equal(rays_of_rows(parts).target, parts[:, 6:9])


def test_cells_are_closed_where_samples_absorb_next_to_nothing() -> None:
    grid = OccupancyGrid.from_cells(torch.ones(4, 4, 4, dtype=torch.bool), (0, 0, 0), (1, 1, 1))

    def density(points: Tensor) -> Tensor:
        return torch.where(points[:, 0] < 0.5, 1.0, torch.where(points[:, 1] < 0.25, 0.01, 0.0))

    close_faint(grid, density, length=0.1, least=0.05)
    assert grid.cells[0, :2].all()
    assert not grid.cells[0, 2:].any()
    close_faint(grid, lambda points: torch.zeros(len(points)), length=0.1, least=0.05)
    assert int(grid.cells.sum()) == 32  # a student that absorbs nothing anywhere keeps its cells
    again = OccupancyGrid.from_cells(torch.zeros(4, 4, 4, dtype=torch.bool), (0, 0, 0), (1, 1, 1))
    close_faint(again, lambda points: torch.full((len(points),), 9.0), length=0.1, least=0.05)
    assert not again.cells.any()  # none is opened
