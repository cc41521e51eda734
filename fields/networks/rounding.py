"""Products of numbers rounded to bfloat16, with sums of full precision.

Mixed precision as in tiny-cuda-nn and in hardware with bfloat16 dot products: 8 bits of each factor count, the range
is float32's, and the parameters that an optimizer moves stay float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def rounded_linear(h: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """h Wᵀ + b of h and W rounded to bfloat16; the gradient that comes back is rounded before it meets either.

    Args:
        h: (*batch, n_in).
        weight: (n_out, n_in).
        bias: (n_out,), not rounded, or None.

    Returns:
        (*batch, n_out), of the dtype of h. Differentiable as often as one likes.
    """
    z: Tensor = _RoundGradient.apply(functional.linear(_Round.apply(h), _Round.apply(weight)))
    return z if bias is None else z + bias


class _Round(torch.autograd.Function):
    """To the nearest bfloat16; the gradient passes as it is."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.to(torch.bfloat16).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class _RoundGradient(torch.autograd.Function):
    """The number itself; its gradient is rounded."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        rounded: Tensor = _Round.apply(grad)
        return rounded
