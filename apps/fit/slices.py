"""A signal on a regular lattice: what choosers of settings and diagnostics look at."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Slice(NamedTuple):
    """Places of a regular lattice, and what the signal is there.

    Of a picture all of it, of a shape a plane, of a video a frame, of a sound a stretch.
    """

    points: Tensor
    """(*shape, n_input_dims) world coordinates of the field; one axis of samples, or rows and columns."""
    values: Tensor
    """(*shape, n_channels) of the signal."""


def square(pixels: Tensor, side: int) -> Tensor:
    """(height, width, n_channels) -> (side, side, n_channels): resampled without aliasing, as a unit square is."""
    found = torch.nn.functional.interpolate(
        pixels.permute(2, 0, 1)[None], (side, side), mode="bilinear", antialias=True
    )
    return found[0].permute(1, 2, 0)


def centers(width: float, height: float, side: int) -> Tensor:
    """(side, side, 2) x and y of the middles of side x side equal parts of a width x height picture."""
    center = (torch.arange(side) + 0.5) / side
    y, x = torch.meshgrid(center * height, center * width, indexing="ij")
    return torch.stack([x, y], -1)


def answers(field: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """(*shape, d) world points -> (*shape, n_channels); of a shape too, whose distances have no axis of channels."""
    said = field(points)
    return said if said.ndim == points.ndim else said[..., None]
