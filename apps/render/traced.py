"""What pictures of one shape share: its surface as a function in the unit cube, and where rays have to look for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fieldforge.fields import operators
from fieldforge.fields.kinds.shape import ShapeField
from fieldforge.renderers.isosurface import surface_blocks
from fieldforge.renderers.marching import march
from fieldforge.renderers.occupancy import OccupancyGrid
from fieldforge.renderers.sphere_tracing import Hits, sphere_trace, walk
from fieldforge.renderers.voxel_distance import voxel_distance

BOX = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
SLOPE = 1.3
"""How much steeper than a distance a fitted one is taken to be along a ray; the blocks leave room for 1.5."""
N_BLOCKS = 128
_STEP = 0.5 / N_BLOCKS  # of samples that look for blocks: the margin of these is as wide, so that none is stepped over
_WALK = 1 / 512  # of samples along an occupancy
_SHEET = 1e-3  # an unsigned distance is seen so far from its sheet
_SOFT = 13.8  # the logit of an occupancy is kept within this


@dataclass(frozen=True)
class TracedShape:
    """A field made ready for pictures: once for all of a turntable.

    Args:
        field: of any kind; an unsigned distance is seen a thousandth of the cube away from its sheet.
    """

    field: ShapeField

    def value(self, unit: Tensor) -> Tensor:
        """At points of the cube, negative inside: a distance in its sides, or an occupancy's logit."""
        with torch.no_grad():
            level = self.field.level_in_cube(unit)
        if self.field.is_distance:
            return level if self.field.is_signed else level - _SHEET
        # unlike the probability it does not flatten beside the surface: normals and crossings keep their digits
        return torch.logit(0.5 + level, eps=1e-6).clamp(-_SOFT, _SOFT)

    @cached_property
    def cells(self) -> OccupancyGrid:
        """The blocks that the surface can pass through."""
        blocks, _ = surface_blocks(
            self.value, BOX, n_blocks=N_BLOCKS, is_distance=self.field.is_distance, margin=_STEP
        )  # fmt: skip
        return OccupancyGrid.from_cells(blocks, *BOX)

    @cached_property
    def radius(self) -> float:
        """Of a ball about the middle of the cube that holds the surface and a little more, in sides of the cube."""
        blocks = self.cells.cells[0].nonzero()
        if not len(blocks):
            return 0.55
        apart = torch.linalg.vector_norm((blocks + 0.5) / N_BLOCKS - 0.5, dim=-1)
        return 1.03 * float(apart.max()) + 0.87 / N_BLOCKS

    @cached_property
    def distance(self) -> Callable[[Tensor], Tensor]:
        """About the distance to the surface, also beyond the cube: for light and shade."""
        rough = self.value if self.field.is_distance else voxel_distance(self.value)

        def distance(points: Tensor) -> Tensor:
            nearest = points.clamp(0, 1)
            return rough(nearest) + torch.linalg.vector_norm(points - nearest, dim=-1)

        return distance

    def trace(self, origins: Tensor, directions: Tensor, *, tolerance: float) -> Hits:
        """Where rays from outside the cube meet the surface."""
        if not self.field.is_distance:
            return walk(self.value, origins, directions, march(origins, directions, self.cells, step=_WALK))
        # from the first block on the way to the last one
        first = march(origins, directions, self.cells, step=_STEP, max_samples_per_ray=1)
        t_near = torch.zeros_like(origins[:, 0])
        t_far = t_near.clone()
        t_near[first.ray_index], t_far[first.ray_index] = first.t0, first.t0 + 1.75
        rays = first.ray_index
        ends = origins[rays] + t_far[rays, None] * directions[rays]
        last = march(ends, -directions[rays], self.cells, step=_STEP, max_samples_per_ray=1)
        back = torch.full_like(ends[:, 0], 1.75)
        back[last.ray_index] = last.t0
        t_far[rays] -= back
        return sphere_trace(self.value, origins, directions, t_near, t_far, tolerance=tolerance, slope=SLOPE)

    @cached_property
    def cell(self) -> float:
        """Side of the field's finest cells in sides of the cube, within what taps can use."""
        return min(max(self.field.finest_cell / self.field.side, 5e-4), 5e-3)

    def normals(self, points: Tensor, directions: Tensor) -> Tensor:
        """(N, 3) unit vectors out of the shape; (N, 3) directions are those in which it is seen.

        Taps are a cell away: within a cell a grid has edges. A sheet has the other side so near, and is asked a cell
        above the side that is seen.
        """
        if self.field.is_signed:
            return self._direction(points, self.cell)
        near = self._direction(points, 0.7 * _SHEET)
        facing = torch.where(((near * directions).sum(-1) > 0)[:, None], -near, near)
        return self._direction(points + 1.2 * self.cell * facing, self.cell)

    def _direction(self, points: Tensor, step: float) -> Tensor:
        return torch.nn.functional.normalize(operators.gradient(self._inside, points, "taps6", step=step), dim=-1)

    def curvature(self, points: Tensor) -> Tensor:
        """Mean curvature, 1 / side of the cube, (N,): positive where the surface bulges out."""
        return operators.mean_curvature(self._inside, points, "quadratic", sigma=2 * self.cell)

    def _inside(self, points: Tensor) -> Tensor:
        return self.value(points.clamp(0, 1))
