"""Occupancy grids: which cells of a box hold anything, learned beside a field (Müller et al. 2022, Instant-NGP, E.2).

    grid = OccupancyGrid((-1, -1, -1), (1, 1, 1), resolution=128)
    grid.update(density, iteration)                                   # every 16 iterations, say
    samples = march(origins, directions, grid, step=0.005)            # renderers/marching.py

A grid keeps, for each cell, the largest density seen there of late. Cells above a threshold are occupied. Cascades are
further grids around the same centre, each of twice the size and as many cells: near things get small cells, far ones
large cells. A point belongs to the smallest cascade that contains it, whatever the length of a step is there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fieldforge.backends import choose, provide
from fieldforge.checks import expect_float, expect_generator, expect_int, expect_points
from fieldforge.devices import constant
from fieldforge.kernels import cpu_door, cpu_marching
from fieldforge.kernels.cpu_marching import CascadesLike
from fieldforge.kernels.triton import door as triton_door
from fieldforge.kernels.triton import marching as triton_marching
from fieldforge.renderers.rays import Vector, expect_box

MAX_CELLS = 2**30
"""4 GiB of densities; more is a slip of the pen, and is refused before anything is allocated."""
MAX_RESOLUTION = 4096
MAX_CASCADES = 16
WARM_UP = 256
"""Iterations in which every cell is drawn (nerfacc, OccGridEstimator)."""


@dataclass(frozen=True)
class Cascades:
    """Where the cells are, in float32 numbers that every backend shares.

    A point p is in the cell floor((p - low) * cells_per_length) of the first cascade where that is in [0, resolution)
    on each axis; difference and product are rounded one after the other.
    """

    resolution: tuple[int, int, int]
    low: tuple[Vector, ...]
    high: tuple[Vector, ...]
    cells_per_length: tuple[Vector, ...]


def make_cascades(
    low: Sequence[float], high: Sequence[float], resolution: int | Sequence[int] = 128, n_cascades: int = 1
) -> Cascades:
    """Cascade i has 2^i times the size of the box (low, high), the same centre and the same number of cells.

    Raises:
        ValueError: no box, more than MAX_CELLS cells, or cells so small that float32 does not tell them apart.
    """
    first, last = expect_box(low, high)
    n_cascades = expect_int("n_cascades", n_cascades, 1, MAX_CASCADES)
    sizes = [resolution] * 3 if isinstance(resolution, int) else list(resolution)
    if len(sizes) != 3:
        raise ValueError(f"resolution: expected one integer, or one for each of three axes, got {resolution!r}")
    n_x, n_y, n_z = (expect_int("resolution", size, 1, MAX_RESOLUTION) for size in sizes)
    if n_cascades * n_x * n_y * n_z > MAX_CELLS:
        raise ValueError(
            f"resolution: {n_cascades} x {n_x} x {n_y} x {n_z} = {n_cascades * n_x * n_y * n_z} cells; "
            f"at most {MAX_CELLS}"
        )
    corners: list[list[Vector]] = [[], [], []]
    for cascade in range(n_cascades):
        columns = []
        for a, b, n in zip(first, last, (n_x, n_y, n_z), strict=True):
            center, half = (a + b) / 2, (b - a) / 2 * 2.0**cascade
            largest = max(abs(center - half), abs(center + half))
            if 2 * half / n < largest * 2.0**-19 or not math.isfinite(np.float32(largest)):
                raise ValueError(
                    f"resolution: cells of {2 * half / n:g} at coordinates of {largest:g} are too small for float32"
                )
            columns.append([float(np.float32(x)) for x in (center - half, center + half, n / (2 * half))])
        for numbers, (x, y, z) in zip(corners, zip(*columns, strict=True), strict=True):
            numbers.append((x, y, z))
    return Cascades((n_x, n_y, n_z), *(tuple(numbers) for numbers in corners))


class OccupancyGrid(nn.Module):
    """Densities and occupied cells of a box; all of its state is in the buffers ``density`` and ``bricks``.

    Args:
        low, high: corners of the smallest cascade, world length.
        resolution: cells along each axis, or one number for all three.
        n_cascades: grids around the same centre, each twice as large as the one before.
        threshold: density (1/length) above which a cell of the smallest cascade is occupied; each further one, whose
            cells are twice as long, has half of it. None is an optical thickness of 0.01 in a step of diagonal / 1024,
            as in Instant-NGP. Where the mean over the cells of a cascade is lower, that is its threshold.
        decay: factor on a cell's density each time the cell is drawn.

    Before the first update every cell is occupied.

    Raises:
        ValueError: as `make_cascades`; threshold is not above 0; decay is not in [0, 1].

    Example:
        >>> grid = OccupancyGrid((0, 0, 0), (1, 1, 1), resolution=8)
        >>> grid.update(lambda points: 100.0 * (points[:, 0] < 0.5), 0)
        >>> grid.occupied(torch.tensor([[0.1, 0.5, 0.5], [0.9, 0.5, 0.5], [1.5, 0.5, 0.5]]))
        tensor([ True, False, False])
    """

    density: Tensor
    """(n_cascades, X, Y, Z) float32, 1/length; -1 in cells that no camera sees."""
    bricks: Tensor
    """(n_cascades, X/4, Y/4, Z/4) int64, sizes rounded up: bit 16 x + 4 y + z for each of 4 x 4 x 4 cells."""
    superbricks: Tensor
    """The same of ``bricks != 0``; follows from them."""

    def __init__(
        self,
        low: Sequence[float],
        high: Sequence[float],
        resolution: int | Sequence[int] = 128,
        n_cascades: int = 1,
        *,
        threshold: float | None = None,
        decay: float = 0.95,
    ) -> None:
        super().__init__()
        self.cascades = make_cascades(low, high, resolution, n_cascades)
        if threshold is None:
            threshold = 0.01 * 1024 / math.dist(self.cascades.low[0], self.cascades.high[0])
        self.threshold = expect_float("threshold", threshold, 0.0, open_low=True)
        self.decay = expect_float("decay", decay, 0.0, 1.0)
        self.register_buffer("density", torch.zeros(n_cascades, *self.cascades.resolution))
        bricks, superbricks = pack_cells(self.density, -1.0, self.cascades)
        self.register_buffer("bricks", bricks)
        self.register_buffer("superbricks", superbricks, persistent=False)
        self.register_load_state_dict_post_hook(_restore_superbricks)

    @classmethod
    def from_cells(cls, cells: Tensor, low: Sequence[float], high: Sequence[float]) -> OccupancyGrid:
        """A grid whose occupied cells are known: (X, Y, Z) or (n_cascades, X, Y, Z) bool."""
        if not isinstance(cells, Tensor) or cells.dtype != torch.bool or cells.ndim not in (3, 4):
            got = f"{cells.dtype} {tuple(cells.shape)}" if isinstance(cells, Tensor) else type(cells).__name__
            raise TypeError(f"cells: expected booleans (X, Y, Z) or (n_cascades, X, Y, Z), got {got}")
        cells = cells if cells.ndim == 4 else cells[None]
        grid = cls(low, high, tuple(cells.shape[1:]), cells.shape[0])
        grid.to(cells.device)
        grid.density.copy_(cells * grid.threshold * 2)
        grid.repack(grid.threshold)
        return grid

    @property
    def cells(self) -> Tensor:
        """(n_cascades, X, Y, Z) bool: which cells are occupied."""
        n_cascades, *blocks = self.bricks.shape
        bits = self.bricks[..., None] >> torch.arange(64, device=self.bricks.device) & 1
        cells = bits.bool().reshape(n_cascades, *blocks, 4, 4, 4).permute(0, 1, 4, 2, 5, 3, 6)
        n_x, n_y, n_z = self.cascades.resolution
        return cells.reshape(n_cascades, *(4 * n for n in blocks))[:, :n_x, :n_y, :n_z]

    def occupied(self, points: Tensor) -> Tensor:
        """(*batch, 3) float32 points in world length -> (*batch) bool; false outside of all cascades and for NaN."""
        expect_points(points, 3, name="points", owner=None)
        run = choose("occupancy_lookup", points.device, dtype=points.dtype)
        found: Tensor = run(points.detach().reshape(-1, 3), self.cascades, self.bricks)
        return found.reshape(points.shape[:-1])

    def draw(self, iteration: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Cells to look at, and a random point in each.

        All cells in the first `WARM_UP` iterations. After that each cell with probability 1/4, and besides as many
        occupied cells, all of them where they are fewer. Cells that no camera sees are never drawn.

        Returns:
            cells (M,) int64, ascending, into ``density.flatten()``; points (M, 3) float32, world length.
        """
        expect_int("iteration", iteration, 0)
        expect_generator(generator)
        is_seen = self.density >= 0
        if iteration >= WARM_UP:
            cells = self.cells
            kept = min(1.0, 0.25 * cells.numel() / max(1, int(cells.sum())))
            chance = torch.where(cells, 0.25 + 0.75 * kept, 0.25)
            is_seen &= torch.rand(cells.shape, generator=generator, device=cells.device) < chance
        drawn = is_seen.flatten().nonzero()[:, 0]
        inside = torch.rand(len(drawn), 3, generator=generator, device=drawn.device)
        return drawn, self.points_in(drawn, inside)

    def points_in(self, cells: Tensor, inside: Tensor) -> Tensor:
        """(M,) cells and (M, 3) places in the unit cube -> (M, 3) points of the cells, world length."""
        n_x, n_y, n_z = self.cascades.resolution
        row, z = cells.div(n_z, rounding_mode="floor"), cells % n_z
        layer, y = row.div(n_y, rounding_mode="floor"), row % n_y
        cascade, x = layer.div(n_x, rounding_mode="floor"), layer % n_x
        low, cells_per_length = (
            constant(rows, inside.dtype, inside.device)[cascade]
            for rows in (self.cascades.low, self.cascades.cells_per_length)
        )
        return low + (torch.stack([x, y, z], -1) + inside) / cells_per_length

    @torch.no_grad()
    def insert(self, cells: Tensor, density: Tensor) -> None:
        """density[cell] = max(decay * density[cell], what was found there), then the threshold is drawn anew.

        Args:
            cells: (M,) int64 as from `draw`: ascending, each once.
            density: (M,) floating-point, 1/length.

        Raises:
            ValueError: shapes differ, cells are not ascending in range, or a density is negative or not finite.
        """
        if cells.ndim != 1 or cells.dtype != torch.int64 or density.shape != cells.shape:
            raise ValueError(
                f"density: expected one number for each cell (M,) int64, got {tuple(density.shape)} "
                f"for {cells.dtype} {tuple(cells.shape)}"
            )
        cpu_marching.expect_cells(cells, self.density.numel())
        self._insert(cells, density)

    def _insert(self, cells: Tensor, density: Tensor) -> None:
        """The same of cells that are as they should be, at which nobody has to look."""
        fresh = density.detach().float()
        least, most = torch.stack(fresh.aminmax()).tolist() if len(fresh) else (0.0, 0.0)  # read at once
        if not (least >= 0 and most < math.inf):
            at = int((~((fresh >= 0) & (fresh < math.inf))).nonzero()[0])
            raise ValueError(
                f"density: expected finite numbers of at least 0, got {float(fresh[at])} in cell {int(cells[at])}"
            )
        choose("occupancy_update", self.density.device)(self.density, cells, fresh, self.decay)
        self.repack(*(min(mean, self.threshold / 2**i) for i, mean in enumerate(_means_of(self.density))))

    @torch.no_grad()
    def update(
        self,
        density: Callable[[Tensor], Tensor],
        iteration: int,
        *,
        generator: torch.Generator | None = None,
        n_points_at_once: int = 2**18,
    ) -> None:
        """Draw cells, ask for the density at a point of each, and keep what was found.

        Args:
            density: (N, 3) float32 points in world length -> (N,) density, 1/length; called without gradients.
            iteration: of the training that this goes with; decides how many cells are drawn.
            generator: for cells and points; None is torch's global generator.
            n_points_at_once: the most points in one call of `density`.
        """
        expect_int("n_points_at_once", n_points_at_once, 1)
        cells, points = self.draw(iteration, generator)
        found = [density(part) for part in points.split(n_points_at_once)]
        fresh = torch.cat(found) if found else points.new_empty(0)
        if fresh.shape != cells.shape:
            raise ValueError(
                f"density: expected one number for each point {tuple(cells.shape)}, got {tuple(fresh.shape)}"
            )
        self._insert(cells, fresh)

    @torch.no_grad()
    def mark_invisible(self, *is_seen: Callable[[Tensor], Tensor]) -> None:
        """Close the cells that no camera sees for good: never drawn, never occupied.

        Args:
            is_seen: for each camera, (N, 3) points in world length -> (N,) bool. A cell counts as seen when its centre
                or one of its corners is; call again with all cameras when there are more.
        """
        places = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], device=self.density.device)] * 3)
        places = torch.cat([places, places.new_full((1, 3), 0.5)])
        every = torch.arange(self.density.numel(), device=self.density.device)
        flat = self.density.view(-1)
        for part in every.split(2**20):
            seen = torch.zeros(len(part), dtype=torch.bool, device=part.device)
            for place in places:
                points = self.points_in(part, place.expand(len(part), 3))
                for sees in is_seen:
                    seen |= sees(points)
            flat[part] = torch.where(seen, flat[part].clamp(min=0), -1.0)
        cells = self.cells & (self.density >= 0)
        self.bricks, self.superbricks = pack_cells(cells.float(), 0.5, self.cascades)

    def repack(self, *thresholds: float) -> None:
        """Occupied are from now on the cells whose density exceeds the threshold: one for all cascades, or one each."""
        if len(thresholds) == 1:
            self.bricks, self.superbricks = pack_cells(self.density, thresholds[0], self.cascades)
            return
        limit = self.density.new_tensor(thresholds)[:, None, None, None]
        self.bricks, self.superbricks = pack_cells((self.density > limit).float(), 0.5, self.cascades)

    def extra_repr(self) -> str:
        box = f"{self.cascades.low[0]}, {self.cascades.high[0]}"
        return f"{box}, resolution={self.cascades.resolution}, n_cascades={len(self.cascades.low)}"


