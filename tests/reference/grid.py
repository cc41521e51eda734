"""The multi-resolution grid point by point, in Python integers and float64 (Müller et al. 2022; tiny-cuda-nn grid.h).

Only what the definition itself rounds to float32 is rounded: the scale of a level and, for float32 points, the
position on the lattice.
"""

from __future__ import annotations

import math
from itertools import product

import numpy as np

PRIMES = (1, 2654435761, 805459861, 3674653429)
WORD = 2**32


def level_scale(level: int, base_resolution: int, per_level_scale: float) -> float:
    """exp2f(level * log2f(per_level_scale)) * base_resolution - 1 in float32."""
    log2_growth = np.float32(math.log2(np.float32(per_level_scale)))
    growth = np.float32(math.exp2(np.float32(level) * log2_growth))
    return float(np.float32(np.float32(growth * np.float32(base_resolution)) - np.float32(1)))


def level_sizes(
    kind: str, n_dims: int, n_levels: int, log2_hashmap_size: int, base_resolution: int, per_level_scale: float
) -> list[int]:
    """Number of table rows of every level."""
    sizes = []
    for level in range(n_levels):
        resolution = math.ceil(level_scale(level, base_resolution, per_level_scale)) + 1
        size = resolution**n_dims
        while size % 8:
            size += 1
        if kind == "Hash" and size > 2**log2_hashmap_size:
            size = 2**log2_hashmap_size
        if kind == "Tiled" and size > base_resolution**n_dims:
            size = base_resolution**n_dims
        sizes.append(size)
    return sizes


def row_of(kind: str, corner: tuple[int, ...], resolution: int, size: int) -> int:
    """Row within its level of a lattice point whose coordinates are unsigned 32-bit integers."""
    stride, index = 1, 0
    if resolution ** len(corner) < WORD:
        for coordinate in corner:
            index = (index + coordinate * stride) % WORD
            stride *= resolution
    else:
        stride = WORD - 1
    if kind == "Hash" and size < stride:
        index = 0
        for coordinate, prime in zip(corner, PRIMES, strict=False):
            index ^= coordinate * prime % WORD
    return index % size


def grid_point(
    x: list[float],
    table: list[list[float]],
    *,
    kind: str,
    n_levels: int,
    log2_hashmap_size: int,
    base_resolution: int,
    per_level_scale: float,
    interpolation: str,
    is_float32: bool,
) -> tuple[list[float], list[list[float]], list[dict[int, float]]]:
    """One point.

    Returns:
        features, level by level; their derivatives, one list of d numbers for each feature; and for each level the
        weight of every row of the table that the point reads.
    """
    n_dims = len(x)
    sizes = level_sizes(kind, n_dims, n_levels, log2_hashmap_size, base_resolution, per_level_scale)
    features: list[float] = []
    derivatives: list[list[float]] = []
    weights: list[dict[int, float]] = []
    offset = 0
    for level, size in enumerate(sizes):
        scale = level_scale(level, base_resolution, per_level_scale)
        resolution = math.ceil(scale) + 1
        position = [scale * coordinate + 0.5 for coordinate in x]
        if is_float32:
            position = [float(np.float32(one)) for one in position]
        cell = [math.floor(one) for one in position]
        t = [one - whole for one, whole in zip(position, cell, strict=True)]
        cell = [max(-(2**31), min(2**31 - 1, one)) for one in cell]  # a GPU's conversion to int saturates
        slope = [1.0] * n_dims
        if interpolation == "Smoothstep":
            slope = [6 * one * (1 - one) for one in t]
            t = [one * one * (3 - 2 * one) for one in t]
        n_features = len(table[0])
        value = [0.0] * n_features
        derivative = [[0.0] * n_dims for _ in range(n_features)]
        rows: dict[int, float] = {}
        for corner in product((0, 1), repeat=n_dims):
            if interpolation == "Nearest" and any(corner):
                continue
            lattice = tuple((whole + step) % WORD for whole, step in zip(cell, corner, strict=True))
            row = offset + row_of(kind, lattice, resolution, size)
            factors = [one if step else 1 - one for one, step in zip(t, corner, strict=True)]
            weight = 1.0 if interpolation == "Nearest" else math.prod(factors)
            rows[row] = rows.get(row, 0.0) + weight
            for feature in range(n_features):
                value[feature] += weight * table[row][feature]
                for dim in range(n_dims):
                    if interpolation == "Nearest":
                        continue
                    others = math.prod(factors[other] for other in range(n_dims) if other != dim)
                    sign = 1 if corner[dim] else -1
                    derivative[feature][dim] += sign * others * slope[dim] * scale * table[row][feature]
        features += value
        derivatives += derivative
        weights.append(rows)
        offset += size
    return features, derivatives, weights
