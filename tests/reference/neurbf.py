"""NeuRBF in plain numbers (Chen et al. 2023): all distances, the nearest few, sines of their shares."""

from __future__ import annotations

import math
from collections.abc import Sequence

Vector = Sequence[float]


def features(
    x: Vector, centers: Sequence[Vector], shapes: Sequence[Sequence[Vector]], weights: Sequence[Vector],
    *, n_neighbors: int, frequencies: Vector, side: int,
) -> list[float]:  # fmt: skip
    """feature_j(x) = sum_i w_ij sin(m_j phi_i / sum phi) over the centres nearest to the middle of x's cell."""
    middle = [(min(side - 1, max(0, math.floor(v * side))) + 0.5) / side for v in x]
    near = sorted(range(len(centers)), key=lambda i: math.dist(middle, centers[i]))[:n_neighbors]
    kernels = []
    for i in near:
        offset = [a - c for a, c in zip(x, centers[i], strict=True)]
        squared = sum(offset[a] * shapes[i][a][b] * offset[b] for a in range(len(offset)) for b in range(len(offset)))
        kernels.append(1 / (1 + squared))
    total = sum(kernels) + 1e-8
    return [
        sum(weights[i][j] * math.sin(m * kernel / total) for i, kernel in zip(near, kernels, strict=True))
        for j, m in enumerate(frequencies)
    ]


def k_means(points: Sequence[Vector], weights: Vector, centers: Sequence[Vector], n_iterations: int) -> list[Vector]:
    """Lloyd's iterations with weights."""
    found = [list(center) for center in centers]
    for _ in range(n_iterations):
        label = [min(range(len(found)), key=lambda i: math.dist(point, found[i])) for point in points]
        for i in range(len(found)):
            own = [(p, w) for p, w, which in zip(points, weights, label, strict=True) if which == i]
            total = sum(w for _, w in own)
            if total > 0:
                found[i] = [sum(w * p[axis] for p, w in own) / total for axis in range(len(found[i]))]
    return found
