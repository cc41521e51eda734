"""Normals of a field that knows densities: minus their gradient, taken over a little ball so that noise evens out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from fieldforge.apps.render.pictures import Picture
from fieldforge.devices import arrived, home
from fieldforge.fields.kinds.radiance import RadianceField
from fieldforge.fields.kinds.scene import SceneField
from fieldforge.renderers.cameras import Cameras

REACH = 1 / 64
"""How far taps are away, in longest sides of the box. On render_materials at 100 pixels (preset fast) the mean angle to
the true normals is 19.3 degrees with 1/80 or 1/64 and 20.0 with 1/48; 26 taps are as good as the gradients of all
samples along a ray weighted as their colours are (19.3), at a third of the work."""
_TAPS = [
    (move, math.exp(-0.5 * sum(step * step for step in move)))
    for move in itertools.product((-1.0, 0.0, 1.0), repeat=3)
    if move > (0.0, 0.0, 0.0)
]
"""One of each two that lie opposite, and its weight."""


@torch.no_grad()
def density_normals(
    density: Callable[[Tensor], Tensor],
    points: Tensor,
    reach: Tensor | float,
    directions: Tensor | None = None,
    *,
    n_at_once: int = 2**16,
) -> Tensor:
    """Unit vectors away from where it is dense.

    Args:
        density: (N, 3) points -> (N,), 1 / length.
        points: (N, 3) in the world.
        reach: of the taps, in world length; (N, 1) or one for all.
        directions: (N, 3) along which the points are seen. What is seen faces the eye: normals that point away from it
            are turned until they are at right angles to it.
        n_at_once: points in one call of `density`.

    Returns:
        (N, 3) in world axes; (0, 0, 0) where the density is the same all around.

    Of each tap the share counts that a layer as thick as `reach` absorbs, 1 - exp(-density * reach): within what is
    opaque densities differ a lot and say nothing of the surface.
    """
    reach = torch.as_tensor(reach, dtype=points.dtype).expand(len(points), 1)
    slope = torch.zeros_like(points)
    for rows in torch.arange(len(points)).split(n_at_once):
        here, far = points[rows], reach[rows]
        for move, weight in _TAPS:
            step = points.new_tensor(move)
            ahead, behind = (-torch.expm1(-density(here + side * far * step) * far[:, 0]) for side in (1, -1))
            slope[rows] += weight * (ahead - behind)[:, None] * step
    normals = torch.nn.functional.normalize(-slope, dim=-1)
    if directions is not None:
        away = (normals * directions).sum(-1, keepdim=True).clamp(min=0)
        normals = torch.nn.functional.normalize(normals - away * directions, dim=-1)
    return normals


def reach_at(field: SceneField, points: Tensor) -> Tensor:
    """(N, 1) how far taps are away at points: `REACH` in the box, and more beyond it, where fields know less."""
    low, high = (points.new_tensor(corner) for corner in (field.low, field.high))
    beyond = ((points - (low + high) / 2).abs() / ((high - low) / 2)).amax(-1, keepdim=True).clamp(min=1)
    return REACH * field.longest_side * beyond


def density_when(field: SceneField, time: float | None) -> Callable[[Tensor], Tensor]:
    """Density of places alone: of a field that has time, at one moment (None: the first)."""
    if not isinstance(field, RadianceField) or not field.has_time:
        return field.density
    return lambda points: field.density(points, points.new_full(points.shape[:-1], time or 0.0))


def picture_normals(
    field: SceneField, cameras: Cameras, view: int, picture: Picture, *, time: float | None = None
) -> np.ndarray:
    """(height, width, 3) normals in world axes of what a picture shows; (0, 0, 0) where it is half empty or more."""
    origins, directions = cameras.picture_rays(view)
    distance = arrived(picture.distance.reshape(-1))
    is_seen = arrived(picture.opacity.reshape(-1) > 0.5) & distance.isfinite()
    points = torch.addcmul(origins[is_seen], distance[is_seen, None], directions[is_seen])
    normals = torch.zeros_like(origins)
    normals[is_seen] = density_normals(density_when(field, time), points, reach_at(field, points), directions[is_seen])
    return home(normals.view(*picture.opacity.shape, 3))
