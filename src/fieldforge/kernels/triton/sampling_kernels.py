# mypy: ignore-errors
"""Kernels of search in packed edges; the functions are those of ``renderers/sampling.py``, rounded as there."""

import triton
import triton.language as tl


@triton.jit
def _around(edges, first, last, value):
    """Rows from `first` to `last` to the left and right of each value; nothing is read where last is not above first.

    Every lane halves its range until the widest of the block is empty.
    """
    low, high = first, last  # the last edge is never above: values beyond it belong to the last bin
    n_open = tl.max((low < high).to(tl.int32), 0)
    while n_open > 0:
        middle = (low + high) >> 1
        is_open = low < high
        is_below = is_open & (tl.load(edges + middle, mask=is_open, other=0) <= value)
        high = tl.where(is_open & (is_below == 0), middle, high)
        low = tl.where(is_below, middle + 1, low)
        n_open = tl.max((low < high).to(tl.int32), 0)
    return tl.maximum(low - 1, first), low


@triton.jit(do_not_specialize=["n_values", "n_rays"])
def searchsorted(
    edges, offsets, values, value_offsets, left, right, n_values, n_rays, BLOCK: tl.constexpr
):  # fmt: skip
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    is_value = place < n_values
    none = place * 0
    ray, _ = _around(value_offsets, none, tl.where(is_value, none + n_rays, 0), place)
    first = tl.load(offsets + ray, mask=is_value, other=0)
    last = tl.load(offsets + ray + 1, mask=is_value, other=0) - 1
    value = tl.load(values + place, mask=is_value, other=0.0)
    below, above = _around(edges, first, last, value)
    has_edges = last >= first
    tl.store(left + place, tl.where(has_edges, below, -1), mask=is_value)
    tl.store(right + place, tl.where(has_edges, above, -1), mask=is_value)


@triton.jit(do_not_specialize=["n"])
def inverse_cdf(edges, cdf, offsets, u, out, n, n_each, BLOCK: tl.constexpr):
    """n = (R n_each) values of the distributions -> positions."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    is_value = place < n
    ray = place // n_each
    first = tl.load(offsets + ray, mask=is_value, other=0)
    last = tl.load(offsets + ray + 1, mask=is_value, other=0) - 1
    has_edges = is_value & (last >= first)
    lowest = tl.load(cdf + first, mask=has_edges, other=0.0)
    highest = tl.load(cdf + last, mask=has_edges, other=0.0)
    value = tl.load(u + place, mask=is_value, other=0.0)
    value = tl.where((value < lowest) | (lowest != lowest), lowest, value)
    value = tl.where((value > highest) | (highest != highest), highest, value)
    below, above = _around(cdf, first, last, value)
    start, end = tl.load(edges + below, mask=has_edges, other=0.0), tl.load(edges + above, mask=has_edges, other=0.0)
    mass_before = tl.load(cdf + below, mask=has_edges, other=0.0)
    mass = tl.load(cdf + above, mask=has_edges, other=0.0) - mass_before
    inside = tl.div_rn(value - mass_before, tl.where(mass == 0, 1.0, mass)) * (end - start) + start
    # an empty bin has no place of its own; rounding must not step over the end of a bin
    inside = tl.where((mass < 1e-10) & (value == value), 0.5 * (start + end), tl.where(inside > end, end, inside))
    tl.store(out + place, tl.where(has_edges, inside, float("nan")), mask=is_value)
