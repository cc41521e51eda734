"""The plain activations: None, ReLU, LeakyReLU, GELU, SiLU, Softplus, Squareplus, Sigmoid, Tanh, Exponential.

    "ReLU"      {"otype": "LeakyReLU", "slope": 0.01}      {"otype": "Softplus", "beta": 10}

Names and factors are tiny-cuda-nn's (common_device.h): Softplus and Squareplus are sharpened by the factor 10 there,
and so here; beta = 1 gives the textbook ones. Weights are drawn from Glorot's uniform law, biases from PyTorch's.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from fieldforge.checks import expect_float
from fieldforge.fields.activations.base import Activation, draw_xavier
from fieldforge.registry import register


class Pointwise(Activation):
    """An activation without a frequency: the first layer is like the others, the weights are Glorot's."""

    def init_first(self, weight: Tensor, bias: Tensor | None, generator: torch.Generator | None = None) -> None:
        draw_xavier(weight, bias, generator)

    def init_hidden(self, weight: Tensor, bias: Tensor | None, generator: torch.Generator | None = None) -> None:
        draw_xavier(weight, bias, generator)


@register("activation", "None")
@register("activation", "Linear")
class NoActivation(Pointwise):
    """z itself."""

    otype = "None"
    smoothness = math.inf

    def forward(self, z: Tensor, is_first: bool = False) -> Tensor:
        return z

    def derivative(self, z: Tensor, is_first: bool = False) -> Tensor:
        return torch.ones_like(z)


@register("activation", "ReLU")
class ReLU(Pointwise):
    """max(z, 0)."""

    otype = "ReLU"
    smoothness = 0

    def forward(self, z: Tensor, is_first: bool = False) -> Tensor:
        return torch.relu(z)

    def derivative(self, z: Tensor, is_first: bool = False) -> Tensor:
        return (z > 0).to(z.dtype)


@register("activation", "LeakyReLU")
class LeakyReLU(Pointwise):
    """z where positive, slope z elsewhere.

    Args:
        slope: factor of negative numbers.
    """

    otype = "LeakyReLU"
    smoothness = 0

    def __init__(self, *, slope: float = 0.01) -> None:
        super().__init__()
        self.slope = expect_float("slope", slope)

    def forward(self, z: Tensor, is_first: bool = False) -> Tensor:
        return F.leaky_relu(z, self.slope)

    def derivative(self, z: Tensor, is_first: bool = False) -> Tensor:
        return torch.where(z > 0, torch.ones_like(z), torch.full_like(z, self.slope))


@register("activation", "GELU")
class GELU(Pointwise):
    """z Φ(z) with the normal distribution function Φ, not its tanh approximation (Hendrycks and Gimpel 2016)."""

    otype = "GELU"
    smoothness = math.inf

    def forward(self, z: Tensor, is_first: bool = False) -> Tensor:
        return F.gelu(z)

    def derivative(self, z: Tensor, is_first: bool = False) -> Tensor:
        density = torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
        return torch.special.ndtr(z) + z * density


@register("activation", "SiLU")
class SiLU(Pointwise):
    """z / (1 + exp(-z))."""

    otype = "SiLU"
    smoothness = math.inf

    def forward(self, z: Tensor, is_first: bool = False) -> Tensor:
        return F.silu(z)

    def derivative(self, z: Tensor, is_first: bool = False) -> Tensor:
        sigmoid = torch.sigmoid(z)
        return sigmoid * (1 + z * (1 - sigmoid))


@register("activation", "Softplus")
class Softplus(Pointwise):
    """log(1 + exp(beta z)) / beta.

    Args:
        beta: sharpness; tiny-cuda-nn's is 10, PyTorch's 1.

    Example:
        >>> Softplus()(torch.tensor([-1.0, 0.0, 1.0]))
        tensor([4.5399e-06, 6.9315e-02, 1.0000e+00])
    """

    otype = "Softplus"
    smoothness = math.inf

    def __init__(self, *, beta: float = 10.0) -> None:
        super().__init__()
        self.beta = expect_float("beta", beta, 0.0, open_low=True)

    def forward(self, z: Tensor, is_first: bool = False) -> Tensor:
        return F.softplus(z, self.beta, threshold=40)  # PyTorch's 20 leaves a step of 2e-9 that float64 can see

    def derivative(self, z: Tensor, is_first: bool = False) -> Tensor:
        return torch.sigmoid(self.beta * z)


@register("activation", "Squareplus")
class Squareplus(Pointwise):
    """(x + √(x² + 4)) / (2 beta) with x = beta z (Barron 2021).

    Args:
        beta: sharpness; tiny-cuda-nn's is 10.
    """

    otype = "Squareplus"
    smoothness = math.inf

    def __init__(self, *, beta: float = 10.0) -> None:
        super().__init__()
        self.beta = expect_float("beta", beta, 0.0, open_low=True)

    def forward(self, z: Tensor, is_first: bool = False) -> Tensor:
        return self._at(self.beta * z) / self.beta

    def derivative(self, z: Tensor, is_first: bool = False) -> Tensor:
        x = self.beta * z
        return self._at(x) / torch.sqrt(x * x + 4)

    @staticmethod
    def _at(x: Tensor) -> Tensor:
        # The values at x and -x are each other's inverse; the formula itself cancels to 0 on the negative side.
        above = 0.5 * (torch.where(x < 0, -x, x) + torch.sqrt(x * x + 4))
        return torch.where(x < 0, 1 / above, above)


@register("activation", "Sigmoid")
class Sigmoid(Pointwise):
    """1 / (1 + exp(-z))."""

    otype = "Sigmoid"
    smoothness = math.inf

    def forward(self, z: Tensor, is_first: bool = False) -> Tensor:
        return torch.sigmoid(z)

    def derivative(self, z: Tensor, is_first: bool = False) -> Tensor:
        sigmoid = torch.sigmoid(z)
        return sigmoid * (1 - sigmoid)


@register("activation", "Tanh")
class Tanh(Pointwise):
    """tanh z."""

    otype = "Tanh"
    smoothness = math.inf

    def forward(self, z: Tensor, is_first: bool = False) -> Tensor:
        return torch.tanh(z)

    def derivative(self, z: Tensor, is_first: bool = False) -> Tensor:
        return 1 - torch.tanh(z) ** 2


@register("activation", "Exponential")
class Exponential(Pointwise):
    """exp z, without any bound on z or on the gradient."""

    otype = "Exponential"
    smoothness = math.inf

    def forward(self, z: Tensor, is_first: bool = False) -> Tensor:
        return torch.exp(z)

    def derivative(self, z: Tensor, is_first: bool = False) -> Tensor:
        return torch.exp(z)
