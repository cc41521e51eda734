"""A point cloud made ready to be fitted: cleaned, placed in the unit cube, and with a normal for every point."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from fieldforge.apps.shapes.points import N_NEAREST, PointTruth, estimated_normals
from fieldforge.apps.shapes.read import Cloud, ShapeError
from fieldforge.apps.shapes.surface import Cube, precision_notes

MOST_POINTS = 2_000_000
"""More are thinned out: a field of the largest preset does not hold what they know."""
LEAST_POINTS = 4 * N_NEAREST


@dataclass
class PointSurface:
    """Points of a surface in the unit cube of the field.

    Attributes:
        vertices: (n, 3) float64, unit coordinates.
        normals: (n, 3), unit vectors.
        has_normals: whether they were given, not estimated.
        cube: where the unit cube lies in the world.
        notes: warnings for the user.
    """

    vertices: np.ndarray
    normals: np.ndarray
    has_normals: bool
    cube: Cube
    source: str = "cloud"
    sha256: str = ""
    notes: list[str] = field(default_factory=list)

    @staticmethod
    def of(cloud: Cloud) -> PointSurface:
        """Drop what is not finite or there twice, thin out what is too much, estimate normals where none are given.

        Raises:
            ShapeError: too few points are left, or all are at the same place.
        """
        points, normals, notes = cloud.points, cloud.normals, list(cloud.notes)
        with np.errstate(over="ignore", invalid="ignore"):  # what float32 cannot hold has no distance either
            is_good = np.isfinite(points.astype(np.float32)).all(1)
        if normals is not None:
            is_good &= np.isfinite(normals).all(1) & (np.abs(normals).max(1, initial=0) > 0)
        if not is_good.all():
            what = "points dropped (not finite, or without a normal)"
            notes.append(f"{cloud.source}: {int((~is_good).sum()):,} {what}")
        points = points[is_good]
        first = np.sort(np.unique(points + 0.0, axis=0, return_index=True)[1])
        if len(first) < len(points):
            notes.append(f"{cloud.source}: {len(points) - len(first):,} points were there twice")
        if len(first) > MOST_POINTS:
            notes.append(f"{cloud.source}: {MOST_POINTS:,} of its {len(first):,} points are used, drawn at random")
            first = np.sort(np.random.default_rng(0).permutation(first)[:MOST_POINTS])
        points = points[first]
        if len(points):
            cube = Cube.around(points, cloud.source)
        if len(points) < LEAST_POINTS:
            raise ShapeError(
                f"{cloud.source}: has {len(points)} different finite points, and a surface takes {LEAST_POINTS}"
            )
        notes += precision_notes(points, cube)
        unit = cube.to_unit(points)
        if normals is None:
            return PointSurface(
                unit, estimated_normals(unit), False, cube, cloud.source, cloud.sha256, notes
            )  # fmt: skip
        return PointSurface(unit, normals[is_good][first], True, cube, cloud.source, cloud.sha256, notes)

    def truth(self) -> PointTruth:
        """What answers questions about the surface; normals that look inward are turned, with a note."""
        made = PointTruth(self.vertices, self.normals)
        if made.volume() < 0:
            self.normals = -self.normals
            made.turn()
            if self.has_normals:
                self.notes.append(f"{self.source}: its normals looked inward and were turned")
        return made
