"""A signal on a regular lattice: what choosers of settings and diagnostics look at."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class Slice(NamedTuple):
    """Places of a regular lattice, and what the signal is there.

    Of a picture all of it, of a shape a plane, of a video a frame, of a sound a stretch.
    """

    points: Tensor
    """(*shape, n_input_dims) world coordinates of the field; one axis of samples, or rows and columns."""
    values: Tensor
    """(*shape, n_channels) of the signal."""


def answers(field: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """(*shape, d) world points -> (*shape, n_channels); of a shape too, whose distances have no axis of channels."""
    said = field(points)
    return said if said.ndim == points.ndim else said[..., None]
