"""KDTree: cells that were halved where one network was not enough.

    {"otype": "KDTree", "resolution": [2, 2, 2], "splits": [[0, 2], [8, 0]]}

A uniform grid of cells, some of which are cut in two across an axis, and their halves again. The released code of
KiloNeRF (Reiser et al., ICCV 2021) grows such a tree, "kdtree_longest": a network whose error stays above a bound has
its cell halved across the longest side; the paper's own figures switch it off and keep the grid. Every cut is in the
middle, so that a list of (cell, axis) says it all, and places in a cell are exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fieldforge.checks import expect_int
from fieldforge.fields.partitions.base import MAX_CELLS, Partition, cells_of_grid, expect_resolution
from fieldforge.fields.partitions.uniform_grid import grid_boxes
from fieldforge.registry import register

DEEPEST = 24
"""Cuts of one cell of the grid: a float32 has 24 bits."""


@register("partition", "KDTree")
class KDTree(Partition):
    """A uniform grid, some of whose cells are cut.

    Args:
        n_input_dims: of the cube.
        resolution: cells of the grid along each axis, or one number for all.
        splits: one pair (cell, axis) after another: the cell keeps the lower half across the axis, and the upper half
            is a new cell, whose number is that of all cells so far.

    Raises:
        TypeError, ValueError: a split names no cell or no axis, is the 25th of one place, or there are too many.

    Example:
        >>> tree = KDTree(1, resolution=1, splits=[[0, 0], [1, 0]])
        >>> cell, local = tree.locate(torch.tensor([[0.25], [0.5], [0.875]]))
        >>> cell, local.flatten()
        (tensor([0, 1, 2]), tensor([0.5000, 0.0000, 0.5000]))
    """

    otype = "KDTree"

    def __init__(
        self, n_input_dims: int, *, resolution: int | Sequence[int] = 1, splits: Sequence[Sequence[int]] = ()
    ) -> None:
        super().__init__()
        self.n_input_dims = expect_int("n_input_dims", n_input_dims, 1)
        self.resolution = expect_resolution(resolution, n_input_dims)
        n_roots = math.prod(self.resolution)
        self.n_cells = n_roots + len(splits)
        if self.n_cells > MAX_CELLS:
            raise ValueError(f"splits: at most {MAX_CELLS:,} cells, got {self.n_cells:,}")
        # node i < n_roots is a cell of the grid; every split makes two nodes more
        node_of, depth = list(range(n_roots)), [0] * n_roots
        axes, lower, cells = [-1] * n_roots, [0] * n_roots, list(range(n_roots))
        self.splits: list[list[int]] = []
        for i, split in enumerate(splits):
            if isinstance(split, str) or not isinstance(split, Sequence) or len(split) != 2:
                raise ValueError(f"splits[{i}]: expected a cell and an axis, got {split!r}")
            cell = expect_int(f"splits[{i}][0]", split[0], 0, n_roots + i - 1)
            axis = expect_int(f"splits[{i}][1]", split[1], 0, n_input_dims - 1)
            if depth[cell] == DEEPEST:
                raise ValueError(f"splits[{i}]: cell {cell} is cut {DEEPEST} times already, and float32 ends there")
            node = node_of[cell]
            axes[node], lower[node] = axis, len(axes)
            axes += [-1, -1]
            lower += [0, 0]
            cells += [cell, n_roots + i]
            node_of[cell] = len(axes) - 2
            node_of.append(len(axes) - 1)
            depth[cell] += 1
            depth.append(depth[cell])
            self.splits.append([cell, axis])
        self._depth = max(depth)
        tree = torch.tensor([axes, lower, cells], dtype=torch.int64, device="cpu")
        self.register_buffer("_tree", tree, persistent=False)  # follows from the splits

    _tree: Tensor

    def locate(self, unit: Tensor) -> tuple[Tensor, Tensor]:
        node, local = cells_of_grid(unit, self.resolution)
        axes, lower, cells = self._tree
        for _ in range(self._depth):
            axis = axes[node]
            is_cut, axis = axis >= 0, axis.clamp(min=0)[:, None]
            along = 2 * local.gather(1, axis)[:, 0]
            is_upper = (along.detach() >= 1) & is_cut
            local = torch.where(
                is_cut[:, None], local.scatter(1, axis, (along - is_upper.to(along.dtype))[:, None]), local
            )
            node = torch.where(is_cut, lower[node] + is_upper, node)
        return cells[node], local

    def boxes(self) -> tuple[Tensor, Tensor]:
        low, high = grid_boxes(self.resolution)
        lows, highs = list(low.unbind()), list(high.unbind())
        for cell, axis in self.splits:
            middle = (lows[cell][axis] + highs[cell][axis]) / 2
            lows.append(lows[cell].clone())
            highs.append(highs[cell].clone())
            lows[-1][axis] = middle
            highs[cell] = highs[cell].clone()
            highs[cell][axis] = middle
        return torch.stack(lows), torch.stack(highs)


def split_worst(
    partition: Partition,
    errors: Tensor,
    max_error: float,
    *,
    sides: Sequence[float] | None = None,
    max_cells: int = MAX_CELLS,
) -> tuple[KDTree, Tensor]:
    """The partition with every cell cut in two whose error is above a bound, the worst first.

    Args:
        partition: a `UniformGrid` or a `KDTree`.
        errors: (n_cells,) of each cell's network; NaN, of a cell that was not asked, is no error.
        max_error: the bound.
        sides: of the cube in the world, so that it is the longest side there that is halved; None: all alike.
        max_cells: how many there may be in the end.

    Returns:
        The tree, and for each of its cells, (n_cells,) int64, the cell that it is or was part of.

    Raises:
        TypeError: a partition of another kind.
        ValueError: not an error for each cell, or a number of sides that is not that of the axes.

    Example:
        >>> from fieldforge.fields.partitions.uniform_grid import UniformGrid
        >>> tree, parent = split_worst(UniformGrid(2, resolution=2), torch.tensor([0.1, 0.5, 0.0, 0.2]), 0.15)
        >>> tree.splits, parent
        ([[1, 0], [3, 0]], tensor([0, 1, 2, 3, 1, 3]))
    """
    resolution, splits = _tree_of(partition)
    if errors.shape != (partition.n_cells,):
        raise ValueError(f"errors: expected one for each of {partition.n_cells} cells, got {tuple(errors.shape)}")
    world = [1.0] * partition.n_input_dims if sides is None else list(sides)
    if len(world) != partition.n_input_dims:
        raise ValueError(f"sides: expected {partition.n_input_dims} numbers, got {sides!r}")
    low, high = partition.boxes()
    axes = ((high - low) * torch.tensor(world, dtype=torch.float64)).argmax(1)
    found = torch.nan_to_num(errors.detach().double().cpu(), nan=-math.inf)
    room = max(0, max_cells - partition.n_cells)
    depths = _depths(partition.n_cells - len(splits), splits)
    worst = [
        cell
        for cell in found.argsort(descending=True, stable=True).tolist()
        if found[cell] > max_error and depths[cell] < DEEPEST
    ]
    chosen = sorted(worst[:room])
    tree = KDTree(partition.n_input_dims, resolution=resolution, splits=[*splits, *([c, int(axes[c])] for c in chosen)])
    return tree, torch.tensor([*range(partition.n_cells), *chosen])


def _tree_of(partition: Partition) -> tuple[list[int], list[list[int]]]:
    config: Mapping[str, object] = partition.config()
    if config.get("otype") not in ("UniformGrid", "KDTree"):
        raise TypeError(f"partition: expected a UniformGrid or a KDTree, got {type(partition).__name__}")
    resolution, splits = getattr(partition, "resolution"), getattr(partition, "splits", [])  # noqa: B009
    return list(resolution), [list(split) for split in splits]


def _depths(n_roots: int, splits: Sequence[Sequence[int]]) -> list[int]:
    depths = [0] * n_roots
    for cell, _ in splits:
        depths[cell] += 1
        depths.append(depths[cell])
    return depths
