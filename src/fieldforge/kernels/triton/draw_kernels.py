# mypy: ignore-errors
"""The keyed permutation of ``apps/fit/samplers.py``: a Feistel network, walked until the result is in range."""

import triton
import triton.language as tl


@triton.jit
def _round(left, right, key, number, multiplier, half, mask):
    mixed = (right + key * 0x632BE5AB + number) * multiplier & 0x7FFFFFFFFFFF
    mixed = (mixed ^ (mixed >> 15)) * 0x2C1B3C6D
    return right, left ^ ((mixed >> 23) & mask)


@triton.jit
def _feistel(value, key, half, mask):
    left, right = value >> half, value & mask
    left, right = _round(left, right, key, 1, 0x9E3779B1, half, mask)
    left, right = _round(left, right, key, 2, 0x85EBCA77, half, mask)
    left, right = _round(left, right, key, 3, 0xC2B2AE3D, half, mask)
    left, right = _round(left, right, key, 4, 0x27D4EB2F, half, mask)
    left, right = _round(left, right, key, 5, 0x165667B1, half, mask)
    left, right = _round(left, right, key, 6, 0xD6E8FEB8, half, mask)
    return (left << half) | right


@triton.jit
def permute(index, key, out, n_rows, n, half, mask, BLOCK: tl.constexpr):
    """n_rows int64 in [0, n), each with its key; the domain, of 2 half bits, is at most four times as large as n."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    is_row = row < n_rows
    keys = tl.load(key + row, mask=is_row, other=0)
    value = _feistel(tl.load(index + row, mask=is_row, other=0), keys, half, mask)
    is_outside = is_row & (value >= n)
    while tl.max(is_outside.to(tl.int32), 0) > 0:
        value = tl.where(is_outside, _feistel(value, keys, half, mask), value)
        is_outside = is_row & (value >= n)
    tl.store(out + row, value, mask=is_row)
