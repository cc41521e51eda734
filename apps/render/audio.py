"""Play an audio field into samples at any rate."""

from __future__ import annotations

import math

import numpy as np
import torch

from fieldforge.devices import home
from fieldforge.fields.kinds.audio import AudioField

MAX_VALUES = 2**27
"""Samples times channels that are made at once."""
_A_CALL = 2**16


def sample(field: AudioField, rate: int | None = None) -> np.ndarray:
    """The sound of a field.

    Where the rate is below that of the clip the field is asked more often and filtered, so that nothing above half the
    rate folds back into the sound; where it is above, what lies between the samples of the clip is the field's guess.

    Args:
        field: an audio field.
        rate: samples a second; None: those of the clip.

    Returns:
        (n_samples, n_channels) float32; sample i is the sound at (i + 1/2) / rate.

    Raises:
        ValueError: no such rate, or too many samples.
    """
    rate = field.sample_rate if rate is None else rate
    if isinstance(rate, bool) or not isinstance(rate, int) or rate < 1:
        raise ValueError(f"rate: expected a whole number of samples a second, got {rate!r}")
    n_samples = max(1, round(field.duration * rate))
    times = 2 * math.ceil((field.sample_rate / rate - 1) / 2) + 1 if rate < field.sample_rate else 1  # odd
    if n_samples * times * field.n_channels > MAX_VALUES:
        raise ValueError(
            f"rate: {rate} Hz over {field.duration:g} s are {n_samples:,} samples, of {field.n_channels} channels too "
            f"many; at most {MAX_VALUES // (times * field.n_channels):,} are made"
        )
    dense = _at(field, n_samples * times, rate * times)
    return dense if times == 1 else _decimated(dense, times)


def _at(field: AudioField, n_samples: int, rate: int) -> np.ndarray:
    pieces = []
    for some in torch.arange(n_samples).split(_A_CALL):
        with torch.no_grad():
            pieces.append(field.amplitude((some.double()[:, None] + 0.5) / rate))
    made: np.ndarray = home(torch.cat(pieces))
    return made


def _decimated(samples: np.ndarray, times: int) -> np.ndarray:
    """Every `times`-th sample, an odd number, after a low-pass filter; the middle one of each group stays in place."""
    from scipy.signal import firwin, oaconvolve

    taps = firwin(32 * times + 1, 0.92 / times)
    edge = len(taps) // 2
    padded = np.pad(samples.astype(np.float64), ((edge, edge), (0, 0)), mode="edge")
    smooth = oaconvolve(padded, taps[:, None], mode="valid", axes=0)
    return np.ascontiguousarray(smooth[times // 2 :: times], np.float32)
