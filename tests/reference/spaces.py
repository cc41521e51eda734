"""Contractions in plain numbers. Imports nothing of fieldforge. Written from Barron et al. 2022 (eq. 10)."""

from __future__ import annotations

import math
from collections.abc import Sequence


def contract(point: Sequence[float], low: Sequence[float], high: Sequence[float], norm: str) -> list[float]:
    """A place of the world -> a place of the unit cube, of which a box takes the inner half."""
    x = [2 * (p - a) / (b - a) - 1 for p, a, b in zip(point, low, high, strict=True)]
    m = max(abs(c) for c in x) if norm == "inf" else math.sqrt(sum(c * c for c in x))
    f = x if m <= 1 else [(2 - 1 / m) * c / m for c in x]
    return [(c + 2) / 4 for c in f]
