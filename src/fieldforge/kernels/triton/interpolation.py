"""Multilinear interpolation in a table on a GPU: value and first derivatives; second ones are the reference's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fieldforge.kernels.cpu_second import is_transformed, needs_reference, recorded
from fieldforge.kernels.triton.door import FLOATS, blocks, expect_rows, expect_tensor, launch

MAX_AXES = 3
MAX_FEATURES = 2**16
"""Of an entry, 32 to a program."""
Reference = Callable[[Tensor, Tensor], Tensor]


def refuses(*, dtype: torch.dtype, x_dtype: torch.dtype, shape: tuple[int, ...], **_: Any) -> str | None:
    """Why a call on a table of a dtype and shape cannot run, or None."""
    if x_dtype != torch.float32 or dtype not in FLOATS:
        return f"it has float32 points and 16-bit or float32 entries, not {x_dtype} points and {dtype} entries"
    if not 1 <= len(shape) - 1 <= MAX_AXES or shape[-1] > MAX_FEATURES:
        return f"it has tables of 1 to {MAX_AXES} axes and at most {MAX_FEATURES} features, not of shape {shape}"
    if torch.are_deterministic_algorithms_enabled():
        return "gradients of its table are added as they come, and deterministic algorithms were asked for"
    return is_transformed()


def interpolate(table: Tensor, x: Tensor, *, reference: Reference) -> Tensor:
    """Interpolate between the entries of a table; arguments and result as for `reference`.

    Args:
        table: (R_1, ..., R_k, F) float32, float16 or bfloat16 on a CUDA device, every R at least 2.
        x: (*batch, k) float32.
        reference: (table, x) -> the same in PyTorch, where a backward pass is itself recorded.

    Returns:
        (*batch, F) float32. Sums are float32, also those of the table's gradient.

    Raises:
        TypeError, ValueError: a tensor has another dtype, shape or device; a side is below 2.
    """
    out: Tensor = _Interpolate.apply(table, x.reshape(-1, x.shape[-1]), reference)
    return out.view(*x.shape[:-1], table.shape[-1])


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(table: Tensor, x: Tensor, reference: Reference) -> Tensor:
        call = _Call(table, x)
        out = call.x.new_empty(call.n, call.n_features)
        call.run("forward", call.table, call.x, out, over_features=True)
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.reference = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        table, x = ctx.saved_tensors
        needs_table, needs_x, _ = ctx.needs_input_grad
        if needs_reference(grad):
            with torch.enable_grad():
                return *recorded(ctx.reference, (table, x), (needs_table, needs_x), (grad,)), None
        call = _Call(table, x)
        grad = expect_tensor("grad", grad, (call.n, call.n_features), device=call.x.device)
        to_table, to_x = None, None
        if needs_table:
            sums = torch.zeros_like(call.table, dtype=torch.float32)
            call.run("backward_to_table", call.x, grad, sums, over_features=True)
            to_table = sums.to(table.dtype)
        if needs_x:
            to_x = torch.empty_like(call.x)
            call.run("backward_to_points", call.table, call.x, grad, to_x, over_features=False)
        return to_table, to_x, None


class _Call:
    """Checked tensors of a call, and the kernels on them."""

    def __init__(self, table: Tensor, x: Tensor) -> None:
        *self.sizes, self.n_features = table.shape
        if not 1 <= len(self.sizes) <= MAX_AXES or min(self.sizes) < 2:
            raise ValueError(
                f"table: expected 1 to {MAX_AXES} sides of at least 2 and features, got {tuple(table.shape)}"
            )
        self.x = expect_rows("x", x, len(self.sizes))
        self.table = expect_tensor("table", table, tuple(table.shape), FLOATS, self.x.device)
        self.n = self.x.shape[0]

    def run(self, name: str, *tensors: Tensor, over_features: bool) -> None:
        if not self.n or not self.n_features:
            return
        from fieldforge.kernels.triton import interpolation_kernels

        chunk = min(32, 1 << (self.n_features - 1).bit_length())

        def programs(meta: dict[str, Any]) -> tuple[int, ...]:
            n_blocks = blocks(self.n, meta["BLOCK"])
            return (n_blocks, blocks(self.n_features, chunk)) if over_features else (n_blocks,)

        launch(
            getattr(interpolation_kernels, name), programs, *tensors, self.n, self.n_features,
            *[*self.sizes, 2, 2][:MAX_AXES], D=len(self.sizes), CHUNK=chunk,
        )  # fmt: skip
