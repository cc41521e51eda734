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

from fieldforge.checks import expect_int
from fieldforge.fields.partitions.base import Partition, cells_of_grid, expect_resolution
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


def grid_boxes(resolution: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Low and high corners of the cells of a uniform grid, (n_cells, d) float64 each."""
    index = torch.cartesian_prod(*[torch.arange(n, dtype=torch.float64, device="cpu") for n in resolution])
    index = index.view(-1, len(resolution))
    size = torch.tensor(resolution, dtype=torch.float64, device="cpu")
    return index / size, (index + 1) / size
