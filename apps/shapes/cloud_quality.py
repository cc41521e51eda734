"""How good a shape field is, against the points it was made from.

What lies between the points nobody knows, so there are no volumes here: distances, as shares of the diagonal of the
points' bounding box, between the points and the field's surface.

- points to surface: mean distance to the nearest triangle of the field's surface.
- surface to points: mean distance from places of that surface to the nearest point; about half the points' spacing even
  where the surface is perfect.
- Chamfer: the mean of the two. F-score at τ: harmonic mean of the shares of points, and of places, within τ of the
  other. Stray: the farthest place of the surface from any point.
- normal consistency: mean of |n · n'| of each point's normal and its nearest triangle's, where the cloud has normals.
- gradient norm: quantiles and histogram of |∇ level| at uniform points; 1 everywhere for a distance.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fieldforge.apps.shapes.cloud import PointSurface
from fieldforge.apps.shapes.quality import f_scores, slope_figures
from fieldforge.apps.shapes.truth import Truth
from fieldforge.fields.kinds.shape import ShapeField
from fieldforge.renderers.isosurface import Isosurface


def evaluate_on_points(
    field: ShapeField, surface: PointSurface, extracted: Isosurface, *, n: int = 2**18, seed: int = 0
) -> dict[str, Any]:
    """All figures of the module's docstring, by name: numbers, and one list, the histogram of slopes.

    Args:
        field: in world units.
        surface: the points, cleaned.
        extracted: the field's level set, in world units.
        n: points and places for each figure, at most as many as there are points.
        seed: of their choice.
    """
    from scipy.spatial import cKDTree

    random = np.random.default_rng(seed)
    diagonal = float(np.linalg.norm(np.ptp(surface.vertices, axis=0)))
    theirs = Truth(surface.cube.to_unit(extracted.vertices), extracted.faces)
    chosen = random.permutation(len(surface.vertices))[:n]
    squared, face, _ = theirs.nearest(surface.vertices[chosen])
    there = np.sqrt(squared) / diagonal
    places, _ = theirs.sample_surface(n, random)
    back = cKDTree(surface.vertices).query(places)[0] / diagonal
    figures: dict[str, Any] = {
        "points_to_surface": float(there.mean()),
        "surface_to_points": float(back.mean()),
        "chamfer": float(there.mean() + back.mean()) / 2,
        "stray": float(back.max()),
    }
    figures |= f_scores(back, there)
    if surface.has_normals:
        cosine = np.einsum("ij,ij->i", surface.normals[chosen], theirs.normals[face])
        figures["normal_consistency"] = float(np.abs(cosine).mean())
    return figures | slope_figures(field, surface, random.random((min(n, 2**15), 3)).astype(np.float32))
