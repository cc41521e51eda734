"""Proposal sampling ray by ray in float64 (Mildenhall et al. 2020; Barron et al. 2022; nerfstudio's definitions)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

from reference.rendering import inverse_cdf, weights_of


def forth(spacing: str, t: float) -> float:
    if spacing == "linear":
        return t
    if spacing == "disparity":
        return -1 / t
    return t / 2 if t < 1 else 1 - 1 / (2 * t)


def back(spacing: str, f: float) -> float:
    if spacing == "linear":
        return f
    if spacing == "disparity":
        return -1 / f
    return 2 * f if f < 0.5 else 1 / (2 - 2 * f)


def distance(spacing: str, share: float, near: float, far: float) -> float:
    return back(spacing, forth(spacing, near) * (1 - share) + forth(spacing, far) * share)


def spread(n: int, jitter: list[float]) -> list[float]:
    """Edges of n intervals; each moves between the middles around it."""
    edges = []
    for k in range(n + 1):
        low, high = max(0.0, (k - 0.5) / n), min(1.0, (k + 0.5) / n)
        edges.append(low + (high - low) * jitter[k])
    return edges


def resample(edges: list[float], weights: list[float], n: int, padding: float, jitter: list[float]) -> list[float]:
    """n + 1 edges where the cumulative sum of the padded weights has equal steps."""
    cdf = [0.0]
    for weight in weights:
        cdf.append(cdf[-1] + weight + padding)
    return [inverse_cdf(edges, cdf, (k + jitter[k]) / (n + 1) * cdf[-1]) for k in range(n + 1)]


def propose(
    density: Callable[[float], float],
    near: float,
    far: float,
    counts: list[int],
    spacing: str,
    exponent: float,
    padding: float,
    jitter: list[float],
) -> tuple[list[list[float]], list[list[float]]]:
    """One ray whose proposals are all the same density of the distance: edges in shares and weights of each level."""
    shares = [spread(counts[0], [jitter[0]] * (counts[0] + 1))]
    weights = []
    for n, part in zip(counts[1:], jitter[1:], strict=True):
        t = [distance(spacing, share, near, far) for share in shares[-1]]
        tau = [density((a + b) / 2) * (b - a) for a, b in itertools.pairwise(t)]
        weights.append(weights_of(tau))
        annealed = [weight**exponent for weight in weights[-1]]
        shares.append(resample(shares[-1], annealed, n, padding, [part] * (n + 1)))
    return shares, weights


def interlevel(
    proposed: list[tuple[float, float]],
    proposed_weights: list[float],
    intervals: list[tuple[float, float]],
    weights: list[float],
) -> tuple[float, list[float]]:
    """One ray: the loss, and its gradient in the proposal's weights; an interval's end meets what begins there."""
    loss, gradient = 0.0, [0.0] * len(proposed)
    for (t0, t1), weight in zip(intervals, weights, strict=True):
        meets = [k for k, (a, b) in enumerate(proposed) if a <= t1 and b > t0]
        excess = max(0.0, weight - math.fsum(proposed_weights[k] for k in meets))
        loss += excess**2 / (weight + 1e-7) / len(intervals)
        for k in meets:
            gradient[k] -= 2 * excess / (weight + 1e-7) / len(intervals)
    return loss, gradient
