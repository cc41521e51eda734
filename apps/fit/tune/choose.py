"""Choose a setting before training: the one whose untrained network has the signal's spectrum.

FreSh (Kania et al., ICLR 2025, "Frequency Shifting for Accelerated Neural Representation Learning"): for each candidate
the mean, over `n_init` random initialisations, of the Wasserstein distance between the spectrum of what the untrained
network says and the signal's; the nearest is trained. No training step is made, so all of a choice costs some forward
passes.

The paper runs every candidate `n_init` times. Here those that are clearly farther after `n_first` runs are left out,
which is most of the cost; `n_first=None` is the paper's. And a setting that stands already is kept unless another is
nearer by more than two standard errors of the difference: that rule is ours too, against changes by chance.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fieldforge.apps.fit.slices import Slice, answers
from fieldforge.apps.fit.tune.spectra import spectrum, wasserstein
from fieldforge.checks import expect_int

MAX_CANDIDATES = 4096
_SEED_STRIDE = 7919
"""Between the seeds of initialisations, so that none is the one that is trained."""


@dataclass(frozen=True)
class Distance:
    """How far a candidate is from the signal."""

    mean: float
    """Over initialisations and slices, in bins."""
    error: float
    """Standard error of the mean over initialisations; nan of a single one."""
    n_init: int


@dataclass(frozen=True)
class Choice:
    """What was chosen, and how near every candidate came.

    Attributes:
        best: index of the candidate.
        distances: of each candidate.
        seconds: CPU seconds that choosing took.
        n_passes: forward passes over the slices.
    """

    best: int
    distances: list[Distance]
    seconds: float
    n_passes: int


def choose_by_spectrum(
    make: Callable[[Any, int], Callable[[Tensor], Tensor]],
    candidates: Sequence[Any],
    target: Sequence[Slice],
    *,
    n_init: int = 10,
    n_bins: int = 64,
    form: str = "classic",
    n_first: int | None = 1,
    seed: int = 0,
    present: int | None = None,
) -> Choice:
    """The candidate whose untrained field is nearest to a signal's spectrum.

    Args:
        make: (candidate, seed) -> an untrained field: (*batch, d) world points to (*batch, c) values.
        candidates: whatever `make` understands, at least one.
        target: slices of the signal, each of one axis or a square; distances are averaged over them.
        n_init: initialisations of a candidate.
        n_bins: frequencies that count, S of the paper.
        form: of the spectrum, "classic" or "folded".
        n_first: initialisations after which candidates drop out that are farther than the nearest by more than three
            pooled standard errors, or after a single one by more than half; None keeps all.
        seed: of the initialisations; same seed, same choice. No global random state is touched.
        present: index of the candidate that is kept unless another is clearly nearer; None: there is none.

    Raises:
        ValueError: no candidate, no slice, a signal that is the same everywhere, or no candidate with a spectrum.
    """
    if not 1 <= len(candidates) <= MAX_CANDIDATES:
        raise ValueError(f"candidates: expected 1 to {MAX_CANDIDATES}, got {len(candidates)}")
    if not target:
        raise ValueError("target: expected at least one slice of the signal, got none")
    n_init = expect_int("n_init", n_init, 1, 10_000)
    n_first = n_init if n_first is None else min(n_init, expect_int("n_first", n_first, 1, 10_000))
    wanted = [spectrum(one.values.detach().cpu().numpy(), n_bins, form) for one in target]
    wanted, slices = _with_spectrum(wanted, target)
    start, n_passes = time.process_time(), 0
    found: list[list[float]] = [[] for _ in candidates]

    def run(number: int, first: int, last: int) -> None:
        nonlocal n_passes
        for repeat in range(first, last):
            field = make(candidates[number], seed + _SEED_STRIDE * (repeat + 1))
            apart = []
            for one, goal in zip(slices, wanted, strict=True):
                with torch.no_grad():
                    said = answers(field, one.points).detach().cpu().double().numpy()
                apart.append(wasserstein(spectrum(said, n_bins, form), goal))
            n_passes += 1
            found[number].append(float(np.mean(apart)))

    with torch.random.fork_rng(devices=[]):
        for number in range(len(candidates)):
            run(number, 0, n_first)
        for number in sorted({*_near(found), *([] if present is None else [present])}):
            run(number, n_first, n_init)
    distances = [_distance(one) for one in found]
    full = [number for number in range(len(candidates)) if len(found[number]) == n_init]
    best = min(full, key=lambda number: distances[number].mean)
    if not math.isfinite(distances[best].mean):
        raise ValueError("candidates: none of the untrained fields has a spectrum; they are constant or not finite")
    if present is not None and not _is_nearer(distances[best], distances[present]):
        best = present
    return Choice(best, distances, time.process_time() - start, n_passes)


def _is_nearer(one: Distance, other: Distance) -> bool:
    """By more than two standard errors of the difference; where there is no error, at all."""
    error = math.hypot(one.error, other.error)
    return one.mean < other.mean - (0.0 if math.isnan(error) else 2 * error)


def _with_spectrum(wanted: list[np.ndarray], target: Sequence[Slice]) -> tuple[list[np.ndarray], list[Slice]]:
    """Slices that hold more than one value (a plane may miss a shape, a frame may be black)."""
    kept = [i for i, one in enumerate(wanted) if np.isfinite(one).all() and one.sum() > 0]
    if not kept:
        raise ValueError("target: the signal is the same everywhere, so it has no spectrum to choose by")
    return [wanted[i] for i in kept], [target[i] for i in kept]


def _near(found: Sequence[Sequence[float]]) -> list[int]:
    """Candidates that may still be nearest: within three standard errors, pooled over all, of the one that leads.

    After one initialisation there is no error to tell; distances of one setting differ by 0.1 to 0.2 of their mean.
    """
    means = np.array([np.mean(one) for one in found])
    leads = means.min()
    n = len(found[0])
    finite = [one for one in found if np.isfinite(one).all()]
    if not math.isfinite(leads):
        return list(range(len(found)))
    if n == 1:
        return [number for number, mean in enumerate(means) if mean <= 1.5 * leads]
    # spreads grow with the distance itself: compare them as ratios
    ratio = np.mean([float(np.var(one, ddof=1)) / max(float(np.mean(one)), 1e-12) ** 2 for one in finite])
    slack = 3 * math.sqrt(2 * ratio / n)
    return [number for number, mean in enumerate(means) if mean <= leads * (1 + slack)]


def _distance(values: Sequence[float]) -> Distance:
    n = len(values)
    finite = n > 1 and bool(np.isfinite(values).all())
    return Distance(float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(n)) if finite else math.nan, n)
