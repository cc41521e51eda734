# mypy: ignore-errors
"""Kernels of interpolation between the entries of a table; the function is ``encodings/interpolation.py``'s.

Sums are float32, whatever the dtype of the table. A program has a block of points and a chunk of features; for
gradients in the points it goes through all chunks, so that nothing is added from two sides.
"""

import triton
import triton.language as tl

from fieldforge.kernels.triton.grid_kernels import _share
from fieldforge.kernels.triton.tuning import tuned

KEY = ["n_features", "D"]


@triton.jit
def _along(x, point, is_point, size, D: tl.constexpr, axis: tl.constexpr):
    """Along an axis: the cell, where in it the point is, and how fast that grows with x."""
    value = tl.load(x + point * D + axis, mask=is_point, other=0.0)
    inside = tl.where(value < 0, 0.0, tl.where(value > 1, 1.0, value))  # NaN passes
    position = inside * (size - 1)
    whole = tl.where(position == position, position, 0.0).to(tl.int32)  # not even NaN leaves the table
    cell = tl.minimum(whole, size - 2)
    return cell, position - cell.to(tl.float32), tl.where((value >= 0) & (value <= 1), size - 1, 0).to(tl.float32)


@triton.jit
def _cell(x, point, is_point, size0, size1, size2, D: tl.constexpr):
    """Row of the lowest corner, places in the cell and how fast they grow; axes beyond D repeat the first."""
    row, t0, s0 = _along(x, point, is_point, size0, D, 0)
    row = row.to(tl.int64)
    t1, s1, t2, s2 = t0, s0, t0, s0
    if D > 1:
        cell, t1, s1 = _along(x, point, is_point, size1, D, 1)
        row = row * size1 + cell
    if D > 2:
        cell, t2, s2 = _along(x, point, is_point, size2, D, 2)
        row = row * size2 + cell
    return row, t0, t1, t2, s0, s1, s2


@triton.jit
def _offset(size1, size2, corner: tl.constexpr, D: tl.constexpr):
    """How many rows further a corner is than the lowest."""
    offset = corner & 1
    if D > 1:
        offset = offset * size1 + ((corner >> 1) & 1)
    if D > 2:
        offset = offset * size2 + ((corner >> 2) & 1)
    return offset


@tuned(({"BLOCK": 64}, 4), ({"BLOCK": 32}, 2), ({"BLOCK": 128}, 4), key=KEY)
@triton.jit(do_not_specialize=["n"])
def forward(
    table, x, out, n, n_features, size0, size1, size2, D: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    point = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    feature = tl.program_id(1) * CHUNK + tl.arange(0, CHUNK)
    is_point = point < n
    is_there = is_point[:, None] & (feature < n_features)[None, :]
    row, t0, t1, t2, _, _, _ = _cell(x, point, is_point, size0, size1, size2, D)
    total = tl.zeros((BLOCK, CHUNK), tl.float32)
    for corner in tl.static_range(1 << D):
        place = (row + _offset(size1, size2, corner, D))[:, None] * n_features + feature[None, :]
        value = tl.load(table + place, mask=is_there, other=0.0).to(tl.float32)
        total += _share(t0, t1, t2, t2, corner, -1, D)[:, None] * value
    tl.store(out + point[:, None] * n_features + feature[None, :], total, mask=is_there)


@tuned(({"BLOCK": 64}, 4), ({"BLOCK": 32}, 2), ({"BLOCK": 128}, 4), key=KEY, reset_to_zero=["grad_table"])
@triton.jit(do_not_specialize=["n"])
def backward_to_table(
    x, grad, grad_table, n, n_features, size0, size1, size2,
    D: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Adds to float32 `grad_table` in whatever order the programs come."""
    point = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    feature = tl.program_id(1) * CHUNK + tl.arange(0, CHUNK)
    is_point = point < n
    is_there = is_point[:, None] & (feature < n_features)[None, :]
    row, t0, t1, t2, _, _, _ = _cell(x, point, is_point, size0, size1, size2, D)
    given = tl.load(grad + point[:, None] * n_features + feature[None, :], mask=is_there, other=0.0)
    for corner in tl.static_range(1 << D):
        place = (row + _offset(size1, size2, corner, D))[:, None] * n_features + feature[None, :]
        share = _share(t0, t1, t2, t2, corner, -1, D)[:, None] * given
        tl.atomic_add(grad_table + place, share, mask=is_there, sem="relaxed")


@tuned(({"BLOCK": 64}, 4), ({"BLOCK": 32}, 2), ({"BLOCK": 128}, 4), key=KEY)
@triton.jit(do_not_specialize=["n"])
def backward_to_points(
    table, x, grad, grad_x, n, n_features, size0, size1, size2,
    D: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    point = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    is_point = point < n
    row, t0, t1, t2, s0, s1, s2 = _cell(x, point, is_point, size0, size1, size2, D)
    g0 = tl.zeros((BLOCK,), tl.float32)
    g1, g2 = g0, g0
    for first in range(0, n_features, CHUNK):
        feature = first + tl.arange(0, CHUNK)
        is_there = is_point[:, None] & (feature < n_features)[None, :]
        given = tl.load(grad + point[:, None] * n_features + feature[None, :], mask=is_there, other=0.0)
        for corner in tl.static_range(1 << D):
            place = (row + _offset(size1, size2, corner, D))[:, None] * n_features + feature[None, :]
            value = tl.load(table + place, mask=is_there, other=0.0).to(tl.float32)
            along = tl.sum(given * value, 1)
            g0 += (2 * (corner & 1) - 1) * _share(t0, t1, t2, t2, corner, 0, D) * along
            if D > 1:
                g1 += (2 * ((corner >> 1) & 1) - 1) * _share(t0, t1, t2, t2, corner, 1, D) * along
            if D > 2:
                g2 += (2 * ((corner >> 2) & 1) - 1) * _share(t0, t1, t2, t2, corner, 2, D) * along
    tl.store(grad_x + point * D, s0 * g0, mask=is_point)
    if D > 1:
        tl.store(grad_x + point * D + 1, s1 * g1, mask=is_point)
    if D > 2:
        tl.store(grad_x + point * D + 2, s2 * g2, mask=is_point)
