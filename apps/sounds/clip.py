"""A sound in memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from fieldforge.apps.media import MediaError
from fieldforge.fields.kinds.audio import MAX_CHANNELS, MAX_SAMPLES

MAX_RATE = 2**31 - 1


@dataclass(frozen=True, eq=False)
class Clip:
    """Samples of a sound.

    Args:
        samples: (n_samples, n_channels) float32, contiguous; 1 is full scale.
        sample_rate: samples a second.
        source: the file's path, or a name.
        sha256: hexadecimal digest of the file; None for arrays.
        start: seconds of the file before the first sample.
        notes: sentences about what was left out or changed while reading.

    Raises:
        MediaError: fewer than 2 samples, more than a field holds, or a number that is not finite.
    """

    samples: np.ndarray
    sample_rate: int
    source: str
    sha256: str | None = None
    start: float = 0.0
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        expect_rate(self.source, self.sample_rate)
        expect_length(self.source, len(self.samples), self.sample_rate)
        expect_channels(self.source, self.n_channels)
        is_bad = ~np.isfinite(self.samples).all(1)
        if is_bad.any():
            first = int(is_bad.argmax())
            raise MediaError(
                f"{self.source}: {int(is_bad.sum())} of {len(self.samples)} samples are not finite, the first at "
                f"{first / self.sample_rate:.3f} s; replace them (np.nan_to_num), or choose another part"
            )

    @property
    def n_samples(self) -> int:
        """Per channel."""
        return self.samples.shape[0]

    @property
    def n_channels(self) -> int:
        """1 mono, 2 stereo."""
        return self.samples.shape[1]

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.n_samples / self.sample_rate

    @cached_property
    def peak(self) -> float:
        """Largest amplitude; 0 of a silent clip."""
        return float(np.abs(self.samples).max())

    @cached_property
    def power(self) -> float:
        """Mean square over all samples and channels."""
        return float(np.square(self.samples, dtype=np.float64).mean())

    @classmethod
    def from_array(cls, array: Any, sample_rate: int, *, name: str = "array") -> Clip:
        """A clip of numbers that are in memory already.

        Args:
            array: (n_samples,) or (n_samples, n_channels) NumPy array or torch tensor: floats (1 is full scale), or
                int16 or int32 (whose largest number is).
            sample_rate: samples a second.
            name: what messages call it.

        Raises:
            MediaError: another type or shape, or as `Clip`.

        Example:
            >>> Clip.from_array(np.array([0, 16384, -32768], np.int16), 8000).samples.ravel()
            array([ 0. ,  0.5, -1. ], dtype=float32)
        """
        if isinstance(array, Tensor):
            array = array.detach().cpu().numpy()
        if not isinstance(array, np.ndarray):
            raise MediaError(f"{name}: expected a NumPy array or torch tensor, got {type(array).__name__}")
        if array.ndim == 1:
            array = array[:, None]
        if array.ndim != 2:
            raise MediaError(f"{name}: expected (n_samples,) or (n_samples, n_channels), got {array.shape}")
        if array.dtype in (np.int16, np.int32):
            samples = (array / -float(np.iinfo(array.dtype).min)).astype(np.float32)
        elif np.issubdtype(array.dtype, np.floating):
            with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite and is refused as such
                samples = array.astype(np.float32)
        else:
            raise MediaError(f"{name}: expected floats, int16 or int32, got {array.dtype}")
        return cls(np.ascontiguousarray(samples), sample_rate, name)


def expect_rate(source: str, sample_rate: int) -> None:
    """Raise MediaError unless it is a number of samples a second."""
    if isinstance(sample_rate, bool) or not isinstance(sample_rate, int) or not 1 <= sample_rate <= MAX_RATE:
        raise MediaError(f"{source}: a sample rate of {sample_rate} Hz; expected a whole number from 1 to {MAX_RATE}")


def expect_length(source: str, n_samples: int, sample_rate: int) -> None:
    """Raise MediaError for a clip that no field can hold; asked before memory is taken."""
    if n_samples < 2:
        raise MediaError(f"{source}: {n_samples} samples; a field interpolates between neighbours and needs 2 or more")
    if n_samples > MAX_SAMPLES:
        raise MediaError(
            f"{source}: {n_samples / sample_rate:,.0f} s or more are {n_samples:,} samples, and a field tells at most "
            f"{MAX_SAMPLES:,} apart, {MAX_SAMPLES / sample_rate:.0f} s at this rate; choose a part with --from and --to"
        )


def expect_channels(source: str, n_channels: int) -> None:
    """Raise MediaError unless there are 1 to 8."""
    if not 1 <= n_channels <= MAX_CHANNELS:
        raise MediaError(f"{source}: {n_channels} channels; 1 to {MAX_CHANNELS} can be fitted")
