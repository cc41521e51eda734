"""Isosurfaces: a level of a scalar function in a box, as triangles.

The box is cut into blocks, coarse to fine (64, 16, 4 cells a side), and only blocks that the surface can pass through
are looked into. Which those are:

- by bound, for a distance: the surface is no nearer to a block's centre than |f(centre) - level| / `slope`, where
  `slope` says how much steeper than 1 the function may be. A block farther off than its half diagonal is left out.
- by sampling, for anything else: values at the corners of the finest blocks; a block is kept if it, or a neighbour,
  has corners on both sides. What is thinner than a block and between all corners is not seen.

Either way the surface is then followed: where it leaves a kept block through a face, the block behind that face is kept
too, until no more are added.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fieldforge.checks import expect_float, expect_int
from fieldforge.devices import arrived, home
from fieldforge.renderers.marching_cubes import marching_cubes

BLOCK = 4
"""Cells along a side of the finest blocks."""
MAX_RESOLUTION = 4096
BYTES_A_BLOCK = 3500
"""What a kept block costs: its values, and the triangles through it while they are put together (armadillo at 640³)."""
_FACTOR = 4
_N_LOOKED = 32
_OUTWARD = tuple(np.array(move) for move in ((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)))


class EmptyLevelError(ValueError):
    """The function does not take the level inside the box; the message gives the range that was seen.

    Attributes: `level`, `smallest`, `largest`, in the units of the function.
    """

    def __init__(self, level: float, smallest: float, largest: float) -> None:
        super().__init__(
            f"level: {level:g} is nowhere in the box; the values seen there go from {smallest:g} to {largest:g}"
        )
        self.level, self.smallest, self.largest = level, smallest, largest


class TooLargeError(ValueError):
    """The surface needs more memory than it may take; `needed` and `max_bytes`, in bytes."""

    def __init__(self, resolution: int, needed: int, max_bytes: int) -> None:
        super().__init__(
            f"resolution: {resolution} cells a side need about {needed / 2**30:.1f} GiB for this surface, and there "
            f"are {max_bytes / 2**30:.1f} GiB; {int(resolution * (max_bytes / needed) ** 0.5)} should do"
        )
        self.needed, self.max_bytes = needed, max_bytes


@dataclass(frozen=True)
class Isosurface:
    """Triangles of a level.

    Attributes:
        vertices: (n, 3) float64, in the units of the box.
        faces: (m, 3) int64, wound so that normals point to larger values.
        n_evaluated: how often the function was asked.
        n_cells: cells of the whole lattice.
    """

    vertices: np.ndarray
    faces: np.ndarray
    n_evaluated: int
    n_cells: int

    @property
    def n_open_edges(self) -> int:
        """Edges with one face; 0 for a watertight surface."""
        if not len(self.faces):
            return 0
        ends = np.sort(self.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), 1)
        _, counts = np.unique(ends[:, 0] * len(self.vertices) + ends[:, 1], return_counts=True)
        return int((counts == 1).sum())


def isosurface(
    f: Callable[[Tensor], Tensor],
    box: tuple[Sequence[float], Sequence[float]],
    *,
    resolution: int = 256,
    level: float = 0.0,
    is_distance: bool = False,
    slope: float = 1.5,
    observe: Callable[[float], None] = lambda share: None,
    chunk: int = 2**18,
    max_bytes: int | None = None,
) -> Isosurface:
    """The surface f = level inside a box.

    Args:
        f: (N, 3) float32 points to (N,) values.
        box: lowest and highest corner, in the units of f's points.
        resolution: cells along the longest side; the others get as many as fit, so that cells are cubes.
        level: which value.
        is_distance: |f - level| is a distance to the surface, up to the factor `slope`.
        slope: the steepest that such an f is, 1 for an exact distance.
        observe: told the share of the work that is done, 0 to 1.
        chunk: points asked for at a time.
        max_bytes: memory that the surface may take, as far as its blocks say beforehand; None: any.

    Raises:
        EmptyLevelError: the level is nowhere in the box.
        TooLargeError: it would take more than `max_bytes`.
        ValueError: resolution, level, slope or box out of range, or f gives values that are not finite.
    """
    expect_int("resolution", resolution, 2, MAX_RESOLUTION)
    expect_float("level", level)
    expect_float("slope", slope, 1.0, 100.0)
    lattice = _Lattice(f, box, resolution, level, chunk)
    first = 0.1 if is_distance else 0.5  # of the work, about: corners are asked everywhere
    blocks = (
        lattice.near_by_bound(slope) if is_distance else lattice.near_by_corners(lambda share: observe(first * share))
    )
    observe(first)
    if max_bytes is not None and BYTES_A_BLOCK * len(blocks) > max_bytes:
        raise TooLargeError(resolution, BYTES_A_BLOCK * len(blocks), max_bytes)
    values, blocks = lattice.follow(blocks, lambda share: observe(first + (0.9 - first) * share))
    corners = blocks * BLOCK
    _forget_beyond(values, lattice.n_cells - corners)
    vertices, faces = marching_cubes(values, corners, lattice.n_cells + 1)
    observe(1.0)
    return Isosurface(lattice.low + vertices * lattice.cell, faces, lattice.n_evaluated, int(lattice.n_cells.prod()))


def surface_blocks(
    f: Callable[[Tensor], Tensor],
    box: tuple[Sequence[float], Sequence[float]],
    *,
    n_blocks: int = 128,
    level: float = 0.0,
    is_distance: bool = False,
    slope: float = 1.5,
    margin: float = 0.0,
    chunk: int = 2**18,
) -> tuple[Tensor, int]:
    """Which of the blocks that fill a box the surface f = level can pass through, found as `isosurface` finds them.

    Args:
        f, box, level, is_distance, slope, chunk: as `isosurface`.
        n_blocks: along the longest side of the box.
        margin: blocks that come so close to the surface are kept too, in the units of the box. Where f is no distance,
            a block that has corners on both sides is kept with its neighbours, whatever the margin.

    Returns:
        (X, Y, Z) bool, and how often f was asked.
    """
    expect_int("n_blocks", n_blocks, 1, MAX_RESOLUTION // BLOCK)
    expect_float("margin", margin, 0.0)
    lattice = _Lattice(f, box, n_blocks * BLOCK, expect_float("level", level), chunk)
    expect_float("slope", slope, 1.0, 100.0)
    kept = lattice.near_by_bound(slope, margin) if is_distance else lattice.near_by_corners()
    cells = torch.zeros(tuple(lattice.n_blocks), dtype=torch.bool)
    cells[tuple(arrived(kept.T.copy()))] = True
    return cells, lattice.n_evaluated


class _Lattice:
    """Cells of a box, and f at their corners. Blocks are (k, 3) int64 numbers of finest blocks along x, y, z."""

    def __init__(
        self,
        f: Callable[[Tensor], Tensor],
        box: tuple[Sequence[float], Sequence[float]],
        resolution: int,
        level: float,
        chunk: int,
    ) -> None:
        self.f, self.level, self.chunk = f, level, chunk
        self.low = np.asarray(box[0], np.float64)
        sides = np.asarray(box[1], np.float64) - self.low
        if sides.shape != (3,) or not (sides > 0).all() or not np.isfinite(sides).all():
            raise ValueError(f"box: expected a lower and a higher corner of three numbers, got {box}")
        self.cell = float(sides.max()) / resolution
        self.n_cells = np.maximum(1, np.ceil(sides / self.cell - 1e-9)).astype(np.int64)
        self.n_blocks = -(-self.n_cells // BLOCK)
        self.n_evaluated = 0
        self.smallest, self.largest = np.inf, -np.inf

    def ask(self, corners: np.ndarray) -> np.ndarray:
        """f - level at places of the lattice, (k, 3) in cells from the low corner: (k,) float32."""
        found = np.empty(len(corners), np.float32)
        for first in range(0, len(corners), self.chunk):
            where = self.low + corners[first : first + self.chunk] * self.cell
            with torch.no_grad():
                part = home(self.f(arrived(where.astype(np.float32)))).reshape(-1)
            if len(part):
                self.smallest, self.largest = min(self.smallest, part.min()), max(self.largest, part.max())
            found[first : first + self.chunk] = part - np.float32(self.level)
        self.n_evaluated += len(corners)
        if not np.isfinite(found).all():
            raise ValueError("f: gives values that are not finite; the field is damaged")
        return found

    def near_by_bound(self, slope: float, margin: float = 0.0) -> np.ndarray:
        """Finest blocks whose centre is no farther from the surface than half diagonal and margin, coarse to fine."""
        size = BLOCK * _FACTOR**2
        counts = -(-self.n_cells // size)
        blocks = np.stack(np.meshgrid(*(np.arange(count) for count in counts), indexing="ij"), -1).reshape(-1, 3)
        while True:
            distance = np.abs(self.ask((blocks + 0.5) * size)) / slope
            blocks = blocks[distance <= size * self.cell * np.sqrt(3) / 2 + margin]
            if size == BLOCK:
                return blocks
            size //= _FACTOR
            steps = np.stack(np.meshgrid(*(np.arange(_FACTOR),) * 3, indexing="ij"), -1).reshape(-1, 3)
            blocks = (blocks[:, None] * _FACTOR + steps).reshape(-1, 3)
            blocks = blocks[(blocks * size < self.n_cells).all(1)]

    def near_by_corners(self, observe: Callable[[float], None] = lambda share: None) -> np.ndarray:
        """Finest blocks with corners on both sides of the level, and their neighbours."""
        shape = self.n_blocks + 1
        inside = np.empty(shape, bool)
        yz = np.stack(np.meshgrid(np.arange(shape[1]), np.arange(shape[2]), indexing="ij"), -1).reshape(-1, 2)
        for x in range(shape[0]):
            corners = np.minimum(np.column_stack([np.full(len(yz), x), yz]) * BLOCK, self.n_cells)
            inside[x] = (self.ask(corners) < 0).reshape(shape[1:])
            observe((x + 1) / shape[0])
        count = sum(
            inside[_part(dx), _part(dy), _part(dz)].astype(np.int8) for dx in (0, 1) for dy in (0, 1) for dz in (0, 1)
        )
        is_mixed = (count > 0) & (count < 8)
        grown = np.pad(is_mixed, 1)
        for axis in range(3):
            grown = grown | np.roll(grown, 1, axis) | np.roll(grown, -1, axis)
        return np.argwhere(grown[1:-1, 1:-1, 1:-1])

    def follow(self, blocks: np.ndarray, observe: Callable[[float], None]) -> tuple[np.ndarray, np.ndarray]:
        """Values at the (BLOCK + 1)³ corners of kept blocks, and the blocks, with those the surface goes on into."""
        is_kept = np.zeros(self.n_blocks, bool)
        is_kept[tuple(blocks.T)] = True
        steps = np.stack(np.meshgrid(*(np.arange(BLOCK + 1),) * 3, indexing="ij"), -1).reshape(-1, 3)
        all_blocks, all_values = [], []
        rows = max(1, self.chunk // len(steps))
        n_known, n_done = len(blocks), 0
        while len(blocks):
            found = []
            for first in range(0, len(blocks), rows):
                part = blocks[first : first + rows]
                corners = np.minimum((part[:, None] * BLOCK + steps).reshape(-1, 3), self.n_cells)
                found.append(self.ask(corners).reshape(len(part), *(BLOCK + 1,) * 3))
                n_done += len(part)
                observe(n_done / n_known)
            values = np.concatenate(found)
            all_blocks.append(blocks)
            all_values.append(values)
            behind = np.concatenate([blocks[_crosses(values, move)] + move for move in _OUTWARD])
            behind = behind[((behind >= 0) & (behind < self.n_blocks)).all(1)]
            behind = np.unique(behind[~is_kept[tuple(behind.T)]], axis=0)
            is_kept[tuple(behind.T)] = True
            blocks = behind
            n_known += len(blocks)
        if not all_blocks or not any((values < 0).any() and (values >= 0).any() for values in all_values):
            self._look_around()
            raise EmptyLevelError(self.level, float(self.smallest), float(self.largest))
        return np.concatenate(all_values), np.concatenate(all_blocks)

    def _look_around(self) -> None:
        """Ask all over the box, so that `smallest` and `largest` are the function's range and not that of one place."""
        middles = np.stack(np.meshgrid(*(np.arange(_N_LOOKED) + 0.5,) * 3, indexing="ij"), -1).reshape(-1, 3)
        self.ask(middles * self.n_cells / _N_LOOKED)


def _part(step: int) -> slice:
    return slice(1, None) if step else slice(0, -1)


def _forget_beyond(values: np.ndarray, n_cells: np.ndarray) -> None:
    """Corners of the last blocks that lie beyond the lattice become NaN, in place; n_cells (k, 3) are those left."""
    for axis in range(3):
        beyond = np.arange(BLOCK + 1) > n_cells[:, axis, None]
        rows = beyond.any(1)
        if rows.any():
            shape = [-1, 1, 1, 1]
            shape[axis + 1] = BLOCK + 1
            values[rows] = np.where(beyond[rows].reshape(shape), np.nan, values[rows])


def _crosses(values: np.ndarray, move: np.ndarray) -> np.ndarray:
    """Which blocks have both signs on the face toward `move`."""
    axis = int(np.flatnonzero(move)[0])
    face = values.take(BLOCK if move[axis] > 0 else 0, axis=axis + 1).reshape(len(values), -1) < 0
    both: np.ndarray = face.any(1) & ~face.all(1)
    return both
