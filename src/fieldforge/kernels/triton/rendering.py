"""Packed volume rendering on a GPU: scans, compositing, weighted sums; second derivatives are the reference's.

Everything is float32 with int64 offsets, which must be sound: they say where the kernels read and write, and looking
at them in every call would make the processor wait for the device. `Samples` and marching make sound ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fieldforge.kernels.cpu_second import recorded
from fieldforge.kernels.triton.door import blocks, expect_tensor, is_transformed, launch

CHUNK = 32
"""Samples of a ray that are looked at at once."""
MAX_CHANNELS = 128
Composited = tuple[Tensor, Tensor, Tensor, Tensor]
"""color (R, C), depth (R,), opacity (R,), weights (N,)."""


def refuses(*dtypes: torch.dtype, moves: bool = False, n_channels: int = 0) -> str | None:
    """Why a call cannot run: its dtypes, or intervals whose ends (`moves`) want a gradient."""
    for dtype in dtypes:
        if dtype != torch.float32:
            return f"rendering is float32, not {str(dtype).removeprefix('torch.')}"
    if n_channels > MAX_CHANNELS:
        return f"compositing has at most {MAX_CHANNELS} channels, not {n_channels}"
    return "there is no gradient in t0 and t1" if moves else is_transformed()


def scan(values: Tensor, offsets: Tensor, kind: str, *, reference: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """(N,) -> (N,) along each ray.

    Args:
        values: (N,) float32 on a CUDA device.
        offsets: (R + 1,) int64.
        kind: "inclusive_sum", "exclusive_sum", "inclusive_prod" or "exclusive_prod".
        reference: (values, offsets) -> the same in PyTorch, for second derivatives.
    """
    out: Tensor = _Scan.apply(values, offsets, kind.endswith("prod"), kind.startswith("exclusive"), reference)
    return out


def composite(
    t0: Tensor,
    t1: Tensor,
    offsets: Tensor,
    density: Tensor,
    color: Tensor,
    *,
    reference: Callable[[Tensor, Tensor], Composited],
) -> Composited:
    """Absorb and emit along each ray, in one pass over the samples.

    Args:
        t0, t1, density: (N,) float32 on a CUDA device.
        offsets: (R + 1,) int64.
        color: (N, C); C may be 0.
        reference: (density, color) -> the same in PyTorch, for second derivatives.
    """
    seen, depth, opacity, weights, _ = _Composite.apply(density, color, t0, t1, offsets, reference)
    return seen, depth, opacity, weights


def accumulate(
    weights: Tensor, values: Tensor, offsets: Tensor, *, reference: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """(N,) weights and (N, C) values -> (R, C) weighted sums."""
    out: Tensor = _Accumulate.apply(weights, values, offsets, reference)
    return out


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        values: Tensor, offsets: Tensor, is_product: bool, is_exclusive: bool, reference: Callable[..., Tensor]
    ) -> Tensor:
        return _scan(values, offsets, is_product, is_exclusive, False)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        values, offsets, ctx.is_product, ctx.is_exclusive, ctx.reference = inputs
        ctx.save_for_backward(values, offsets)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        values, offsets = ctx.saved_tensors
        if torch.is_grad_enabled() or is_transformed():
            with torch.enable_grad():
                found = recorded(lambda values: ctx.reference(values, offsets), (values,), (True,), (grad,))
            return *found, None, None, None, None
        if not ctx.is_product:
            return _scan(grad, offsets, False, ctx.is_exclusive, True), None, None, None, None
        before = _scan(values, offsets, True, True, False)
        values = _expect_one("values", values)
        grad, grad_values = expect_tensor("grad", grad, tuple(values.shape)), torch.empty_like(values)
        n_rays = offsets.shape[0] - 1
        launch(
            _kernels().product_backward, (blocks(n_rays, 32),), values, before, _offsets(offsets, values), grad,
            grad_values, n_rays, IS_EXCLUSIVE=ctx.is_exclusive, BLOCK=32,
        )  # fmt: skip
        return grad_values, None, None, None, None


def _scan(values: Tensor, offsets: Tensor, is_product: bool, is_exclusive: bool, is_reversed: bool) -> Tensor:
    values = _expect_one("values", values)
    out = torch.empty_like(values)
    launch(
        _kernels().scan, (offsets.shape[0] - 1,), values, _offsets(offsets, values), out, IS_PRODUCT=is_product,
        IS_EXCLUSIVE=is_exclusive, IS_REVERSED=is_reversed, CHUNK=CHUNK, num_warps=1,
    )  # fmt: skip
    return out


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(
        density: Tensor,
        color: Tensor,
        t0: Tensor,
        t1: Tensor,
        offsets: Tensor,
        reference: Callable[..., Composited],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        tensors, n_channels = _emission(density, color, t0, t1, offsets)
        n_rays = offsets.shape[0] - 1
        seen, depth, opacity = (
            density.new_empty(n_rays, n_channels),
            density.new_empty(n_rays),
            density.new_empty(n_rays),
        )
        weights, passed = density.new_empty(density.shape), density.new_empty(density.shape)
        launch(
            _kernels().composite, (n_rays,), *tensors, seen, depth, opacity, weights, passed, n_channels,
            C=_padded(n_channels), CHUNK=CHUNK, num_warps=1,
        )  # fmt: skip
        return seen, depth, opacity, weights, passed

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, ctx.reference = inputs
        _, _, opacity, weights, passed = output
        ctx.mark_non_differentiable(passed)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, weights, passed, opacity)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        density, color, t0, t1, offsets, weights, passed, opacity = ctx.saved_tensors
        grads = grads[:4]
        if torch.is_grad_enabled() or is_transformed():
            with torch.enable_grad():
                found = recorded(ctx.reference, (density, color), ctx.needs_input_grad[:2], grads)
            return *found, None, None, None, None
        if all(grad is None for grad in grads):
            return (None,) * 6
        tensors, n_channels = _emission(density, color, t0, t1, offsets)
        held = [None if grad is None else grad.contiguous() for grad in grads]
        to_density = torch.empty_like(tensors[2]) if ctx.needs_input_grad[0] else None
        to_color = torch.empty_like(tensors[3]) if ctx.needs_input_grad[1] and held[0] is not None else None
        launch(
            _kernels().composite_backward, (offsets.shape[0] - 1,), *tensors, weights, passed, opacity, *held,
            to_density, to_color, n_channels, C=_padded(n_channels), CHUNK=CHUNK, num_warps=1,
        )  # fmt: skip
        return to_density, to_color, None, None, None, None


class _Accumulate(torch.autograd.Function):
    @staticmethod
    def forward(weights: Tensor, values: Tensor, offsets: Tensor, reference: Callable[..., Tensor]) -> Tensor:
        weights, values, offsets = _weighted(weights, values, offsets)
        n_rays, n_channels = offsets.shape[0] - 1, values.shape[1]
        out = weights.new_empty(n_rays, n_channels)
        launch(
            _kernels().accumulate, (n_rays, blocks(n_channels, 32)), weights, values, offsets, out, n_channels,
            C=min(32, _padded(n_channels)), CHUNK=CHUNK, num_warps=1,
        )  # fmt: skip
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.reference = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weights, values, offsets = ctx.saved_tensors
        if torch.is_grad_enabled() or is_transformed():
            with torch.enable_grad():
                found = recorded(ctx.reference, (weights, values), ctx.needs_input_grad[:2], (grad,))
            return *found, None, None
        weights, values, offsets = _weighted(weights, values, offsets)
        n_rays, n_channels = offsets.shape[0] - 1, values.shape[1]
        to_weights, to_values = torch.empty_like(weights), torch.empty_like(values)
        launch(
            _kernels().accumulate_backward, (n_rays,), weights, values, offsets,
            expect_tensor("grad", grad, (n_rays, n_channels)), to_weights, to_values, n_channels,
            C=min(32, _padded(n_channels)), CHUNK=CHUNK, num_warps=1,
        )  # fmt: skip
        return to_weights, to_values, None, None


def _emission(
    density: Tensor, color: Tensor, t0: Tensor, t1: Tensor, offsets: Tensor
) -> tuple[tuple[Tensor, ...], int]:
    """Checked and contiguous t0, t1, density, color and offsets, and the number of channels."""
    density = _expect_one("density", density)
    n, n_channels = density.shape[0], color.shape[-1] if color.ndim else 0
    color = expect_tensor("color", color, (n, n_channels), device=density.device)
    t0, t1 = (expect_tensor(name, t, (n,), device=density.device) for name, t in (("t0", t0), ("t1", t1)))
    return (t0, t1, density, color, _offsets(offsets, density)), n_channels


def _weighted(weights: Tensor, values: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    weights = _expect_one("weights", weights)
    shape = (weights.shape[0], values.shape[-1] if values.ndim else 0)
    return weights, expect_tensor("values", values, shape, device=weights.device), _offsets(offsets, weights)


def _expect_one(name: str, values: Tensor) -> Tensor:
    return expect_tensor(name, values, (values.shape[0] if values.ndim else 0,))


def _offsets(offsets: Tensor, rows: Tensor) -> Tensor:
    if offsets.ndim != 1 or not offsets.shape[0]:
        raise ValueError(f"offsets: expected (n_rays + 1,), got {tuple(offsets.shape)}")
    return expect_tensor("offsets", offsets, (offsets.shape[0],), (torch.int64,), rows.device)


def _padded(n_channels: int) -> int:
    return max(1, 1 << (n_channels - 1).bit_length()) if n_channels else 1


def _kernels() -> Any:
    from fieldforge.kernels.triton import rendering_kernels

    return rendering_kernels
