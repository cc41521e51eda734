"""Cells of an occupancy grid that are empty for sure, as the cameras and their photos say before any training.

This is worked out on the CPU, where cameras and photos are, wherever the grid is.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from fieldforge.apps.scenes import Scene
from fieldforge.renderers.cameras import Cameras
from fieldforge.renderers.occupancy import OccupancyGrid

STRAIGHT_LENSES = ("pinhole", "opencv")
"""Through which a ball is seen as something round whose size is known."""


@contextlib.contextmanager
def at_hand(grid: OccupancyGrid) -> Iterator[OccupancyGrid]:
    """The grid, or of one that is on another device a copy on the CPU, which is sent back at the end of the block."""
    if grid.density.device.type == "cpu":
        yield grid
        return
    with torch.device("cpu"):
        near = OccupancyGrid(
            grid.cascades.low[0], grid.cascades.high[0], grid.cascades.resolution, len(grid.cascades.low),
            threshold=grid.threshold, decay=grid.decay,
        )  # fmt: skip
        near.cascades = grid.cascades
        _copy(near, grid)
        yield near
        _copy(grid, near)


def _copy(to: OccupancyGrid, other: OccupancyGrid) -> None:
    for mine, theirs in zip(to.buffers(), other.buffers(), strict=True):
        mine.copy_(theirs)


@torch.no_grad()
def close_unseen(grid: OccupancyGrid, cameras: Cameras, views: Tensor, *, resolution: int = 32) -> float:
    """Close the cells of a grid that none of some views sees; returns their share.

    Args:
        grid: before its first update.
        cameras: float32.
        views: (n,) int64 which of them.
        resolution: of the coarser cells that are looked at as a whole: their middles and corners. Those around a camera
            count as seen, for what it sees of them may be between the corners.
    """
    if grid.density.device.type != "cpu":
        with at_hand(grid) as near_grid:
            return close_unseen(near_grid, cameras, views, resolution=resolution)
    places = cameras.positions[views]

    def is_seen(points: Tensor) -> Tensor:
        seen = torch.cdist(points, places).amin(1) < near
        for view in views:
            left = (~seen).nonzero()[:, 0]
            if not len(left):
                break
            seen[left] = cameras.sees(view, points[left])
        return seen

    closed = torch.zeros_like(grid.density, dtype=torch.bool)
    for cascade, box in enumerate(zip(grid.cascades.low, grid.cascades.high, strict=True)):
        coarse, near = OccupancyGrid(*box, resolution), 2 * math.dist(*box) / resolution
        coarse.mark_invisible(is_seen)
        closed[cascade] = ~coarse.occupied(_middles(grid, cascade)).view_as(closed[cascade])
    return _close(grid, closed)


@torch.no_grad()
def close_transparent(
    grid: OccupancyGrid, scene: Scene, cameras: Cameras, views: Tensor, *, n_views: int = 32, n_witnesses: int = 3
) -> float:
    """Close the cells that photos with alpha see through: the outside of the visual hull (Laurentini 1994).

    A cell is empty where the ball around it lies, as a photo shows it, wholly on pixels of alpha 0. Nothing is closed
    in a scene whose photos have no alpha, that changes with time, or that is seen through bent lenses.

    Args:
        grid: of one cascade, before its first update.
        scene: with the photos.
        cameras: of the scene, float32.
        views: (n,) int64 those to look at.
        n_views: the most that are looked at, spread over `views`.
        n_witnesses: so many photos have to agree, for a single silhouette may be wrong.

    Returns:
        The share of closed cells.
    """
    if grid.density.device.type != "cpu":
        with at_hand(grid) as near_grid:
            return close_transparent(near_grid, scene, cameras, views, n_views=n_views, n_witnesses=n_witnesses)
    is_fit = scene.has_alpha and scene.times is None and cameras.model in STRAIGHT_LENSES
    if not is_fit or len(grid.density) > 1 or len(views) < n_witnesses:
        return 0.0
    middles = _middles(grid, 0)
    radius = 0.5 * math.dist([0, 0, 0], [1 / n for n in grid.cascades.cells_per_length[0]])
    count = torch.zeros(len(middles), dtype=torch.int64)
    for view in views[torch.linspace(0, len(views) - 1, min(n_views, len(views))).round().long()].tolist():
        is_open = (count < n_witnesses).nonzero()[:, 0]
        count[is_open] += _is_seen_through(scene, cameras, view, middles[is_open], radius)
    return _close(grid, (count >= n_witnesses).view_as(grid.density))


def _is_seen_through(scene: Scene, cameras: Cameras, view: int, points: Tensor, radius: float) -> Tensor:
    """(n,) whether balls around points lie wholly on pixels of a photo that show nothing."""
    pixels, depth = cameras.project(torch.tensor(view), points)
    focal, middle = cameras.intrinsics[view, :2], cameras.intrinsics[view, 2:4]
    slant = torch.linalg.vector_norm((pixels - middle) / focal, dim=-1)  # off the axis things are stretched
    reach = focal.max() * radius / (depth - radius) * (1 + slant * slant) + 1.5
    width, height = cameras.sizes[view].tolist()
    is_inside = (pixels >= 0).all(-1) & (pixels[:, 0] < width) & (pixels[:, 1] < height) & (depth > 2 * radius)
    something = (scene.photos.picture(view)[..., 3] > 0).int()
    sums = functional.pad(something.cumsum(0).cumsum(1), (1, 0, 1, 0))  # of all pixels above and to the left
    box = torch.where(is_inside[:, None], torch.cat([pixels - reach[:, None], pixels + reach[:, None]], -1), 0.0)
    x0, y0, x1, y1 = box.round().long().unbind(-1)
    x0, x1, y0, y1 = x0.clamp(0, width), x1.clamp(0, width), y0.clamp(0, height), y1.clamp(0, height)
    return is_inside & (sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0] == 0)


def _middles(grid: OccupancyGrid, cascade: int) -> Tensor:
    n = grid.density[0].numel()
    return grid.points_in(torch.arange(cascade * n, (cascade + 1) * n), torch.full((n, 3), 0.5))


def _close(grid: OccupancyGrid, closed: Tensor) -> float:
    grid.density[closed] = -1.0
    grid.repack(-0.5)
    return float(closed.float().mean())
