"""A mesh made ready to be fitted: cleaned, looked over, and placed in the unit cube."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from fieldforge.apps.shapes.read import Mesh, ShapeError, expect_room

MARGIN = 0.05
"""Free space around the shape on each side of the cube, as a share of its longest side."""


@dataclass(frozen=True)
class Cube:
    """A cube of the world: unit = (world - low) / side."""

    low: tuple[float, float, float]
    side: float

    def to_unit(self, points: np.ndarray) -> np.ndarray:
        """(n, 3) world points, float64, to the unit cube."""
        unit: np.ndarray = (np.asarray(points, np.float64) - self.low) / self.side
        return unit

    def to_world(self, unit: np.ndarray) -> np.ndarray:
        """The inverse."""
        world: np.ndarray = np.asarray(unit, np.float64) * self.side + self.low
        return world

    @staticmethod
    def around(points: np.ndarray, source: str, margin: float = MARGIN) -> Cube:
        """The cube about the bounding box of (n, 3) points.

        Raises:
            ShapeError: all points are the same.
        """
        lowest, highest = points.min(0), points.max(0)
        longest = float((highest - lowest).max())
        if not longest > 0 or not math.isfinite(longest):
            raise ShapeError(f"{source}: all its points are at the same place; there is nothing to fit")
        side = longest * (1 + 2 * margin)
        low = (lowest + highest) / 2 - side / 2
        return Cube((float(low[0]), float(low[1]), float(low[2])), side)


@dataclass(frozen=True)
class Health:
    """Counts that say whether a mesh bounds a solid."""

    n_vertices: int
    n_faces: int
    n_dropped: int
    """Faces with a non-finite vertex or without area."""
    n_boundary_edges: int
    n_non_manifold_edges: int
    n_inconsistent_edges: int
    """Edges whose two faces are wound against each other."""
    n_components: int
    is_inside_out: bool
    """Its faces looked inward; they were turned."""

    @property
    def is_closed(self) -> bool:
        """Every edge has two faces that agree on what is outside."""
        return not (self.n_boundary_edges or self.n_non_manifold_edges or self.n_inconsistent_edges)

    def sentence(self) -> str:
        """What is wrong, with counts; '' for a closed mesh."""
        wrong = [
            f"{count:,} {what}"
            for count, what in (
                (self.n_dropped, "faces dropped (no area, or not finite)"),
                (self.n_boundary_edges, "boundary edges"),
                (self.n_non_manifold_edges, "non-manifold edges"),
                (self.n_inconsistent_edges, "edges between faces of opposite winding"),
            )
            if count
        ]
        if self.is_inside_out:
            wrong.append("faces looked inward and were turned")
        return "; ".join(wrong)


def precision_notes(vertices: np.ndarray, cube: Cube) -> list[str]:
    """A warning about (n, 3) world coordinates so far from the origin that float32 loses the shape; mostly none."""
    largest = float(np.abs(vertices).max())
    if largest * 2.0**-24 <= 1e-5 * cube.side:
        return []
    return [
        f"coordinates of {largest:g} leave float32 steps of {largest * 2.0**-23:.2g} beside a shape of size "
        f"{cube.side:.4g}; ask the field in float64, or move the shape to the origin"
    ]


@dataclass
class Surface:
    """Triangles in the unit cube of the field.

    Attributes:
        vertices: (n, 3) float64, unit coordinates.
        faces: (m, 3) int64, wound so that normals look outward.
        cube: where the unit cube lies in the world.
        health: see `Health`.
        notes: warnings for the user.
    """

    vertices: np.ndarray
    faces: np.ndarray
    cube: Cube
    health: Health
    source: str = "mesh"
    sha256: str = ""
    notes: list[str] = field(default_factory=list)

    @staticmethod
    def of(mesh: Mesh) -> Surface:
        """Merge equal vertices, drop what has no area, count what is wrong, turn it right side out.

        Raises:
            ShapeError: no face is left, or there are more than memory has room for.
        """
        if not len(mesh.faces):
            raise ShapeError(f"{mesh.source}: has no faces")
        expect_room(len(mesh.faces), mesh.source)
        vertices, faces = _merged(mesh.vertices, mesh.faces)
        corners = vertices[faces]
        with np.errstate(invalid="ignore", over="ignore"):
            areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
        is_good = np.isfinite(corners).all((1, 2)) & (areas > 0) & np.isfinite(areas)
        faces = faces[is_good]
        if not len(faces):
            raise ShapeError(
                f"{mesh.source}: none of its {len(mesh.faces):,} faces has a finite area; there is no surface to fit"
            )
        used, faces = np.unique(faces, return_inverse=True)
        vertices, faces = vertices[used], faces.reshape(-1, 3).astype(np.int64)
        cube = Cube.around(vertices, mesh.source)
        notes = [*mesh.notes, *precision_notes(vertices, cube)]
        unit = cube.to_unit(vertices)
        boundary, non_manifold, inconsistent = _edges(faces)
        is_inside_out = _volume(unit, faces) < 0
        if is_inside_out:
            faces = np.ascontiguousarray(faces[:, ::-1])
        health = Health(
            n_vertices=len(vertices),
            n_faces=len(faces),
            n_dropped=int((~is_good).sum()),
            n_boundary_edges=boundary,
            n_non_manifold_edges=non_manifold,
            n_inconsistent_edges=inconsistent,
            n_components=_components(faces, len(vertices)),
            is_inside_out=is_inside_out,
        )
        return Surface(unit, faces, cube, health, mesh.source, mesh.sha256, notes)


def _merged(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices at the same place become one, as files with a vertex per corner (STL) or per texture need."""
    unique, inverse = np.unique(vertices + 0.0, axis=0, return_inverse=True)  # + 0.0: -0 and 0 are one place
    return unique, inverse.reshape(-1)[faces]


def _edges(faces: np.ndarray) -> tuple[int, int, int]:
    """Numbers of boundary, non-manifold and inconsistent edges."""
    directed = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    ends = np.sort(directed, 1)
    key = ends[:, 0] * (int(faces.max()) + 1) + ends[:, 1]
    direction = np.where(directed[:, 0] < directed[:, 1], 1, -1)
    _, inverse, counts = np.unique(key, return_inverse=True, return_counts=True)
    balance = np.bincount(inverse.reshape(-1), weights=direction)
    return int((counts == 1).sum()), int((counts > 2).sum()), int(((counts == 2) & (balance != 0)).sum())


def _volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    """Signed volume about the middle: positive when normals look outward; of an open mesh, where most of them look."""
    a, b, c = (vertices[faces[:, corner]] - vertices.mean(0) for corner in range(3))
    return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)


def _components(faces: np.ndarray, n_vertices: int) -> int:
    """Pieces that hang together by vertices."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    rows, columns = faces[:, [0, 1]].reshape(-1), faces[:, [1, 2]].reshape(-1)
    graph = coo_matrix((np.ones(len(rows), np.int8), (rows, columns)), shape=(n_vertices, n_vertices))
    return int(connected_components(graph, directed=False)[0])
