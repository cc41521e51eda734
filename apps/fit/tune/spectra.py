"""Spectra of a signal by one number of frequency, and how far two of them are apart (FreSh; Kania et al., ICLR 2025).

    s = spectrum(values, n_bins=64)                 # amplitudes, normalised to sum 1
    d = wasserstein(s, spectrum(other, n_bins=64))  # in bins

A = sum over channels of |FFT|, without window and without the mean. The released code adds up A over the unique half
of the coefficients (i, j) with 0 <= i, j < N by i + j, which makes 3 - 4 = -1 cycles of it: a wave (3, -4) on 64 pixels
falls into bin 63, and with fewer bins is not seen at all. "classic" is that, faithfully. "folded" counts |i| + |j| and
sees both diagonals; it is our deviation. Of one axis both are |rfft| by k.
"""

from __future__ import annotations

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
    axes = tuple(range(array.ndim - 1))
    array = array - array.mean(axes)
    # what rounding leaves of a constant is no spectrum
    array[..., np.abs(array).max(axes) <= 1e-12 * np.abs(np.asarray(values, np.float64)).max(axes)] = 0
    if array.ndim == 2:
        amplitude = np.abs(np.fft.rfft(array, axis=0)).sum(-1)
        found = np.bincount(np.arange(len(amplitude)), amplitude, n_bins + 1)
    else:
        amplitude = np.abs(np.fft.fft2(array, axes=(0, 1))).sum(-1)
        index, weight = _bins(len(array), form)
        found = np.bincount(index.ravel(), (amplitude * weight).ravel(), n_bins + 1)
    found = found[1 : n_bins + 1]
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


def _bins(n: int, form: str) -> tuple[np.ndarray, np.ndarray]:
    """The bin of each coefficient, and 1, 1/2 or 0: each pair of conjugates counts once."""
    i, j = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
    weight = np.where(i + j < n, 1.0, np.where(i + j == n, 0.5, 0.0))
    weight[0, n // 2 + 1 :] = 0.0  # in the row and the column of zeros the conjugates lie beside each other
    weight[n // 2 + 1 :, 0] = 0.0
    if form == "folded":
        i, j = np.minimum(i, n - i), np.minimum(j, n - j)
    return i + j, weight
