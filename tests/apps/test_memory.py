"""Points whose teacher's answers serve many steps, and cells that are closed in the end."""

from __future__ import annotations

import torch
from torch import Tensor

from fieldforge.apps.convert.answers import Answers
from fieldforge.apps.convert.memory import PointMemory
from fieldforge.apps.convert.points import Points, close_faint
from fieldforge.renderers.occupancy import OccupancyGrid


class Asked:
    """A teacher that counts, of points that are numbered."""

    def __init__(self) -> None:
        self.n = 0

    def __call__(self, points: Tensor, directions: Tensor) -> Answers:
        self.n += len(points)
        return Answers(2 * points[:, 0], points + directions, None)


def fresh(number: int) -> Points:
    points = (100 * number + torch.arange(4.0))[:, None].expand(4, 3)
    return Points(points, -points)


def memory_of(teacher: Asked, most: int = 20) -> PointMemory:
    return PointMemory(teacher, fresh, batch_size=32, n_fresh=4, seed=1, most=most)


def test_a_step_asks_for_a_few_points_and_learns_from_many() -> None:
    teacher = Asked()
    memory = memory_of(teacher)
    for step in range(9):
        at, told = memory(step)
        assert teacher.n == 4 * (step + 1)
        assert at.points.shape == at.directions.shape == (32, 3)
        assert torch.equal(at.points[:4], fresh(step).points)
        assert torch.equal(at.directions, -at.points)
        assert torch.equal(told.log_density, 2 * at.points[:, 0])
        assert told.color is not None
        assert (told.color == 0).all()
        known = {100 * number + i for number in range(max(0, step - 4), step + 1) for i in range(4)}
        assert set(at.points[:, 0].tolist()) <= known
    assert len(set((at.points[:, 0] // 100).tolist())) > 3


def test_what_a_step_is_given_follows_from_its_number() -> None:
    whole = memory_of(Asked())
    for step in range(12):
        points = whole(step)[0].points
    teacher = Asked()
    resumed = memory_of(teacher)
    assert torch.equal(resumed(11)[0].points, points)
    assert teacher.n == 20  # what is still kept, no more
    earlier = resumed(3)[0].points
    assert torch.equal(earlier, memory_of(Asked())(3)[0].points)
    assert not torch.equal(earlier, points)


def test_a_memory_smaller_than_what_is_new_keeps_that() -> None:
    at, _ = memory_of(Asked(), most=1)(5)
    assert set(at.points[:, 0].tolist()) == {500.0, 501.0, 502.0, 503.0}


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
