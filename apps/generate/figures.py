"""How good and how new generated fields are: MMD, COV, 1-NNA, Fréchet distance, distance to the nearest training field.

    of_samples, between, of_references = euclidean(s, s), euclidean(s, r), euclidean(r, r)
    figures(of_samples, between, of_references, generator=generator)["1-NNA"]     # Figure(value=..., low=..., high=...)

Everything is computed from matrices of distances, whatever they are between: pixels of rendered fields, points on their
surfaces (Chamfer, earth mover's), weights. The figures are those of Achlioptas et al. 2018 and Yang et al. 2019
(PointFlow), as in HyperDiffusion. 1-NNA alone does not tell memory from skill, since noise on copies of the training
set scores well: read it beside `novelty`.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


def _unseen(share: float) -> None:
    pass


class Figure(NamedTuple):
    """A mean over items with its bootstrap interval."""

    value: float
    low: float
    high: float


class Nearest(NamedTuple):
    """The training fields nearest to each of n items."""

    index: np.ndarray
    """(n,) int64: which one is the nearest."""
    first: np.ndarray
    """(n,) float64: how far it is."""
    second: np.ndarray
    """(n,): how far the nearest one of another item is; inf where there is none."""


class Novelty(NamedTuple):
    """Distances to the nearest training field: of samples, in the measure of the training fields' own."""

    ratio: float
    """Median of the first over median of the second; 1 and above: samples are as far apart from the training set as
    it is from itself."""
    nearer: float
    """The probability that a sample is nearer to the training set than one of its own fields is to the others, ties
    counted half; 0.5 where the two are alike."""
    quantile: float
    """The distance below which 5 % of the training fields have their nearest other one."""
    below: float
    """The part of samples below it; 0.05 where the two are alike."""
    copies: float
    """The part of samples that are copies, see `are_copies`."""


def euclidean(a: Tensor, b: Tensor) -> Tensor:
    """(n, d) and (m, d) to (n, m) distances √Σ(a - b)², without the cancellation of |a|² - 2ab + |b|²."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


class Clouds:
    """Point sets (n, p, d), each with a tree in which the nearest point is found quickly.

    Raises:
        ValueError: they are not sets of points, or a set is empty.
    """

    def __init__(self, points: Tensor) -> None:
        from scipy.spatial import cKDTree

        if points.ndim != 3 or points.shape[1] == 0:
            raise ValueError(f"points: expected (n, p, d), p of at least 1, got {list(points.shape)}")
        self.points = points.detach().double().cpu().numpy()
        self.trees = [cKDTree(one) for one in self.points]

    def __len__(self) -> int:
        return len(self.points)


def chamfer(a: Tensor | Clouds, b: Tensor | Clouds, *, observe: Callable[[float], None] = _unseen) -> Tensor:
    """Chamfer distances of point sets: mean of squares to the nearest point, one way plus the other.

    Args:
        a: (n, p, d) point sets, or the `Clouds` of them.
        b: (m, q, d); where it is `a` itself, each pair is looked at once.
        observe: told the share of the work that is done.

    Returns:
        (n, m) float64, in squared units of the points. Not differentiable.

    Raises:
        ValueError: they are not sets of points of one dimension, or a set is empty.
    """
    for name, sets in (("a", a), ("b", b)):
        shape = sets.points.shape if isinstance(sets, Clouds) else sets.shape
        first = a.points.shape if isinstance(a, Clouds) else a.shape
        if len(shape) != 3 or shape[1] == 0 or shape[-1] != first[-1]:
            raise ValueError(f"{name}: expected (n, p, d) and (m, q, d) points, got {list(first)} and {list(shape)}")
    left = a if isinstance(a, Clouds) else Clouds(a)
    right = left if b is a else b if isinstance(b, Clouds) else Clouds(b)

    def between(i: int, j: int) -> float:
        there, _ = right.trees[j].query(left.points[i])
        back, _ = left.trees[i].query(right.points[j])
        return float(np.square(there).mean() + np.square(back).mean())

    return _of_pairs(between, len(left), len(right), left is right, observe)


def earth_movers(a: Tensor, b: Tensor, *, observe: Callable[[float], None] = _unseen) -> Tensor:
    """Earth mover's distances of point sets of one size: the mean length of the best one-to-one matching.

    Args:
        a: (n, p, d) point sets.
        b: (m, p, d); where it is `a` itself, each pair is looked at once.
        observe: told the share of the work that is done.

    Returns:
        (n, m) float64, in units of the points; the matching is exact, p³ work a pair. Not differentiable.

    Raises:
        ValueError: they are not sets of as many points each.
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    if a.ndim != 3 or b.ndim != 3 or a.shape[1:] != b.shape[1:] or a.shape[1] == 0:
        raise ValueError(f"a: expected (n, p, d) and (m, p, d) points, got {list(a.shape)} and {list(b.shape)}")
    left, right = (sets.detach().double().cpu().numpy() for sets in (a, b))

    def between(i: int, j: int) -> float:
        lengths = cdist(left[i], right[j])
        return float(lengths[linear_sum_assignment(lengths)].mean())

    return _of_pairs(between, len(left), len(right), a is b, observe)


