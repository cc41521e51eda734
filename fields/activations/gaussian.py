"""Gaussian: a bump instead of a ramp (Ramasinghe and Lucey 2022; Chng et al. 2022, GARF).

    {"otype": "Gaussian", "scale": 30.0}

exp(-(scale z)²) with z = W x + b, weights and biases from PyTorch's U(±1/√n). Written so, with scale 30, in the code
of WIRE and FINER; GARF writes exp(-z² / (2 sigma²)) with sigma 0.1, which is scale = 1 / (√2 sigma) = 7.07.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fieldforge.checks import expect_float
from fieldforge.fields.activations.base import Activation, draw_linear
from fieldforge.registry import register


@register("activation", "Gaussian")
class Gaussian(Activation):
    """exp(-(scale z)²).

    Args:
        scale: one over the half-width at 1/e.

    Example:
        >>> Gaussian(scale=2.0)(torch.tensor([0.0, 0.5]))
        tensor([1.0000, 0.3679])
    """

    otype = "Gaussian"
    smoothness = math.inf

    def __init__(self, *, scale: float = 30.0) -> None:
        super().__init__()
        self.scale = expect_float("scale", scale, 0.0, open_low=True)

    def forward(self, z: Tensor, is_first: bool = False) -> Tensor:
        return torch.exp(-((self.scale * z) ** 2))

    def derivative(self, z: Tensor, is_first: bool = False) -> Tensor:
        return -2 * self.scale**2 * z * self.forward(z)

    def init_first(self, weight: Tensor, bias: Tensor | None, generator: torch.Generator | None = None) -> None:
        draw_linear(weight, bias, generator)

    def init_hidden(self, weight: Tensor, bias: Tensor | None, generator: torch.Generator | None = None) -> None:
        draw_linear(weight, bias, generator)
