"""Cells that have networks of their own, as native calls: points sorted by cell, and density and colour at once.

The features of a point, what its density network gives and the code of its ray stay in a tile: between the points and
what they show nothing is written to memory. There are no derivatives; where some are wanted, the stacks of
`cpu_stacked` do the work.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fieldforge.kernels.cpu_door import address, expect_one_each, expect_rows, expect_tensor, n_threads, native
from fieldforge.kernels.cpu_encodings import EncodingShape, native_encoding
from fieldforge.kernels.cpu_ops import MlpShape, addresses_of, native_mlp
from fieldforge.kernels.cpu_stacked import expect_offsets, stack_shapes

MAX_DIMS = 4
MAX_CELLS = 2**16
"""For sorting: more cells are counted more often than points are."""


class Stacked(NamedTuple):
    """Networks of one shape, one for each cell: weights (n_cells, widths[i + 1], widths[i]), biases or none."""

    shape: MlpShape
    weights: Sequence[Tensor]
    biases: Sequence[Tensor]


def sort_by_cell(x: Tensor, resolution: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Points of the unit cube by the cells of a uniform grid.

    Args:
        x: (N, d) float32 on the CPU, d from 1 to 4.
        resolution: cells along each axis, at most `MAX_CELLS` in all.

    Returns:
        (N, d) places in the cells, in the caller's order; (n_cells + 1,) offsets; and (N,) the order that sorts them.

    Raises:
        TypeError, ValueError: other points, or other cells.
    """
    if not 1 <= len(resolution) <= MAX_DIMS or not 1 <= math.prod(resolution) <= MAX_CELLS or min(resolution) < 1:
        raise ValueError(f"resolution: expected 1 to 4 axes and at most {MAX_CELLS} cells, got {list(resolution)}")
    x = expect_rows("x", x.detach() if isinstance(x, Tensor) else x, len(resolution))
    local, order = torch.empty_like(x), torch.empty(len(x), dtype=torch.int64)
    offsets = torch.empty(math.prod(resolution) + 1, dtype=torch.int64)
    native().sort_by_cell(
        list(resolution), x.data_ptr(), len(x), local.data_ptr(), offsets.data_ptr(), order.data_ptr(), n_threads()
    )
    return local, offsets, order


def cells_radiance(
    local: Tensor,
    offsets: Tensor,
    order: Tensor,
    code: Tensor,
    rays: Tensor | None,
    encoding: EncodingShape,
    density: Stacked,
    color: Stacked,
) -> Tensor:
    """First number of the density network, and colour, of points in cells.

    Args:
        local: (N, d) float32, places in the cells, in any order.
        offsets: (n_cells + 1,) int64; cell i has the points order[offsets[i]] up to order[offsets[i + 1]].
        order: (N,) int64.
        code: (R, n_code) float32, what the colour network reads after what the density network gives.
        rays: (N,) int64, the row of `code` of each point; None: its own.
        encoding: of places in a cell, without parameters.
        density, color: the networks.

    Returns:
        (N, 4), in the order of `local`.

    Raises:
        TypeError, ValueError: a tensor has another shape or type, or a row that is not there.
    """
    local = expect_rows("local", local, encoding.n_inputs)
    n, n_cells = len(local), density.weights[0].shape[0]
    offsets = expect_offsets(offsets, n, n_cells)
    order = _expect_index("order", order, n, n)
    code = expect_rows("code", code, color.shape.widths[0] - density.shape.widths[-1])
    if rays is not None:
        rays = _expect_index("rays", rays, n, len(code))
    elif len(code) != n:
        raise ValueError(f"code: expected a row for each of {n} points, got {len(code)}")
    kept: list[list[Tensor]] = []
    where = []
    for name, stack in (("density", density), ("color", color)):
        tensors = [*stack.weights, *stack.biases]
        shapes = stack_shapes(stack.shape, n_cells)
        expect_one_each(name, tensors, len(shapes))
        kept.append([
            expect_tensor(f"{name}.{what}", tensor.detach(), shape).contiguous()
            for tensor, (what, shape) in zip(tensors, shapes, strict=True)
        ])  # fmt: skip
        where.append((native_mlp(stack.shape), addresses_of(stack.shape, (None, *kept[-1]))))
    out = local.new_empty(n, 4)
    native().cells_radiance(
        native_encoding(encoding), *where[0], *where[1], n_cells, offsets.data_ptr(), local.data_ptr(),
        order.data_ptr(), address(rays), code.data_ptr(), out.data_ptr(), n_threads(),
    )  # fmt: skip
    return out


def _expect_index(name: str, index: Tensor, n: int, n_rows: int) -> Tensor:
    """(n,) int64 rows from 0 to n_rows - 1, contiguous."""
    index = expect_tensor(name, index, (n,), torch.int64).contiguous()
    if n and (int(index.min()) < 0 or int(index.max()) >= n_rows):
        raise ValueError(f"{name}: expected rows from 0 to {n_rows - 1}, got {int(index.min())} to {int(index.max())}")
    return index
