"""How good a shape field is, against the mesh it was made from.

Lengths are reported as shares of the diagonal of the mesh's bounding box, so that figures of different meshes compare.

- volume IoU: |A and B| / |A or B| over uniform points of the cube, A inside the field, B inside the mesh; near IoU: the
  same over points within about 1 % of the surface, which is harder.
- Chamfer: (mean distance from the field's surface to the mesh + mean distance back) / 2; distances to triangles, not to
  samples, and not squared.
- F-score at τ: harmonic mean of the shares of points of either surface that lie within τ of the other.
- normal consistency: mean of |n · n'| over points of the mesh, n' at the nearest place of the field's surface.
- distance error: mean |field - truth| near (within 1 %) and far, over the diagonal; of fields that are distances.
- gradient norm: quantiles of |∇ level| at uniform points, and a histogram, `BINS` shares from 0 to 2, the last with all
  that is steeper; 1 everywhere for a distance.
- stray: the farthest that the field's surface gets away from the mesh.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from fieldforge.apps.shapes.cloud import PointSurface
from fieldforge.apps.shapes.points import PointTruth
from fieldforge.apps.shapes.surface import Surface
from fieldforge.apps.shapes.truth import Truth
from fieldforge.devices import arrived, home
from fieldforge.fields.kinds.shape import ShapeField
from fieldforge.renderers.isosurface import Isosurface

CHUNK = 2**18
NEAR = 0.01
BINS = 20
IOU_POINTS = 2**20
"""Points of the cube that a volume IoU is taken over, unless told."""


def volume_iou(
    field: ShapeField,
    truth: Truth | PointTruth,
    surface: Surface | PointSurface,
    *,
    n: int | None = None,
    seed: int = 0,
) -> float:
    """Share of the union of both insides that is in both, over n uniform points of the cube (None: `IOU_POINTS`)."""
    n = IOU_POINTS if n is None else n
    points = np.random.default_rng(seed).random((n, 3)).astype(np.float32)
    return _iou(_level(field, surface, points) <= 0, truth.is_inside(points.astype(np.float64)))


def evaluate(
    field: ShapeField, surface: Surface, extracted: Isosurface, *, n: int = 2**18, seed: int = 0
) -> dict[str, Any]:
    """All figures of the module's docstring, by name: numbers, and one list, the histogram.

    Args:
        field: in world units.
        surface: the mesh, cleaned.
        extracted: the field's level set, in world units.
        n: points for each figure (four times as many for the volume IoU).
        seed: of the points.
    """
    truth = Truth(surface.vertices, surface.faces, is_solid=surface.health.is_closed)
    random = np.random.default_rng(seed)
    diagonal = float(np.linalg.norm(np.ptp(surface.vertices, axis=0)))
    figures: dict[str, Any] = {}
    on, normals = truth.sample_surface(n, random)
    near = np.clip(on + random.normal(0, NEAR * diagonal / 2, on.shape), 0, 1).astype(np.float32)
    far = random.random((n, 3)).astype(np.float32)
    if field.is_signed:
        figures["volume_iou"] = volume_iou(field, truth, surface, n=4 * n, seed=seed + 1)
        figures["near_iou"] = _iou(_level(field, surface, near) <= 0, truth.is_inside(near.astype(np.float64)))
    if field.is_distance:
        exact = truth.distance if field.is_signed else truth.unsigned_distance
        for name, points in (("near", near), ("far", far)):
            error = np.abs(_level(field, surface, points) / surface.cube.side - exact(points.astype(np.float64)))
            figures[f"distance_error_{name}"] = float(error.mean()) / diagonal
    figures |= compare_surfaces(surface, truth, extracted, on, normals, random)
    return figures | slope_figures(field, surface, far[: min(n, 2**15)])


def compare_surfaces(
    surface: Surface,
    truth: Truth,
    extracted: Isosurface,
    on: np.ndarray,
    normals: np.ndarray,
    random: np.random.Generator,
) -> dict[str, float]:
    """Chamfer distance, F-scores, normal consistency and stray of an extracted surface against the mesh."""
    diagonal = float(np.linalg.norm(np.ptp(surface.vertices, axis=0)))
    theirs = Truth(surface.cube.to_unit(extracted.vertices), extracted.faces)
    there, _ = theirs.sample_surface(len(on), random)
    to_mesh = truth.unsigned_distance(there) / diagonal
    squared, face, _ = theirs.nearest(on)
    to_field = np.sqrt(squared) / diagonal
    figures = {
        "chamfer": float(to_mesh.mean() + to_field.mean()) / 2,
        "normal_consistency": float(np.abs(np.einsum("ij,ij->i", normals, theirs.normals[face])).mean()),
        "stray": float(to_mesh.max()),
    }
    return figures | f_scores(to_mesh, to_field)


def f_scores(one_way: np.ndarray, other_way: np.ndarray) -> dict[str, float]:
    """F-scores at 0.5 and 1 % of the diagonal, from distances of either surface's points to the other, over it."""
    found = {}
    for share in (0.005, 0.01):
        precision, recall = float((one_way <= share).mean()), float((other_way <= share).mean())
        found[f"f_score_{share:g}"] = 2 * precision * recall / max(precision + recall, 1e-12)
    return found


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    union = int((a | b).sum())
    return float((a & b).sum() / union) if union else 1.0


def _level(field: ShapeField, surface: Surface | PointSurface, unit: np.ndarray) -> np.ndarray:
    """The field's level at points of the unit cube, in world units."""
    found = np.empty(len(unit), np.float32)
    with torch.no_grad():
        for first in range(0, len(unit), CHUNK):
            world = arrived(surface.cube.to_world(unit[first : first + CHUNK]))
            found[first : first + CHUNK] = home(field.level(world))
    return found


def slope_figures(field: ShapeField, surface: Surface | PointSurface, unit: np.ndarray) -> dict[str, Any]:
    """Quantiles and histogram of |∇ level| at (n, 3) points of the unit cube."""
    parts: list[Any] = []
    for first in range(0, len(unit), 2**14):
        gradient = field.gradient(arrived(surface.cube.to_world(unit[first : first + 2**14])).float())
        parts.append(home(torch.linalg.vector_norm(gradient.detach(), dim=-1)))
    slopes = np.concatenate(parts)
    found: dict[str, Any] = {
        f"gradient_norm_{round(100 * quantile):02d}": float(np.quantile(slopes, quantile))
        for quantile in (0.05, 0.5, 0.95)
    }
    counts, _ = np.histogram(slopes.clip(max=2), BINS, (0, 2))
    found["gradient_norm_histogram"] = [round(float(share), 6) for share in counts / len(slopes)]
    return found
