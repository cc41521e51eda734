"""Tuned PyTorch: what serves on a CPU where no compiled kernel does.

`grid` is the same function as the reference in ``encodings/grid.py``, made from the operations of PyTorch that are
quick on one core. A level is walked at a time, so that its table stays in cache, in chunks of points whose
intermediates do. A pair of float32 features travels as one complex64 number: gathers and scatters of 1-D tensors are
several times quicker than those of rows, and one serves two features.

The bits of the result are the same for any number of threads: the adding of gradients is serial, and chunks are so
small that PyTorch runs `lerp` serially too (its grain is 32768 elements), which may round otherwise at the ragged end
of a thread's share than within it. All other operations round once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

GRAIN = 32768
"""Below this many elements PyTorch runs an operation on one thread (at::internal::GRAIN_SIZE)."""
MAX_ENTRIES = 2**29
"""Row numbers, also before they are wrapped, fit int32."""


class GridLevel(Protocol):
    """What is read of `fieldforge.encodings.grid.Level`."""

    @property
    def scale(self) -> float: ...
    @property
    def resolution(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def is_hashed(self) -> bool: ...
    @property
    def multipliers(self) -> tuple[int, ...]: ...
    @property
    def last_scale(self) -> float | None: ...
    def __hash__(self) -> int: ...


Reference = Callable[[Tensor, Tensor, Sequence[Any], str], Tensor]


def grid_refuses(
    *, x_dtype: torch.dtype, dtype: torch.dtype, n_input_dims: int, n_features: int, n_entries: int, **_: Any
) -> str | None:
    """Why `grid` cannot run a call, or None."""
    if x_dtype != torch.float32 or dtype != torch.float32:
        return f"tuned PyTorch has it in float32 only, not {x_dtype} points and {dtype} features"
    if n_features not in (1, 2, 4, 8):
        return f"tuned PyTorch has it for 1, 2, 4 or 8 features per level, not {n_features}"
    if n_entries > MAX_ENTRIES:
        return f"tuned PyTorch has it for tables of at most {MAX_ENTRIES} rows, not {n_entries}"
    return None


def grid(x: Tensor, table: Tensor, levels: Sequence[GridLevel], interpolation: str, *, reference: Reference) -> Tensor:
    """The grid encoding of float32 points on the CPU; arguments and result as for `reference`.

    Second derivatives are the reference's: a backward pass that is itself recorded runs there.
    """
    features: Tensor = _Grid.apply(x, table, levels, interpolation, reference)
    return features


class _Grid(torch.autograd.Function):
    @staticmethod
    def forward(
        x: Tensor, table: Tensor, levels: Sequence[GridLevel], interpolation: str, reference: Reference
    ) -> Tensor:
        return _forward(x, table, levels, interpolation)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, table, ctx.levels, ctx.interpolation, ctx.reference = inputs
        ctx.save_for_backward(x, table)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        x, table = ctx.saved_tensors
        needs_x, needs_table = ctx.needs_input_grad[:2]
        if torch.is_grad_enabled():
            wanted = [tensor for tensor, needed in ((x, needs_x), (table, needs_table)) if needed]
            features = ctx.reference(x, table, ctx.levels, ctx.interpolation)
            found = iter(torch.autograd.grad(features, wanted, grad, create_graph=True))
            return next(found) if needs_x else None, next(found) if needs_table else None, None, None, None
        return *_backward(x, table, grad, ctx.levels, ctx.interpolation, needs_x, needs_table), None, None, None


def _forward(x: Tensor, table: Tensor, levels: Sequence[GridLevel], interpolation: str) -> Tensor:
    """(N, d), (n_entries, F) -> (N, n_levels * F)."""
    unit, width, columns = _as_units(_aligned(table.detach()))
    features = table.new_empty(x.shape[0], len(levels) * table.shape[1])
    out = features.view(unit)  # (N, n_levels * n_columns)
    chunks = _chunks(x.detach())
    for number, level in enumerate(levels):
        locate = _locator(level, x.shape[1], interpolation)
        values = [column[level.offset : level.offset + level.size] for column in columns]
        for here, points, is_inside in chunks:
            row, t, _ = locate(points, is_inside)
            weight = _per_feature(t, width)
            for channel, value in enumerate(values, number * len(columns)):
                corners = value.index_select(0, row.flatten()).view(torch.float32).view(*row.shape[:-1], -1)
                out[here, channel] = _interpolate(corners, weight).view(unit)
    return features


def _backward(
    x: Tensor,
    table: Tensor,
    grad: Tensor,
    levels: Sequence[GridLevel],
    interpolation: str,
    needs_x: bool,
    needs_table: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of x (N, d) and table (n_entries, F) from that of the features (N, n_levels * F)."""
    unit, width, columns = _as_units(_aligned(table.detach()))
    grad_table = table.new_zeros(table.shape if needs_table else (0, table.shape[1]))
    grad_columns = _as_units(grad_table)[2]
    grad_x = x.new_zeros(x.shape[1], x.shape[0])
    grad = _aligned(grad).view(unit)  # (N, n_levels * n_columns)
    chunks = _chunks(x.detach())
    for number, level in enumerate(levels):
        locate = _locator(level, x.shape[1], interpolation)
        rows = slice(level.offset, level.offset + level.size)
        for here, points, is_inside in chunks:
            row, t, slope = locate(points, is_inside)
            weight = _per_feature(t, width)
            index = row.flatten().long()
            grad_t = torch.zeros_like(weight)
            for column, channel in enumerate(range(number * len(columns), (number + 1) * len(columns))):
                spread = _spread(grad[here, channel].contiguous().view(torch.float32), weight)
                if needs_table:
                    grad_columns[column][rows].scatter_add_(0, index, spread[-1].view(unit).flatten())
                if needs_x:
                    corners = columns[column][rows].index_select(0, index).view(torch.float32)
                    _add_grad_t(grad_t, corners.view(*row.shape[:-1], -1), weight, spread)
            if needs_x and len(t):
                each = grad_t.view(*t.shape, width)
                grad_x[:, here] += (each[..., 0] + each[..., 1] if width == 2 else each[..., 0]) * slope * level.scale
    return grad_x.t() if needs_x else None, grad_table if needs_table else None


