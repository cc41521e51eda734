"""Diffusion and figures of generated sets as loops over numbers, written from the papers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

Points = Sequence[Sequence[float]]


def linear_alpha_bar(n_steps: int, first: float, last: float) -> list[float]:
    """ᾱ_0 ... ᾱ_T of Ho et al. 2020."""
    kept = [1.0]
    for t in range(n_steps):
        beta = first + (last - first) * t / max(n_steps - 1, 1)
        kept.append(kept[-1] * (1 - beta))
    return kept


def ddpm_step(x_t: float, x_0: float, t: int, kept: Sequence[float], noise: float) -> float:
    """Ho et al. 2020, eqs. 6 and 7: the posterior of x_{t-1}."""
    alpha = kept[t] / kept[t - 1]
    beta = 1 - alpha
    mean = math.sqrt(kept[t - 1]) * beta / (1 - kept[t]) * x_0
    mean += math.sqrt(alpha) * (1 - kept[t - 1]) / (1 - kept[t]) * x_t
    return mean + math.sqrt((1 - kept[t - 1]) / (1 - kept[t]) * beta) * noise


def ddim_step(x_t: float, noise_said: float, t: int, to: int, kept: Sequence[float]) -> float:
    """Song et al. 2021, eq. 12 with sigma 0."""
    x_0 = (x_t - math.sqrt(1 - kept[t]) * noise_said) / math.sqrt(kept[t])
    return math.sqrt(kept[to]) * x_0 + math.sqrt(1 - kept[to]) * noise_said


def best_clean(x_t: float, t: int, kept: Sequence[float], mean: float, deviation: float) -> float:
    """E[x_0 | x_t] where x_0 is N(mean, deviation²)."""
    signal, spread = math.sqrt(kept[t]), 1 - kept[t]
    gain = deviation**2 * signal / (deviation**2 * kept[t] + spread)
    return mean + gain * (x_t - signal * mean)


def ddpm_of_gaussian(kept: Sequence[float], mean: float, deviation: float) -> tuple[float, float]:
    """(mean, variance) of what DDPM with the best denoiser makes of N(0, 1): every step is an affine map plus noise."""
    m, v = 0.0, 1.0
    for t in range(len(kept) - 1, 0, -1):
        at_0, at_1 = (ddpm_step(x, best_clean(x, t, kept, mean, deviation), t, kept, 0.0) for x in (0.0, 1.0))
        added = ddpm_step(0.0, 0.0, t, kept, 1.0)
        m, v = at_0 + (at_1 - at_0) * m, (at_1 - at_0) ** 2 * v + (added**2 if t > 1 else 0.0)
    return m, v


def shrinkage(rows: Points) -> float:
    """Schäfer and Strimmer 2005, correlations towards 0: Σ Var(r_ij) / Σ r_ij², i ≠ j, of standard rows."""
    n, d = len(rows), len(rows[0])
    above = below = 0.0
    for i in range(d):
        for j in range(d):
            if i != j:
                w = [row[i] * row[j] for row in rows]
                mean = sum(w) / n
                above += n / (n - 1) ** 3 * sum((one - mean) ** 2 for one in w)
                below += (n / (n - 1) * mean) ** 2
    return min(1.0, above / below)


def chamfer(a: Points, b: Points) -> float:
    def one_way(xs: Points, ys: Points) -> float:
        return sum(min(sum((p - q) ** 2 for p, q in zip(x, y, strict=True)) for y in ys) for x in xs) / len(xs)

    return one_way(a, b) + one_way(b, a)


def earth_movers(a: Points, b: Points) -> float:
    orders = itertools.permutations(range(len(b)))
    return min(sum(math.dist(x, b[j]) for x, j in zip(a, order, strict=True)) for order in orders) / len(a)


def figures(samples: Points, references: Points) -> dict[str, float]:
    """Minimum matching distance, coverage and 1-NN accuracy by Euclidean distance (Yang et al. 2019)."""
    mmd = sum(min(math.dist(s, r) for s in samples) for r in references) / len(references)
    nearest = {min(range(len(references)), key=lambda j: math.dist(s, references[j])) for s in samples}
    union = [(x, 0) for x in samples] + [(x, 1) for x in references]
    right = 0
    for i, (x, of) in enumerate(union):
        j = min((j for j in range(len(union)) if j != i), key=lambda j: math.dist(x, union[j][0]))
        right += union[j][1] == of
    return {"MMD": mmd, "COV": len(nearest) / len(references), "1-NNA": right / len(union)}