def _means_of(density: Tensor) -> list[float]:
    """Of each cascade, over the cells that some camera sees; read at once."""
    sums = [each.clamp(min=0).sum(dtype=torch.float64) for each in density]
    counts = [(each >= 0).sum() for each in density]
    n = len(sums)
    found = torch.stack([*sums, *counts]).tolist()
    return [total / max(1, count) for total, count in zip(found[:n], found[n:], strict=True)]


def _restore_superbricks(grid: Any, _: object) -> None:
    grid.superbricks = pack_bits(grid.bricks != 0)


# ---- operations


def pack_cells(density: Tensor, threshold: float, cascades: Cascades) -> tuple[Tensor, Tensor]:
    """(C, X, Y, Z) densities -> bricks and superbricks of those above the threshold, rounded to float32."""
    run = choose("occupancy_pack", density.device)
    packed: tuple[Tensor, Tensor] = run(density, float(np.float32(threshold)), cascades)
    return packed


@provide("occupancy_pack", "reference")
def pack_reference(density: Tensor, threshold: float, cascades: Cascades) -> tuple[Tensor, Tensor]:
    """The same in plain PyTorch."""
    bricks = pack_bits(density > threshold)
    return bricks, pack_bits(bricks != 0)


def pack_bits(cells: Tensor) -> Tensor:
    """(C, X, Y, Z) bool -> (C, X/4, Y/4, Z/4) int64, sizes rounded up: bit 16 x + 4 y + z of 4 x 4 x 4 cells."""
    padding = [room for n in reversed(cells.shape[1:]) for room in (0, -n % 4)]
    cells = nn.functional.pad(cells, padding)
    bits = [
        cells[:, x::4, y::4, z::4].long() << (16 * x + 4 * y + z) for x in range(4) for y in range(4) for z in range(4)
    ]
    blocks = torch.zeros_like(bits[0])
    for bit in bits:
        blocks |= bit
    return blocks


