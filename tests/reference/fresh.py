"""Spectra of FreSh, coefficient by coefficient from the definition of the Fourier transform."""

from __future__ import annotations

import cmath
import math

import numpy as np


def spectrum(values: np.ndarray, n_bins: int, form: str) -> np.ndarray:
    """(n, n, c) -> (n_bins,): amplitudes at i + j cycles, one of each pair of conjugates, summing to 1."""
    n, _, n_channels = values.shape
    bins = [0.0] * (2 * n + n_bins + 2)
    for i in range(n):
        for j in range(n):
            mirror = (-i % n, -j % n)
            if (i, j) == (0, 0):
                continue
            # of two conjugates the one with the smaller sum of indices counts; of equal sums each counts half
            if i + j > sum(mirror):
                continue
            weight = 0.5 if i + j == sum(mirror) and mirror != (i, j) else 1.0
            if mirror == (i, j) and i and j:
                weight = 0.5  # the corner of the highest frequencies lies on the line that is halved as a whole
            amplitude = 0.0
            for channel in range(n_channels):
                total = 0j
                for y in range(n):
                    for x in range(n):
                        total += values[y, x, channel] * cmath.exp(-2j * math.pi * (i * y + j * x) / n)
                amplitude += abs(total)
            k = i + j if form == "classic" else min(i, n - i) + min(j, n - j)
            bins[k] += weight * amplitude
    found = np.array(bins[1 : n_bins + 1])
    return found / found.sum() if found.sum() > 0 else found


def wasserstein(p: np.ndarray, q: np.ndarray) -> float:
    """The least work of moving mass p to q along the bins: what is over at each is carried on to the next."""
    have, want = [float(x) / float(p.sum()) for x in p], [float(x) / float(q.sum()) for x in q]
    work, at_p, at_q = 0.0, 0, 0
    while at_p < len(have) and at_q < len(want):
        moved = min(have[at_p], want[at_q])
        work += moved * abs(at_p - at_q)
        have[at_p] -= moved
        want[at_q] -= moved
        if have[at_p] <= want[at_q]:
            at_p += 1
        else:
            at_q += 1
    return work
