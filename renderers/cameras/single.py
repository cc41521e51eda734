"""One camera without distortion, and how to point it at something."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fieldforge.checks import expect_float, expect_int
from fieldforge.renderers.cameras.batch import Cameras

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

    @staticmethod
    def of(cameras: Cameras, view: int = 0) -> Pinhole:
        """One of many cameras without distortion, with its focal length across."""
        width, height = cameras.sizes[view].tolist()
        pose = cameras.poses[view]
        return Pinhole(pose[:, 3], pose[:, :3], width, height, float(cameras.intrinsics[view, 0]))

    def rays(self, first_row: int = 0, last_row: int | None = None) -> tuple[Tensor, Tensor]:
        """Origins and unit directions, (rows * width, 3) each, of the rows [first_row, last_row) from the top."""
        return self.cameras().picture_rays(0, first_row, last_row)

    def through(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Origins and unit directions, (N, 3) each, of rays through places of the picture, (N,) in pixels."""
        return self.cameras().rays(torch.tensor(0), torch.stack([x, y], -1))

    def cameras(self) -> Cameras:
        """The same as a batch of one."""
        centre = (self.focal, self.focal, self.width / 2, self.height / 2)
        return Cameras(
            torch.cat([self.rotation, self.position[:, None]], 1)[None],
            self.position.new_tensor([centre]),
            torch.tensor([[self.width, self.height]]),
        )


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
