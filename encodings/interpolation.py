"""Multilinear interpolation in small tables, for the factorised grids: TriPlane, KPlanes, TensorVM, TensorCP.

Plain gathers and weights instead of `torch.nn.functional.grid_sample`, which has no second derivative.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fieldforge.backends import choose, provide
from fieldforge.devices import constant
from fieldforge.kernels.triton import door as triton_door
from fieldforge.kernels.triton import interpolation as triton_interpolation

MAX_PARAMETERS = 2**30
OUTSIDE = "coordinates are clamped to [0, 1]: the border value continues outward, with derivative zero"


def interpolate(table: Tensor, x: Tensor) -> Tensor:
    """Multilinear interpolation between the entries of a table.

    Entry (i_1, ..., i_k) stands at x = (i_1 / (R_1 - 1), ..., i_k / (R_k - 1)), so that the corners of the unit cube
    are entries (PyTorch calls it align_corners=True). Coordinates are clamped to [0, 1].

    Args:
        table: (R_1, ..., R_k, F), every R at least 2.
        x: (*batch, k).

    Returns:
        (*batch, F), continuous in x, with a jump of the derivative at every entry; differentiable twice (in x,
        the second derivative within a cell is that of a product of k lines) and in the table.

    Example:
        >>> interpolate(torch.tensor([[0.0], [1.0], [4.0]]), torch.tensor([[0.25], [0.75], [2.0]]))
        tensor([[0.5000],
                [2.5000],
                [4.0000]])
    """
    call = {"dtype": table.dtype, "x_dtype": x.dtype, "has_slope": x.requires_grad, "shape": tuple(table.shape)}
    run = choose("interpolation", x.device, **call)
    features: Tensor = run(table, x)
    return features


@provide("interpolation", "reference")
def _interpolate(table: Tensor, x: Tensor) -> Tensor:
    first, fraction, offsets = _cells(table, x)
    weights = torch.stack((1 - fraction, fraction), -1)  # (*batch, k, 2)
    rows = table.flatten(0, -2)
    result = torch.zeros((), dtype=x.dtype, device=x.device)
    for corner, offset in zip(itertools.product((0, 1), repeat=x.shape[-1]), offsets, strict=True):
        weight = functools.reduce(torch.mul, [weights[..., axis, side] for axis, side in enumerate(corner)])
        result = result + weight[..., None] * F.embedding(first + offset, rows)
    return result


def _cells(table: Tensor, x: Tensor) -> tuple[Tensor, Tensor, list[int]]:
    """The row of the lowest corner (*batch), where in its cell a point is (*batch, k) in [0, 1], and how many rows
    further the corners are, the last axis fastest."""
    sizes = table.shape[:-1]
    position = x.clamp(0, 1) * constant(tuple(size - 1 for size in sizes), x.dtype, x.device)
    last_cell = constant(tuple(size - 2 for size in sizes), torch.int64, x.device)
    cell = position.detach().long().clamp_min(0).minimum(last_cell)  # (*batch, k); not even NaN leaves the table
    strides = [math.prod(sizes[axis + 1 :]) for axis in range(len(sizes))]
    offsets = [
        sum(side * stride for side, stride in zip(corner, strides, strict=True))
        for corner in itertools.product((0, 1), repeat=len(sizes))
    ]
    return (cell * constant(tuple(strides), torch.int64, x.device)).sum(-1), position - cell, offsets


def _refuses(*, dtype: torch.dtype, x_dtype: torch.dtype, has_slope: bool, **_: Any) -> str | None:
    if (dtype, x_dtype) != (torch.float32, torch.float32):
        return f"tuned PyTorch has it in float32 only, not {x_dtype} points and {dtype} entries"
    return "tuned PyTorch has no gradient in the points" if has_slope else None


@provide("interpolation", "cpu", refuses=_refuses, note=lambda: "tuned PyTorch")
def _interpolate_on_cpu(table: Tensor, x: Tensor) -> Tensor:
    """All corners of a point in one operation."""
    features: Tensor = _Lookup.apply(table, x)
    return features


@provide(
    "interpolation", "cuda", missing=triton_door.missing, refuses=triton_interpolation.refuses,
    note=triton_door.description,
)  # fmt: skip
def _interpolate_on_cuda(table: Tensor, x: Tensor) -> Tensor:
    return triton_interpolation.interpolate(table, x, reference=_interpolate)


class _Lookup(torch.autograd.Function):
    """Linear in the table; a backward pass that is itself recorded is differentiable as it stands."""

    generate_vmap_rule = True

    @staticmethod
    def forward(table: Tensor, x: Tensor) -> Tensor:
        index, weight = corners(table, x)
        found = F.embedding_bag(index, table.flatten(0, -2), per_sample_weights=weight, mode="sum")
        return found.view(*x.shape[:-1], table.shape[-1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.shape = inputs[0].shape
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None]:
        if not ctx.needs_input_grad[0]:
            return None, None
        table, x = ctx.saved_tensors
        index, weight = corners(table, x)
        shares = weight[..., None] * grad.reshape(len(weight), 1, ctx.shape[-1])
        rows = torch.zeros(math.prod(ctx.shape[:-1]), ctx.shape[-1], dtype=grad.dtype, device=grad.device)
        return rows.index_add(0, index.flatten().long(), shares.flatten(0, 1)).view(ctx.shape), None


def corners(table: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (of the table's entries, the last axis fastest) and weights of the 2^k corners of points.

    `_cells` axis by axis, which is quicker.

    Args:
        table: (R_1, ..., R_k, F); only its shape is read.
        x: (*batch, k), of n points in all.

    Returns:
        (n, 2^k) int32 and (n, 2^k) float32.
    """
    weights, rows = [torch.ones((), device=x.device)], [torch.zeros((), dtype=torch.int32, device=x.device)]
    for axis, size in enumerate(table.shape[:-1]):
        position = x[..., axis].detach().reshape(-1).clamp(0, 1) * (size - 1)  # (n,)
        cell = position.to(torch.int32).clamp_(0, size - 2)  # not even NaN leaves the table
        t = position - cell
        stride = math.prod(table.shape[axis + 1 : -1])
        low = cell * stride
        weights = [weight * side for weight in weights for side in (1 - t, t)]
        rows = [row + side for row in rows for side in (low, low + stride)]
    return torch.stack(rows, -1), torch.stack(weights, -1)


def table(shape: tuple[int, ...], draw: Callable[[Tensor], Tensor]) -> nn.Parameter:
    """A parameter filled on the CPU by `draw`, the same numbers on every device; left empty on the meta device."""
    parameter = nn.Parameter(torch.empty(shape))
    if not parameter.is_meta:
        with torch.no_grad():
            parameter.copy_(draw(torch.empty(shape, device="cpu")))
    return parameter


def total_variation(table: Tensor, n_axes: int) -> Tensor:
    """The mean squared difference of neighbours along each of the first axes of a table, summed over them.

    Example:
        >>> total_variation(torch.tensor([[0.0], [1.0], [4.0]]), 1)
        tensor(5.)
    """
    return torch.stack([table.diff(dim=axis).square().mean() for axis in range(n_axes)]).sum()


def expect_affordable(name: str, value: object, n_parameters: int) -> None:
    """Refuse a size, before anything is allocated, that needs more than `MAX_PARAMETERS` parameters."""
    if n_parameters > MAX_PARAMETERS:
        raise ValueError(f"{name}: {value} makes {n_parameters:,} parameters, more than {MAX_PARAMETERS:,}")
