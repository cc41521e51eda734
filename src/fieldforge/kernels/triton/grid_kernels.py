# mypy: ignore-errors
"""Kernels of the multi-resolution grid; the function is `fieldforge.encodings.grid.grid`.

A program has a block of points on one level, or, for gradients in the points, on all levels one after another, so that
nothing is added from two sides. Whatever the dtype of the table, sums are float32. Constants of a level lie in two
tables: (n_levels, 4) scales and (n_levels, 8) integers: first row, number of rows, whether it is hashed, 0, and four
multipliers, which are unsigned.
"""

import triton
import triton.language as tl

from fieldforge.kernels.triton.tuning import tuned


@triton.jit
def _position(x, points, is_point, scales, level, D: tl.constexpr, dim: tl.constexpr):
    """Cell (unsigned, saturated as a GPU's conversion is; NaN is 0) and where in it the points are."""
    scale = tl.load(scales + level * 4 + dim)
    value = tl.load(x + points * D + dim, mask=is_point, other=0.0)
    position = tl.fma(value, tl.broadcast_to(scale, value.shape), tl.full(value.shape, 0.5, tl.float32))  # rounded once
    floor = tl.floor(position)
    whole = tl.minimum(tl.maximum(tl.where(floor == floor, floor, 0.0), -2147483648.0), 2147483520.0).to(tl.int32)
    cell = tl.where(floor >= 2147483648.0, 2147483647, whole)
    return cell.to(tl.uint32, bitcast=True), position - floor


@triton.jit
def _part(cell, integers, level, corner: tl.constexpr, dim: tl.constexpr):
    """What a coordinate of a corner adds to the number of its row."""
    factor = tl.load(integers + level * 8 + 4 + dim).to(tl.uint32, bitcast=True)
    return (cell + ((corner >> dim) & 1)) * factor


@triton.jit
def _row(c0, c1, c2, c3, integers, level, corner: tl.constexpr, D: tl.constexpr):
    """The row of the table that a corner of the cell is in."""
    first = tl.load(integers + level * 8)
    size = tl.load(integers + level * 8 + 1).to(tl.uint32, bitcast=True)
    is_hashed = tl.load(integers + level * 8 + 2) != 0
    mixed = _part(c0, integers, level, corner, 0)
    added = mixed
    if D > 1:
        part = _part(c1, integers, level, corner, 1)
        mixed, added = mixed ^ part, added + part
    if D > 2:
        part = _part(c2, integers, level, corner, 2)
        mixed, added = mixed ^ part, added + part
    if D > 3:
        part = _part(c3, integers, level, corner, 3)
        mixed, added = mixed ^ part, added + part
    combined = tl.where(is_hashed, mixed, added)
    return first + (combined % size).to(tl.int64)


@triton.jit
def _side(t, corner: tl.constexpr, dim: tl.constexpr):
    if (corner >> dim) & 1:
        return t
    else:
        return 1.0 - t


@triton.jit
def _share(t0, t1, t2, t3, corner: tl.constexpr, left_out: tl.constexpr, D: tl.constexpr):
    """The product of the corner's weights along each axis but one."""
    share = t0 * 0.0 + 1.0  # NaN where the position is
    if left_out != 0:
        share = _side(t0, corner, 0)
    if D > 1:
        if left_out != 1:
            share = share * _side(t1, corner, 1)
    if D > 2:
        if left_out != 2:
            share = share * _side(t2, corner, 2)
    if D > 3:
        if left_out != 3:
            share = share * _side(t3, corner, 3)
    return share


@triton.jit
def _smooth(t):
    return t * t * (3.0 - 2.0 * t)


@triton.jit
def _cell(x, points, is_point, scales, level, D: tl.constexpr, INTERPOLATION: tl.constexpr):
    """Cells along four axes, and the weights of their far sides; those beyond D repeat the first."""
    c0, t0 = _position(x, points, is_point, scales, level, D, 0)
    c1, t1, c2, t2, c3, t3 = c0, t0, c0, t0, c0, t0
    if D > 1:
        c1, t1 = _position(x, points, is_point, scales, level, D, 1)
    if D > 2:
        c2, t2 = _position(x, points, is_point, scales, level, D, 2)
    if D > 3:
        c3, t3 = _position(x, points, is_point, scales, level, D, 3)
    if INTERPOLATION == "Smoothstep":
        t0, t1, t2, t3 = _smooth(t0), _smooth(t1), _smooth(t2), _smooth(t3)
    return c0, c1, c2, c3, t0, t1, t2, t3


