"""What every partition promises, as checks to run on one of yours.

    check_partition(lambda: MyPartition(2, resolution=4))

Each check stands in `PARTITION_CHECKS`; the first promise that is not kept raises an AssertionError that begins with
the name of its check.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fieldforge.contracts.activation import require, run_checks
from fieldforge.registry import build

if TYPE_CHECKING:
    from fieldforge.fields.partitions.base import Partition

Make = Callable[[], "Partition"]


def check_partition(make: Make) -> None:
    """Run every check of `PARTITION_CHECKS` on partitions made by `make`.

    Raises:
        AssertionError: a promise is not kept; the message names the check and what was seen.

    Example:
        >>> from fieldforge.fields.partitions.uniform_grid import UniformGrid
        >>> check_partition(lambda: UniformGrid(2, resolution=[3, 2]))
    """
    run_checks(PARTITION_CHECKS, make)


def each_point_is_in_one_cell(make: Make) -> None:
    """The boxes fill the cube, and a point is in the one of its cell, up to the rounding of its coordinates."""
    partition = make()
    low, high = partition.boxes()
    unit = _points(partition)
    cell, _ = partition.locate(unit)
    require(cell.dtype == torch.int64 and cell.shape == unit.shape[:1], f"cells are {cell.dtype} {tuple(cell.shape)}")
    x = unit.double()[:, None]
    is_clear = ((x - low).abs().amin(1) > 1e-6).all(-1) & ((x - high).abs().amin(1) > 1e-6).all(-1)
    holds = ((x >= low) & (x <= high)).all(-1)
    require(bool((holds[is_clear].sum(1) == 1).all()), "a point is in no box, or in several")
    require(bool((holds.long().argmax(1) == cell)[is_clear].all()), "a point is in another box than its cell's")
    beyond = torch.maximum(low[cell] - unit, unit - high[cell]).amax()
    require(float(beyond) <= 1e-6, "a point at a face is in a cell that does not touch it")
    volume = float((high - low).prod(-1).sum())
    require(abs(volume - 1) < 1e-9, f"the cells fill {volume:g} of the cube")


def places_in_a_cell_are_local(make: Make) -> None:
    """The low corner of a cell is 0, the high one 1, and it is linear in between, also beyond the cube."""
    partition = make()
    low, high = partition.boxes()
    unit = torch.cat([_points(partition), _points(partition) * 3 - 1])
    cell, local = partition.locate(unit)
    expected = (unit.double() - low[cell]) / (high - low)[cell]
    worst = float((local - expected).abs().max())
    require(worst <= 1e-6 * float(1 / (high - low).min()), f"a place in a cell is {worst:g} off")
    inside = local[: len(local) // 2]
    require(bool(((inside >= 0) & (inside <= 1)).all()), "a point of the cube is beyond its cell")


def beyond_the_cube_is_the_nearest_cell(make: Make) -> None:
    """And what is no number is kept, and breaks nothing."""
    partition = make()
    unit = _points(partition) * 3 - 1
    require(
        torch.equal(partition.locate(unit)[0], partition.locate(unit.clamp(0, 1))[0]),
        "it is in another cell",
    )
    wild = torch.tensor([math.nan, math.inf, -math.inf, 1e30, -1e30])[:, None].expand(5, partition.n_input_dims)
    cell, local = partition.locate(wild.contiguous())
    require(bool(((cell >= 0) & (cell < partition.n_cells)).all()), "a wild point is in no cell")
    require(bool(local[0].isnan().all()), "a place that is no number became one")


def sorting_keeps_the_order(make: Make) -> None:
    """Sorted and restored, rows are as they were; within a cell the caller's order is kept."""
    partition = make()
    for unit in (_points(partition), _points(partition)[:0], _points(partition)[:1]):
        cells = partition.sort(unit)
        cell, local = partition.locate(unit)
        counts = torch.bincount(cell, minlength=partition.n_cells)
        is_counted = int(cells.offsets[0]) == 0 and torch.equal(cells.offsets.diff(), counts)
        require(is_counted, "offsets do not count the points")
        require(bool((cell[cells.order].diff() >= 0).all()), "cells are not in order")
        rows = torch.arange(len(unit))
        require(torch.equal(cells.restore(cells.arrange(rows)), rows), "the way back is not the way there")
        same = cell[cells.order].diff() == 0
        require(bool((cells.order.diff()[same] > 0).all()), "points of one cell changed places")
        require(torch.equal(cells.local, local[cells.order]), "places are not sorted as points are")


def config_rebuilds(make: Make) -> None:
    """`config()` is JSON, and rebuilds the same cells."""
    partition = make()
    again = build("partition", json.loads(json.dumps(partition.config())), n_input_dims=partition.n_input_dims)
    require(again.config() == partition.config(), f"{partition.config()} came back as {again.config()}")
    unit = _points(partition)
    for mine, other in zip(partition.locate(unit), again.locate(unit), strict=True):
        require(torch.equal(mine, other), "the partition rebuilt from config() has other cells")


def slopes_are_those_of_the_cells(make: Make) -> None:
    """Local coordinates have the derivative 1 / side."""
    partition = make()
    unit = _points(partition).double().requires_grad_()
    cell, local = partition.locate(unit)
    (grad,) = torch.autograd.grad(local.sum(), unit)
    low, high = partition.boxes()
    require(bool(torch.allclose(grad, 1 / (high - low)[cell])), "the derivative of a place in a cell is wrong")


PARTITION_CHECKS: tuple[Callable[[Make], None], ...] = (
    each_point_is_in_one_cell,
    places_in_a_cell_are_local,
    beyond_the_cube_is_the_nearest_cell,
    sorting_keeps_the_order,
    config_rebuilds,
    slopes_are_those_of_the_cells,
)


def _points(partition: Partition) -> Tensor:
    """(N, d) in the unit cube: anywhere, at the corners of cells, and on their faces; the same every time."""
    d, generator = partition.n_input_dims, torch.Generator().manual_seed(7)
    low, high = partition.boxes()
    some = torch.randperm(partition.n_cells, generator=generator)[:64]
    corners = torch.cat([low[some], high[some]]).float()
    faces = torch.rand(len(corners), d, generator=generator)
    axis = torch.arange(len(corners)) % d
    faces[torch.arange(len(corners)), axis] = corners[torch.arange(len(corners)), axis]
    return torch.cat([torch.rand(257, d, generator=generator), corners, faces])
