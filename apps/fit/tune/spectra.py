"""Spectra of a signal by one number of frequency, and how far two of them are apart (FreSh; Kania et al., ICLR 2025).

    s = spectrum(values, n_bins=64)                 # amplitudes, normalised to sum 1
    d = wasserstein(s, spectrum(other, n_bins=64))  # in bins

A = sum over channels of |FFT|, without window and without the mean. The released code adds up A over the unique half
of the coefficients (i, j) with 0 <= i, j < N by i + j, which makes 3 - 4 = -1 cycles of it: a wave (3, -4) on 64 pixels
falls into bin 63, and with fewer bins is not seen at all. "classic" is that, faithfully. "folded" counts |i| + |j| and
sees both diagonals; it is our deviation. Of one axis both are |rfft| by k.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from fieldforge.checks import expect_choice, expect_int

FORMS = ("classic", "folded")


def spectrum(values: Any, n_bins: int = 64, form: str = "classic") -> np.ndarray:
    """Share of the amplitude at frequencies 1 to n_bins, cycles a side.

    Args:
        values: (n, n_channels) or (n, n, n_channels), an array.
        n_bins: S of the paper: 128, for SIREN 64, for radiance fields half of that.
        form: "classic" or "folded".

    Returns:
        (n_bins,) float64 with sum 1; zeros where there is nothing but a mean; NaN where a value is not finite.

    Raises:
        ValueError: another shape, or rows and columns differ in number.

    Example:
        >>> wave = np.cos(2 * np.pi * 3 * np.arange(16) / 16)[:, None]
        >>> spectrum(wave, 4).round(6).tolist()
        [0.0, 0.0, 1.0, 0.0]
    """
    n_bins, form = expect_int("n_bins", n_bins, 1, 2**20), expect_choice("form", form, FORMS)
    array = np.asarray(values, np.float64)
    if array.ndim == 3 and array.shape[0] != array.shape[1]:
        raise ValueError(f"values: expected as many rows as columns, got {array.shape}; resample them")
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise ValueError(f"values: expected (n, n_channels) or (n, n, n_channels), got {array.shape}")
    if not np.isfinite(array).all():
        return np.full(n_bins, np.nan)
    planes = np.ascontiguousarray(np.moveaxis(array, -1, 0))  # channel by channel
    axes = tuple(range(1, array.ndim))
    largest = np.abs(planes).max(axes)
    planes = planes - planes.mean(axes, keepdims=True)
    planes[np.abs(planes).max(axes) <= 1e-12 * largest] = 0  # what rounding leaves of a constant is no spectrum
    transformed = np.fft.rfftn(planes, axes=axes).reshape(len(planes), -1)
    coefficient, index, weight = _terms(len(array), array.ndim - 1, n_bins, form)
    amplitude = np.abs(transformed[:, coefficient]).sum(0)
    found = np.bincount(index, amplitude * weight, n_bins + 1)[1:]
    total = found.sum()
    return found / total if total > 0 else found


def wasserstein(p: np.ndarray, q: np.ndarray) -> float:
    """1-Wasserstein distance of two spectra, in bins; infinite where one of them is empty or not finite.

    Example:
        >>> wasserstein(np.array([1.0, 0, 0]), np.array([0, 0, 1.0]))
        2.0
    """
    total = p.sum(), q.sum()
    if not (np.isfinite(total).all() and min(total) > 0):
        return float("inf")
    return float(np.abs(np.cumsum(p / total[0] - q / total[1])).sum())


@functools.lru_cache(maxsize=16)
def _terms(n: int, n_axes: int, n_bins: int, form: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the bins 1 to n_bins are sums of: numbers of coefficients of rfftn, flat, their bins and their weights."""
    if n_axes == 1:
        index = np.arange(1, min(n // 2, n_bins) + 1)
        return index, index, np.ones(len(index))
    i, j = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
    # each pair of conjugates counts once
    weight = np.where(i + j < n, 1.0, np.where(i + j == n, 0.5, 0.0))
    weight[0, n // 2 + 1 :] = 0.0  # in the row and the column of zeros the conjugates lie beside each other
    weight[n // 2 + 1 :, 0] = 0.0
    index = np.minimum(i, n - i) + np.minimum(j, n - j) if form == "folded" else i + j
    counts = (weight > 0) & (index > 0) & (index <= n_bins)
    i, j, index, weight = i[counts], j[counts], index[counts], weight[counts]
    is_left_out = j > n // 2  # of those rfftn has the conjugate alone
    i, j = np.where(is_left_out, -i % n, i), np.where(is_left_out, n - j, j)
    return i * (n // 2 + 1) + j, index, weight
