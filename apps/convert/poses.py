"""Rays of cameras that nobody had: random places around a scene, or beside those where its photos were taken.

PVD looks from a sphere around objects and from the box of the training cameras elsewhere. What a teacher's file
remembers of its cameras says which it is, from how far and from how high; a file that remembers none is looked at from
all sides.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fieldforge.apps.fit.samplers import offsets
from fieldforge.apps.fit.scene.rays import Rays
from fieldforge.apps.render.remembered import remembered, remembered_cameras, remembered_up
from fieldforge.devices import arrived
from fieldforge.fields.kinds.base import Box

N_NUMBERS = 5
"""That decide a ray: three for the place, two for the direction."""
ONE_SIDE = 0.9
"""Mean unit vector to the cameras, from which on they all stand on one side of the scene."""


@dataclass(frozen=True)
class Places(ABC):
    """Where random cameras stand, and where they look."""

    def there(self, device: torch.device) -> Places:
        """The same on a device."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **{name: arrived(tensor, device) for name, tensor in tensors.items()})

    @abstractmethod
    def rays(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """(n, N_NUMBERS) in [0, 1) -> origins and directions (n, 3)."""


@dataclass(frozen=True)
class Around(Places):
    """On a part of a sphere, looking at its middle.

    Args:
        center: (3,) of the content. up: (3,) of unit length.
        radius, elevation: least and most; elevations in radians above the horizon.
        tangents: of half the field of view, across and down.
    """

    center: Tensor
    up: Tensor
    radius: tuple[float, float]
    elevation: tuple[float, float]
    tangents: tuple[float, float]

    def rays(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        axes = torch.eye(3, device=self.up.device)
        first = torch.linalg.cross(self.up, axes.index_select(0, self.up.abs().argmin()[None])[0])
        first = first / first.norm()
        second = torch.linalg.cross(self.up, first)
        turn = 2 * math.pi * numbers[:, 0]
        low, high = (math.sin(angle) for angle in self.elevation)
        height = (low + (high - low) * numbers[:, 1])[:, None]  # even on a sphere: bands of one height are of one area
        level = torch.cos(turn)[:, None] * first + torch.sin(turn)[:, None] * second
        outward = level * (1 - height * height).clamp(min=0).sqrt() + self.up * height
        radius = self.radius[0] + (self.radius[1] - self.radius[0]) * numbers[:, 2:3]
        right = torch.linalg.cross(self.up.expand_as(outward), outward)
        right = torch.where(right.norm(dim=-1, keepdim=True) > 1e-4, right, first)
        right = right / right.norm(dim=-1, keepdim=True)
        down = torch.linalg.cross(right, outward)
        across, along = ((2 * numbers[:, k : k + 1] - 1) * t for k, t in zip((3, 4), self.tangents, strict=True))
        directions = across * right + along * down - outward
        return self.center + radius * outward, directions / directions.norm(dim=-1, keepdim=True)


@dataclass(frozen=True)
class Beside(Places):
    """Near cameras that are known, looking where they look, a little wider.

    Args:
        poses: (n, 3, 4) float32, OpenGL axes.
        spacing: how far from one of them, along each axis.
        tangents: of half the field of view.
    """

    poses: Tensor
    spacing: float
    tangents: tuple[float, float]

    def rays(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        scaled = numbers[:, 0] * len(self.poses)
        which = scaled.long().clamp(max=len(self.poses) - 1)
        aside = torch.stack([scaled - which, numbers[:, 1], numbers[:, 2]], -1) - 0.5
        x, y = ((2 * numbers[:, k] - 1) * t for k, t in zip((3, 4), self.tangents, strict=True))
        local = torch.stack([x, y, -torch.ones_like(x)], -1)
        directions = (self.poses[which, :, :3] @ local[:, :, None])[..., 0]
        return self.poses[which, :, 3] + self.spacing * aside, directions / directions.norm(dim=-1, keepdim=True)


def places_of(metadata: Mapping[str, Any], content: Box) -> Places:
    """Where random cameras of a scene stand, by what its header remembers.

    Args:
        metadata: of the teacher's file, which may be a stranger's.
        content: where anything is.
    """
    low, high = (torch.tensor(corner, dtype=torch.float32) for corner in content)
    center, radius = (low + high) / 2, float((high - low).norm() / 2)
    width = remembered(metadata, "signal.width", 100, least=1, most=2**20)
    height = remembered(metadata, "signal.height", 100, least=1, most=2**20)
    focal = remembered(metadata, "signal.focal", 1.25 * width, least=0.05 * width, most=1e3 * width)
    tangents = width / 2 / focal, height / 2 / focal
    up = torch.from_numpy(remembered_up(metadata)).float()
    up = up / up.norm()
    known = remembered_cameras(metadata)
    if known is None:
        distance = 1.2 * radius / min(tangents)
        return Around(center, up, (distance, 1.3 * distance), (-0.5, 1.4), tangents)
    poses = torch.from_numpy(np.ascontiguousarray(known, np.float32))
    way = poses[:, :, 3] - center
    distance_of = way.norm(dim=-1)
    outward = way / distance_of.clamp(min=1e-9)[:, None]
    is_inside = ((poses[:, :, 3] > low) & (poses[:, :, 3] < high)).all(-1).any()
    if is_inside or float(outward.mean(0).norm()) > ONE_SIDE:
        apart = torch.cdist(poses[:, :, 3], poses[:, :, 3]) + torch.eye(len(poses)) * 1e30
        spacing = float(apart.amin(1).median()) if len(poses) > 1 else 0.1 * radius
        return Beside(poses, spacing, (1.25 * tangents[0], 1.25 * tangents[1]))
    elevation = torch.asin((outward @ up).clamp(-1, 1))
    least, most = float(elevation.min()) - 0.1, float(elevation.max()) + 0.1
    return Around(
        center, up, (0.95 * float(distance_of.min()), 1.05 * float(distance_of.max())),
        (max(least, -math.pi / 2), min(most, math.pi / 2)), tangents,
    )  # fmt: skip


@dataclass(frozen=True)
class PoseDraw:
    """Rays of random cameras by position, each of one of its own; what they should show is for the teacher to say.

    Args:
        places: where they stand.
        background: (3,) behind everything; None is a colour of its own for each ray, so that opacity is learnt.
        seed: same seed, same rays.
    """

    places: Places
    background: Tensor | None
    seed: int

    def __call__(self, position: int, n: int) -> Rays:
        """The rays at the positions [position, position + n) of the endless order."""
        at = torch.arange(position, position + n)
        numbers = torch.cat([offsets(at, 7 * self.seed + k) for k in range(5)], -1)
        origins, directions = self.places.rays(numbers[:, :N_NUMBERS])
        background = numbers[:, 5:8] if self.background is None else self.background.expand(n, 3)
        nothing = torch.zeros(n, 3)
        return Rays(origins, directions, nothing, background, numbers[:, 8], torch.zeros_like(at), torch.zeros(n))
