"""NeRF++'s coordinates outside of a sphere, by rotation. Imports nothing of fieldforge. Zhang et al. 2020."""

from __future__ import annotations

import math

import numpy as np


def outside_point(origin: np.ndarray, direction: np.ndarray, s: float) -> tuple[np.ndarray, float]:
    """Direction (3,) from the middle of a ray's place at inverse radius s, and the distance along the ray.

    Where the ray leaves the sphere is turned, about the axis across the ray and the middle, by how much nearer to the
    ray's own direction the place is.
    """
    middle = -(direction @ origin) / (direction @ direction)
    nearest = origin + middle * direction
    m = float(np.linalg.norm(nearest))
    length = 1 / np.linalg.norm(direction)
    leaves = origin + (middle + math.sqrt(1 - m * m) * length) * direction
    axis = np.cross(origin, leaves)
    axis /= np.linalg.norm(axis)
    angle = math.asin(m) - math.asin(m * s)
    turned = (
        leaves * math.cos(angle) + np.cross(axis, leaves) * math.sin(angle)
        + axis * (axis @ leaves) * (1 - math.cos(angle))
    )  # fmt: skip
    return turned / np.linalg.norm(turned), math.cos(math.asin(m * s)) / s * length + middle
