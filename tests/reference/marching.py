"""Rays, boxes, cells and marching one number at a time. Imports nothing of ours.

Where a ray meets a box is exact (fractions). Which samples exist is decided by float32 numbers, as the definition says:
each operation here is one rounding.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

F = np.float32


def intersect(
    origin: list[float], direction: list[float], low: list[float], high: list[float], near: float, far: float
) -> tuple[Fraction, Fraction] | None:
    """The part [t_near, t_far] of the ray in the box, or None; `far` may be infinite."""
    if not all(map(math.isfinite, origin + direction)) or not any(direction):
        return None
    first, last = Fraction(near), Fraction(far) if math.isfinite(far) else None
    for o, d, a, b in zip(origin, direction, low, high, strict=True):
        if d == 0:
            if not a <= o <= b:
                return None
            continue
        ends = sorted(((Fraction(a) - Fraction(o)) / Fraction(d), (Fraction(b) - Fraction(o)) / Fraction(d)))
        first = max(first, ends[0])
        last = ends[1] if last is None else min(last, ends[1])
    if last is None or last <= first:
        return None
    return first, last


def cell_of(
    point: list[np.float32], lows: list[list[float]], cells_per_length: list[list[float]], resolution: list[int]
) -> tuple[int, int, int, int] | None:
    """(cascade, x, y, z): the cell of the smallest cascade that holds the point."""
    for cascade, (low, per) in enumerate(zip(lows, cells_per_length, strict=True)):
        u = [(p - F(a)) * F(s) for p, a, s in zip(point, low, per, strict=True)]
        if all(0 <= x < n for x, n in zip(u, resolution, strict=True)):
            x, y, z = (math.floor(x) for x in u)
            return cascade, x, y, z
    return None


def march(
    origin: list[float],
    direction: list[float],
    start: float,
    end: float,
    is_occupied: np.ndarray,
    lows: list[list[float]],
    cells_per_length: list[list[float]],
    step: float,
    cone_angle: float = 0.0,
    max_step: float = math.inf,
) -> list[tuple[float, float]]:
    """(t0, t1) of every sample of a ray whose middle is before `end` and in an occupied cell."""
    o, d = [F(x) for x in origin], [F(x) for x in direction]
    found, k, t0 = [], 0, F(start)
    while True:
        if cone_angle == 0:
            t0, t1 = F(start) + F(k) * F(step), F(start) + F(k + 1) * F(step)
        else:
            t1 = t0 + min(max(t0 * F(cone_angle), F(step)), F(max_step))
        middle = F(0.5) * (t0 + t1)
        if not middle < F(end):
            return found
        point = [a + middle * b for a, b in zip(o, d, strict=True)]
        cell = cell_of(point, lows, cells_per_length, list(is_occupied.shape[1:]))
        if cell is not None and is_occupied[cell]:
            found.append((float(t0), float(t1)))
        t0, k = t1, k + 1
