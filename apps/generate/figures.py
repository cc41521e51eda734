"""How good and how new generated fields are: MMD, COV, 1-NNA, Fréchet distance, distance to the nearest training field.

    of_samples, between, of_references = euclidean(s, s), euclidean(s, r), euclidean(r, r)
    figures(of_samples, between, of_references, generator=generator)["1-NNA"]     # Figure(value=..., low=..., high=...)

Everything is computed from matrices of distances, whatever they are between: pixels of rendered fields, points on their
surfaces (Chamfer, earth mover's), weights. The figures are those of Achlioptas et al. 2018 and Yang et al. 2019
(PointFlow), as in HyperDiffusion. 1-NNA alone does not tell memory from skill, since noise on copies of the training
set scores well: read it beside `novelty`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_ENTRIES = 2**24  # distances between points held at once: 64 MiB of float32


class Figure(NamedTuple):
    """A mean over items with its bootstrap interval."""

    value: float
    low: float
    high: float


class Novelty(NamedTuple):
    """Distances to the nearest training field, of samples and of the training fields themselves."""

    samples: np.ndarray
    """(n_samples,): from each sample to the nearest training field."""
    training: np.ndarray
    """(n_training,): from each training field to the nearest other one."""
    ratio: float
    """Median of the first over median of the second; 1 and above: samples are as far apart from the training set as
    it is from itself."""
    nearer: float
    """The probability that a sample is nearer to the training set than one of its own fields is to the others, ties
    counted half; 0.5 where the two are alike."""
    verdict: str
    """"replaying", "interpolating" or "new"."""


def euclidean(a: Tensor, b: Tensor) -> Tensor:
    """(n, d) and (m, d) to (n, m) distances √Σ(a - b)², without the cancellation of |a|² - 2ab + |b|²."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def chamfer(a: Tensor, b: Tensor) -> Tensor:
    """Chamfer distances of point sets: mean of squares to the nearest point, one way plus the other.

    Args:
        a: (n, p, d) point sets.
        b: (m, q, d).

    Returns:
        (n, m), in squared units of the points.

    Raises:
        ValueError: they are not sets of points of one dimension, or a set is empty.
    """
    if a.ndim != 3 or b.ndim != 3 or a.shape[2] != b.shape[2] or 0 in (a.shape[1], b.shape[1]):
        raise ValueError(f"a: expected (n, p, d) and (m, q, d) points, got {list(a.shape)} and {list(b.shape)}")
    out = a.new_zeros(len(a), len(b))
    n_at_once = max(1, _ENTRIES // (a.shape[1] * b.shape[1]))
    for i, points in enumerate(a):
        for start in range(0, len(b), n_at_once):
            others = b[start : start + n_at_once]
            squares = euclidean(points.expand(len(others), -1, -1), others).square()  # (k, p, q)
            out[i, start : start + n_at_once] = squares.amin(2).mean(1) + squares.amin(1).mean(1)
    return out


def earth_movers(a: Tensor, b: Tensor) -> Tensor:
    """Earth mover's distances of point sets of one size: the mean length of the best one-to-one matching.

    Args:
        a: (n, p, d) point sets.
        b: (m, p, d).

    Returns:
        (n, m), in units of the points; the matching is exact, p³ work a pair.

    Raises:
        ValueError: they are not sets of as many points each.
    """
    from scipy.optimize import linear_sum_assignment

    if a.ndim != 3 or b.ndim != 3 or a.shape[1:] != b.shape[1:] or a.shape[1] == 0:
        raise ValueError(f"a: expected (n, p, d) and (m, p, d) points, got {list(a.shape)} and {list(b.shape)}")
    out = a.new_zeros(len(a), len(b))
    for i, points in enumerate(a):
        for j, other in enumerate(b):
            lengths = euclidean(points, other).double().cpu().numpy()
            out[i, j] = float(lengths[linear_sum_assignment(lengths)].mean())
    return out


def figures(
    of_samples: Tensor,
    between: Tensor,
    of_references: Tensor,
    *,
    n_bootstrap: int = 1000,
    level: float = 0.95,
    generator: torch.Generator | None = None,
) -> dict[str, Figure]:
    """MMD, COV and 1-NNA of samples against a reference set that training has not seen.

    - MMD: mean over references of the distance to the nearest sample. Low is good; copies of few references do well.
    - COV: the part of references that are the nearest of some sample. High is good.
    - 1-NNA: how often the nearest other item of the union is of the same set, ties counted half. 0.5 is good, 1 says
      that the two sets are told apart without fail, below 0.5 that samples sit on references.

    Each is a mean over items. Its interval is the bootstrap's over these items, neighbours held: how much the figure
    depends on which references (and samples) were drawn, not on another training of the model.

    Args:
        of_samples: (n, n) distances among samples.
        between: (n, m) from samples to references.
        of_references: (m, m).
        n_bootstrap: how many resamplings.
        level: of the interval.
        generator: source of the resamplings.

    Returns:
        "MMD", "COV" and "1-NNA".

    Raises:
        ValueError: shapes do not fit, a set has fewer than two items, or a distance is not a number.
    """
    n, m = between.shape if between.ndim == 2 else (0, 0)
    if of_samples.shape != (n, n) or of_references.shape != (m, m) or min(n, m) < 2:
        raise ValueError(
            "between: expected (n, n), (n, m) and (m, m) distances of at least two items each, got "
            f"{list(of_samples.shape)}, {list(between.shape)} and {list(of_references.shape)}"
        )
    for name, matrix in (("of_samples", of_samples), ("between", between), ("of_references", of_references)):
        if bool(torch.isnan(matrix).any()):
            raise ValueError(f"{name}: expected distances, got {int(torch.isnan(matrix).sum())} that are not a number")
    of_samples, between, of_references = (one.detach().cpu() for one in (of_samples, between, of_references))
    covered = torch.zeros(m, dtype=torch.float64)
    covered[between.argmin(1)] = 1
    items = {
        "MMD": between.amin(0).double(),
        "COV": covered,
        "1-NNA": torch.cat([_same(others(of_samples), between.amin(1)), _same(others(of_references), between.amin(0))]),
    }
    return {name: bootstrap(values, n_bootstrap, level, generator) for name, values in items.items()}


def bootstrap(values: Tensor, n: int = 1000, level: float = 0.95, generator: torch.Generator | None = None) -> Figure:
    """The mean of (k,) values and the percentile interval of the means of `n` resamplings."""
    index = torch.randint(0, len(values), (n, len(values)), generator=generator)
    means = values.double()[index].mean(1)
    low, high = torch.quantile(means, torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)).tolist()
    return Figure(float(values.double().mean()), low, high)


