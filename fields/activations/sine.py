"""Sine: periodic activation with the initialisation that keeps it trainable (SIREN; Sitzmann et al. 2020, section 3.2).

    {"otype": "Sine", "omega": 30.0, "first_omega": null}

sin(omega z) with z = W x + b. With n inputs, the first W is drawn from U(±1/n), the others from U(±√(6/n)/omega),
biases from PyTorch's U(±1/√n): then omega z has variance about 1 in every hidden layer, at any depth. The paper's
coordinates are in [-1, 1], its networks have biases (``has_bias``) and an output layer drawn from the hidden law.

tiny-cuda-nn's Sine is sin(z): it draws the first W from U(±30/n), the hidden ones from U(±√(6/n)), which is the same
initial function but not the same descent, and leaves the output layer 30 times larger than the paper does. Weights
trained there are read with omega = 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fieldforge.checks import expect_float
from fieldforge.fields.activations.base import Activation, draw_bias, draw_uniform
from fieldforge.registry import register


def draw_siren_first(weight: Tensor, bias: Tensor | None, generator: torch.Generator | None = None) -> None:
    """Weights U(±1/n), biases U(±1/√n), for n inputs."""
    draw_uniform(weight, 1 / weight.shape[1], generator)
    draw_bias(weight, bias, generator)


def draw_siren_hidden(
    weight: Tensor, bias: Tensor | None, omega: float, generator: torch.Generator | None = None
) -> None:
    """Weights U(±√(6/n)/omega), biases U(±1/√n), for n inputs."""
    draw_uniform(weight, math.sqrt(6 / weight.shape[1]) / omega, generator)
    draw_bias(weight, bias, generator)


class Sinusoidal(Activation):
    """An activation with a frequency, which may be another in the first layer.

    Args:
        omega: factor of z.
        first_omega: the first layer's; None: the same.
    """

    def __init__(self, *, omega: float = 30.0, first_omega: float | None = None) -> None:
        super().__init__()
        self.omega = expect_float("omega", omega, 0.0, open_low=True)
        self.first_omega = None if first_omega is None else expect_float("first_omega", first_omega, 0.0, open_low=True)

    def factor(self, is_first: bool) -> float:
        """What z is multiplied by: `first_omega` in the first layer, if there is one, else `omega`."""
        return self.first_omega if is_first and self.first_omega is not None else self.omega


@register("activation", "Sine")
class Sine(Sinusoidal):
    """sin(omega z).

    Args:
        omega: frequency factor; 30 for coordinates in [-1, 1].
        first_omega: the first layer's, which sets the frequencies the network starts with (sound: 3000); None: omega.

    Example:
        >>> Sine(omega=math.pi)(torch.tensor([0.0, 0.5, 1.5]))
        tensor([ 0.,  1., -1.])
    """

    otype = "Sine"
    smoothness = math.inf

    def forward(self, z: Tensor, is_first: bool = False) -> Tensor:
        return torch.sin(self.factor(is_first) * z)

    def derivative(self, z: Tensor, is_first: bool = False) -> Tensor:
        omega = self.factor(is_first)
        return omega * torch.cos(omega * z)

    def init_first(self, weight: Tensor, bias: Tensor | None, generator: torch.Generator | None = None) -> None:
        draw_siren_first(weight, bias, generator)

    def init_hidden(self, weight: Tensor, bias: Tensor | None, generator: torch.Generator | None = None) -> None:
        draw_siren_hidden(weight, bias, self.omega, generator)
