"""The multi-resolution grid on a GPU: value and first derivatives; second ones are the reference's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from fieldforge.kernels.cpu_second import is_transformed, needs_reference, recorded
from fieldforge.kernels.triton.door import FLOATS, blocks, expect_rows, expect_tensor, launch
from fieldforge.kernels.tuned import GridLevel, Reference

MAX_POINTS = 2**31 - 1


def refuses(*, x_dtype: torch.dtype, dtype: torch.dtype, n_input_dims: int, n_features: int, **_: Any) -> str | None:
    """Why `grid` cannot run a call, or None."""
    if x_dtype != torch.float32 or dtype not in FLOATS:
        return f"it has float32 points and 16-bit or float32 features, not {x_dtype} points and {dtype} features"
    if n_features not in (1, 2, 4, 8) or not 1 <= n_input_dims <= 4:
        return f"it has 1, 2, 4 or 8 features per level of 1 to 4 dimensions, not {n_features} of {n_input_dims}"
    return is_transformed()


def grid(
    x: Tensor,
    table: Tensor,
    levels: Sequence[GridLevel],
    interpolation: str,
    *,
    reference: Reference,
    is_deterministic: bool | None = None,
) -> Tensor:
    """Look points up in every level and interpolate; arguments and result as for `reference`.

    Args:
        x: (N, d) float32 on a CUDA device.
        table: (n_entries, F) float32, float16 or bfloat16. Sums are float32, also those of its gradient.
        levels, interpolation: as for `fieldforge.encodings.grid.grid`.
        reference: the same in PyTorch, where a backward pass is itself recorded.
        is_deterministic: whether the gradient of the table is added in a fixed order, row after row, instead of by
            atomic additions as they come; sorting takes several times as long. None: what
            `torch.are_deterministic_algorithms_enabled` says.

    Returns:
        (N, n_levels * F) in the dtype of the table.

    Raises:
        TypeError, ValueError: a tensor has another dtype, shape or device, or there is no level.
    """
    if not levels:
        raise ValueError("levels: expected at least one level of a grid, got none")
    if is_deterministic is None:
        is_deterministic = torch.are_deterministic_algorithms_enabled()
    features: Tensor = _Grid.apply(x, table, tuple(levels), interpolation, reference, is_deterministic)
    return features


class _Grid(torch.autograd.Function):
    @staticmethod
    def forward(
        x: Tensor,
        table: Tensor,
        levels: tuple[GridLevel, ...],
        interpolation: str,
        reference: Reference,
        is_deterministic: bool,
    ) -> Tensor:
        call = _Call(x, table, levels, interpolation)
        out = call.table.new_empty(call.n, len(levels) * call.n_features)
        call.run("forward", call.x, call.table, out, over_levels=True)
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, table, *ctx.others = inputs
        ctx.save_for_backward(x, table)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, table = ctx.saved_tensors
        levels, interpolation, reference, is_deterministic = ctx.others
        needs_x, needs_table = ctx.needs_input_grad[:2]
        if needs_reference(grad):

            def again(x: Tensor, table: Tensor) -> Tensor:
                return reference(x, table, levels, interpolation)

            with torch.enable_grad():
                found = recorded(again, (x, table), (needs_x, needs_table), (grad,))
            return *found, None, None, None, None
        call = _Call(x, table, levels, interpolation)
        grad = expect_tensor("grad", grad, (call.n, len(levels) * call.n_features), FLOATS, call.x.device)
        to_x = call.to_points(grad) if needs_x else None
        if not needs_table:
            return to_x, None, None, None, None, None
        to_table = call.to_table_in_order(grad) if is_deterministic else call.to_table(grad)
        return to_x, to_table.to(table.dtype), None, None, None, None


class _Call:
    """Checked tensors of a call, and the kernels on them."""

    def __init__(self, x: Tensor, table: Tensor, levels: tuple[GridLevel, ...], interpolation: str) -> None:
        if not isinstance(table, Tensor) or table.ndim != 2:
            got = tuple(table.shape) if isinstance(table, Tensor) else type(table).__name__
            raise ValueError(f"table: expected an (n_entries, n_features) tensor, got {got}")
        self.n_dims, self.n_features = len(levels[0].multipliers), table.shape[1]
        self.x = expect_rows("x", x, self.n_dims)
        n_entries = max(level.offset + level.size for level in levels)
        self.table = expect_tensor("table", table, (n_entries, self.n_features), FLOATS, self.x.device)
        self.n, self.levels, self.interpolation = self.x.shape[0], levels, interpolation
        if self.n > MAX_POINTS:
            raise ValueError(f"x: expected at most {MAX_POINTS} points at once, got {self.n}")
        self.constants = _constants(levels, self.x.device)

    def run(self, name: str, *tensors: Tensor, over_levels: bool) -> None:
        """One of the kernels that are tuned."""
        if not self.n:
            return
        from fieldforge.kernels.triton import grid_kernels

        def programs(meta: dict[str, Any]) -> tuple[int, ...]:
            n_blocks = blocks(self.n, meta["BLOCK"])
            return (n_blocks, len(self.levels)) if over_levels else (n_blocks,)

        launch(
            getattr(grid_kernels, name), programs, *tensors, *self.constants, self.n, len(self.levels),
            D=self.n_dims, F=self.n_features, INTERPOLATION=self.interpolation,
        )  # fmt: skip

    def to_points(self, grad: Tensor) -> Tensor:
        if self.interpolation == "Nearest":
            return torch.zeros_like(self.x)
        grad_x = torch.empty_like(self.x)
        self.run("backward_to_points", self.x, self.table, grad, grad_x, over_levels=False)
        return grad_x

    def to_table(self, grad: Tensor) -> Tensor:
        grad_table = torch.zeros_like(self.table, dtype=torch.float32)
        self.run("backward_to_table", self.x, grad, grad_table, over_levels=True)
        return grad_table

    def to_table_in_order(self, grad: Tensor) -> Tensor:
        """Level by level: the rows that points read are sorted, and the shares of each added in the points' order."""
        from fieldforge.kernels.triton import grid_kernels

        grad_table = torch.zeros_like(self.table, dtype=torch.float32)
        n_corners = 1 if self.interpolation == "Nearest" else 2**self.n_dims
        rows = torch.empty(self.n * n_corners, dtype=torch.int32, device=self.x.device)
        weights = torch.empty(rows.shape, device=self.x.device)
        for index in range(len(self.levels) if self.n else 0):
            launch(
                grid_kernels.corners, (blocks(self.n, 256),), self.x, rows, weights, *self.constants, self.n, index,
                D=self.n_dims, INTERPOLATION=self.interpolation, BLOCK=256,
            )  # fmt: skip
            in_order, order = rows.sort(stable=True)
            used, counts = in_order.unique_consecutive(return_counts=True)
            starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
            launch(
                grid_kernels.add_sorted, (blocks(len(used), 32),), order, starts, used, weights, grad, grad_table,
                len(used), len(self.levels), index, CORNERS=n_corners, F=self.n_features, BLOCK=32, CHUNK=8,
            )  # fmt: skip
        return grad_table


@lru_cache(maxsize=64)
def _constants(levels: tuple[GridLevel, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """The levels as the kernels read them: (n_levels, 4) float32 and (n_levels, 8) int32."""
    scales, integers = [], []
    for level in levels:
        n_dims = len(level.multipliers)
        last = level.scale if level.last_scale is None else level.last_scale
        scales.append([level.scale] * (n_dims - 1) + [last] + [0.0] * (4 - n_dims))
        multipliers = [factor - 2**32 if factor >= 2**31 else factor for factor in level.multipliers]  # the same bits
        integers.append([level.offset, level.size, int(level.is_hashed), 0, *multipliers] + [0] * (4 - n_dims))
    return torch.tensor(scales, device=device), torch.tensor(integers, dtype=torch.int32, device=device)
