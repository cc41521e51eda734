"""Show a video field: frames at any size and time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fieldforge.apps.render.image import render
from fieldforge.apps.videos import Film
from fieldforge.fields.kinds.video import VideoField


@dataclass(frozen=True)
class Moment:
    """A film at one time, as a picture for `fieldforge.apps.render.image`.

    Args:
        film: the field.
        time: seconds; before the beginning and after the end the film stands still.
    """

    film: VideoField
    time: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.time):
            raise ValueError(f"time: expected seconds, got {self.time}")

    @property
    def width(self) -> int:
        """Pixels of the source."""
        return self.film.width

    @property
    def height(self) -> int:
        """Pixels of the source."""
        return self.film.height

    @property
    def color_space(self) -> str:
        """Films are sRGB."""
        return "srgb"

    def color(self, points: Tensor) -> Tensor:
        """(*batch, 2) places in pixels -> (*batch, n_channels)."""
        return self.film.color(torch.cat([points, torch.full_like(points[..., :1], self.time)], -1))


def frame(field: VideoField, time: float, size: tuple[int, int] | None = None) -> np.ndarray:
    """(height, width, n_channels) float32 in [0, 1] at a second of a film; `size` is (width, height)."""
    return render(Moment(field, time), size=size)


def moments(field: VideoField, frames_per_second: float) -> list[float]:
    """Seconds of the frames of a film at some pace: frame i is at (i + 1/2) / frames_per_second."""
    n_frames = max(1, round(field.duration * frames_per_second))
    return [(i + 0.5) / frames_per_second for i in range(n_frames)]


def frames(
    field: VideoField,
    frames_per_second: float,
    size: tuple[int, int] | None = None,
    observe: Callable[[float], None] = lambda share: None,
) -> Iterator[np.ndarray]:
    """Each (height, width, 3) uint8, from the first to the last; grey is repeated."""
    times = moments(field, frames_per_second)
    for number, time in enumerate(times):
        picture = np.round(frame(field, time, size) * 255).astype(np.uint8)
        yield np.repeat(picture, 3, 2) if picture.shape[2] == 1 else picture
        observe((number + 1) / len(times))


def frame_quality(film: Film, field: VideoField, observe: Callable[[float], None] = lambda share: None) -> list[float]:
    """PSNR of each frame, at most 120."""
    found = []
    for index in range(film.n_frames):
        error = np.square(frame(field, film.time(index)) - film.frame(index), dtype=np.float64).mean()
        found.append(-10 * math.log10(max(float(error), 1e-12)))
        observe((index + 1) / film.n_frames)
    return found
