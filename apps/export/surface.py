"""A level of the density as a mesh, with the colour of each vertex that is seen by who looks straight at it.

The level lies a little before where most of the light comes from, in what is nearly empty and may have any colour: so
the colour is that of a ray that comes from outside, as in a picture.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from fieldforge.apps.export.box import Box, EmptyBoxError, lattice
from fieldforge.apps.export.cloud import to_bytes, uncovered
from fieldforge.apps.mesh import free_memory
from fieldforge.apps.render.normals import density_normals, reach_at
from fieldforge.apps.render.radiance import SceneEye
from fieldforge.devices import arrived
from fieldforge.fields.kinds.scene import SceneField
from fieldforge.renderers.isosurface import EmptyLevelError, Isosurface, isosurface

_N_LOOKED = 48
_ROWS = 2**15


def surface_of(
    field: SceneField,
    eye: SceneEye,
    *,
    box: Box,
    level: float,
    resolution: int = 256,
    observe: Callable[[float], None] = lambda share: None,
) -> tuple[Isosurface, np.ndarray]:
    """Where the density is `level`, in a box, and (n, 3) uint8 sRGB colours of its vertices.

    Args:
        field, eye: the scene, and what looks at it.
        box: lowest and highest corner, in world units; the surface is open where it leaves the box.
        level: density, 1 / length.
        resolution: cells along the longest side of the box.
        observe: told the share of the work that is done.

    Raises:
        EmptyBoxError: the density is nowhere that high (or everywhere) in the box; says in which box it is.
        TooLargeError: the surface would not fit into the memory that is free.
    """
    try:
        surface = isosurface(
            lambda points: -field.density(points), box, resolution=resolution, level=-level,
            observe=lambda share: observe(0.9 * share), max_bytes=free_memory(),
        )  # fmt: skip
    except EmptyLevelError as error:
        why = f"densities there go from {-error.largest:.3g} to {-error.smallest:.3g}, and {level:.3g} is asked for"
        raise EmptyBoxError(box, dense_box(field, level), why) from None
    vertices = arrived(surface.vertices).float()
    colors = np.empty((len(vertices), 3), np.uint8)
    for first in range(0, len(vertices), _ROWS):
        some = vertices[first : first + _ROWS]
        reach = reach_at(field, some)
        outward = density_normals(field.density, some, reach)
        outward[(outward == 0).all(-1)] = torch.tensor([0.0, 0.0, 1.0])
        seen = eye(torch.addcmul(some, reach, outward), -outward)
        with torch.no_grad():
            _, color = field.radiance(some, -outward)
        is_solid = seen.opacity[:, None] > 0.5
        color = torch.where(is_solid, uncovered(seen.color, seen.opacity[:, None], eye.background), color)
        colors[first : first + _ROWS] = to_bytes(color, field.color_space)
        observe(0.9 + 0.1 * min(1.0, (first + _ROWS) / len(vertices)))
    return surface, colors


def dense_box(field: SceneField, level: float) -> Box | None:
    """Of where a field is as dense as a level, looked for in its own box; None where it is not."""
    points = lattice(field.box, _N_LOOKED)
    with torch.no_grad():
        is_dense = torch.cat([field.density(some) >= level for some in points.split(2**16)])
    if not is_dense.any():
        return None
    found = points[is_dense]
    room = field.longest_side / _N_LOOKED
    return tuple((found.amin(0) - room).tolist()), tuple((found.amax(0) + room).tolist())
