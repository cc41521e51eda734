"""Shifted basis functions of one coordinate, in plain numbers (Zheng et al. 2021)."""

from __future__ import annotations

import math


def shifted(x: float, kind: str, width: float, n_shifts: int, margin: float) -> list[float]:
    """psi(x - t_k), t_k evenly from -margin to 1 + margin."""
    places = [-margin + (1 + 2 * margin) * k / (n_shifts - 1) for k in range(n_shifts)]
    return [psi(x - t, kind, width) for t in places]


def psi(u: float, kind: str, width: float) -> float:
    if kind == "Gaussian":
        return math.exp(-u * u / (2 * width * width))
    if kind == "Impulse":
        return 1.0 if abs(u) <= width else 0.0
    if kind == "Triangle":
        return max(0.0, 1 - abs(u) / width)
    wave = math.sin(2 * math.pi * u / width)
    return wave if kind == "Sine" else math.copysign(1.0, wave) if wave else 0.0
