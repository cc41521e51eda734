"""What a partition is: the unit cube cut into cells, so that each cell can have small networks of its own.

    {"partition": {"otype": "UniformGrid", "resolution": [9, 16, 10]}, "encoding": ..., "network": ...}

A field with a partition has one small network in each cell instead of a large one (KiloNeRF; Reiser et al., ICCV 2021).
Its encoding and network are described as ever, and are those of one cell: the encoding reads coordinates that go from
0 to 1 in the cell, and all cells begin with the same numbers, as KiloNeRF's do.

To write one, subclass `Partition`, keep every constructor keyword as an attribute of the same name, `@register` it as a
"partition", and run `fieldforge.contracts.check_partition` on it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from fieldforge.backends import offer, provide
from fieldforge.checks import expect_int
from fieldforge.devices import constant
from fieldforge.registry import config_of

MAX_CELLS = 2**20


class Partition(nn.Module, ABC):
    """The unit cube as cells.

    A point belongs to exactly one cell: on a face between two, to the one above. Beyond the cube it belongs to the
    nearest cell, and its local coordinates go on beyond 0 and 1. A coordinate that is not a number lies in the first
    cell along its axis, and stays what it is.

    Class attributes: ``otype``, the name in a configuration.

    Instance attributes: ``n_input_dims``; ``n_cells``.
    """

    otype: ClassVar[str]

    n_input_dims: int
    n_cells: int

    @abstractmethod
    def locate(self, unit: Tensor) -> tuple[Tensor, Tensor]:
        """Which cell each point is in, and where in it.

        Args:
            unit: (N, n_input_dims) in the unit cube.

        Returns:
            (N,) int64 cells; and (N, n_input_dims) coordinates that are 0 at the cell's low corner and 1 at its high
            one, differentiable in `unit`.
        """

    @abstractmethod
    def boxes(self) -> tuple[Tensor, Tensor]:
        """Low and high corners of the cells in the unit cube, (n_cells, n_input_dims) float64 each."""

    def sort(self, unit: Tensor) -> Sorted:
        """Points (N, n_input_dims) by cell; those of one cell stay in their order."""
        run = offer("sort_cells", unit.device, partition=self, unit=unit) or sort_plain
        return Sorted(*run(self, unit))

    def config(self) -> dict[str, Any]:
        """The configuration that rebuilds it."""
        return config_of(self)


class Sorted:
    """Points in the order of their cells, and the way back.

    Attributes:
        places: (N, n_input_dims) places in the cells, in the caller's order.
        offsets: (n_cells + 1,) int64; cell i has the sorted rows offsets[i] up to offsets[i + 1].
        order: (N,) int64, where each sorted row was.
    """

    def __init__(self, places: Tensor, offsets: Tensor, order: Tensor) -> None:
        self.places, self.offsets, self.order = places, offsets, order

    @cached_property
    def local(self) -> Tensor:
        """(N, n_input_dims) places in the cells, sorted."""
        return self.arrange(self.places)

    @cached_property
    def _inverse(self) -> Tensor:
        inverse = torch.empty_like(self.order)
        inverse[self.order] = torch.arange(len(self.order), device=self.order.device)
        return inverse

    def arrange(self, rows: Tensor) -> Tensor:
        """Rows (N, ...) in the caller's order, sorted as the points are."""
        out: Tensor = _Permutation.apply(rows, self.order, self._inverse)
        return out

    def restore(self, rows: Tensor) -> Tensor:
        """Sorted rows (N, ...) in the caller's order."""
        out: Tensor = _Permutation.apply(rows, self._inverse, self.order)
        return out


class _Permutation(torch.autograd.Function):
    """rows[order]; its gradient is gathered too, where indexing would add up."""

    @staticmethod
    def forward(rows: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        return rows.index_select(0, order)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        _, order, inverse = inputs
        ctx.save_for_backward(order, inverse)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        order, inverse = ctx.saved_tensors
        out: Tensor = _Permutation.apply(grad, inverse, order)
        return out, None, None


@provide("sort_cells", "reference")
def sort_plain(partition: Partition, unit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Places in cells, offsets and order, as `Sorted` has them; this function defines sorting."""
    cell, local = partition.locate(unit)
    if cell.device.type != "cpu":  # to count would be to wait for the largest
        cell, order = cell.sort(stable=True)
        return local, torch.searchsorted(cell, torch.arange(partition.n_cells + 1, device=cell.device)), order
    offsets = cell.new_zeros(partition.n_cells + 1)
    offsets[1:] = torch.bincount(cell, minlength=partition.n_cells).cumsum(0)
    return local, offsets, order_of_cells(cell, partition.n_cells)


def order_of_cells(cell: Tensor, n_cells: int) -> Tensor:
    """(N,) cells -> (N,) int64 that sorts them and keeps the order within each."""
    if n_cells > 2**16:
        return cell.argsort(stable=True)
    # numpy sorts 16 bits by radix, in a tenth of the time
    return torch.from_numpy(np.argsort(cell.numpy().astype(np.uint16), kind="stable"))


def expect_resolution(resolution: int | Sequence[int], n_input_dims: int) -> list[int]:
    """Cells along each axis: a number for each, or one for all.

    Raises:
        TypeError, ValueError: it is neither, or the cells are more than `MAX_CELLS`.
    """
    whole = [resolution] * n_input_dims if isinstance(resolution, int) else resolution
    if isinstance(whole, str) or not isinstance(whole, Sequence) or len(whole) != n_input_dims:
        raise ValueError(f"resolution: expected an integer, or one for each of {n_input_dims} axes, got {resolution!r}")
    n_cells = 1
    for axis, n in enumerate(whole):
        n_cells *= expect_int(f"resolution[{axis}]", n, 1, MAX_CELLS)
    if n_cells > MAX_CELLS:
        raise ValueError(f"resolution: at most {MAX_CELLS:,} cells, got {' x '.join(map(str, whole))} = {n_cells:,}")
    return list(whole)


def cells_of_grid(unit: Tensor, resolution: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Cells of a uniform grid, the last axis fastest, and places in them: (N, d) -> (N,) int64 and (N, d)."""
    size = constant(tuple(map(float, resolution)), unit.dtype, unit.device)
    scaled = unit * size
    index = torch.nan_to_num(scaled.detach(), nan=0.0).floor().clamp(min=torch.zeros_like(size), max=size - 1)
    cell = torch.zeros(unit.shape[0], dtype=torch.int64, device=unit.device)
    for axis, n in enumerate(resolution):
        cell = cell * n + index[:, axis].long()
    return cell, scaled - index
