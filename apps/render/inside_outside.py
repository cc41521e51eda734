"""What is seen of a field inside and outside of a sphere (`fieldforge.fields.kinds.inside_outside`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fieldforge.apps.render.radiance import EYES, SceneEye, occupancy_of
from fieldforge.apps.render.remembered import remembered
from fieldforge.fields.kinds.inside_outside import InsideOutsideField
from fieldforge.renderers import volume
from fieldforge.renderers.compositing import composite
from fieldforge.renderers.inverted_sphere import distance_at, inverted_places, sphere_span
from fieldforge.renderers.occupancy import OccupancyGrid
from fieldforge.renderers.samples import Samples

ENDLESS = 1e10
"""Length of the last interval outside: what reaches it goes no further (NeRF++)."""


def see(
    field: InsideOutsideField,
    grid: OccupancyGrid,
    origins: Tensor,
    directions: Tensor,
    *,
    step: float,
    near: float = 0.0,
    early_stop: float = 1e-4,
    offset: Tensor | None = None,
) -> volume.Seen:
    """What is seen along rays: colour inside, plus what light is left times the colour outside.

    Args:
        field: differentiable in its parameters.
        grid: where something is inside.
        origins, directions: (R, 3) float32 in world units; directions of unit length.
        step, near: length of a sample inside, and where rays begin.
        early_stop: least transmittance in front of a sample that is evaluated; the outside is asked of rays to which
            more is left.
        offset: (R,) in [0, 1) where in each interval the samples are; None: where intervals begin inside, in their
            middles outside.
    """
    inside = volume.render(
        origins, directions, field.inside_radiance, grid, density=field.inside_density, step=step, near=near,
        early_stop=early_stop, offset=offset,
    )  # fmt: skip
    left = 1 - inside.opacity
    rows = (left > early_stop).nonzero()[:, 0]
    within = torch.full_like(left, 0.5) if offset is None else offset
    color, distance = outside(field, origins[rows], directions[rows], within[rows])
    depth = torch.where(inside.opacity > 0, inside.distance * inside.opacity, 0.0)
    return volume.Seen(
        inside.color.index_add(0, rows, left[rows, None] * color),
        depth.index_add(0, rows, left[rows] * distance),
        torch.ones_like(left),
        inside.n_marched + rows.numel() * field.n_outside,
        inside.n_evaluated + rows.numel() * field.n_outside,
    )


def outside(field: InsideOutsideField, origins: Tensor, directions: Tensor, within: Tensor) -> tuple[Tensor, Tensor]:
    """Colour (R, 3) outside of the sphere; distance (R,) along the rays of the mean inverse radius, in world units."""
    n_rays, n = origins.shape[0], field.n_outside
    span = sphere_span(field.to_sphere(origins), directions)
    # from the sphere on; of rays that miss it, or begin beyond it, from where they are nearest
    beyond = torch.linalg.vector_norm(field.to_sphere(origins), dim=-1)
    nearest = torch.where(span.distance > 0, span.offset, beyond)
    first = 1 / torch.where(span.exit > 0, span.offset, nearest).clamp(min=1)
    edges = torch.linspace(0, 1, n + 1, dtype=origins.dtype, device=origins.device) * first[:, None]
    share = (torch.arange(n, device=origins.device) + within[:, None]) / n
    s = first[:, None] * (1 - share)  # (R, n), falling
    s = s.clamp(min=1e-6)
    places = inverted_places(span, s).reshape(-1, 4)
    along = directions[:, None].expand(-1, n, -1).reshape(-1, 3)
    density, color = field.outside_radiance(places, along)
    ends = edges[:, 1:].clone()
    ends[:, -1] = ENDLESS
    rendered = composite(Samples.even(edges[:, :-1], ends), density, color)
    mean = (rendered.weights.view(n_rays, n) * s).sum(-1, keepdim=True).detach()
    return rendered.color, distance_at(span, mean)[:, 0] * field.radius


class InsideOutsideEye(SceneEye):
    """Looks at a field inside and outside of a sphere.

    Args:
        field: what is seen.
        grid: where something is inside; None asks the field.
        step: length of a sample inside; None is 1/512 of the cube's diagonal.
        near: where rays begin, world length from the camera.
        early_stop: as for `see`.
    """

    def __init__(
        self,
        field: InsideOutsideField,
        grid: OccupancyGrid | None = None,
        *,
        step: float | None = None,
        near: float = 0.0,
        early_stop: float = 1e-4,
    ) -> None:
        self.field, self.near, self.early_stop = field, near, early_stop
        self.grid = occupancy_of(field.inside) if grid is None else grid
        self.step = math.dist(field.low, field.high) / 512 if step is None else step
        self.background = torch.zeros(3)

    @torch.no_grad()
    def __call__(self, origins: Tensor, directions: Tensor) -> volume.Seen:
        return see(
            self.field, self.grid, origins, directions, step=self.step, near=self.near, early_stop=self.early_stop
        )


def _eye(field: InsideOutsideField, metadata: Mapping[str, Any]) -> InsideOutsideEye:
    across = remembered(metadata, "run.fit.samples_across", 512, least=1, most=4096)
    early_stop = remembered(metadata, "run.fit.early_stop", 1e-4, least=0, most=0.5)
    near = remembered(metadata, "run.fit.near", 0.0, least=0, most=1e15)
    return InsideOutsideEye(field, step=math.dist(field.low, field.high) / across, near=near, early_stop=early_stop)


EYES[InsideOutsideField] = _eye