@tuned(({"BLOCK": 256}, 4), ({"BLOCK": 128}, 4), ({"BLOCK": 512}, 8), key=["n_levels", "D", "F", "INTERPOLATION"])
@triton.jit(do_not_specialize=["n"])
def forward(
    x, table, out, scales, integers, n, n_levels,
    D: tl.constexpr, F: tl.constexpr, INTERPOLATION: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    points = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    level = tl.program_id(1)
    is_point = points < n
    feature = tl.arange(0, F)
    c0, c1, c2, c3, t0, t1, t2, t3 = _cell(x, points, is_point, scales, level, D, INTERPOLATION)
    CORNERS: tl.constexpr = 1 if INTERPOLATION == "Nearest" else 1 << D
    total = tl.zeros((BLOCK, F), tl.float32)
    for corner in tl.static_range(CORNERS):
        row = _row(c0, c1, c2, c3, integers, level, corner, D)
        value = tl.load(table + row[:, None] * F + feature[None, :], mask=is_point[:, None], other=0.0).to(tl.float32)
        if INTERPOLATION == "Nearest":
            total = value
        else:
            total += _share(t0, t1, t2, t3, corner, -1, D)[:, None] * value
    place = points[:, None] * (n_levels * F) + level * F + feature[None, :]
    tl.store(out + place, total.to(out.dtype.element_ty), mask=is_point[:, None])


@tuned(
    ({"BLOCK": 256}, 4), ({"BLOCK": 128}, 4), ({"BLOCK": 512}, 8),
    key=["n_levels", "D", "F", "INTERPOLATION"], reset_to_zero=["grad_table"],
)  # fmt: skip
@triton.jit(do_not_specialize=["n"])
def backward_to_table(
    x, grad, grad_table, scales, integers, n, n_levels,
    D: tl.constexpr, F: tl.constexpr, INTERPOLATION: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Adds to float32 `grad_table` in whatever order the programs come."""
    points = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    level = tl.program_id(1)
    is_point = points < n
    feature = tl.arange(0, F)
    c0, c1, c2, c3, t0, t1, t2, t3 = _cell(x, points, is_point, scales, level, D, INTERPOLATION)
    place = points[:, None] * (n_levels * F) + level * F + feature[None, :]
    given = tl.load(grad + place, mask=is_point[:, None], other=0.0).to(tl.float32)
    CORNERS: tl.constexpr = 1 if INTERPOLATION == "Nearest" else 1 << D
    for corner in tl.static_range(CORNERS):
        row = _row(c0, c1, c2, c3, integers, level, corner, D)
        added = given
        if INTERPOLATION != "Nearest":
            added = _share(t0, t1, t2, t3, corner, -1, D)[:, None] * given
        tl.atomic_add(grad_table + row[:, None] * F + feature[None, :], added, mask=is_point[:, None], sem="relaxed")


@tuned(({"BLOCK": 128}, 4), ({"BLOCK": 64}, 2), ({"BLOCK": 256}, 8), key=["n_levels", "D", "F", "INTERPOLATION"])
@triton.jit(do_not_specialize=["n"])
def backward_to_points(
    x, table, grad, grad_x, scales, integers, n, n_levels,
    D: tl.constexpr, F: tl.constexpr, INTERPOLATION: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of "Linear" and "Smoothstep"; that of "Nearest" is zero."""
    points = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    is_point = points < n
    feature = tl.arange(0, F)
    g0 = tl.zeros((BLOCK,), tl.float32)
    g1, g2, g3 = g0, g0, g0
    for level in range(n_levels):
        c0, c1, c2, c3, t0, t1, t2, t3 = _cell(x, points, is_point, scales, level, D, "Linear")
        s0, s1, s2, s3 = t0 * 0.0 + 1.0, t1 * 0.0 + 1.0, t2 * 0.0 + 1.0, t3 * 0.0 + 1.0
        if INTERPOLATION == "Smoothstep":
            s0, s1 = 6.0 * t0 * (1.0 - t0), 6.0 * t1 * (1.0 - t1)
            s2, s3 = 6.0 * t2 * (1.0 - t2), 6.0 * t3 * (1.0 - t3)
            t0, t1, t2, t3 = _smooth(t0), _smooth(t1), _smooth(t2), _smooth(t3)
        place = points[:, None] * (n_levels * F) + level * F + feature[None, :]
        given = tl.load(grad + place, mask=is_point[:, None], other=0.0).to(tl.float32)
        a0 = tl.zeros((BLOCK,), tl.float32)
        a1, a2, a3 = a0, a0, a0
        for corner in tl.static_range(1 << D):
            row = _row(c0, c1, c2, c3, integers, level, corner, D)
            value = tl.load(table + row[:, None] * F + feature[None, :], mask=is_point[:, None], other=0.0)
            along = tl.sum(given * value.to(tl.float32), 1)
            a0 += (2 * (corner & 1) - 1) * _share(t0, t1, t2, t3, corner, 0, D) * along
            if D > 1:
                a1 += (2 * ((corner >> 1) & 1) - 1) * _share(t0, t1, t2, t3, corner, 1, D) * along
            if D > 2:
                a2 += (2 * ((corner >> 2) & 1) - 1) * _share(t0, t1, t2, t3, corner, 2, D) * along
            if D > 3:
                a3 += (2 * ((corner >> 3) & 1) - 1) * _share(t0, t1, t2, t3, corner, 3, D) * along
        g0 += tl.load(scales + level * 4) * s0 * a0
        g1 += tl.load(scales + level * 4 + 1) * s1 * a1
        g2 += tl.load(scales + level * 4 + 2) * s2 * a2
        g3 += tl.load(scales + level * 4 + 3) * s3 * a3
    tl.store(grad_x + points * D, g0, mask=is_point)
    if D > 1:
        tl.store(grad_x + points * D + 1, g1, mask=is_point)
    if D > 2:
        tl.store(grad_x + points * D + 2, g2, mask=is_point)
    if D > 3:
        tl.store(grad_x + points * D + 3, g3, mask=is_point)


@triton.jit(do_not_specialize=["n"])
def corners(
    x, rows, weights, scales, integers, n, level,
    D: tl.constexpr, INTERPOLATION: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """(n, corners) rows and weights of one level."""
    points = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    is_point = points < n
    c0, c1, c2, c3, t0, t1, t2, t3 = _cell(x, points, is_point, scales, level, D, INTERPOLATION)
    CORNERS: tl.constexpr = 1 if INTERPOLATION == "Nearest" else 1 << D
    for corner in tl.static_range(CORNERS):
        row = _row(c0, c1, c2, c3, integers, level, corner, D)
        weight = tl.full((BLOCK,), 1.0, tl.float32)
        if INTERPOLATION != "Nearest":
            weight = _share(t0, t1, t2, t3, corner, -1, D)
        tl.store(rows + points * CORNERS + corner, row.to(tl.int32), mask=is_point)
        tl.store(weights + points * CORNERS + corner, weight, mask=is_point)


@triton.jit(do_not_specialize=["n_rows"])
def add_sorted(
    order, starts, rows, weights, grad, grad_table, n_rows, n_levels, level,
    CORNERS: tl.constexpr, F: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Each row's shares in the order of the points, a chunk at a time: the same bits in every run."""
    which = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_row = which < n_rows
    start = tl.load(starts + which, mask=is_row, other=0)
    end = tl.load(starts + which + 1, mask=is_row, other=0)
    feature = tl.arange(0, F)
    total = tl.zeros((BLOCK, F), tl.float32)
    for first in range(0, tl.max(end - start, 0), CHUNK):
        place = start[:, None] + first + tl.arange(0, CHUNK)[None, :]
        is_share = place < end[:, None]
        entry = tl.load(order + place, mask=is_share, other=0)
        weight = tl.load(weights + entry, mask=is_share, other=0.0)
        given = (entry // CORNERS)[:, :, None] * (n_levels * F) + level * F + feature[None, None, :]
        shares = tl.load(grad + given, mask=is_share[:, :, None], other=0.0).to(tl.float32)
        total += tl.sum(weight[:, :, None] * shares, 1)
    row = tl.load(rows + which, mask=is_row, other=0).to(tl.int64)
    tl.store(grad_table + row[:, None] * F + feature[None, :], total, mask=is_row[:, None])
