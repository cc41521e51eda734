"""Derivatives of a field in its parameters, point by point: Jacobians, tangent kernels, gradients of samples.

They are computed by the reference backend, and neither parameters nor their ``.grad`` are touched.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from fieldforge.apps.fit.slices import answers
from fieldforge.backends import use_backend

LARGEST = 2**28
"""Numbers in a Jacobian, 1 GiB of float32."""

Parameters = dict[str, Tensor]


def parameters_of(field: nn.Module) -> Parameters:
    """The trainable parameters by name, detached."""
    return {name: parameter.detach() for name, parameter in field.named_parameters() if parameter.requires_grad}


def scalar(values: Tensor) -> Tensor:
    """(*batch, c) -> (*batch): the sum over channels / √c, one number that stands for all (IGA, appended layer)."""
    return values.sum(-1) / math.sqrt(values.shape[-1])


def jacobian(
    field: nn.Module,
    points: Tensor,
    of: Callable[[Tensor, Tensor], Tensor] | None = None,
    beside: Tensor | None = None,
) -> Tensor:
    """The gradient of one number at each point, in all trainable parameters.

    Args:
        field: world points to values.
        points: (n, *group, d): a row for each of n, which may stand for a group of points.
        of: (values (*group, c), row of `beside`) -> scalar; None: `scalar`, summed over the group.
        beside: (n, ...) what `of` needs besides; None: nothing, zeros.

    Returns:
        (n, n_parameters).

    Raises:
        ValueError: it would have more than 2^28 numbers.
    """
    parameters = parameters_of(field)
    size = sum(parameter.numel() for parameter in parameters.values())
    if len(points) * size > LARGEST:
        raise ValueError(f"points: the Jacobian of {len(points)} points in {size:,} parameters is too large; at most "
                         f"{LARGEST // max(1, size)} points, or a smaller field, will do")  # fmt: skip

    def number(parameters: Parameters, one: Tensor, row: Tensor) -> Tensor:
        said = answers(lambda x: functional_call(field, parameters, (x,)), one)
        return scalar(said).sum() if of is None else of(said, row)

    rows = points.new_zeros(len(points)) if beside is None else beside
    with use_backend("reference"), torch.enable_grad():
        found = vmap(grad(number), in_dims=(None, 0, 0))(parameters, points, rows)
    return torch.cat([one.reshape(len(points), -1) for one in found.values()], 1)


def tangent_kernel(field: nn.Module, points: Tensor) -> Tensor:
    """(n, n) empirical neural tangent kernel J Jᵀ of the channels' sum / √c, float64."""
    rows = jacobian(field, points).double()
    return rows @ rows.T


def along(field: nn.Module, points: Tensor, direction: Parameters) -> Tensor:
    """(n, c): how the values at points (n, d) change when the parameters move along a direction."""
    named = {name: parameter for name, parameter in field.named_parameters() if name in direction}
    with use_backend("reference"), torch.enable_grad():
        said = answers(field, points)
        # the pull-back is linear in what it pulls: its derivative along the direction is the push-forward
        weight = torch.zeros_like(said, requires_grad=True)
        pulled = torch.autograd.grad(said, list(named.values()), weight, create_graph=True, allow_unused=True)
        pairs = zip(pulled, named, strict=True)
        total = sum(((one * direction[name]).sum() for one, name in pairs if one is not None), said.new_zeros(()))
        (change,) = torch.autograd.grad(total, weight)
    return change.detach()


def gradient(field: nn.Module, points: Tensor, weight: Tensor) -> Parameters:
    """The gradient of the sum of values * weight, (n, c) each, in the trainable parameters."""
    named = {name: parameter for name, parameter in field.named_parameters() if parameter.requires_grad}
    with torch.enable_grad():
        total = (answers(field, points) * weight).sum()
        found = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    return {name: torch.zeros_like(parameter) if one is None else one
            for (name, parameter), one in zip(named.items(), found, strict=True)}  # fmt: skip
