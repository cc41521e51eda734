"""Autograd of scans and weighted sums along packed rays, for whichever kernels run them.

First derivatives are the kernels'; where a backward pass is itself recorded, the reference in plain PyTorch takes over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fieldforge.kernels.cpu_second import needs_reference, recorded

Reference = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Kernels:
    """What one device does; values and weights are (N,), offsets (R + 1,) say which rows each ray has."""

    scan: Callable[[Tensor, Tensor, bool, bool, bool], Tensor]
    """(values, offsets, is_product, is_exclusive, is_reversed) -> (N,)."""
    product_backward: Callable[[Tensor, Tensor, Tensor, bool], Tensor]
    """(values, offsets, gradient in the products, is_exclusive) -> (N,)."""
    accumulate: Callable[[Tensor, Tensor, Tensor], Tensor]
    """(weights, values (N, C), offsets) -> (R, C)."""
    accumulate_backward: Callable[[Tensor, Tensor, Tensor, Tensor, bool, bool], tuple[Tensor | None, Tensor | None]]
    """(weights, values, offsets, gradient in the sums, needs_weights, needs_values) -> gradients in both."""


def scan(kernels: Kernels, values: Tensor, offsets: Tensor, kind: str, reference: Reference) -> Tensor:
    """(N,) -> (N,) along each ray.

    Args:
        values: (N,) float32.
        offsets: (R + 1,) int64.
        kind: "inclusive_sum", "exclusive_sum", "inclusive_prod" or "exclusive_prod".
        reference: (values, offsets) -> the same in PyTorch, for second derivatives.
    """
    out: Tensor = _Scan.apply(values, offsets, kind.endswith("prod"), kind.startswith("exclusive"), kernels, reference)
    return out


def accumulate(kernels: Kernels, weights: Tensor, values: Tensor, offsets: Tensor, reference: Reference) -> Tensor:
    """(N,) weights and (N, C) values -> (R, C) weighted sums; `reference` takes weights and values."""
    out: Tensor = _Accumulate.apply(weights, values, offsets, kernels, reference)
    return out


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        values: Tensor, offsets: Tensor, is_product: bool, is_exclusive: bool, kernels: Kernels, reference: Reference
    ) -> Tensor:
        return kernels.scan(values, offsets, is_product, is_exclusive, False)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        values, offsets, ctx.is_product, ctx.is_exclusive, ctx.kernels, ctx.reference = inputs
        ctx.save_for_backward(values, offsets)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        values, offsets = ctx.saved_tensors
        if needs_reference(grad):
            with torch.enable_grad():
                (found,) = recorded(lambda values: ctx.reference(values, offsets), (values,), (True,), (grad,))
        elif ctx.is_product:
            found = ctx.kernels.product_backward(values, offsets, grad, ctx.is_exclusive)
        else:
            found = ctx.kernels.scan(grad, offsets, False, ctx.is_exclusive, True)
        return found, None, None, None, None, None


class _Accumulate(torch.autograd.Function):
    @staticmethod
    def forward(weights: Tensor, values: Tensor, offsets: Tensor, kernels: Kernels, reference: Reference) -> Tensor:
        return kernels.accumulate(weights, values, offsets)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.kernels, ctx.reference = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weights, values, offsets = ctx.saved_tensors
        needed = ctx.needs_input_grad[:2]
        if needs_reference(grad):
            with torch.enable_grad():
                found = recorded(ctx.reference, (weights, values), needed, (grad,))
        else:
            found = ctx.kernels.accumulate_backward(weights, values, offsets, grad, *needed)
        return *found, None, None, None
