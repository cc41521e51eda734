"""Multi-resolution grid: hashed, dense or tiled tables of trained features (Müller et al. 2022, Instant-NGP).

    {"otype": "HashGrid", "n_levels": 16, "n_features_per_level": 2, "log2_hashmap_size": 19,
     "base_resolution": 16, "per_level_scale": 2.0, "interpolation": "Linear"}

Each level lays a lattice over the unit cube, looks up a feature vector at the 2^d corners of the cell that holds the
point, and interpolates. Lattices grow geometrically from level to level; one that would not fit its table is hashed
into it. Keys, layout of the table and arithmetic are tiny-cuda-nn's (include/tiny-cuda-nn/encodings/grid.h), so its
configurations and its parameters, in float32, mean the same here.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from fieldforge.backends import choose, provide
from fieldforge.checks import expect_choice, expect_float, expect_generator, expect_int, expect_only, expect_points
from fieldforge.devices import constant
from fieldforge.encodings.base import Encoding
from fieldforge.encodings.interpolation import total_variation
from fieldforge.kernels import cpu_door, cpu_ops, tuned
from fieldforge.kernels.triton import door as triton_door
from fieldforge.kernels.triton import grid as triton_grid
from fieldforge.registry import register

TYPES = ("Hash", "Dense", "Tiled")
INTERPOLATIONS = ("Linear", "Smoothstep", "Nearest")
HASH_PRIMES = (1, 2654435761, 805459861, 3674653429)
"""CoherentPrime: the 1 keeps neighbours in x near each other in memory (tiny-cuda-nn, common_device.h)."""
MAX_PARAMETERS = 2**31 - 1
"""8 GiB of float32; more than that is a slip of the pen, and is refused before anything is allocated."""


@dataclass(frozen=True)
class Level:
    """One lattice of the hierarchy; every number a kernel needs besides the point and the table.

    The lattice point (c_0, c_1, ...), each c_i an unsigned 32-bit integer, has its features in row
    ``offset + combined % size`` of the table, where ``combined`` is the exclusive or (``is_hashed``) or else the sum of
    ``c_i * multipliers[i]``, all modulo 2^32.
    """

    scale: float
    """Cells per unit length, a float32 number: a point x is at scale * x + 1/2 on the lattice."""
    resolution: int
    """Lattice points per axis."""
    offset: int
    """First row of this level in the table."""
    size: int
    """Number of rows of this level."""
    is_hashed: bool
    """Whether the lattice has more points than the level has rows, and the table is a hash table."""
    multipliers: tuple[int, ...]
    """One per coordinate: primes when hashed, else the strides of a row-major lattice with x fastest."""
    last_scale: float | None = None
    """Cells per unit length of the last coordinate, where it has its own; 0, with a multiplier of 0: it is not read."""


def grid_levels(
    n_input_dims: int,
    *,
    type: str = "Hash",
    n_levels: int = 16,
    log2_hashmap_size: int = 19,
    base_resolution: int = 16,
    per_level_scale: float = 2.0,
) -> list[Level]:
    """The constants of every level, coarse to fine, as plain Python numbers (tiny-cuda-nn, GridEncodingTemplated).

    Raises:
        ValueError: a level's resolution is below 1 or beyond 2^31.

    Example:
        >>> [level.size for level in grid_levels(2, n_levels=3, log2_hashmap_size=10)]
        [256, 1024, 1024]
    """
    levels: list[Level] = []
    offset = 0
    for index in range(n_levels):
        scale = _level_scale(index, base_resolution, per_level_scale)
        if not 0 <= scale < 2**31:
            raise ValueError(
                f"per_level_scale: level {index} would have {scale + 1:g} lattice points per axis "
                f"(base_resolution={base_resolution}, per_level_scale={per_level_scale:g}); allowed are 1 to 2^31"
            )
        resolution = math.ceil(scale) + 1
        n_points = resolution**n_input_dims
        size = -(-n_points // 8) * 8  # a multiple of 8 keeps rows aligned on a GPU
        if type == "Hash":
            size = min(size, 2**log2_hashmap_size)
        elif type == "Tiled":
            size = min(size, base_resolution**n_input_dims)
        is_hashed = type == "Hash" and size < n_points
        if is_hashed:
            multipliers = HASH_PRIMES[:n_input_dims]
        elif n_points < 2**32:
            multipliers = tuple(resolution**dim for dim in range(n_input_dims))
        else:
            # tiny-cuda-nn leaves the index at 0 when the strides would overflow: the whole level is its first row.
            multipliers = (0,) * n_input_dims
        levels.append(Level(scale, resolution, offset, size, is_hashed, multipliers))
        offset += size
    return levels


@provide("grid", "reference")
def grid(x: Tensor, table: Tensor, levels: Sequence[Level], interpolation: str) -> Tensor:
    """Look points up in every level and interpolate; this function defines the encoding.

    Args:
        x: (N, d) points of the unit cube; others wrap around the tables.
        table: (n_entries, F) rows of all levels, one level after another.
        levels: as `grid_levels` gives them.
        interpolation: "Linear", "Smoothstep" (3t² − 2t³ in place of t) or "Nearest" (the corner at the cell's floor).

    Returns:
        (N, n_levels * F) in the dtype of `table`, level by level.
    """
    rows = table.split([level.size for level in levels])
    return torch.cat([_interpolate(x, *pair, interpolation) for pair in zip(rows, levels, strict=True)], -1)


def level_index(points: Tensor, level: Level) -> Tensor:
    """(..., d) int64 lattice points -> (...) rows of the level, in unsigned 32-bit arithmetic (grid_index of tcnn)."""
    # int64 products may overflow, but their low 32 bits are right.
    terms = [points[..., dim] * factor & 0xFFFFFFFF for dim, factor in enumerate(level.multipliers)]
    combined = functools.reduce(torch.bitwise_xor if level.is_hashed else torch.add, terms)
    return (combined & 0xFFFFFFFF) % level.size


def _interpolate(x: Tensor, rows: Tensor, level: Level, interpolation: str) -> Tensor:
    """One level: (N, d) points, (size, F) rows -> (N, F)."""
    cell, t = _placed(x, level)
    if interpolation == "Nearest":
        zero = 0 * t.sum(-1, keepdim=True).nan_to_num().to(rows.dtype)  # so that x has a gradient: zero
        return embedding(level_index(cell, level), rows) + zero
    index, weight = _corners(cell, t, level, interpolation)
    # embedding, not rows[index]: its backward adds in a fixed order for any number of threads.
    feature = embedding(index, rows)  # (N, 2^d, F)
    return (weight.to(rows.dtype)[..., None] * feature).sum(-2)


def bags(x: Tensor, levels: Sequence[Level], interpolation: str) -> tuple[Tensor, Tensor]:
    """Which rows of the table each point's features are sums of, and by which weights; as `grid` has it.

    Args:
        x: (N, d) points, which stay where they are: no gradient.
        levels, interpolation: as for `grid`.

    Returns:
        (N, n_levels, C) int64 and (N, n_levels, C), at least float32; C is 2^d, or 1 for "Nearest".

    Example:
        >>> rows, weights = bags(torch.tensor([[0.25]]), grid_levels(1, n_levels=1, base_resolution=3), "Linear")
        >>> rows.tolist(), weights.tolist()
        ([[[1, 2]]], [[[1.0, 0.0]]])
    """
    rows, weights = list[Tensor](), list[Tensor]()
    for level in levels:
        cell, t = _placed(x.detach(), level)
        if interpolation == "Nearest":
            index, weight = level_index(cell, level)[:, None], torch.ones_like(t[:, :1])
        else:
            index, weight = _corners(cell, t, level, interpolation)
        rows.append(level.offset + index)
        weights.append(weight)
    return torch.stack(rows, 1), torch.stack(weights, 1)


def _placed(x: Tensor, level: Level) -> tuple[Tensor, Tensor]:
    """The cell of each point (N, d) int64, and where in it the point is (N, d), in [0, 1)."""
    # The product of two float32 numbers is exact in float64, so the position is rounded to float32 once, as by a
    # fused multiply-add. Rounding the product too moves points by up to 1/64 of a cell at resolution 2^17: one rule
    # for every backend.
    scale: float | Tensor = level.scale
    if level.last_scale is not None:
        scale = x.new_tensor([level.scale] * (x.shape[-1] - 1) + [level.last_scale], dtype=torch.float64)
    position = (x.double() * scale + 0.5).to(torch.promote_types(x.dtype, torch.float32))
    floor = position.detach().floor()
    return _saturating_int(floor), position - floor


def _corners(cell: Tensor, t: Tensor, level: Level, interpolation: str) -> tuple[Tensor, Tensor]:
    """Rows of the level and weights (N, 2^d) of the corners of the points' cells."""
    if interpolation == "Smoothstep":
        t = t * t * (3 - 2 * t)
    corners = constant(tuple(itertools.product((0, 1), repeat=t.shape[-1])), torch.int64, t.device)  # (2^d, d)
    weight = torch.where(corners == 1, t[:, None], 1 - t[:, None])  # (N, 2^d, d)
    return level_index(cell[:, None] + corners, level), functools.reduce(torch.mul, weight.unbind(-1))


def _saturating_int(floor: Tensor) -> Tensor:
    """Float to int64 in the range of int32, NaN to 0: a GPU's conversion, where C leaves it undefined."""
    return floor.double().nan_to_num(nan=0.0).clamp(-(2**31), 2**31 - 1).long()


def _what_runs_on_cpu() -> str:
    reason = cpu_door.missing()
    return f"tuned PyTorch: {reason}" if reason else cpu_door.description()


@provide("grid", "cpu", refuses=tuned.grid_refuses, note=_what_runs_on_cpu)
def _grid_on_cpu(x: Tensor, table: Tensor, levels: Sequence[Level], interpolation: str) -> Tensor:
    """Compiled where there was a compiler, tuned PyTorch elsewhere."""
    if cpu_door.missing() and any(level.last_scale is not None for level in levels):
        return grid(x, table, levels, interpolation)
    run = tuned.grid if cpu_door.missing() else cpu_ops.grid
    return run(x, table, levels, interpolation, reference=grid)


@provide("grid", "cuda", missing=triton_door.missing, refuses=triton_grid.refuses, note=triton_door.description)
def _grid_on_cuda(x: Tensor, table: Tensor, levels: Sequence[Level], interpolation: str) -> Tensor:
    return triton_grid.grid(x, table, levels, interpolation, reference=grid)


@register("encoding", "Grid")
@register("encoding", "HashGrid", defaults={"type": "Hash"})
@register("encoding", "DenseGrid", defaults={"type": "Dense"})
@register("encoding", "TiledGrid", defaults={"type": "Tiled"})
class Grid(Encoding):
    """Multi-resolution grid of trained features; keys and arithmetic of tiny-cuda-nn.

    Args:
        n_input_dims: number of coordinates d, 1 to 4.
        type: what backs a level: "Hash" (at most 2^log2_hashmap_size rows), "Tiled" (at most base_resolution^d rows,
            repeated) or "Dense" (a row per lattice point).
        n_levels: number of lattices, 1 to 64.
        n_features_per_level: F, one of 1, 2, 4, 8.
        log2_hashmap_size: 1 to 30; only "Hash" reads it.
        base_resolution: lattice points per axis of the coarsest level.
        per_level_scale: growth of the resolution from level to level. None is 2, or for "Dense" the growth that
            reaches 256 at the finest level; the attribute holds the number.
        interpolation: "Linear", "Smoothstep" (continuous first derivatives) or "Nearest".
        hash, stochastic_interpolation, fixed_point_pos: tiny-cuda-nn's, only as they stand.
        generator: draws the table uniformly from (-1e-4, 1e-4).

    Attributes:
        table: (n_entries, F) parameter; flattened, it is tiny-cuda-nn's parameter vector.
        levels: list of `Level`.

    Returns:
        (*batch, n_levels * F) in the dtype of the table, coarse level first.

    Raises:
        ValueError: a key is out of range, or the table would have more than 2^31 - 1 numbers.

    "Tiled" and "Dense" levels of 2^32 points or more are a single row, as in tiny-cuda-nn. Positions are computed in
    the precision of x, at least float32.

    Example:
        >>> Grid(2, n_levels=4, n_features_per_level=2)(torch.rand(5, 2)).shape
        torch.Size([5, 8])
    """

    otype = "Grid"
    domain = "unit cube"
    outside = (
        "the lattice goes on, its indices wrapping around the table modulo 2^32 and the level's size; "
        "NaN and positions that overflow give NaN, or with Nearest some row of the table"
    )

    type: str  # type: ignore[assignment]  # the key's name in tiny-cuda-nn; hides nn.Module.type, a cast

    def __init__(
        self,
        n_input_dims: int,
        *,
        type: str = "Hash",
        n_levels: int = 16,
        n_features_per_level: int = 2,
        log2_hashmap_size: int = 19,
        base_resolution: int = 16,
        per_level_scale: float | None = None,
        interpolation: str = "Linear",
        hash: str = "CoherentPrime",
        stochastic_interpolation: bool = False,
        fixed_point_pos: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.n_input_dims = expect_int("n_input_dims", n_input_dims, 1, len(HASH_PRIMES))
        self.type = expect_choice("type", type, TYPES)
        self.n_levels = expect_int("n_levels", n_levels, 1, 64)
        self.n_features_per_level = expect_int("n_features_per_level", n_features_per_level, 1, 8)
        if n_features_per_level not in (1, 2, 4, 8):
            raise ValueError(f"n_features_per_level: expected 1, 2, 4 or 8, got {n_features_per_level}")
        self.log2_hashmap_size = expect_int("log2_hashmap_size", log2_hashmap_size, 1, 30)
        self.base_resolution = expect_int("base_resolution", base_resolution, 1, 2**24)
        if per_level_scale is None:
            per_level_scale = _dense_growth(base_resolution, n_levels) if self.type == "Dense" else 2.0
        self.per_level_scale = expect_float("per_level_scale", per_level_scale, 0.0, 2.0**24, open_low=True)
        self.interpolation = expect_choice("interpolation", interpolation, INTERPOLATIONS)
        expect_only("hash", hash, "CoherentPrime", "tiny-cuda-nn compiles no other either")
        expect_only("stochastic_interpolation", stochastic_interpolation, False, "every backend must agree")
        expect_only("fixed_point_pos", fixed_point_pos, False, "positions are floating point")
        self.hash, self.stochastic_interpolation, self.fixed_point_pos = hash, stochastic_interpolation, fixed_point_pos

        self.levels = self._make_levels()
        self.n_output_dims = len(self.levels) * n_features_per_level
        self.finest_cell = 1 / max(1.0, *(level.scale for level in self.levels))
        self.smoothness = {"Linear": 0, "Smoothstep": 1, "Nearest": -1}[self.interpolation]
        self.table = nn.Parameter(torch.empty(_n_entries(self.levels, n_features_per_level), n_features_per_level))
        self._initialise(expect_generator(generator))

    def forward(self, x: Tensor) -> Tensor:
        points = expect_points(x, self.n_input_dims, owner=self).reshape(-1, self.n_input_dims)
        run = choose(
            "grid",
            x.device,
            x_dtype=x.dtype,
            dtype=self.table.dtype,
            n_input_dims=self.n_input_dims,
            n_features=self.n_features_per_level,
            n_entries=self.table.shape[0],
            interpolation=self.interpolation,
        )
        features: Tensor = run(points, self.table, self.levels, self.interpolation)
        return features.reshape(*x.shape[:-1], self.n_output_dims)

    def channel_order(self) -> Tensor:
        """(n_output_dims,) index of each channel's level: level 0 is the coarsest when the lattices grow."""
        return torch.arange(self.n_levels).repeat_interleave(self.n_features_per_level)

    def penalties(self) -> dict[str, Callable[[], Tensor]]:
        """Where every level has a row for each lattice point: neighbours in a hash table are none."""
        has_rows = all(level.size >= level.resolution**self.n_input_dims for level in self.levels)
        return {"total_variation": self._total_variation} if has_rows else {}

    def _total_variation(self) -> Tensor:
        found, d = [], self.n_input_dims
        for level, rows in zip(self.levels, self.table.split([level.size for level in self.levels]), strict=True):
            lattice = rows[: level.resolution**d].view(*[level.resolution] * d, -1)
            found.append(total_variation(lattice, d))
        return torch.stack(found).sum()

    def _make_levels(self) -> list[Level]:
        return grid_levels(
            self.n_input_dims,
            type=self.type,
            n_levels=self.n_levels,
            log2_hashmap_size=self.log2_hashmap_size,
            base_resolution=self.base_resolution,
            per_level_scale=self.per_level_scale,
        )

    def _initialise(self, generator: torch.Generator | None) -> None:
        if not self.table.is_meta:
            values = torch.empty(self.table.shape, device="cpu").uniform_(-1e-4, 1e-4, generator=generator)
            with torch.no_grad():
                self.table.copy_(values)


HashGrid = functools.partial(Grid, type="Hash")
"""`Grid` backed by hash tables."""
DenseGrid = functools.partial(Grid, type="Dense")
"""`Grid` with a row per lattice point."""
TiledGrid = functools.partial(Grid, type="Tiled")
"""`Grid` that repeats a tile of base_resolution^d rows."""


def _level_scale(index: int, base_resolution: int, per_level_scale: float) -> float:
    """exp2(index * log2(per_level_scale)) * base_resolution - 1, each step rounded to float32.

    tiny-cuda-nn's host code rounds so, and it decides how many rows a level has.
    """
    log2_growth = np.float32(math.log2(np.float32(per_level_scale)))
    with np.errstate(over="ignore"):
        growth = np.float32(2.0 ** min(float(np.float32(index) * log2_growth), 1000.0))
        return float(growth * np.float32(base_resolution) - np.float32(1.0))


def _dense_growth(base_resolution: int, n_levels: int) -> float:
    """The growth that brings a dense grid to 256 points per axis, in float32 as tiny-cuda-nn computes it."""
    if n_levels == 1:
        return 1.0
    log_ratio = np.float32(math.log(np.float32(256) / np.float32(base_resolution)))
    return float(np.float32(math.exp(log_ratio / np.float32(n_levels - 1))))


def _n_entries(levels: Sequence[Level], n_features: int) -> int:
    n_entries = sum(level.size for level in levels)
    if n_entries * n_features > MAX_PARAMETERS:
        raise ValueError(
            f"n_levels: {len(levels)} levels with up to {max(level.size for level in levels):,} rows of {n_features} "
            f"features are {n_entries * n_features:,} numbers, of at most {MAX_PARAMETERS:,}; use fewer levels, a "
            f"smaller per_level_scale or base_resolution, or type 'Hash' with a smaller log2_hashmap_size"
        )
    return n_entries
