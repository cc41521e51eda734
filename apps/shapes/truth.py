"""Distances to a surface, inside and outside, and points on it: what a shape field learns from.

Distances come from libigl's tree of boxes. A point is inside where the winding number (Barill et al. 2018, libigl's
fast version) is above 1/2, which also answers for open, overlapping and non-manifold meshes. On a closed mesh of one
piece the side of the nearest face answers as well, and much faster, wherever that face is met in its interior.

This file imports neither torch nor the rest of the engine: a worker process starts with it in a moment.
"""

from __future__ import annotations

import numpy as np

CHUNK = 2**18


class Truth:
    """Exact answers about a triangle mesh.

    Args:
        vertices: (n, 3) float64.
        faces: (m, 3) int64, no face without area.
        is_solid: the mesh is closed, consistently wound and of one piece: near faces may say which side a point is on.
    """

    def __init__(self, vertices: np.ndarray, faces: np.ndarray, *, is_solid: bool = False) -> None:
        import igl

        self.vertices = np.ascontiguousarray(vertices, np.float64)
        self.faces = np.ascontiguousarray(faces, np.int64)
        self._tree = igl.AABB()
        self._tree.init(self.vertices, self.faces)
        self._winding = igl.FastWindingNumberBVH()
        self._winding.init(self.vertices, self.faces, 2)
        corners = self.vertices[self.faces]
        cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        twice = np.linalg.norm(cross, axis=1)
        self.normals = cross / twice[:, None]
        self.areas = twice / 2
        self._cumulative = np.cumsum(self.areas) / self.areas.sum()
        self.sides_by_faces = is_solid and self._faces_agree_with_winding()

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Signed distance, negative inside: (n, 3) -> (n,)."""
        return self._in_order(points, self._signed)

    def unsigned_distance(self, points: np.ndarray) -> np.ndarray:
        """Distance to the nearest face: (n, 3) -> (n,)."""
        return self._in_order(points, lambda p: np.sqrt(self._nearest(p)[0]))

    def nearest(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Squared distance (n,), nearest face (n,) and nearest place (n, 3) of each point, in the order given."""
        points = np.ascontiguousarray(points, np.float64)
        order = morton_order(points)
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        squared, face, closest = self._nearest(points[order])
        return squared[back], face[back], closest[back]

    def is_inside(self, points: np.ndarray) -> np.ndarray:
        """Whether the winding number is above 1/2: (n, 3) -> (n,) bool."""
        return self._in_order(points, lambda p: self._encloses(p).astype(np.float64)) > 0.5

    def winding_number(self, points: np.ndarray) -> np.ndarray:
        """How often the surface goes around each point: (n, 3) -> (n,); 1 inside and 0 outside of a closed mesh."""
        return self._in_order(points, lambda p: np.asarray(self._winding.winding_number(p), np.float64))

    def sample_surface(self, n: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """n points, uniform by area, and the normals of their faces: both (n, 3)."""
        face = np.minimum(np.searchsorted(self._cumulative, random.random(n)), len(self.faces) - 1)
        root, share = np.sqrt(random.random((n, 1))), random.random((n, 1))
        a, b, c = (self.vertices[self.faces[face, corner]] for corner in range(3))
        return (1 - root) * a + root * (1 - share) * b + root * share * c, self.normals[face]

    def _nearest(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        squared, face, closest = self._tree.squared_distance(self.vertices, self.faces, points)
        return squared, face.reshape(-1), closest

    def _signed(self, points: np.ndarray) -> np.ndarray:
        squared, face, closest = self._nearest(points)
        distance = np.sqrt(squared)
        if not self.sides_by_faces:
            return np.where(self._encloses(points), -distance, distance)
        side, is_sure = self._side_of_faces(points, face, closest)
        if not is_sure.all():
            side[~is_sure] = np.where(self._encloses(points[~is_sure]), -1.0, 1.0)
        signed: np.ndarray = side * distance
        return signed

    def _encloses(self, points: np.ndarray) -> np.ndarray:
        """Whether the winding number is above 1/2; from a coarser sum, three times as quick, where that is clear.

        The coarser sum (groups of faces count as one from half as far) is off by up to 0.5 on meshes of many long faces
        that cross, by 0.1 to 0.3 elsewhere.
        """
        winding = np.asarray(self._winding.winding_number(points, 1.0), np.float64)
        unclear = np.abs(winding - 0.5) < 0.45
        if unclear.any():
            winding[unclear] = self._winding.winding_number(np.ascontiguousarray(points[unclear]))
        is_inside: np.ndarray = winding > 0.5
        return is_inside

    def _side_of_faces(
        self, points: np.ndarray, face: np.ndarray, closest: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """±1 by the nearest face's normal, and where that face is met in its interior, away from its edges."""
        a, b, c = (self.vertices[self.faces[face, corner]] for corner in range(3))
        normal, doubled = self.normals[face], 2 * self.areas[face]
        shares = [
            np.einsum("ij,ij->i", np.cross(q - p, closest - p), normal) / doubled for p, q in ((a, b), (b, c), (c, a))
        ]
        height = np.einsum("ij,ij->i", points - closest, normal)
        is_sure = (np.minimum.reduce(shares) > 1e-4) & (np.abs(height) > 1e-9)
        return np.where(height < 0, -1.0, 1.0), is_sure

    def _faces_agree_with_winding(self) -> bool:
        """Self-intersections make the nearest face lie; a look at some thousand points near the surface tells."""
        random = np.random.default_rng(0)
        points, normals = self.sample_surface(4000, random)
        points = points + normals * random.normal(0, 0.01, (4000, 1))
        _, face, closest = self._nearest(points)
        side, is_sure = self._side_of_faces(points, face, closest)
        by_winding = np.where(self._encloses(points), -1.0, 1.0)
        return bool((side == by_winding)[is_sure].mean() > 0.998) if is_sure.any() else False

    def _in_order(self, points: np.ndarray, answer: object) -> np.ndarray:
        """Ask in the order of a space-filling curve: neighbours find the tree in the cache, three times as fast."""
        points = np.ascontiguousarray(points, np.float64)
        order = morton_order(points)
        result = np.empty(len(points))
        for first in range(0, len(points), CHUNK):
            part = order[first : first + CHUNK]
            result[part] = answer(points[part])  # type: ignore[operator]
        return result


def morton_order(points: np.ndarray) -> np.ndarray:
    """The order of (n, 3) points along a Z-curve of 1024 cells a side over their bounding box."""
    if not len(points):
        return np.empty(0, np.int64)
    low, high = points.min(0), points.max(0)
    with np.errstate(invalid="ignore"):
        cells = np.nan_to_num((points - low) / np.maximum(high - low, 1e-300) * 1023).astype(np.uint64)
    for shift, mask in ((16, 0x030000FF), (8, 0x0300F00F), (4, 0x030C30C3), (2, 0x09249249)):
        cells = (cells | (cells << np.uint64(shift))) & np.uint64(mask)
    return np.argsort(cells[:, 0] | (cells[:, 1] << np.uint64(1)) | (cells[:, 2] << np.uint64(2)), kind="stable")
