"""Render an image field at any size, strip by strip, in bounded memory.

A field has no pixels of its own: an output pixel asks for the colour at its centre. Where the output is coarser than
the source, each pixel averages a small grid of samples instead, so that fine detail does not alias.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from fieldforge.devices import home

_SAMPLES_A_STRIP, _SAMPLES_A_CALL = 2**17, 2**16
MAX_PIXELS = 2**32
"""No single rendering is larger than this many pixels (65536 x 65536)."""


class Pictured(Protocol):
    """What has a colour at places of a picture: an image field, or a film at one moment."""

    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def color_space(self) -> str: ...
    def color(self, points: torch.Tensor) -> torch.Tensor:
        """(*batch, 2) places in pixels -> (*batch, n_channels)."""
        ...


@dataclass(frozen=True)
class View:
    """What part of a picture to show and how large.

    Args:
        crop: (x, y, width, height) in source pixels, may be fractional and may reach outside (the border continues).
        size: (width, height) of the output in pixels.
    """

    crop: tuple[float, float, float, float]
    size: tuple[int, int]


def view_of(
    field: Pictured,
    *,
    size: tuple[int, int] | None = None,
    scale: float | None = None,
    crop: tuple[float, float, float, float] | None = None,
) -> View:
    """The view that options ask for; by default the whole picture at its own size.

    Args:
        field: whose picture.
        size: output (width, height) in pixels.
        scale: output pixels per source pixel; instead of `size`.
        crop: (x, y, width, height) in source pixels.

    Raises:
        ValueError: both size and scale, or a size that is empty or beyond `MAX_PIXELS`.
    """
    if size is not None and scale is not None:
        raise ValueError("size: give --size or --scale, not both")
    x, y, width, height = crop or (0.0, 0.0, float(field.width), float(field.height))
    if not (all(map(math.isfinite, (x, y, width, height))) and width > 0 and height > 0):
        raise ValueError(f"crop: expected x,y,width,height with a positive width and height, got {crop}")
    if scale is not None and not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"scale: expected a positive number, got {scale}")
    if size is None:
        factor = scale if scale is not None else 1.0
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
    if min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
        raise ValueError(f"size: expected between 1x1 and {MAX_PIXELS} pixels in all, got {size[0]}x{size[1]}")
    return View((x, y, width, height), size)


def render_strips(field: Pictured, view: View) -> Iterator[np.ndarray]:
    """Row strips from top to bottom, each (rows, width, n_channels) float32, sRGB or linear as the field is.

    sRGB values are clipped to [0, 1]; linear light is not clipped.
    """
    x, y, crop_width, crop_height = view.crop
    width, height = view.size
    taps_x = min(16, max(1, math.ceil(crop_width / width - 1e-6)))
    taps_y = min(16, max(1, math.ceil(crop_height / height - 1e-6)))
    columns = x + (torch.arange(width * taps_x) + 0.5) * (crop_width / (width * taps_x))
    rows_a_strip = max(1, _SAMPLES_A_STRIP // (width * taps_x * taps_y))
    for first in range(0, height, rows_a_strip):
        n_rows = min(rows_a_strip, height - first)
        rows = y + (torch.arange(first * taps_y, (first + n_rows) * taps_y) + 0.5) * (crop_height / (height * taps_y))
        color = _colors(field, columns, rows)
        if taps_x * taps_y > 1:
            color = color.view(n_rows, taps_y, width, taps_x, -1).mean((1, 3))
        yield home(color.clamp_(0, 1) if field.color_space == "srgb" else color)


def _colors(field: Pictured, columns: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """(len(rows), len(columns), n_channels) colours at every crossing, in pieces of bounded size."""
    pieces = []
    for some_columns in columns.split(max(1, _SAMPLES_A_CALL // len(rows))):
        grid_y, grid_x = torch.meshgrid(rows, some_columns, indexing="ij")
        with torch.no_grad():
            pieces.append(field.color(torch.stack([grid_x, grid_y], -1)))
    return torch.cat(pieces, 1)


def render(
    field: Pictured,
    *,
    size: tuple[int, int] | None = None,
    scale: float | None = None,
    crop: tuple[float, float, float, float] | None = None,
) -> np.ndarray:
    """The picture of a field as one array.

    Args:
        field: an image field.
        size: output (width, height) in pixels; or
        scale: output pixels per source pixel.
        crop: (x, y, width, height) in source pixels.

    Returns:
        (height, width, n_channels) float32; sRGB fields in [0, 1], linear ones unclipped.
    """
    view = view_of(field, size=size, scale=scale, crop=crop)
    strips = render_strips(field, view)
    first = next(strips)
    whole = np.empty((view.size[1], *first.shape[1:]), np.float32)
    whole[: len(first)] = first
    done = len(first)
    # one by one: small strips that are kept would each pin what was allocated for its samples (a gigabyte in all)
    for strip in strips:
        whole[done : done + len(strip)] = strip
        done += len(strip)
    return whole
