"""Cameras: where each pixel looks.

World and camera axes are OpenGL's: in camera axes x points right, y up, and the camera looks along -z. A pixel (i, j)
is the square from (i, j) to (i + 1, j + 1), row j counted from the top; its ray goes through the centre.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fieldforge.checks import expect_float, expect_int

MAX_SIDE = 2**16
"""No picture is wider or higher, in pixels."""


@dataclass(frozen=True)
class Pinhole:
    """A camera without distortion.

    Args:
        position: (3,) where it stands, in world units.
        rotation: (3, 3) camera axes to world axes: its columns are right, up and backward.
        width, height: of the picture, in pixels.
        focal: distance of the picture plane, in pixels.
    """

    position: Tensor
    rotation: Tensor
    width: int
    height: int
    focal: float

    def __post_init__(self) -> None:
        expect_int("width", self.width, 1, MAX_SIDE)
        expect_int("height", self.height, 1, MAX_SIDE)
        expect_float("focal", self.focal, 0.0, open_low=True)
        if self.position.shape != (3,) or self.rotation.shape != (3, 3):
            raise ValueError(
                f"rotation: expected (3, 3) and a position (3,), got {tuple(self.rotation.shape)} and "
                f"{tuple(self.position.shape)}"
            )

    def rays(self, first_row: int = 0, last_row: int | None = None) -> tuple[Tensor, Tensor]:
        """Origins and unit directions, (rows * width, 3) each, of the rows [first_row, last_row) from the top."""
        last_row = self.height if last_row is None else last_row
        y, x = torch.meshgrid(
            torch.arange(first_row, last_row, dtype=self.position.dtype) + 0.5,
            torch.arange(self.width, dtype=self.position.dtype) + 0.5,
            indexing="ij",
        )
        return self.through(x.reshape(-1), y.reshape(-1))

    def through(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Origins and unit directions, (N, 3) each, of rays through places of the picture, (N,) in pixels."""
        inside = torch.stack(
            [(x - self.width / 2) / self.focal, (self.height / 2 - y) / self.focal, -torch.ones_like(x)], -1
        )
        directions = torch.nn.functional.normalize(inside @ self.rotation.T, dim=-1)
        return self.position.expand_as(directions), directions


def look_at(
    position: Sequence[float],
    target: Sequence[float],
    *,
    up: Sequence[float] = (0.0, 0.0, 1.0),
    width: int,
    height: int,
    field_of_view: float = 35.0,
) -> Pinhole:
    """A camera at a place that looks at another.

    Args:
        position, target: in world units; apart.
        up: what points up in the picture; not along the line of sight.
        width, height: of the picture, in pixels.
        field_of_view: degrees across the shorter side of the picture.

    Raises:
        ValueError: position and target are the same, or `up` lies along the line of sight.

    Example:
        >>> _, directions = look_at((4, 0, 0), (0, 0, 0), width=1, height=1).rays()
        >>> directions.tolist() == [[-1, 0, 0]]
        True
    """
    expect_float("field_of_view", field_of_view, 0.0, 179.0, open_low=True)
    place = torch.tensor([float(value) for value in position])
    backward = place - torch.tensor([float(value) for value in target])
    right = torch.linalg.cross(torch.tensor([float(value) for value in up]), backward)
    if not torch.linalg.vector_norm(right) > 1e-6 * torch.linalg.vector_norm(backward):
        raise ValueError(f"position: {tuple(position)} sees {tuple(target)} along the direction that is to be up")
    backward, right = (vector / torch.linalg.vector_norm(vector) for vector in (backward, right))
    rotation = torch.stack([right, torch.linalg.cross(backward, right), backward], 1)
    focal = min(width, height) / 2 / math.tan(math.radians(field_of_view) / 2)
    return Pinhole(place, rotation, width, height, focal)
