"""Pictures of a radiance field, and the views of a scene beside its photos."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fieldforge.apps.metrics import Metrics
from fieldforge.apps.render.radiance import SceneEye
from fieldforge.apps.scenes import Scene
from fieldforge.renderers.cameras import Cameras
from fieldforge.renderers.volume import planar_z, render_in_parts


class Picture(NamedTuple):
    """A view of a field."""

    color: np.ndarray
    """(height, width, 3) in [0, 1]."""
    opacity: np.ndarray
    """(height, width)."""
    planar_z: np.ndarray
    """(height, width) distance along the camera's axis, in world units; infinite where nothing is."""
    distance: np.ndarray
    """(height, width) distance along each ray; infinite where nothing is."""


class Comparison(NamedTuple):
    """A view beside its photo."""

    picture: Picture
    psnr: float
    ssim: float | None


def look(
    eye: SceneEye, cameras: Cameras, view: int, *, time: float | None = None, n_rays_at_once: int | None = None
) -> Picture:
    """What an eye sees from a camera of float32; nothing at all where its lens shows nothing.

    Of a field that has time, it looks at `time` instead of the eye's own.
    """
    width, height = cameras.sizes[view].tolist()
    origins, directions = (rays.contiguous() for rays in cameras.picture_rays(view))
    shown = directions[:, 0].isfinite().nonzero()[:, 0]  # beyond the fold of a lens there are no rays
    is_whole = len(shown) == len(origins)
    rays = [origins, directions] if is_whole else [origins[shown], directions[shown]]
    if eye.has_time:
        rays.append(torch.full((len(shown),), eye.time if time is None else time))
    parts = list(
        render_in_parts(
            lambda first, last: tuple(row[first:last] for row in rays), len(shown), eye,
            n_rays_at_once=eye.n_rays_at_once if n_rays_at_once is None else n_rays_at_once,
        )
    )  # fmt: skip
    color = torch.zeros(len(origins), 3)
    distance, opacity = torch.full((len(origins),), math.inf), torch.zeros(len(origins))
    if parts:
        color[shown] = torch.cat([part.color for part in parts])
        distance[shown] = torch.cat([part.distance for part in parts])
        opacity[shown] = torch.cat([part.opacity for part in parts])
    depth = torch.full_like(distance, math.inf)
    depth[shown] = planar_z(distance[shown], rays[1], cameras.forwards[view])
    return Picture(
        color.clamp(0, 1).view(height, width, 3).numpy(),
        opacity.view(height, width).numpy(),
        depth.view(height, width).numpy(),
        distance.view(height, width).numpy(),
    )


def photo_of(scene: Scene, view: int, background: Tensor) -> Tensor:
    """(height, width, 3) of a photo, before a background where it has alpha."""
    photo = scene.photos.picture(view)
    if not scene.has_alpha:
        return photo
    return photo[..., :3] * photo[..., 3:] + background * (1 - photo[..., 3:])


def compare(scene: Scene, view: int, eye: SceneEye) -> Comparison:
    """A view of a scene, rendered as at its time and measured against its photo."""
    picture = look(eye, scene.cameras.to(torch.float32), view, time=scene.views[view].time)
    metrics = Metrics()
    metrics.add(picture.color, photo_of(scene, view, eye.background).numpy())
    return Comparison(picture, metrics.psnr(), metrics.ssim())
