"""Multilinear interpolation in small tables, for the factorised grids: TriPlane, KPlanes, TensorVM, TensorCP.

Plain gathers and weights instead of `torch.nn.functional.grid_sample`, which has no second derivative.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
    sizes = table.shape[:-1]
    position = x.clamp(0, 1) * torch.tensor([size - 1 for size in sizes], dtype=x.dtype, device=x.device)
    last_cell = torch.tensor([size - 2 for size in sizes], device=x.device)
    cell = position.detach().long().clamp_min(0).minimum(last_cell)  # (*batch, k); not even NaN leaves the table
    fraction = position - cell  # (*batch, k), in [0, 1]
    weights = torch.stack((1 - fraction, fraction), -1)  # (*batch, k, 2)
    strides = [math.prod(sizes[axis + 1 :]) for axis in range(len(sizes))]
    first = (cell * torch.tensor(strides, device=x.device)).sum(-1)  # (*batch)
    rows = table.flatten(0, -2)
    result = torch.zeros((), dtype=x.dtype, device=x.device)
    for corner in itertools.product((0, 1), repeat=len(sizes)):
        weight = functools.reduce(torch.mul, [weights[..., axis, side] for axis, side in enumerate(corner)])
        index = first + sum(side * stride for side, stride in zip(corner, strides, strict=True))
        result = result + weight[..., None] * F.embedding(index, rows)
    return result


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
