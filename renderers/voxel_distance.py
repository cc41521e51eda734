"""A rough signed distance for a function that only tells inside from outside: exact between voxels, then smoothed.

What an occupancy lacks for ambient occlusion and soft shadows is how far away the surface is. Asked at the middles of a
lattice it gives signs; the Euclidean distance transform (scipy) of both sides gives distances, off by half a voxel at
most; a Gaussian of one voxel takes the steps out, and between voxels they are interpolated.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from fieldforge.checks import expect_int
from fieldforge.devices import arrived, home


def voxel_distance(f: Callable[[Tensor], Tensor], n_voxels: int = 128) -> Callable[[Tensor], Tensor]:
    """The distance to where f changes its sign in the unit cube, good to about a voxel.

    Args:
        f: (N, 3) points of the unit cube -> (N,) values, negative inside.
        n_voxels: along each side.

    Returns:
        (N, 3) points of the unit cube -> (N,) distances, negative inside; where f is nowhere negative, 1.
    """
    from scipy import ndimage

    expect_int("n_voxels", n_voxels, 2, 512)
    middles = (torch.arange(n_voxels) + 0.5) / n_voxels
    inside = np.empty((n_voxels,) * 3, bool)
    with torch.no_grad():
        for x, row in enumerate(inside):
            grid = torch.meshgrid(middles[x : x + 1], middles, middles, indexing="ij")
            row[:] = home(f(torch.stack(grid, -1).view(-1, 3)) < 0).reshape(row.shape)
    if not inside.any():
        return lambda points: torch.ones_like(points[:, 0])
    outer = ndimage.distance_transform_edt(~inside)
    inner = ndimage.distance_transform_edt(inside) if not inside.all() else np.full(inside.shape, float(n_voxels))
    signed = np.where(inside, 0.5 - inner, outer - 0.5) / n_voxels
    volume = arrived(ndimage.gaussian_filter(signed, 1.0).astype(np.float32))[None, None]

    def distance(points: Tensor) -> Tensor:
        where = (2 * points - 1).flip(-1).view(1, -1, 1, 1, 3)  # z is the fastest axis of the volume
        found = torch.nn.functional.grid_sample(volume, where, padding_mode="border", align_corners=False)
        return found.view(-1)

    return distance
