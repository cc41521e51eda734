"""A scene that moves, at one moment: a scene that stands still."""

from __future__ import annotations

import torch
from torch import Tensor

from fieldforge.checks import expect_float
from fieldforge.fields.kinds.radiance import RadianceField
from fieldforge.fields.kinds.scene import SceneField


class Moment(SceneField):
    """What a field that has time says at one time.

    Args:
        moving: the field.
        time: from 0 to 1.

    Raises:
        ValueError: the field stands still, or the time is out of range.
    """

    otype = "Moment"

    def __init__(self, moving: RadianceField, time: float = 0.0) -> None:
        if not moving.has_time:
            raise ValueError("moving: expected a field that has time, and this one stands still")
        super().__init__(low=moving.low, high=moving.high, color_space=moving.color_space, background=moving.background)
        self.moving, self.time = moving, expect_float("time", time, 0.0, 1.0)

    def density(self, points: Tensor) -> Tensor:
        return self.moving.density(points, self._times(points))

    def radiance(self, points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        return self.moving.radiance(points, directions, self._times(points))

    def _times(self, points: Tensor) -> Tensor:
        return torch.full(points.shape[:-1], self.time, dtype=points.dtype, device=points.device)
