"""Camera models in camera axes: pixel to direction and point to pixel.

Camera axes here are OpenGL's (x right, y up, looking along -z); pixels are continuous, (0, 0) is the upper left corner
of the picture and the centre of the first pixel is (0.5, 0.5).

model            pixel                                             depth of a point
pinhole          u = fx x/z + cx, v = fy y/z + cy                  planar: along the viewing axis
opencv           the same after radial and tangential distortion   planar
fisheye          distance from (cx, cy) grows with the angle       ray length
equirectangular  longitude and latitude over the whole picture     ray length
orthographic     u = fx x + cx, v = fy y + cy (pixels per length)  planar

(The formulas are in OpenCV's axes: y down, z forward.)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fieldforge.renderers.cameras import distortion

MODELS = {"pinhole": 0, "opencv": 8, "fisheye": 4, "equirectangular": 0, "orthographic": 0}
"""Each model, and how many distortion coefficients it has."""


def limit_of(model: str, coefficients: Tensor) -> Tensor:
    """(n,) how far from the axis the model can be undone: radius (opencv), angle (fisheye), or infinity."""
    if model == "opencv":
        return distortion.radial_limit(coefficients)
    if model == "fisheye":
        return distortion.angle_limit(coefficients)
    return coefficients.new_full((len(coefficients),), math.inf)


def look(model: str, pixels: Tensor, intrinsics: Tensor, coefficients: Tensor, limit: Tensor, size: Tensor) -> Tensor:
    """Directions of pixels, in camera axes, not yet of unit length; NaN where the model reaches no pixel.

    Args:
        pixels: (n, 2) x and y.
        intrinsics: (n, 4) fx, fy, cx, cy.
        coefficients: (n, c) distortion.
        limit: (n,) of `limit_of`.
        size: (n, 2) width and height, for equirectangular.
    """
    if model == "equirectangular":
        longitude = (pixels[:, 0] / size[:, 0] - 0.5) * (2 * math.pi)
        latitude = (0.5 - pixels[:, 1] / size[:, 1]) * math.pi
        flat = torch.cos(latitude)
        return torch.stack([torch.sin(longitude) * flat, torch.sin(latitude), -torch.cos(longitude) * flat], -1)
    a, b = ((pixels - intrinsics[:, 2:]) / intrinsics[:, :2]).unbind(-1)
    if model == "orthographic":
        return torch.stack([torch.zeros_like(a), torch.zeros_like(a), -torch.ones_like(a)], -1)
    if model == "opencv":
        a, b = distortion.undistort(a, b, coefficients, limit)
    if model == "fisheye":
        bent = _length(a, b)
        angle = distortion.straighten_angle(bent, coefficients, limit)
        across = torch.where(bent > 0, torch.sin(angle) / bent.clamp(min=_tiny(bent)), torch.ones_like(bent))
        return torch.stack([a * across, -b * across, -torch.cos(angle)], -1)
    return torch.stack([a, -b, -torch.ones_like(a)], -1)


def land(
    model: str, points: Tensor, intrinsics: Tensor, coefficients: Tensor, limit: Tensor, size: Tensor
) -> tuple[Tensor, Tensor]:
    """Pixels and depth of points in camera axes; pixels are NaN for points that the model cannot see.

    Args:
        points: (n, 3).
        intrinsics, coefficients, limit, size: as in `look`.

    Returns:
        (n, 2) pixels and (n,) depth; which depth, the table above says.
    """
    x, y, z = points[:, 0], -points[:, 1], -points[:, 2]  # OpenCV's axes
    if model == "equirectangular":
        distance = torch.linalg.vector_norm(points, dim=-1)
        longitude, latitude = torch.atan2(x, z), torch.atan2(-y, _length(x, z))
        pixels = torch.stack([longitude / (2 * math.pi) + 0.5, 0.5 - latitude / math.pi], -1) * size
        return _keep(pixels, distance > 0), distance
    if model == "orthographic":
        return _to_pixels(x, y, intrinsics), z
    if model == "fisheye":
        off, distance = _length(x, y), torch.linalg.vector_norm(points, dim=-1)
        angle = torch.atan2(off, z)
        scale = torch.where(
            off > 0, distortion.bend_angle(angle, coefficients) / off.clamp(min=_tiny(off)), 1 / z.abs()
        )
        return _keep(_to_pixels(x * scale, y * scale, intrinsics), (angle <= limit) & (distance > 0)), distance
    is_ahead = z > 0
    safe = torch.where(is_ahead, z, torch.ones_like(z))
    a, b = x / safe, y / safe
    if model == "opencv":
        is_ahead = is_ahead & (_length(a, b) <= limit)
        a, b = distortion.distort(a, b, coefficients)
    return _keep(_to_pixels(a, b, intrinsics), is_ahead), z


def _to_pixels(a: Tensor, b: Tensor, intrinsics: Tensor) -> Tensor:
    return torch.stack([a, b], -1) * intrinsics[:, :2] + intrinsics[:, 2:]


def _keep(pixels: Tensor, is_seen: Tensor) -> Tensor:
    return torch.where(is_seen[:, None], pixels, torch.full_like(pixels, math.nan))


def _length(a: Tensor, b: Tensor) -> Tensor:
    """hypot; its gradient at 0 is 0, not NaN."""
    return torch.linalg.vector_norm(torch.stack([a, b], -1), dim=-1)


def _tiny(x: Tensor) -> float:
    return torch.finfo(x.dtype).tiny
