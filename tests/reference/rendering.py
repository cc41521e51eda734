"""Packed volume rendering ray by ray and sample by sample, in float64 (Mildenhall et al. 2020; Barron et al. 2022).

Rays are lists of samples; gradients are written out, not derived by a machine.
"""

from __future__ import annotations

import math


def rows(counts: list[int]) -> list[range]:
    """The rows of each ray."""
    ranges, start = [], 0
    for count in counts:
        ranges.append(range(start, start + count))
        start += count
    return ranges


def weights_of(tau: list[float]) -> list[float]:
    """Weights along one ray from the optical depths of its intervals."""
    weights = []
    for i, one in enumerate(tau):
        weights.append(math.exp(-math.fsum(tau[:i])) * -math.expm1(-one))
    return weights


def composite(
    t0: list[float], t1: list[float], density: list[float], color: list[list[float]]
) -> tuple[list[float], float, float, list[float]]:
    """One ray: color, depth, opacity, weights."""
    tau = [one * (end - begin) for one, begin, end in zip(density, t0, t1, strict=True)]
    weights = weights_of(tau)
    n_channels = len(color[0]) if color else 0
    seen = [math.fsum(w * c[k] for w, c in zip(weights, color, strict=True)) for k in range(n_channels)]
    depth = math.fsum(w * (a + b) / 2 for w, a, b in zip(weights, t0, t1, strict=True))
    return seen, depth, -math.expm1(-math.fsum(tau)), weights


def composite_gradients(
    t0: list[float],
    t1: list[float],
    density: list[float],
    color: list[list[float]],
    grad_color: list[float],
    grad_depth: float,
    grad_opacity: float,
    grad_weights: list[float],
) -> tuple[list[float], list[list[float]]]:
    """One ray: gradients in density and color of the weighted sum of all outputs.

    d weight_i / d tau_j is T_i exp(-tau_i) for j = i, -weight_i for j < i, and 0 behind.
    """
    tau = [one * (end - begin) for one, begin, end in zip(density, t0, t1, strict=True)]
    weights = weights_of(tau)
    of_weight = [
        math.fsum(g * c for g, c in zip(grad_color, color[i], strict=True))
        + grad_depth * (t0[i] + t1[i]) / 2
        + grad_weights[i]
        for i in range(len(tau))
    ]
    of_density = []
    for j in range(len(tau)):
        slope = math.exp(-math.fsum(tau[: j + 1])) * of_weight[j]
        slope -= math.fsum(weights[i] * of_weight[i] for i in range(j + 1, len(tau)))
        slope += grad_opacity * math.exp(-math.fsum(tau))
        of_density.append(slope * (t1[j] - t0[j]))
    return of_density, [[w * g for g in grad_color] for w in weights]


def scan(values: list[float], kind: str) -> list[float]:
    """One ray; kind as in `fieldforge.renderers.scans`."""
    combine = math.prod if kind.endswith("prod") else math.fsum
    shift = 0 if kind.startswith("exclusive") else 1
    return [combine(values[: i + shift]) for i in range(len(values))]


def scan_gradient(values: list[float], kind: str, grad: list[float]) -> list[float]:
    """One ray: every output depends on every factor before it, through the product of all others."""
    shift = 0 if kind.startswith("exclusive") else 1
    found = []
    for k in range(len(values)):
        total = 0.0
        for i in range(len(values)):
            used = range(i + shift)
            if k in used:
                others = [values[j] for j in used if j != k] if kind.endswith("prod") else []
                total += grad[i] * math.prod(others)
        found.append(total)
    return found


def distortion(t0: list[float], t1: list[float], weights: list[float]) -> tuple[float, list[float]]:
    """One ray, every pair: the loss and its gradient in the weights."""
    middle = [(a + b) / 2 for a, b in zip(t0, t1, strict=True)]
    n = range(len(weights))
    pairs = math.fsum(weights[i] * weights[j] * abs(middle[i] - middle[j]) for i in n for j in n)
    loss = pairs + math.fsum(w * w * (b - a) for w, a, b in zip(weights, t0, t1, strict=True)) / 3
    slope = [
        2 * math.fsum(weights[j] * abs(middle[i] - middle[j]) for j in n) + 2 * weights[i] * (t1[i] - t0[i]) / 3
        for i in n
    ]
    return loss, slope


def bracket(edges: list[float], value: float) -> tuple[int, int]:
    """The edges left and right of a value: edges[left] <= value < edges[right], the last bin for those beyond."""
    above = next((i for i in range(len(edges) - 1) if edges[i] > value), len(edges) - 1)
    return max(above - 1, 0), above


def inverse_cdf(edges: list[float], cdf: list[float], u: float) -> float:
    """Where the piecewise linear cdf has the value u."""
    u = min(max(u, cdf[0]), cdf[-1])
    left, right = bracket(cdf, u)
    if cdf[right] - cdf[left] < 1e-10:
        return (edges[left] + edges[right]) / 2
    return edges[left] + (u - cdf[left]) / (cdf[right] - cdf[left]) * (edges[right] - edges[left])