@provide("occupancy_lookup", "reference")
def look_up(points: Tensor, cascades: CascadesLike, bricks: Tensor) -> Tensor:
    """(N, 3) float32 points -> (N,) bool: whether the cell that holds each of them is occupied."""
    points = points.float()
    is_found = torch.zeros(points.shape[0], dtype=torch.bool, device=points.device)
    is_occupied = is_found.clone()
    size = points.new_tensor(cascades.resolution)
    for cascade, (low, cells_per_length) in enumerate(zip(cascades.low, cascades.cells_per_length, strict=True)):
        u = (points - points.new_tensor(low)) * points.new_tensor(cells_per_length)
        is_here = ((u >= 0) & (u < size)).all(-1) & ~is_found
        x, y, z = torch.where(is_here[:, None], u, 0.0).long().unbind(-1)
        brick = bricks[cascade, x >> 2, y >> 2, z >> 2]
        bit = (x & 3) << 4 | (y & 3) << 2 | (z & 3)
        is_occupied |= is_here & (brick >> bit & 1).bool()
        is_found |= is_here
    return is_occupied


@provide("occupancy_update", "reference")
def decay_max(density: Tensor, cells: Tensor, fresh: Tensor, decay: float) -> None:
    """density[cells] = max(decay * density[cells], fresh), in place."""
    flat = density.view(-1)
    cells = cpu_marching.expect_cells(cells, len(flat))
    flat[cells] = torch.maximum(flat[cells] * decay, fresh)


def _refuses_lookup(*, dtype: torch.dtype) -> str | None:
    return None if dtype == torch.float32 else f"the native version takes float32, and these points are {dtype}"


_native: dict[str, Any] = {"missing": cpu_door.missing, "note": cpu_door.description}
provide("occupancy_pack", "cpu", **_native)(cpu_marching.pack)
provide("occupancy_lookup", "cpu", refuses=_refuses_lookup, **_native)(cpu_marching.look_up)
provide("occupancy_update", "cpu", **_native)(cpu_marching.decay_max)

_on_cuda: dict[str, Any] = {"missing": triton_door.missing, "note": triton_door.description}
provide("occupancy_pack", "cuda", **_on_cuda)(triton_marching.pack)
provide("occupancy_lookup", "cuda", refuses=_refuses_lookup, **_on_cuda)(triton_marching.look_up)
provide("occupancy_update", "cuda", **_on_cuda)(triton_marching.decay_max)
