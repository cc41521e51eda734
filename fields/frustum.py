"""Frustum: normalised device coordinates of a camera (Mildenhall et al. 2020, appendix C).

What a camera sees beyond its near plane, up to infinity, is a box in these coordinates:

    x' = -x / (z tan_x),   y' = -y / (z tan_y),   z' = 1 + 2 near / z         (z < 0 ahead of the camera)

from -1 to 1 on each axis. Straight lines stay straight, so rays can be bent once, at their beginnings, and be marched
as any others; equal steps in z' are equal steps in 1/z. Cells of a grid are as fine, near and far, as pixels are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fieldforge.checks import expect_float

NOWHERE = 10.0
"""Where rays begin, and away from the box, that do not look ahead: they meet nothing."""
LEVEL = 0.01
"""Cosine to the axis below which a ray does not look ahead: it would meet the near plane out of sight."""


class BentRays(NamedTuple):
    """Rays in the coordinates of a frustum, from its near plane on: origins and unit directions (R, 3)."""

    origins: Tensor
    directions: Tensor


class Frustum:
    """Coordinates of what one camera sees.

    Args:
        pose: (3, 4) rows of a camera-to-world matrix, OpenGL axes (the camera looks along -z).
        slopes: tangents of half the angles of view, across and up.
        near: distance of the near plane along the axis, in world units.

    Raises:
        ValueError: the pose is no rotation with a place, or a number is out of range.

    Example:
        >>> frustum = Frustum([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], (1.0, 1.0), 0.5)
        >>> frustum.to_ndc(torch.tensor([[0.0, 0.0, -0.5], [2.0, 0.0, -2.0], [0.0, 0.0, -1e9]]))
        tensor([[ 0.0000,  0.0000, -1.0000],
                [ 1.0000,  0.0000,  0.5000],
                [ 0.0000,  0.0000,  1.0000]])
    """

    def __init__(self, pose: Sequence[Sequence[float]], slopes: Sequence[float], near: float) -> None:
        rows = list(pose)
        if len(rows) != 3 or any(len(row) != 4 for row in rows) or len(slopes) != 2:
            raise ValueError(f"pose, slopes: expected three rows of four numbers and two numbers, got {pose}, {slopes}")
        numbers = [[expect_float("pose", number, -1e15, 1e15) for number in row] for row in rows]
        self.pose = torch.tensor(numbers, dtype=torch.float64, device="cpu")  # skeletons are made on "meta"
        turn = self.pose[:, :3]
        if (
            not torch.allclose(turn @ turn.T, torch.eye(3, dtype=torch.float64, device="cpu"), atol=1e-4)
            or torch.linalg.det(turn) < 0
        ):
            raise ValueError(f"pose: expected a rotation in the first three columns, got {turn.tolist()}")
        self.slopes = tuple(expect_float("slopes", slope, 0.0, 1e3, open_low=True) for slope in slopes)
        self.near = expect_float("near", near, 0.0, 1e15, open_low=True)

    def to_ndc(self, points: Tensor) -> Tensor:
        """(N, 3) world -> (N, 3); NaN where a point is not ahead of the camera."""
        return self._project(self._local(points))

    def from_ndc(self, ndc: Tensor) -> Tensor:
        """The inverse, (N, 3) -> (N, 3); infinite where z' is 1."""
        z = 2 * self.near / (ndc[..., 2] - 1)
        local = torch.stack([-ndc[..., 0] * z * self.slopes[0], -ndc[..., 1] * z * self.slopes[1], z], -1)
        pose = self.pose.to(ndc)
        return local @ pose[:, :3].T + pose[:, 3]

    def speed(self, points: Tensor, directions: Tensor) -> Tensor:
        """(N, 3) how a point moves in these coordinates that moves along a direction of the world at speed 1."""
        local, move = self._local(points), directions @ self.pose[:, :3].to(directions)
        x, y, z = local.unbind(-1)
        tan_x, tan_y = self.slopes
        return torch.stack(
            [
                -(move[..., 0] * z - x * move[..., 2]) / (z * z * tan_x),
                -(move[..., 1] * z - y * move[..., 2]) / (z * z * tan_y),
                -2 * self.near * move[..., 2] / (z * z),
            ],
            -1,
        )

    def bend(self, origins: Tensor, directions: Tensor) -> BentRays:
        """Rays of the world, (R, 3) each, as they run here; those that do not look ahead meet nothing."""
        local, move = self._local(origins.double()), directions.double() @ self.pose[:, :3].to(origins.device)
        looks_ahead = move[..., 2] < -LEVEL
        downward = torch.where(looks_ahead, move[..., 2], -1.0)
        start = local + (-(self.near + local[..., 2]) / downward)[..., None] * move
        begin = self._project(start)
        # where the ray ends: at infinity, z' = 1
        end = torch.stack(
            [-move[..., 0] / (downward * self.slopes[0]), -move[..., 1] / (downward * self.slopes[1]),
             torch.ones_like(downward)], -1,
        )  # fmt: skip
        away = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64, device=origins.device)
        begin = torch.where(looks_ahead[..., None], begin, NOWHERE * away)
        along = torch.where(looks_ahead[..., None], torch.nn.functional.normalize(end - begin, dim=-1), away)
        return BentRays(begin.to(origins).contiguous(), along.to(origins).contiguous())

    def distance(self, bent: BentRays, length: Tensor, origins: Tensor, directions: Tensor) -> Tensor:
        """(R,) lengths along bent rays as distances along the rays of the world; infinite from z' = 1 on."""
        depth = bent.origins[..., 2].double() + length.double() * bent.directions[..., 2].double()
        z = 2 * self.near / (depth - 1).clamp(max=0)
        local, move = self._local(origins.double()), directions.double() @ self.pose[:, :3].to(origins.device)
        found = (z - local[..., 2]) / move[..., 2]
        return torch.where(length.isfinite() & (move[..., 2] < -LEVEL), found, torch.inf).to(length)

    def _local(self, points: Tensor) -> Tensor:
        pose = self.pose.to(points)
        return (points - pose[:, 3]) @ pose[:, :3]

    def _project(self, local: Tensor) -> Tensor:
        x, y, z = local.unbind(-1)
        z = torch.where(z < 0, z, torch.nan)
        return torch.stack([-x / (z * self.slopes[0]), -y / (z * self.slopes[1]), 1 + 2 * self.near / z], -1)