def novelty(to_training: Tensor, of_training: Tensor) -> Novelty:
    """How far samples are from the training set, in the measure of how far it is from itself.

    The verdict is "replaying" if the ratio is below a third (the middle between two neighbours would be at a half);
    else "interpolating" if a sample is the nearer one in more than 60 % of pairs; else "new".

    Args:
        to_training: (n, m) distances from samples to training fields.
        of_training: (m, m) among training fields.

    Raises:
        ValueError: shapes do not fit, or there are fewer than two training fields or no samples.
    """
    m = len(of_training)
    if (
        of_training.shape != (m, m)
        or m < 2
        or to_training.ndim != 2
        or to_training.shape[1] != m
        or not len(to_training)
    ):
        raise ValueError(
            "to_training: expected (n, m) beside (m, m) distances, m of at least 2, "
            f"got {list(to_training.shape)} and {list(of_training.shape)}"
        )
    samples = to_training.amin(1).double().cpu().numpy()
    training = others(of_training).double().cpu().numpy()
    ranked = np.sort(training)
    above = m - np.searchsorted(ranked, samples, "right")
    equal = m - above - np.searchsorted(ranked, samples, "left")
    nearer = float(np.mean(above + 0.5 * equal) / m)
    median = float(np.median(training))
    ratio = float(np.median(samples)) / median if median > 0 else float("inf")
    if ratio < 1 / 3:
        verdict = "replaying"
    else:
        verdict = "interpolating" if nearer > 0.6 else "new"
    return Novelty(samples, training, ratio, nearer, verdict)


def frechet(a: Tensor, b: Tensor) -> float:
    """Squared Fréchet distance of the Gaussians of two sets of features, |μ - ν|² + tr(A + B - 2 (A B)^½).

    Args:
        a: (n, d) features, n of at least 2.
        b: (m, d).
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"a: expected (n, d) and (m, d) features of two items or more, "
                         f"got {list(a.shape)} and {list(b.shape)}")  # fmt: skip
    a, b = a.double(), b.double()
    root = _root(_covariance(a))
    # (A B)^½ has the trace of (A^½ B A^½)^½, which is symmetric
    crossed = torch.linalg.eigvalsh(root @ _covariance(b) @ root).clamp_min(0).sqrt().sum()
    spread = _covariance(a).trace() + _covariance(b).trace() - 2 * crossed
    return float((a.mean(0) - b.mean(0)).square().sum() + spread)


def others(square: Tensor) -> Tensor:
    """(n, n) distances to (n,): from each item to the nearest other one."""
    return square.masked_fill(torch.eye(len(square), dtype=torch.bool, device=square.device), torch.inf).amin(1)


def _same(own: Tensor, other: Tensor) -> Tensor:
    """1 where the nearest item is of the same set, 0.5 where it is undecided."""
    return (own < other).double() + 0.5 * (own == other).double()


def _covariance(x: Tensor) -> Tensor:
    centred = x - x.mean(0)
    return centred.T @ centred / (len(x) - 1)


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp_min(0).sqrt() @ vectors.T
