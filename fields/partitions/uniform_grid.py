"""UniformGrid: cells of one size (KiloNeRF; Reiser et al., ICCV 2021, section 3.1).

    {"otype": "UniformGrid", "resolution": [9, 16, 10]}

Cells are numbered row by row, the last axis fastest. In the released code a scene's longest side has 16 cells, and the
others as many as keep them cubes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fieldforge.backends import provide
from fieldforge.checks import expect_int
from fieldforge.fields.partitions.base import Partition, cells_of_grid, expect_resolution
from fieldforge.kernels import cpu_cells, cpu_door
from fieldforge.registry import register


@register("partition", "UniformGrid")
class UniformGrid(Partition):
    """A grid of equal cells.

    Args:
        n_input_dims: of the cube.
        resolution: cells along each axis, or one number for all.

    Example:
        >>> grid = UniformGrid(2, resolution=[2, 4])
        >>> cell, local = grid.locate(torch.tensor([[0.0, 0.0], [0.5, 0.375], [1.0, 1.0]]))
        >>> cell
        tensor([0, 5, 7])
        >>> local
        tensor([[0.0000, 0.0000],
                [0.0000, 0.5000],
                [1.0000, 1.0000]])
    """

    otype = "UniformGrid"

    def __init__(self, n_input_dims: int, *, resolution: int | Sequence[int] = 8) -> None:
        super().__init__()
        self.n_input_dims = expect_int("n_input_dims", n_input_dims, 1)
        self.resolution = expect_resolution(resolution, n_input_dims)
        self.n_cells = math.prod(self.resolution)

    def locate(self, unit: Tensor) -> tuple[Tensor, Tensor]:
        return cells_of_grid(unit, self.resolution)

    def boxes(self) -> tuple[Tensor, Tensor]:
        return grid_boxes(self.resolution)


def _refuses(*, partition: Partition, unit: Tensor) -> str | None:
    if type(partition) is not UniformGrid:
        return f"it sorts into the cells of a UniformGrid, not of a {partition.otype}"
    if partition.n_input_dims > cpu_cells.MAX_DIMS or partition.n_cells > cpu_cells.MAX_CELLS:
        return f"it sorts into at most {cpu_cells.MAX_CELLS} cells of at most {cpu_cells.MAX_DIMS} dimensions"
    if unit.dtype != torch.float32:
        return f"it is in float32 only, not {unit.dtype}"
    return "it gives no gradients in the points" if unit.requires_grad and torch.is_grad_enabled() else None


@provide("sort_cells", "cpu", missing=cpu_door.missing, refuses=_refuses, note=cpu_door.description)
def _sort_natively(partition: UniformGrid, unit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return cpu_cells.sort_by_cell(unit, partition.resolution)


def grid_boxes(resolution: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Low and high corners of the cells of a uniform grid, (n_cells, d) float64 each."""
    index = torch.cartesian_prod(*[torch.arange(n, dtype=torch.float64, device="cpu") for n in resolution])
    index = index.view(-1, len(resolution))
    size = torch.tensor(resolution, dtype=torch.float64, device="cpu")
    return index / size, (index + 1) / size
