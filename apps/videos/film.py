"""A film in memory, or mapped into it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from fieldforge.apps.media import MediaError


@dataclass(frozen=True, eq=False)
class Film:
    """Frames at even times.

    Args:
        frames: (n_frames, height, width, n_channels) uint8, contiguous, sRGB; 1 channel is grey, 3 are RGB.
        frames_per_second: frame i stands for the moment (i + 1/2) / frames_per_second.
        source: the file's path, or a name.
        sha256: hexadecimal digest of the file; None for arrays.
        first: number of the first frame in the file.
        notes: sentences about what was left out or changed while reading.

    Raises:
        MediaError: a side is under 2 pixels, there is no frame, or no pace.
    """

    frames: np.ndarray
    frames_per_second: float
    source: str
    sha256: str | None = None
    first: int = 0
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (math.isfinite(self.frames_per_second) and 0 < self.frames_per_second <= 1e6):
            raise MediaError(f"{self.source}: {self.frames_per_second:g} frames a second; expected more than 0")
        if min(self.width, self.height) < 2:
            raise MediaError(f"{self.source}: frames of {self.width}x{self.height} pixels; a side has at least 2")

    @property
    def n_frames(self) -> int:
        """How many."""
        return self.frames.shape[0]

    @property
    def width(self) -> int:
        """Pixels."""
        return self.frames.shape[2]

    @property
    def height(self) -> int:
        """Pixels."""
        return self.frames.shape[1]

    @property
    def n_channels(self) -> int:
        """1 grey, 3 RGB."""
        return self.frames.shape[3]

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.n_frames / self.frames_per_second

    def time(self, index: int) -> float:
        """Seconds from the beginning to the moment of a frame."""
        return (index + 0.5) / self.frames_per_second

    def frame(self, index: int) -> np.ndarray:
        """(height, width, n_channels) float32 in [0, 1]."""
        return np.true_divide(self.frames[index], np.float32(255), dtype=np.float32)

    @classmethod
    def from_array(cls, array: Any, frames_per_second: float = 25.0, *, name: str = "array") -> Film:
        """A film of numbers that are in memory already.

        Args:
            array: (n_frames, height, width, 1 or 3) NumPy array or torch tensor, uint8, or floats in [0, 1].
            frames_per_second: its pace.
            name: what messages call it.

        Raises:
            MediaError: another type, shape or range.

        Example:
            >>> Film.from_array(np.zeros((5, 4, 6, 3), np.uint8)).duration
            0.2
        """
        if isinstance(array, Tensor):
            array = array.detach().cpu().numpy()
        if not isinstance(array, np.ndarray):
            raise MediaError(f"{name}: expected a NumPy array or torch tensor, got {type(array).__name__}")
        if array.ndim != 4 or array.shape[3] not in (1, 3) or not array.size:
            raise MediaError(f"{name}: expected (n_frames, height, width, 1 or 3), got {array.shape}")
        if np.issubdtype(array.dtype, np.floating):
            if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
                raise MediaError(f"{name}: expected finite values from 0 to 1")
            array = np.round(array * 255).astype(np.uint8)
        if array.dtype != np.uint8:
            raise MediaError(f"{name}: expected uint8 or floats in [0, 1], got {array.dtype}")
        return cls(np.ascontiguousarray(array), frames_per_second, name)
