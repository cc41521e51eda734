"""What opens from coarse to fine, as loops in plain numbers, written from the papers: SAPE's mask and feedback, CAM's
layers, PINs' levels, the Fourier basis of reparameterised matrices."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

Cell = tuple[int, ...]


def neighbours(x: Sequence[float], n: int) -> dict[Cell, float]:
    """Cells around a point of [0, 1]^d and their weights: u = x max(n - 2, 1) + 1/2 between whole numbers."""
    place = [v * max(n - 2, 1) + 0.5 for v in x]
    weights: dict[Cell, float] = {}
    for corner in itertools.product((0, 1), repeat=len(x)):
        cell, weight = [], 1.0
        for u, side in zip(place, corner, strict=True):
            low = math.floor(u)
            cell.append(low + side)
            weight *= u - low if side else 1 - (u - low)
        weights[tuple(cell)] = weight
    return weights


def box_of(cell: Cell, n: int, k: int) -> list[Cell]:
    """The k^d cells around one; those beyond the border are its cells again."""
    reach = range(-(k // 2), k // 2 + 1)
    return [
        tuple(min(max(c + o, 0), n - 1) for c, o in zip(cell, offset, strict=True))
        for offset in itertools.product(reach, repeat=len(cell))
    ]


def box_side(n: int, d: int) -> int:
    return 5 if n**d > 100 else 3


def mask(x: Sequence[float], level: dict[Cell, int], n: int, block: int) -> float:
    """The share of open cells around a point: interpolated means over boxes."""
    k = box_side(n, len(x))
    total = 0.0
    for cell, weight in neighbours(x, n).items():
        open_cells = sum(level[other] > block for other in box_of(cell, n, k))
        total += weight * open_cells / k ** len(x)
    return total


def mean_losses(points: Sequence[Sequence[float]], losses: Sequence[float], n: int) -> dict[Cell, float]:
    """Of every cell, after filling those without samples and averaging over boxes."""
    d = len(points[0])
    k = box_side(n, d)
    cells = list(itertools.product(range(n), repeat=d))
    sums, weights = dict.fromkeys(cells, 0.0), dict.fromkeys(cells, 0.0)
    for x, loss in zip(points, losses, strict=True):
        for cell, weight in neighbours(x, n).items():
            sums[cell] += weight * loss
            weights[cell] += weight
    mean = {cell: sums[cell] / weights[cell] if weights[cell] else 0.0 for cell in cells}
    filled = {
        cell: mean[cell]
        if weights[cell]
        else (sum(mean[other] for other in box_of(cell, n, k)) - mean[cell]) / (k**d - 1)
        for cell in cells
    }
    return {cell: sum(filled[other] for other in box_of(cell, n, k)) / k**d for cell in cells}


def cam(z: Sequence[float], scale: Sequence[float], shift: Sequence[float], norm: bool) -> list[float]:
    """scale * normalised z + shift; one scale for all channels or one for each."""
    mean = sum(z) / len(z)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in z) / len(z) + 1e-5)
    h = [(v - mean) / deviation if norm else v for v in z]
    return [scale[i % len(scale)] * v + shift[i % len(shift)] for i, v in enumerate(h)]


def between(grid: dict[Cell, float], x: Sequence[float], sizes: Sequence[int]) -> float:
    """Linear interpolation of a grid whose first and last entries stand at 0 and 1."""
    total = 0.0
    for corner in itertools.product((0, 1), repeat=len(x)):
        cell, weight = [], 1.0
        for v, size, side in zip(x, sizes, corner, strict=True):
            u = min(max(v, 0.0), 1.0) * (size - 1)
            low = min(int(u), size - 2)
            cell.append(low + side)
            weight *= u - low if side else 1 - (u - low)
        total += weight * grid[tuple(cell)]
    return total


def pins(
    parts: Sequence[Sequence[float]],
    levels: Sequence[Callable[[Sequence[float]], list[float]]],
    heads: Sequence[Callable[[Sequence[float]], list[float]]],
    residual: bool,
) -> list[list[float]]:
    """The output after each level, from the parts of the features."""
    h: list[float] = []
    outputs: list[list[float]] = []
    for part, level, head in zip(parts, levels, heads, strict=True):
        h = level([*h, *part])
        own = head(h)
        add = residual and outputs
        outputs.append([a + b for a, b in zip(outputs[-1], own, strict=True)] if add else own)
    return outputs


def fourier_basis(n_low: int, n_high: int, n_phases: int, alpha: float, n_in: int) -> list[list[float]]:
    frequencies = [(i + 1) / n_low for i in range(n_low)] + [float(h) for h in range(1, n_high + 1)]
    period = 2 * math.pi * n_low
    places = [-period / 2 + period * j / (n_in - 1) for j in range(n_in)]
    return [
        [alpha * math.cos(w * z + 2 * math.pi * p / n_phases) for z in places]
        for w in frequencies
        for p in range(n_phases)
    ]