def _as_units(table: Tensor) -> tuple[torch.dtype, int, tuple[Tensor, ...]]:
    """(n_entries, F) -> what one lookup moves (dtype, its number of float32) and the table's columns of it."""
    if table.shape[1] == 1:
        return torch.float32, 1, table.unbind(1)
    return torch.complex64, 2, table.view(torch.complex64).unbind(1)


def _aligned(rows: Tensor) -> Tensor:
    """Contiguous, from an even place in memory on: what can be seen as complex64."""
    rows = rows.contiguous()
    return rows.clone() if rows.storage_offset() % 2 else rows


def _chunks(x: Tensor) -> list[tuple[slice, Tensor, bool]]:
    """Which points, their coordinates as (d, n) float64, and whether all lie in the unit cube (then int32 will do)."""
    step = GRAIN // 2 ** x.shape[1] - 16  # an operation on all corners of a chunk stays below the grain
    chunks = []
    for here in (slice(start, start + step) for start in range(0, x.shape[0], step)):
        points = x[here].t().to(torch.float64, memory_format=torch.contiguous_format)
        low, high = torch.aminmax(points)
        chunks.append((here, points, bool(low >= 0) and bool(high <= 1)))
    return chunks


class _Locator:
    """Where points are in a level: rows of the level at the corners of their cells, and interpolation weights."""

    def __init__(self, level: GridLevel, n_dims: int, interpolation: str) -> None:
        self.level, self.interpolation = level, interpolation
        self.n_corners = 1 if interpolation == "Nearest" else 2  # per coordinate
        # corner c of coordinate i contributes multiplier_i * (cell_i + c)
        self.multipliers = torch.tensor(level.multipliers, device="cpu").view(n_dims, 1, 1)  # (d, 1, 1)
        self.offsets = self.multipliers * torch.arange(self.n_corners, device="cpu").view(-1, 1)  # (d, n_corners, 1)
        self.small_multipliers, self.small_offsets = _wrap_int32(self.multipliers), _wrap_int32(self.offsets)
        largest = level.resolution * sum(level.multipliers)  # half a cell sticks out of the lattice
        self.wraps = not level.is_hashed and largest >= level.size
        self.wraps_more = not level.is_hashed and largest >= 2 * level.size

    def __call__(self, points: Tensor, is_inside: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Find (d, n) points.

        Returns:
            rows (2, ..., 2, n) with one axis per coordinate, int32 or int64; weight t (d, n) of the upper corners;
            dt / dposition, to be broadcast against t. Without corners (Nearest) rows are (n,) and t is (0, n).
        """
        position = torch.add(_HALF, points, alpha=self.level.scale).float()  # rounded once, as in the reference
        if is_inside and not self.wraps_more:
            t = position.frac()
            row = self._rows_inside(position.to(torch.int32))
        else:
            floor = position.floor()
            t = position - floor
            row = self._rows_anywhere(floor.double().nan_to_num(nan=0.0).clamp(-(2**31), 2**31 - 1).long())
        if self.interpolation == "Nearest":
            return row, t[:0], _ONE
        if self.interpolation == "Smoothstep":
            return row, t * t * (3 - 2 * t), 6 * t * (1 - t)
        return row, t, _ONE

    def _rows_inside(self, cell: Tensor) -> Tensor:
        """(d, n) int32 cells of points in the unit cube -> int32 rows, without a division."""
        terms = (cell.unsqueeze(1) * self.small_multipliers).add(self.small_offsets)  # (d, n_corners, n)
        size = self.level.size
        if self.level.is_hashed:
            return _combine(torch.bitwise_xor, terms.bitwise_and_(size - 1))  # a hash table's size is a power of two
        row = _combine(torch.add, terms)
        if self.wraps:  # less than the size past the end; a shift gives -1 before it, at a fifth of the cost of `where`
            past = row - size
            row = (past >> 31).bitwise_and_(size).add_(past)
        return row

    def _rows_anywhere(self, cell: Tensor) -> Tensor:
        """(d, n) int64 cells -> int64 rows, in unsigned 32-bit arithmetic."""
        terms = (cell.unsqueeze(1) * self.multipliers).add(self.offsets).bitwise_and_(0xFFFFFFFF)
        combined = _combine(torch.bitwise_xor if self.level.is_hashed else torch.add, terms)
        return (combined & 0xFFFFFFFF) % self.level.size


@functools.lru_cache(maxsize=256)
def _locator(level: GridLevel, n_dims: int, interpolation: str) -> _Locator:
    """Made once per level: its few small tensors cost as much as a few thousand points."""
    return _Locator(level, n_dims, interpolation)


def _combine(operation: Callable[[Tensor, Tensor], Tensor], terms: Tensor) -> Tensor:
    """(d, n_corners, n) -> (2, ..., 2, n) with coordinate i on axis i; one corner: (n,)."""
    if terms.shape[1] == 1:
        terms = terms.squeeze(1)
    total = terms[0]
    for term in terms[1:]:
        total = operation(total.unsqueeze(-2) if term.ndim == 2 else total, term)
    return total


def _wrap_int32(number: Tensor) -> Tensor:
    """The int32 with the same low 32 bits as an int64."""
    return ((number + 2**31 & 0xFFFFFFFF) - 2**31).to(torch.int32)


def _per_feature(t: Tensor, width: int) -> Tensor:
    """(d, n) -> (d, n * width), each number repeated; torch.complex does it at a third of the cost of a copy."""
    return torch.view_as_real(torch.complex(t, t)).flatten(1) if width == 2 else t


def _interpolate(corners: Tensor, weight: Tensor) -> Tensor:
    """(2, ..., 2, m) values -> (m,), one axis after another."""
    for t in weight:
        corners = torch.lerp(corners[0], corners[1], t)
    return corners


def _spread(grad: Tensor, weight: Tensor) -> list[Tensor]:
    """The transpose of `_interpolate`: (m,), (2, m), ... (2, ..., 2, m)."""
    stages = [grad]
    for t in reversed(weight.unbind(0)):
        both = grad.new_empty(2, *stages[-1].shape)
        torch.mul(stages[-1], t, out=both[1])
        torch.sub(stages[-1], both[1], out=both[0])
        stages.append(both)
    return stages


def _add_grad_t(grad_t: Tensor, corners: Tensor, weight: Tensor, spread: Sequence[Tensor]) -> None:
    """Add to grad_t (d, m) what one column of features says; `spread` as `_spread` gives it."""
    for dim, t in enumerate(weight):
        rise = corners[1] - corners[0]
        for part in (rise * spread[len(weight) - 1 - dim]).view(-1, rise.shape[-1]):
            grad_t[dim] += part
        corners = torch.lerp(corners[0], corners[1], t)


_HALF = torch.tensor(0.5, dtype=torch.float64, device="cpu")
_ONE = torch.tensor(1.0, device="cpu")
