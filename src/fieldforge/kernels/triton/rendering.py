"""Packed volume rendering on a GPU: scans, compositing, weighted sums; second derivatives are the reference's.

Sums and results are float32; what a network gives, densities, colours and features, may have 16 bits. Offsets are
int64 and must be sound: they say where the kernels read and write, and looking at them in every call would make the
processor wait for the device. `Samples` and marching make sound ones.

A background has no kernel: it is one product and sum over rays, of which there are tens of times fewer than samples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fieldforge.kernels import along_rays
from fieldforge.kernels.cpu_second import is_transformed, needs_reference, recorded
from fieldforge.kernels.triton.door import FLOATS, blocks, expect_tensor, launch

CHUNK = 32
"""Samples of a ray that are looked at at once."""
MAX_CHANNELS = 128
Composited = tuple[Tensor, Tensor, Tensor, Tensor]
"""color (R, C), depth (R,), opacity (R,), weights (N,)."""


def refuses(
    *dtypes: torch.dtype, of_network: tuple[torch.dtype, ...] = (), moves: bool = False, n_channels: int = 0
) -> str | None:
    """Why a call cannot run.

    Args:
        dtypes: of what has to be float32.
        of_network: of what may have 16 bits.
        moves: whether a gradient is wanted in the ends of intervals.
        n_channels: that are composited at once.
    """
    for dtype in (*dtypes, *(one for one in of_network if one not in FLOATS)):
        if dtype != torch.float32:
            return f"rendering is float32, not {str(dtype).removeprefix('torch.')}"
    if n_channels > MAX_CHANNELS:
        return f"compositing has at most {MAX_CHANNELS} channels, not {n_channels}"
    return "there is no gradient in t0 and t1" if moves else is_transformed()


def scan(values: Tensor, offsets: Tensor, kind: str, *, reference: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """(N,) float32 on a CUDA device -> (N,) along each ray, as `fieldforge.kernels.along_rays.scan` says."""
    return along_rays.scan(_KERNELS, values, offsets, kind, reference)


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
        t0, t1: (N,) float32 on a CUDA device.
        offsets: (R + 1,) int64.
        density: (N,) float32, float16 or bfloat16.
        color: (N, C) of one of these dtypes; C may be 0.
        reference: (density, color) -> the same in PyTorch, for second derivatives.

    Returns:
        color, depth, opacity and weights, float32.
    """
    seen, depth, opacity, weights, _ = _Composite.apply(density, color, t0, t1, offsets, reference)
    return seen, depth, opacity, weights


