"""How alike two sounds are: signal to noise, decibels below the peak, and the distance of their log spectrograms."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

WINDOW, HOP = 1024, 256
"""Samples of a frame of a spectrogram, and between frames."""
FLOOR_DB = -80.0
"""What is fainter than this, below the loudest place of the source, counts as silent in spectrograms."""
_FRAMES_AT_A_TIME = 1024


def figures_of(source: np.ndarray, fit: np.ndarray) -> dict[str, float | None]:
    """snr, psnr and log_spectral_distance, as below, to four digits; None where the source is silent."""
    found = {
        "snr": snr(source, fit),
        "psnr": peak_snr(source, fit),
        "log_spectral_distance": log_spectral_distance(source, fit),
    }
    return {name: None if value is None else round(value, 4) for name, value in found.items()}


def snr(source: np.ndarray, fit: np.ndarray) -> float | None:
    """10 log10 of the power of the source over that of the error; None of a silent source.

    Args:
        source, fit: (n_samples, n_channels).

    Example:
        >>> snr(np.array([[1.0], [-1.0]]), np.array([[0.9], [-0.9]]))
        20.0
    """
    power = float(np.square(source, dtype=np.float64).sum())
    if power == 0:
        return None
    return round(decibels(power / max(_squares(source, fit), 1e-12 * power)), 10)


def peak_snr(source: np.ndarray, fit: np.ndarray) -> float | None:
    """10 log10 of the square of the largest amplitude over the mean squared error: PSNR; None of a silent source."""
    peak = float(np.abs(source).max())
    if peak == 0:
        return None
    return decibels(peak**2 / max(_squares(source, fit) / source.size, 1e-12 * peak**2))


def log_spectral_distance(source: np.ndarray, fit: np.ndarray) -> float | None:
    """Root of the mean squared difference of two log spectrograms over frequency, in decibels, averaged over time.

    Gray and Markel 1976, "Distance measures for speech processing". Both are cut off `FLOOR_DB` below the loudest place
    of the source, or silence would count more than sound. None of a silent source.
    """
    loudest = max((float(power.max()) for power in _powers(source)), default=0.0)
    if loudest == 0:
        return None
    floor = loudest * 10 ** (FLOOR_DB / 10)
    total, n_frames = 0.0, 0
    for one, other in zip(_powers(source), _powers(fit), strict=True):
        difference = 10 * np.log10(np.maximum(one, floor) / np.maximum(other, floor))
        total += float(np.sqrt(np.mean(difference**2, -1)).sum())
        n_frames += difference.shape[0] * difference.shape[1]
    return total / n_frames


def spectrogram(samples: np.ndarray, *, most_columns: int = 1024) -> np.ndarray:
    """Power by frequency and time.

    Args:
        samples: (n_samples,) of one channel.
        most_columns: of long clips, frames are left out.

    Returns:
        (WINDOW / 2 + 1, n_frames), lowest frequency first.
    """
    frames = _frames(samples[:, None])[0]
    every = max(1, math.ceil(len(frames) / most_columns))
    return _power(frames[::every]).T


def decibels(ratio: float) -> float:
    """10 log10."""
    return 10 * math.log10(ratio)


def _squares(source: np.ndarray, fit: np.ndarray) -> float:
    return float(np.square(source - fit.astype(np.float64)).sum())


def _powers(samples: np.ndarray) -> Iterator[np.ndarray]:
    """(n_channels, n_frames, n_bins) of some frames at a time."""
    frames = _frames(samples)
    for first in range(0, frames.shape[1], _FRAMES_AT_A_TIME):
        yield _power(frames[:, first : first + _FRAMES_AT_A_TIME])


def _frames(samples: np.ndarray) -> np.ndarray:
    """(n_channels, n_frames, WINDOW) view; clips shorter than a window get silence at their end."""
    if len(samples) < WINDOW:
        samples = np.concatenate([samples, np.zeros((WINDOW - len(samples), samples.shape[1]), samples.dtype)])
    return np.lib.stride_tricks.sliding_window_view(samples, WINDOW, axis=0)[::HOP].swapaxes(0, 1)


def _power(frames: np.ndarray) -> np.ndarray:
    spectrum = np.fft.rfft(frames * np.hanning(WINDOW), axis=-1)
    power: np.ndarray = spectrum.real**2 + spectrum.imag**2
    return power
