"""A cloud of points where rays end in a scene: places, normals and colours.

Rays start at the cameras the photos were taken from, so that points lie where photos saw something, or, where those are
not known, outside the box in all directions. The work is bounded: no more than `RAYS_A_POINT` rays for each point.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fieldforge.apps.export.box import Box, EmptyBoxError, inside
from fieldforge.apps.images import linear_to_srgb
from fieldforge.apps.render.normals import density_normals, reach_at
from fieldforge.apps.render.radiance import SceneEye
from fieldforge.devices import home, seeded
from fieldforge.fields.kinds.scene import SceneField
from fieldforge.renderers.cameras import Cameras

RAYS_A_POINT = 30
N_RAYS = 2**13
PATIENCE = 2**17
"""Rays without a single point after which a box is empty."""


@dataclass(frozen=True)
class ColoredCloud:
    """points, normals (n, 3) float32 in world axes, unit normals toward where they were seen from; colors (n, 3) uint8
    sRGB; of `n_rays` rays."""

    points: np.ndarray
    normals: np.ndarray
    colors: np.ndarray
    n_rays: int


def cloud_of(
    field: SceneField,
    eye: SceneEye,
    cameras: Cameras | None,
    *,
    n: int,
    box: Box,
    level: float,
    seed: int = 0,
    observe: Callable[[float], None] = lambda share: None,
) -> ColoredCloud:
    """Points of what is seen.

    Args:
        field, eye: the scene, and what looks at it.
        cameras: from where, float32; None is from all around the box.
        n: points wanted; fewer where the rays run out.
        box: only points in it.
        level: least density at a point, 1 / length: where a ray's light comes from two places, its mean lies in empty
            space between them.
        seed: of the rays.
        observe: told the share of the work that is done.

    Raises:
        EmptyBoxError: no ray of the first `PATIENCE` ends in the box; says in which box some do.
    """
    generator = seeded(seed)
    parts, n_found, n_rays, n_most = list[tuple[Tensor, ...]](), 0, 0, max(PATIENCE, RAYS_A_POINT * n)
    elsewhere = list[Tensor]()
    while n_found < n and n_rays < n_most:
        origins, directions = _rays(cameras, field, generator)
        seen = eye(origins, directions)
        n_rays += len(origins)
        ends = (seen.opacity > 0.5) & seen.distance.isfinite()
        points = torch.addcmul(origins[ends], seen.distance[ends, None], directions[ends])
        with torch.no_grad():
            is_dense = field.density(points) >= level
        is_in = is_dense & inside(points, box)
        color = uncovered(seen.color[ends], seen.opacity[ends, None], eye.background)
        parts.append((points[is_in], directions[ends][is_in], color[is_in]))
        n_found += int(is_in.sum())
        if not n_found:
            elsewhere.append(points[is_dense])
            if n_rays >= PATIENCE:
                break
        observe(0.8 * max(n_found / n, n_rays / n_most))
    if not n_found:
        why = f"none of {n_rays:,} rays ends there where it is {level:.3g} or more"
        raise EmptyBoxError(box, _around(torch.cat(elsewhere)), why)
    points, directions, color = (torch.cat(column)[:n] for column in zip(*parts, strict=True))
    normals, rows = torch.empty_like(points), 2**15
    for first in range(0, len(points), rows):
        some = slice(first, first + rows)
        normals[some] = density_normals(
            field.density, points[some], reach_at(field, points[some]), directions[some]
        )  # fmt: skip
        observe(0.8 + 0.2 * min(1.0, (first + rows) / len(points)))
    return ColoredCloud(home(points), home(normals), to_bytes(color, field.color_space), n_rays)


def to_bytes(color: Tensor, color_space: str) -> np.ndarray:
    """(n, 3) uint8 sRGB of colours as a field gives them."""
    values = home(color.clamp(0, 1))
    display = np.asarray(linear_to_srgb(values)) if color_space == "linear" else values
    return np.rint(display * 255).astype(np.uint8)


def uncovered(color: Tensor, opacity: Tensor, background: Tensor) -> Tensor:
    """Of what is in front of the background."""
    return (color - (1 - opacity) * background) / opacity.clamp(min=1e-6)


def _rays(cameras: Cameras | None, field: SceneField, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    numbers = torch.rand(N_RAYS, 6, generator=generator)
    if cameras is not None:
        view = (numbers[:, 0] * len(cameras)).long().clamp(max=len(cameras) - 1)
        origins, directions = cameras.rays(view, numbers[:, 1:3] * cameras.sizes[view])
        is_shown = directions[:, 0].isfinite()
        return origins[is_shown].contiguous(), directions[is_shown].contiguous()
    low, high = (numbers.new_tensor(corner) for corner in field.box)
    directions = torch.nn.functional.normalize(torch.randn(N_RAYS, 3, generator=generator), dim=-1)
    through = low + numbers[:, 3:] * (high - low)
    return through - torch.linalg.vector_norm(high - low) * directions, directions


def _around(points: Tensor) -> Box | None:
    """The box of all but the outermost hundredth of points, with some room."""
    if not len(points):
        return None
    low, high = (np.quantile(home(points), share, axis=0) for share in (0.01, 0.99))
    room = 0.05 * float((high - low).max()) + 1e-6
    return tuple((low - room).tolist()), tuple((high + room).tolist())