def accumulate(
    weights: Tensor, values: Tensor, offsets: Tensor, *, reference: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """(N,) float32 weights and (N, C) values of float32 or 16 bits -> (R, C) float32 weighted sums."""
    return along_rays.accumulate(_KERNELS, weights, values, offsets, reference)


# ---- scans and weighted sums


def _scan(values: Tensor, offsets: Tensor, is_product: bool, is_exclusive: bool, is_reversed: bool) -> Tensor:
    values = expect_row("values", values)
    out = torch.empty_like(values)
    launch(
        _kernels().scan, (offsets.shape[0] - 1,), values, expect_offsets(offsets, values), out, IS_PRODUCT=is_product,
        IS_EXCLUSIVE=is_exclusive, IS_REVERSED=is_reversed, CHUNK=CHUNK, num_warps=1,
    )  # fmt: skip
    return out


def _product_backward(values: Tensor, offsets: Tensor, grad: Tensor, is_exclusive: bool) -> Tensor:
    before = _scan(values, offsets, True, True, False)
    values = expect_row("values", values)
    grad, grad_values = expect_tensor("grad", grad, tuple(values.shape)), torch.empty_like(values)
    n_rays = offsets.shape[0] - 1
    launch(
        _kernels().product_backward, (blocks(n_rays, 32),), values, before, expect_offsets(offsets, values), grad,
        grad_values, n_rays, IS_EXCLUSIVE=is_exclusive, BLOCK=32,
    )  # fmt: skip
    return grad_values


def _accumulate(weights: Tensor, values: Tensor, offsets: Tensor) -> Tensor:
    weights, values, offsets = _weighted(weights, values, offsets)
    n_rays, n_channels = offsets.shape[0] - 1, values.shape[1]
    out = weights.new_empty(n_rays, n_channels)
    launch(
        _kernels().accumulate, (n_rays, blocks(n_channels, 32)), weights, values, offsets, out, n_channels,
        C=min(32, _padded(n_channels)), CHUNK=CHUNK, num_warps=1,
    )  # fmt: skip
    return out


def _accumulate_backward(
    weights: Tensor, values: Tensor, offsets: Tensor, grad: Tensor, needs_weights: bool, needs_values: bool
) -> tuple[Tensor | None, Tensor | None]:
    weights, values, offsets = _weighted(weights, values, offsets)
    n_rays, n_channels = offsets.shape[0] - 1, values.shape[1]
    to_weights = torch.empty_like(weights) if needs_weights else None
    to_values = torch.empty_like(values) if needs_values else None
    launch(
        _kernels().accumulate_backward, (n_rays,), weights, values, offsets,
        expect_tensor("grad", grad, (n_rays, n_channels)), to_weights, to_values, n_channels,
        C=min(32, _padded(n_channels)), CHUNK=CHUNK, num_warps=1,
    )  # fmt: skip
    return to_weights, to_values


_KERNELS = along_rays.Kernels(_scan, _product_backward, _accumulate, _accumulate_backward)


# ---- compositing


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
        seen, depth, opacity = (tensors[0].new_empty(n_rays, *more) for more in ((n_channels,), (), ()))
        weights, passed = torch.empty_like(tensors[0]), torch.empty_like(tensors[0])
        launch(
            _kernels().composite, (n_rays,), *tensors, seen, depth, opacity, weights, passed, n_channels,
            **_by_channels(n_channels),
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
        if needs_reference(*grads):
            with torch.enable_grad():
                found = recorded(ctx.reference, (density, color), ctx.needs_input_grad[:2], grads)
            return *found, None, None, None, None
        if all(grad is None for grad in grads):
            return (None,) * 6
        tensors, n_channels = _emission(density, color, t0, t1, offsets)
        n_rays = offsets.shape[0] - 1
        held = [
            None if grad is None else expect_tensor("grad", grad, shape, device=density.device)
            for grad, shape in zip(grads, ((n_rays, n_channels), (n_rays,), (n_rays,), t0.shape), strict=True)
        ]
        to_density = torch.empty_like(tensors[2]) if ctx.needs_input_grad[0] else None
        to_color = torch.empty_like(tensors[3]) if ctx.needs_input_grad[1] and held[0] is not None else None
        launch(
            _kernels().composite_backward, (n_rays,), *tensors, weights, passed, opacity, *held, to_density, to_color,
            n_channels, **_by_channels(n_channels),
        )  # fmt: skip
        return to_density, to_color, None, None, None, None


# ---- what the kernels are told


def _by_channels(n_channels: int) -> dict[str, int]:
    """Many channels are shared among warps: one has registers for a few of them."""
    padded = _padded(n_channels)
    return {"C": padded, "CHUNK": CHUNK, "num_warps": 1 if padded <= 16 else 4}


def _emission(
    density: Tensor, color: Tensor, t0: Tensor, t1: Tensor, offsets: Tensor
) -> tuple[tuple[Tensor, ...], int]:
    """Checked and contiguous t0, t1, density, color and offsets, and the number of channels."""
    t0 = expect_row("t0", t0)
    n, n_channels = t0.shape[0], color.shape[-1] if color.ndim else 0
    t1 = expect_tensor("t1", t1, (n,), device=t0.device)
    density = expect_tensor("density", density, (n,), FLOATS, t0.device)
    color = expect_tensor("color", color, (n, n_channels), FLOATS, t0.device)
    return (t0, t1, density, color, expect_offsets(offsets, t0)), n_channels


def _weighted(weights: Tensor, values: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    weights = expect_row("weights", weights)
    shape = (weights.shape[0], values.shape[-1] if values.ndim else 0)
    return weights, expect_tensor("values", values, shape, FLOATS, weights.device), expect_offsets(offsets, weights)


def expect_row(name: str, values: Tensor) -> Tensor:
    """(N,) float32, contiguous."""
    return expect_tensor(name, values, (values.shape[0] if values.ndim else 0,))


def expect_offsets(offsets: Tensor, rows: Tensor, name: str = "offsets") -> Tensor:
    """(R + 1,) int64, contiguous, on the device of the rows that they count."""
    if offsets.ndim != 1 or not offsets.shape[0]:
        raise ValueError(f"{name}: expected (n_rays + 1,), got {tuple(offsets.shape)}")
    return expect_tensor(name, offsets, (offsets.shape[0],), (torch.int64,), rows.device)


def _padded(n_channels: int) -> int:
    return max(1, 1 << (n_channels - 1).bit_length()) if n_channels else 1


def _kernels() -> Any:
    from fieldforge.kernels.triton import rendering_kernels

    return rendering_kernels
