"""How alike two pictures are: PSNR, SSIM, and the power of an image by frequency.

    metrics = Metrics()                                  # strips of any height, top to bottom: bounded memory
    for prediction, target in strips:
        metrics.add(prediction, target)
    metrics.psnr(), metrics.ssim()

Everything is summed in float64. uint8 and uint16 are read as value / 255 and value / 65535.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

WINDOW = 11
_SIGMA, _K1, _K2 = 1.5, 0.01, 0.03
_STRIP_VALUES = 2**18  # SSIM takes about eight float64 arrays of that many: 16 MiB


class Spectrum(NamedTuple):
    """Power by radial frequency."""

    frequency: np.ndarray
    """(n_bins,) centres of the bins, cycles per pixel."""
    power: np.ndarray
    """(n_bins,) mean squared Fourier coefficient of a bin; NaN in bins that no coefficient falls into."""


class Metrics:
    """PSNR and SSIM of two pictures that arrive as matching strips of rows, top to bottom.

    The result is that of the whole pictures, however they are cut. SSIM is Wang et al. 2004 ("Image quality
    assessment: from error visibility to structural similarity", eqs. 13 to 17): Gaussian window of 11 x 11 with sigma
    1.5, K1 = 0.01, K2 = 0.03, population covariances, mean over the places where the window fits and over channels.

    Args:
        peak: the value of full signal; for float pictures in linear light the largest value of the source
            (`Picture.peak`), for all others 1.

    Raises:
        ValueError: `peak` is not positive and finite.
    """

    def __init__(self, peak: float = 1.0) -> None:
        if not (math.isfinite(peak) and peak > 0):
            raise ValueError(f"peak: expected a positive finite number, got {peak}")
        self.peak = float(peak)
        self._shape: tuple[int, int] | None = None
        self._squares, self._n_values = 0.0, 0
        self._similarity, self._n_places = 0.0, 0
        self._above: tuple[np.ndarray, np.ndarray] | None = None

    def add(self, prediction: Any, target: Any) -> None:
        """Add the next rows.

        Args:
            prediction, target: (n_rows, width[, n_channels]) arrays or tensors of floats, uint8 or uint16.

        Raises:
            ValueError: the two, or this strip and those before, differ in shape.
        """
        prediction, target = _array("prediction", prediction), _array("target", target)
        if prediction.shape != target.shape:
            raise ValueError(f"prediction: expected the target's shape {target.shape}, got {prediction.shape}")
        self._shape = self._shape or prediction.shape[1:]
        if prediction.shape[1:] != self._shape:
            raise ValueError(f"prediction: expected rows of shape {self._shape} as before, got {prediction.shape[1:]}")
        n_rows = max(WINDOW, _STRIP_VALUES // math.prod(self._shape))
        for top in range(0, len(prediction), n_rows):
            self._add(_values(prediction[top : top + n_rows]), _values(target[top : top + n_rows]))

    def psnr(self) -> float:
        """Decibels, 10 log10(peak^2 / mean squared error); infinite for equal pictures.

        Raises:
            ValueError: nothing was added.
        """
        return 20 * math.log10(self.peak) - 10 * _log10(self.mean_squared_error())

    def mean_squared_error(self) -> float:
        """Over all pixels and channels."""
        if not self._n_values:
            raise ValueError("target: no rows were added, so there is nothing to measure")
        return self._squares / self._n_values

    def ssim(self) -> float | None:
        """In [-1, 1], 1 for equal pictures; None where a side is shorter than the window of 11 pixels."""
        return self._similarity / self._n_places if self._n_places else None

    def _add(self, prediction: np.ndarray, target: np.ndarray) -> None:
        self._squares += float(np.square(prediction - target).sum())
        self._n_values += prediction.size
        if self._above is not None:  # the ten rows above, whose windows reach into this strip
            prediction = np.concatenate([self._above[0], prediction])
            target = np.concatenate([self._above[1], target])
        self._above = prediction[1 - WINDOW :].copy(), target[1 - WINDOW :].copy()
        if min(prediction.shape[:2]) < WINDOW:
            return
        similarity = _similarity(prediction, target, self.peak)
        self._similarity += float(similarity.sum())
        self._n_places += similarity.size


def psnr(prediction: Any, target: Any, peak: float = 1.0) -> float:
    """Peak signal-to-noise ratio in decibels, over all pixels and channels.

    Args:
        prediction, target: (height, width[, n_channels]) arrays or tensors of floats, uint8 or uint16.
        peak: the value of full signal, see `Metrics`.

    Example:
        >>> round(psnr(np.full((4, 4), 0.6), np.full((4, 4), 0.5)), 6)
        20.0
    """
    metrics = Metrics(peak)
    metrics.add(prediction, target)
    return metrics.psnr()


def ssim(prediction: Any, target: Any, peak: float = 1.0) -> float | None:
    """Structural similarity, see `Metrics`; None where a side is shorter than 11 pixels.

    Example:
        >>> picture = np.linspace(0, 1, 256).reshape(16, 16)
        >>> ssim(picture, picture)
        1.0
    """
    metrics = Metrics(peak)
    metrics.add(prediction, target)
    return metrics.ssim()


def radial_spectrum(image: Any, n_bins: int = 64, *, has_window: bool = True) -> Spectrum:
    """Mean power of an image in rings of equal spatial frequency, mean over channels, without the mean colour.

    Args:
        image: (height, width[, n_channels]) floats, uint8 or uint16.
        n_bins: rings of equal width from 0 to sqrt(1/2) cycles per pixel, the corner of the spectrum.
        has_window: multiply by a Hann window first, so that opposite borders, which do not match, add no false power;
            the power is divided by the window's mean square.

    Returns:
        Spectrum: |F|^2 / n_pixels^2, so that without a window the sum over all coefficients is the variance (Parseval).

    Example:
        >>> wave = np.cos(2 * np.pi * np.arange(64) / 4)[None].repeat(64, 0)         # a quarter cycle per pixel
        >>> frequency, power = radial_spectrum(wave, 32)
        >>> round(float(frequency[np.nanargmax(power)]), 2)
        0.25
    """
    if n_bins < 1:
        raise ValueError(f"n_bins: expected at least 1, got {n_bins}")
    values = _values(_array("image", image))
    height, width, n_channels = values.shape
    window = np.ones((height, width))
    if has_window:  # the periodic form, without the zeros at both ends of the symmetric one
        window = np.outer(*(0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(n) + 0.5) / n) for n in (height, width)))
    power = np.zeros((height, width // 2 + 1))
    for channel in range(n_channels):
        plane = values[..., channel]
        mean = (plane * window).sum() / window.sum()
        power += np.square(np.abs(np.fft.rfft2((plane - mean) * window)))
    power /= n_channels * (height * width) ** 2 * np.square(window).mean()
    across = np.fft.rfftfreq(width)
    radius = np.hypot(np.fft.fftfreq(height)[:, None], across)
    edges = np.linspace(0, math.sqrt(0.5), n_bins + 1)
    ring = np.clip(np.searchsorted(edges, radius, side="right") - 1, 0, n_bins - 1).ravel()
    times = np.full(width // 2 + 1, 2.0)  # rfft leaves out the mirror image of all columns but the outer ones
    times[[0, -1] if width % 2 == 0 else [0]] = 1
    weight = np.broadcast_to(times, radius.shape).copy()
    weight[0, 0] = 0  # the mean
    total = np.bincount(ring, (power * weight).ravel(), n_bins)
    count = np.bincount(ring, weight.ravel(), n_bins)
    mean_power = np.divide(total, count, out=np.full(n_bins, np.nan), where=count > 0)
    return Spectrum((edges[:-1] + edges[1:]) / 2, mean_power)


def _similarity(x: np.ndarray, y: np.ndarray, peak: float) -> np.ndarray:
    """SSIM at every place where the window fits: (height - 10, width - 10, n_channels)."""
    c1, c2 = (_K1 * peak) ** 2, (_K2 * peak) ** 2
    mean_x, mean_y = _blur(x), _blur(y)
    mean_xy, mean_squares = mean_x * mean_y, mean_x**2 + mean_y**2
    covariance = _blur(x * y) - mean_xy
    variances = _blur(x * x + y * y) - mean_squares
    return (2 * mean_xy + c1) * (2 * covariance + c2) / ((mean_squares + c1) * (variances + c2))


def _blur(image: np.ndarray) -> np.ndarray:
    """Gaussian-weighted means of all 11 x 11 windows inside: (height - 10, width - 10, n_channels)."""
    import cv2

    half = WINDOW // 2
    weight = np.exp(-0.5 * (np.arange(-half, half + 1) / _SIGMA) ** 2)
    weight /= weight.sum()
    blurred = cv2.sepFilter2D(image, cv2.CV_64F, weight, weight)
    return blurred.reshape(image.shape)[half:-half, half:-half]


def _array(name: str, picture: Any) -> np.ndarray:
    """(height, width, n_channels) in its own dtype."""
    array = picture.detach().cpu().numpy() if isinstance(picture, Tensor) else np.asarray(picture)
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or 0 in array.shape:
        raise ValueError(f"{name}: expected (height, width) or (height, width, n_channels), got {array.shape}")
    if array.dtype not in (np.uint8, np.uint16) and not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"{name}: expected floats, uint8 or uint16, got {array.dtype}")
    return array


def _values(array: np.ndarray) -> np.ndarray:
    scale = np.iinfo(array.dtype).max if array.dtype.kind == "u" else 1
    return np.true_divide(array, scale, dtype=np.float64)


def _log10(x: float) -> float:
    return math.log10(x) if x > 0 else -math.inf if x == 0 else math.nan
