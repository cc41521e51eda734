"""Where a student of a scene is taught without rays: in its occupied cells, and along random rays.

`cells_of` makes the student's cells of the teacher's, and `close_faint` leaves those in which the student holds
anything in the end; `PointDraw` draws in them by the step alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from fieldforge.apps.convert.teacher import SceneTeacher
from fieldforge.apps.fit.scene.rays import Rays
from fieldforge.devices import seeded
from fieldforge.renderers.compositing import visibility
from fieldforge.renderers.marching import march
from fieldforge.renderers.occupancy import OccupancyGrid
from fieldforge.renderers.samples import Samples
from fieldforge.renderers.volume import density_at

PLACES = (1 / 6, 3 / 6, 5 / 6)
"""Along each axis of a cell, where its teacher is asked (KiloNeRF asks 3 x 3 x 3 times too)."""


@torch.no_grad()
def cells_of(teacher: SceneTeacher, grid: OccupancyGrid) -> OccupancyGrid:
    """Occupy, in place, the cells of a student's grid in which the teacher holds anything."""
    every = torch.arange(grid.density.numel(), device=grid.density.device)
    flat = grid.density.view(-1)
    places = _places(every.device)
    for part in every.split(2**19):
        found = torch.zeros(len(part), dtype=torch.bool, device=part.device)
        for place in places:
            found |= teacher.grid.occupied(grid.points_in(part, place.expand(len(part), 3)))
        flat[part] = found.float()
    grid.repack(0.5)
    return grid


@torch.no_grad()
def close_faint(grid: OccupancyGrid, density: Callable[[Tensor], Tensor], *, length: float, least: float) -> None:
    """Close, in place, the occupied cells of a student's grid where samples absorb next to nothing; never all of them.

    Args:
        grid: as `cells_of` leaves it.
        density: of places, 1 / length.
        length: of a sample.
        least: the part of the light that a sample in an open cell absorbs somewhere; below 1.
    """
    cells, bound = grid.cells.flatten().nonzero()[:, 0], -math.log1p(-least) / length
    places, is_open = _places(cells.device), torch.zeros(len(cells), dtype=torch.bool, device=cells.device)
    for first in range(0, len(cells), 2**15):
        part = cells[first : first + 2**15]
        for place in places:
            is_open[first : first + 2**15] |= density(grid.points_in(part, place.expand(len(part), 3))) > bound
    if is_open.any():
        grid.density.view(-1)[cells] = is_open.float()
        grid.repack(0.5)


def _places(device: torch.device) -> Tensor:
    return torch.cartesian_prod(*[torch.tensor(PLACES, device=device)] * 3)


class Points(NamedTuple):
    """points, directions (n, 3), of unit length."""

    points: Tensor
    directions: Tensor


class PointDraw:
    """The points of a step.

    Args:
        grid: the student's, some cell occupied.
        batch_size: points a step.
        along_rays: share of them on rays, as far as these have so many.
        seed: same seed, same points.
    """

    def __init__(self, grid: OccupancyGrid, *, batch_size: int, along_rays: float, seed: int) -> None:
        self.grid, self.batch_size, self.seed = grid, batch_size, seed
        self.n_along = round(along_rays * batch_size)
        self.cells = grid.cells.flatten().nonzero()[:, 0]

    def __call__(self, step: int, along: Points) -> Points:
        """Those along rays that are given, the first `n_along` of them, and as many in cells as are missing."""
        along = Points(along.points[: self.n_along], along.directions[: self.n_along])
        n = self.batch_size - len(along.points)
        generator = seeded(self.seed * 1_000_003 + step)
        cells = self.cells[torch.randint(len(self.cells), (n,), generator=generator)]
        points = self.grid.points_in(cells, torch.rand(n, 3, generator=generator))
        directions = functional.normalize(torch.randn(n, 3, generator=generator), dim=-1)
        return Points(torch.cat([along.points, points]), torch.cat([along.directions, directions]))


def shared_samples(
    rays: Rays, grid: OccupancyGrid, density: Callable[[Tensor], Tensor], *, step: float, cone_angle: float,
    near: float, early_stop: float,
) -> tuple[Samples, int]:  # fmt: skip
    """The samples that teacher and student are both asked at, and how many were marched.

    They lie in the student's occupied cells, as far as the teacher lets light through: what is behind its surfaces
    teaches nothing about pixels, and a student that is thinner than its teacher lacks the background's colour there.
    """
    samples = march(
        rays.origins, rays.directions, grid, step=step, cone_angle=cone_angle, near=near, offset=rays.offset
    )
    n_marched = samples.n_samples
    with torch.no_grad():
        found = density_at(samples, rays.origins, rays.directions, density)
        return samples.keep(visibility(samples, found, early_stop=early_stop)), n_marched


def points_of(samples: Samples, rays: Rays) -> Points:
    """The middles of samples, and the directions in which they are seen."""
    directions = rays.directions[samples.ray_index]
    return Points(torch.addcmul(rays.origins[samples.ray_index], samples.t_mid[:, None], directions), directions)
