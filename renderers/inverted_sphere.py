"""The outside of a sphere in coordinates that end: a direction and an inverse radius (Zhang et al. 2020, NeRF++).

    span = sphere_span(origins, directions)                  # where rays leave the unit sphere
    places = inverted_places(span, s)                        # (x', y', z', s) with |(x', y', z')| = 1, s = 1/r

A ray is written by the point p of it that is nearest to the middle, at distance m < 1. Where it is at inverse radius s,
its direction from the middle is  s p + sqrt(1 - (m s)^2) d, which is the paper's rotation by asin(m) - asin(m s), but
without an axis, so that rays through the middle are nothing special; and its distance along the ray is

    t(s) = t_p + sqrt(1 - (m s)^2) / s.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fieldforge.renderers.rays import expect_rays


class SphereSpan(NamedTuple):
    """R rays and the unit sphere around the origin."""

    directions: Tensor
    """(R, 3), of unit length."""
    nearest: Tensor
    """(R, 3) the points of the rays that are nearest to the middle; they may lie behind the rays' origins."""
    distance: Tensor
    """(R,) along the rays to those points."""
    offset: Tensor
    """(R,) their distance from the middle; at least 1 where a ray misses the sphere."""

    @property
    def exit(self) -> Tensor:
        """(R,) along the rays to where they leave the sphere; to the nearest point where they miss it."""
        return self.distance + (1 - self.offset.square()).clamp(min=0).sqrt()


def sphere_span(origins: Tensor, directions: Tensor) -> SphereSpan:
    """Where rays are nearest to the middle of the unit sphere.

    Args:
        origins: (R, 3) in radii from the middle of the sphere.
        directions: (R, 3) of unit length.

    Raises:
        TypeError, ValueError: not rays.

    Example:
        >>> sphere_span(torch.tensor([[0.5, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]])).exit
        tensor([0.5000])
    """
    origins, directions = expect_rays(origins, directions)
    distance = -(origins * directions).sum(-1)
    nearest = origins + distance[:, None] * directions
    return SphereSpan(directions, nearest, distance, torch.linalg.vector_norm(nearest, dim=-1))


def inverted_places(span: SphereSpan, s: Tensor) -> Tensor:
    """Places on rays outside of the sphere.

    Args:
        span: R rays.
        s: (R, S) inverse radii, 1 on the sphere and 0 at infinity; where a ray misses the sphere, at most 1/m.

    Returns:
        (R, S, 4): the direction from the middle, of unit length, and s.
    """
    along = _cosine(span, s)
    place = s[..., None] * span.nearest[:, None] + along[..., None] * span.directions[:, None]
    return torch.cat([torch.nn.functional.normalize(place, dim=-1), s[..., None]], -1)


def distance_at(span: SphereSpan, s: Tensor) -> Tensor:
    """(R, S) distance along rays to inverse radii; infinite at s = 0."""
    return span.distance[:, None] + _cosine(span, s) / s


def _cosine(span: SphereSpan, s: Tensor) -> Tensor:
    """sqrt(1 - (m s)^2), 0 where rounding or a ray that misses would make it no number."""
    return (1 - (span.offset[:, None] * s).square()).clamp(min=0).sqrt()