def _of_pairs(
    between: Callable[[int, int], float], n: int, m: int, is_same: bool, observe: Callable[[float], None]
) -> Tensor:
    """(n, m) of a function of two numbers, in as many threads as torch may use; of one set with itself, by halves."""
    out = torch.zeros(n, m, dtype=torch.float64)

    def row(i: int) -> list[float]:
        return [between(i, j) for j in range(i + 1 if is_same else 0, m)]

    n_pairs, n_done = max(1, n * (n - 1) // 2 if is_same else n * m), 0
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for i, values in enumerate(pool.map(row, range(n))):
            out[i, m - len(values) :] = torch.tensor(values, dtype=torch.float64)
            n_done += len(values)
            observe(n_done / n_pairs)
    return out + out.T if is_same else out


def figures(
    of_samples: Tensor,
    between: Tensor,
    of_references: Tensor,
    *,
    n_lost: int = 0,
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
        n_lost: samples beside these n that are nothing to compare (a shape without a surface); each is told apart.
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
        "1-NNA": torch.cat([_same(others(of_samples), between.amin(1)), _same(others(of_references), between.amin(0)),
                            torch.ones(n_lost, dtype=torch.float64)]),
    }  # fmt: skip
    return {name: bootstrap(values, n_bootstrap, level, generator) for name, values in items.items()}


def bootstrap(values: Tensor, n: int = 1000, level: float = 0.95, generator: torch.Generator | None = None) -> Figure:
    """The mean of (k,) values and the percentile interval of the means of `n` resamplings."""
    index = torch.randint(0, len(values), (n, len(values)), generator=generator)
    means = values.double()[index].mean(1)
    low, high = torch.quantile(means, torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)).tolist()
    return Figure(float(values.double().mean()), low, high)


def novelty(samples: Nearest, training: Nearest) -> Novelty:
    """How far samples are from the training set, in the measure of how far it is from itself.

    Args:
        samples: of each sample, its nearest training fields.
        training: of training fields, their nearest others.

    Raises:
        ValueError: there are no samples, or no training fields.
    """
    if not len(samples.first) or not len(training.first):
        raise ValueError(f"samples: expected samples and training fields, got {len(samples.first)} and "
                         f"{len(training.first)}")  # fmt: skip
    ranked = np.sort(training.first)
    above = len(ranked) - np.searchsorted(ranked, samples.first, "right")
    equal = len(ranked) - above - np.searchsorted(ranked, samples.first, "left")
    median, quantile = float(np.median(ranked)), float(np.quantile(ranked, 0.05))
    return Novelty(
        ratio=float(np.median(samples.first)) / median if median > 0 else float("inf"),
        nearer=float(np.mean(above + 0.5 * equal) / len(ranked)),
        quantile=quantile,
        below=float(np.mean(samples.first < quantile)),
        copies=float(np.mean(are_copies(samples, quantile))),
    )


def are_copies(samples: Nearest, quantile: float) -> np.ndarray:
    """(n,) bool: which samples belong to one training field.

    A copy is nearer to a training field than the 5 % `quantile` of distances between neighbours in the training set,
    and at most two thirds as far from it as from the next one; or nearer than a third of that quantile. The middle of
    two fields is as near to the one as to the other, and no copy. Distance 0 is one whatever the quantile.
    """
    first, second = samples.first, samples.second
    found: np.ndarray = (first == 0) | ((first < quantile) & ((first <= second * 2 / 3) | (first <= quantile / 3)))
    return found


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
