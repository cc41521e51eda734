"""Native CPU kernels of packed volume rendering: compositing, scans, weighted sums, distortion, search.

Everything is float32 with int64 offsets. First derivatives are native; where a backward pass is itself recorded, the
reference in plain PyTorch takes over inside the same autograd function. Offsets are looked at in every call: they say
where the kernels read and write.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fieldforge.kernels import along_rays
from fieldforge.kernels.cpu_door import address, expect_tensor, n_threads, native
from fieldforge.kernels.cpu_second import recorded

Composited = tuple[Tensor, Tensor, Tensor, Tensor]
"""color (R, C), depth (R,), opacity (R,), weights (N,)."""


def refuses(*dtypes: torch.dtype, moves: bool = False) -> str | None:
    """Why a call cannot be native: its dtypes, or intervals whose ends (`moves`) want a gradient."""
    for dtype in dtypes:
        if dtype != torch.float32:
            return f"native rendering is float32, not {str(dtype).removeprefix('torch.')}"
    return "the native kernels have no gradient in t0 and t1" if moves else None


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
        t0, t1, density: (N,) float32 on the CPU.
        offsets: (R + 1,) int64.
        color: (N, C); C may be 0.
        reference: (density, color) -> the same in PyTorch, for second derivatives.
    """
    if torch.is_grad_enabled() and (density.requires_grad or color.requires_grad):
        out: Composited = _Composite.apply(density, color, t0, t1, offsets, reference)
        return out
    return _composite(density, color, t0, t1, offsets)[:4]


