"""A signal on a regular lattice: what choosers of settings and diagnostics look at."""

from __future__ import annotations

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
