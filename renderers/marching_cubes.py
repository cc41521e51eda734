"""Marching cubes on separate blocks of a lattice, watertight where blocks meet (after Lorensen and Cline 1987).

The triangles of a cell follow from the signs at its eight corners. The table is made here, face by face: on each face
of the cell a segment cuts off every run of inside corners, so on an ambiguous face (opposite corners inside) the two
corners are parted. A segment depends on the four corners of its face alone, hence cells that share a face agree on it
and the surface has no holes. Each segment runs with the inside on one hand; chained, they are closed loops, and each
loop becomes a fan of triangles.

A vertex is known by the edge of the lattice it lies on, so that neighbours, also of other blocks, share it exactly.
"""

from __future__ import annotations

from functools import cache

import numpy as np

_EDGE_MARGIN = 1e-3
"""A vertex keeps this share of an edge between itself and the corners: no triangle without area where a corner is 0."""

_BLOCKS = 2**14
"""How many blocks are looked at together."""

# Corner c lies at (c & 1, c >> 1 & 1, c >> 2 & 1). Edge (axis, corner): from that corner, whose bit of the axis is 0.
_EDGES = [(axis, corner) for axis in range(3) for corner in range(8) if not corner >> axis & 1]
_EDGE_NUMBER = {frozenset((corner, corner | 1 << axis)): number for number, (axis, corner) in enumerate(_EDGES)}


def marching_cubes(values: np.ndarray, corners: np.ndarray, n_lattice: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Triangles of the level 0.

    Args:
        values: (k, b + 1, b + 1, b + 1) at the corners of b³ cells, for each of k blocks; x first. NaN: no such place.
        corners: (k, 3) int64, the first corner of each block in the lattice; blocks do not overlap.
        n_lattice: (3,) corners of the whole lattice along each axis.

    Returns:
        vertices (n, 3) float64 in cells from the lattice's first corner, and faces (m, 3) int64 whose normals point to
        larger values.
    """
    # some blocks at a time: most vertices are shared inside a block, so little is left to join at the end
    parts = [
        _some_blocks(values[first : first + _BLOCKS], corners[first : first + _BLOCKS], n_lattice)
        for first in range(0, len(values), _BLOCKS)
    ]
    if not parts:
        return np.empty((0, 3)), np.empty((0, 3), np.int64)
    keys = np.concatenate([part[0] for part in parts])
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    begins = np.cumsum([0, *(len(part[0]) for part in parts)])
    faces = [inverse[part[2] + begin] for part, begin in zip(parts, begins[:-1], strict=True)]
    return np.concatenate([part[1] for part in parts])[first], np.concatenate(faces)


def _some_blocks(
    values: np.ndarray, corners: np.ndarray, n_lattice: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keys and places of vertices, and triangles of them."""
    block, x, y, z, case = _mixed_cells(values)
    table, n_triangles = _triangles()
    per_cell = n_triangles[case]
    cell = np.repeat(np.arange(len(case)), per_cell)
    within = np.arange(len(cell)) - np.repeat(np.cumsum(per_cell) - per_cell, per_cell)
    edges = table[case[cell], within]  # (m, 3) numbers of cell edges

    axis_of, corner_of = np.array(_EDGES).T
    axis, corner = axis_of[edges], corner_of[edges]
    local = [at[cell][:, None] + (corner >> bit & 1) for at, bit in ((x, 0), (y, 1), (z, 2))]
    place = [local[d] + corners[block[cell], d][:, None] for d in range(3)]
    key = ((place[0] * n_lattice[1] + place[1]) * n_lattice[2] + place[2]) * 3 + axis
    unique, first, inverse = np.unique(key.reshape(-1), return_index=True, return_inverse=True)

    here = [part.reshape(-1)[first] for part in local]
    along = axis.reshape(-1)[first]
    of_block = np.repeat(block[cell], 3)[first]
    from_value = values[of_block, here[0], here[1], here[2]].astype(np.float64)
    to_value = values[of_block, *(here[d] + (along == d) for d in range(3))].astype(np.float64)
    share = np.clip(from_value / (from_value - to_value), _EDGE_MARGIN, 1 - _EDGE_MARGIN)
    vertices = np.stack([part.reshape(-1)[first] for part in place], 1).astype(np.float64)
    vertices[np.arange(len(unique)), along] += share
    return unique, vertices, inverse.reshape(-1, 3)


def _mixed_cells(values: np.ndarray) -> tuple[np.ndarray, ...]:
    """(block, x, y, z, case) of every cell with corners on both sides; bit c of the case: corner c is inside."""
    inside = values < 0
    is_whole = np.ones_like(inside[:, 1:, 1:, 1:])
    case = np.zeros(is_whole.shape, np.int16)
    unknown = np.isnan(values)
    for corner in range(8):
        part = (slice(None), *(slice(1, None) if corner >> axis & 1 else slice(0, -1) for axis in range(3)))
        case |= inside[part].astype(np.int16) << corner
        is_whole &= ~unknown[part]
    where = np.nonzero(is_whole & (case != 0) & (case != 255))
    return (*where, case[where].astype(np.int64))


@cache
def _triangles() -> tuple[np.ndarray, np.ndarray]:
    """(256, most, 3) edges of each triangle of each case, and how many triangles there are."""
    loops = [_loops(case) for case in range(256)]
    fans = [[(loop[0], loop[i + 1], loop[i]) for loop in each for i in range(1, len(loop) - 1)] for each in loops]
    counts = np.array([len(fan) for fan in fans])
    table = np.zeros((256, counts.max(), 3), np.int64)
    for case, fan in enumerate(fans):
        table[case, : len(fan)] = np.array(fan).reshape(-1, 3)
    return table, counts


def _loops(case: int) -> list[list[int]]:
    """Closed chains of edges around the inside corners of a case."""
    follows: dict[int, int] = {}
    for face in _faces():
        for start, corner in enumerate(face):
            if not case >> corner & 1 or case >> face[start - 1] & 1:
                continue  # not the first corner of a run of inside ones
            end = start
            while case >> face[(end + 1) % 4] & 1:
                end += 1
            leaves = _EDGE_NUMBER[frozenset((face[end % 4], face[(end + 1) % 4]))]
            follows[leaves] = _EDGE_NUMBER[frozenset((face[start - 1], corner))]
    loops = []
    while follows:
        first, at = follows.popitem()
        loop = [first]
        while at != first:
            loop.append(at)
            at = follows.pop(at)
        loops.append(loop)
    return loops


def _faces() -> list[tuple[int, ...]]:
    """Corners of the six faces, each against the clock as seen from outside the cell."""
    faces: list[tuple[int, ...]] = []
    for axis in range(3):
        u, v = 1 << (axis + 1) % 3, 1 << (axis + 2) % 3
        around = (0, u, u | v, v)
        faces.append(around[::-1])
        faces.append(tuple(corner | 1 << axis for corner in around))
    return faces