def accumulate(
    weights: Tensor, values: Tensor, offsets: Tensor, *, reference: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """(N,) weights and (N, C) values -> (R, C) weighted sums."""
    return along_rays.accumulate(_KERNELS, weights, values, offsets, reference)


def scan(values: Tensor, offsets: Tensor, kind: str, *, reference: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """(N,) -> (N,), `kind` being "inclusive_sum", "exclusive_sum", "inclusive_prod" or "exclusive_prod"."""
    return along_rays.scan(_KERNELS, values, offsets, kind, reference)


def distortion(
    weights: Tensor, t0: Tensor, t1: Tensor, offsets: Tensor, *, reference: Callable[[Tensor], Tensor]
) -> Tensor:
    """(N,) weights -> (R,) distortion of each ray."""
    out: Tensor = _Distortion.apply(weights, t0, t1, offsets, reference)
    return out


def searchsorted(edges: Tensor, offsets: Tensor, values: Tensor, value_offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of the edges to the left and right of each value, on the value's ray."""
    edges, values = _rows("edges", edges), _rows("values", values)
    rays = _rays(offsets, edges.shape[0])
    queries = _offsets(value_offsets, "value_offsets")
    if queries.shape != offsets.shape:
        raise ValueError(
            f"value_offsets: expected {offsets.shape[0] - 1} rays as the edges have, got {queries.shape[0] - 1}"
        )
    left, right = torch.empty(values.shape, dtype=torch.int64), torch.empty(values.shape, dtype=torch.int64)
    native().searchsorted(
        *rays, address(edges), address(queries), values.shape[0], address(values), address(left), address(right),
        n_threads(),
    )  # fmt: skip
    return left, right


def inverse_cdf(edges: Tensor, cdf: Tensor, offsets: Tensor, u: Tensor) -> Tensor:
    """(M,) edges and the distribution at them, (R, n) values of it -> (R, n) positions."""
    edges = _rows("edges", edges)
    cdf = expect_tensor("cdf", cdf, (edges.shape[0],)).contiguous()
    rays = _rays(offsets, edges.shape[0])
    u = expect_tensor("u", u, (rays[1], u.shape[-1] if u.ndim else 0)).contiguous()
    out = torch.empty_like(u)
    native().inverse_cdf(*rays, address(edges), address(cdf), address(u), u.shape[1], address(out), n_threads())
    return out


# ---- values and first derivatives


def _composite(
    density: Tensor, color: Tensor, t0: Tensor, t1: Tensor, offsets: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What `composite` gives, and what passes each ray (R,)."""
    call = _Emission(density, color, t0, t1, offsets)
    n_rays = call.rays[1]
    depth, opacity, left = density.new_empty(3, n_rays).unbind()
    out = (density.new_empty(n_rays, call.n_channels), depth, opacity, density.new_empty(density.shape), left)
    native().composite(*call.arguments, *map(address, out), n_threads())
    return out


class _Emission:
    """Checked and contiguous tensors of a call to composite, and the native arguments that describe them."""

    def __init__(self, density: Tensor, color: Tensor, t0: Tensor, t1: Tensor, offsets: Tensor) -> None:
        n = density.shape[0]
        self.n_channels = color.shape[-1]
        density = expect_tensor("density", density, (n,)).contiguous()
        color = expect_tensor("color", color, (n, self.n_channels)).contiguous()
        t0, t1 = expect_tensor("t0", t0, (n,)).contiguous(), expect_tensor("t1", t1, (n,)).contiguous()
        self.rays = _rays(offsets, n)
        self.arguments = (*self.rays, address(t0), address(t1), address(density), address(color), self.n_channels)
        self.alive = (density, color, t0, t1)


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        density: Tensor,
        color: Tensor,
        t0: Tensor,
        t1: Tensor,
        offsets: Tensor,
        reference: Callable[..., Composited],
    ) -> Composited:
        seen, depth, opacity, weights, left = _composite(density, color, t0, t1, offsets)
        ctx.reference = reference
        ctx.save_for_backward(density, color, t0, t1, offsets, weights, left)
        ctx.set_materialize_grads(False)
        return seen, depth, opacity, weights

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        density, color, t0, t1, offsets, weights, left = ctx.saved_tensors
        if torch.is_grad_enabled():
            return *recorded(ctx.reference, (density, color), ctx.needs_input_grad, grads), None, None, None, None
        if all(grad is None for grad in grads):
            return (None,) * 6
        call = _Emission(density, color, t0, t1, offsets)
        held = [None if grad is None else grad.contiguous() for grad in grads]
        grad_density = torch.empty_like(call.alive[0]) if ctx.needs_input_grad[0] else None
        grad_color = torch.empty_like(call.alive[1]) if ctx.needs_input_grad[1] and held[0] is not None else None
        native().composite_backward(
            *call.arguments, address(weights), address(left), *map(address, held), address(grad_density),
            address(grad_color), n_threads(),
        )  # fmt: skip
        return grad_density, grad_color, None, None, None, None


def _accumulate(weights: Tensor, values: Tensor, offsets: Tensor) -> Tensor:
    weights, values, rays = _weighted(weights, values, offsets)
    out = weights.new_empty(rays[1], values.shape[1])
    native().accumulate(*rays, address(weights), address(values), values.shape[1], address(out), n_threads())
    return out


def _accumulate_backward(
    weights: Tensor, values: Tensor, offsets: Tensor, grad: Tensor, needs_weights: bool, needs_values: bool
) -> tuple[Tensor | None, Tensor | None]:
    weights, values, rays = _weighted(weights, values, offsets)
    grad = grad.contiguous()
    grad_weights = torch.empty_like(weights) if needs_weights else None
    grad_values = torch.empty_like(values) if needs_values else None
    native().accumulate_backward(
        *rays, address(weights), address(values), values.shape[1], address(grad), address(grad_weights),
        address(grad_values), n_threads(),
    )  # fmt: skip
    return grad_weights, grad_values


def _scan(values: Tensor, offsets: Tensor, is_product: bool, is_exclusive: bool, is_reversed: bool) -> Tensor:
    values = _rows("values", values)
    out = torch.empty_like(values)
    native().scan(
        *_rays(offsets, values.shape[0]), address(values), is_product, is_exclusive, is_reversed, address(out),
        n_threads(),
    )  # fmt: skip
    return out


def _product_backward(values: Tensor, offsets: Tensor, grad: Tensor, is_exclusive: bool) -> Tensor:
    values, grad = _rows("values", values), grad.contiguous()
    grad_values = torch.empty_like(values)
    native().product_backward(
        *_rays(offsets, values.shape[0]), address(values), is_exclusive, address(grad), address(grad_values),
        n_threads(),
    )  # fmt: skip
    return grad_values


_KERNELS = along_rays.Kernels(_scan, _product_backward, _accumulate, _accumulate_backward)


class _Distortion(torch.autograd.Function):
    @staticmethod
    def forward(weights: Tensor, t0: Tensor, t1: Tensor, offsets: Tensor, reference: Callable[..., Tensor]) -> Tensor:
        weights, t0, t1, rays = _intervals(weights, t0, t1, offsets)
        out = weights.new_empty(rays[1])
        native().distortion(*rays, address(weights), address(t0), address(t1), address(out), n_threads())
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.reference = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weights, t0, t1, offsets = ctx.saved_tensors
        if torch.is_grad_enabled():
            return *recorded(ctx.reference, (weights,), ctx.needs_input_grad, (grad,)), None, None, None, None
        weights, t0, t1, rays = _intervals(weights, t0, t1, offsets)
        grad = grad.contiguous()
        grad_weights = torch.empty_like(weights)
        native().distortion_backward(
            *rays, address(weights), address(t0), address(t1), address(grad), address(grad_weights), n_threads()
        )
        return grad_weights, None, None, None, None


# ---- what the native module is told


def _offsets(offsets: Tensor, name: str = "offsets") -> Tensor:
    if offsets.ndim != 1 or not offsets.shape[0]:
        raise ValueError(f"{name}: expected (n_rays + 1,), got {tuple(offsets.shape)}")
    return expect_tensor(name, offsets, (offsets.shape[0],), torch.int64).contiguous()


def _rays(offsets: Tensor, n_rows: int) -> tuple[int, int, int]:
    """(address, n_rays, n_rows). The native side checks what the offsets say."""
    if not offsets.is_contiguous():
        # an address alone does not keep the copy alive until the call
        raise ValueError("offsets: expected a contiguous tensor; use offsets.contiguous()")
    offsets = _offsets(offsets)
    return offsets.data_ptr(), offsets.shape[0] - 1, n_rows


def _rows(name: str, values: Tensor) -> Tensor:
    return expect_tensor(name, values, (values.shape[0] if values.ndim else 0,)).contiguous()


def _weighted(weights: Tensor, values: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor, tuple[int, int, int]]:
    weights = _rows("weights", weights)
    shape = (weights.shape[0], values.shape[-1] if values.ndim else 0)
    return weights, expect_tensor("values", values, shape).contiguous(), _rays(offsets, weights.shape[0])


def _intervals(
    weights: Tensor, t0: Tensor, t1: Tensor, offsets: Tensor
) -> tuple[Tensor, Tensor, Tensor, tuple[int, int, int]]:
    weights = _rows("weights", weights)
    t0, t1 = (expect_tensor(name, t, weights.shape).contiguous() for name, t in (("t0", t0), ("t1", t1)))
    return weights, t0, t1, _rays(offsets, weights.shape[0])
