"""What an activation is: a function of each pre-activation, and the initial weights that suit it.

An activation belongs with its initialisation (SIREN's sine is nothing without it), so both live in one object: the
function, its derivative, its smoothness, and the laws from which the first and the later weight matrices are drawn.
A frequency omega stands inside the activation, sin(omega z), never in the weights. To write one, subclass
`Activation`, keep every constructor keyword as an attribute of the same name, and run
`fieldforge.contracts.check_activation` on it. `fields/activations/gaussian.py` is a short example.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fieldforge.registry import build, config_of


class Activation(nn.Module, ABC):
    """A function of one number, applied to every entry of a tensor.

    Class attributes: ``otype``, the name in a configuration, and ``is_complex``: whether the values are complex.
    A network with a complex activation has complex weights after its first layer and gives the real part.

    Class or instance attribute: ``smoothness``, the number of continuous derivatives in z (-1: jumps; 0: continuous;
    ``math.inf``: all).

    The first layer of a network reads coordinates or features, the later ones read activations; some papers give the
    first its own frequency (`is_first`) or its own weights (`init_first`).
    """

    otype: ClassVar[str]
    is_complex: ClassVar[bool] = False
    smoothness: float

    def __init__(self) -> None:
        super().__init__()  # the constructor is the schema: without this one the keys would be nn.Module's *args

    @abstractmethod
    def forward(self, z: Tensor, is_first: bool = False) -> Tensor:
        """Any shape to the same shape; `z` itself is left as it is."""

    @abstractmethod
    def derivative(self, z: Tensor, is_first: bool = False) -> Tensor:
        """d forward / dz at `z`, same shape; where there is none, the one-sided value that autograd takes."""

    @abstractmethod
    def init_first(self, weight: Tensor, bias: Tensor | None, generator: torch.Generator | None = None) -> None:
        """Draw the first matrix, (n_out, n_in), and its bias, (n_out,), in place."""

    @abstractmethod
    def init_hidden(self, weight: Tensor, bias: Tensor | None, generator: torch.Generator | None = None) -> None:
        """Draw a later matrix, (n_out, n_in), and its bias in place; the output layer is drawn from this law too."""

    def config(self) -> dict[str, Any]:
        """The configuration that rebuilds this activation."""
        return config_of(self)


def expect_activation(name: str, value: str | Mapping[str, Any] | Activation) -> Activation:
    """Build an activation from what a configuration says: "ReLU", or {"otype": "Sine", "omega": 20}.

    Raises:
        ConfigError: no activation is called that, or it has no such key; the message begins with `name`.
    """
    return value if isinstance(value, Activation) else build("activation", value, path=name)


def draw_uniform(tensor: Tensor | None, bound: float, generator: torch.Generator | None = None) -> None:
    """Fill in place from U(-bound, bound), real and imaginary part each; does nothing on the meta device or to None.

    The numbers are drawn where the generator is, so that one seed gives the same network on every device.
    """
    if tensor is None or tensor.is_meta:
        return
    device = tensor.device if generator is None else generator.device
    drawn = torch.empty(tensor.shape, dtype=tensor.dtype, device=device).uniform_(-bound, bound, generator=generator)
    with torch.no_grad():
        tensor.copy_(drawn)


def draw_bias(weight: Tensor, bias: Tensor | None, generator: torch.Generator | None = None) -> None:
    """PyTorch's law for the bias of a linear layer with n inputs, U(±1/√n)."""
    draw_uniform(bias, 1 / math.sqrt(weight.shape[1]), generator)


def draw_xavier(weight: Tensor, bias: Tensor | None, generator: torch.Generator | None = None) -> None:
    """Glorot and Bengio 2010, U(±√(6 / (n_in + n_out))): tiny-cuda-nn's law for everything but the sine."""
    draw_uniform(weight, math.sqrt(6 / sum(weight.shape)), generator)
    draw_bias(weight, bias, generator)


def draw_linear(weight: Tensor, bias: Tensor | None, generator: torch.Generator | None = None) -> None:
    """PyTorch's law for a linear layer with n inputs, weights and biases U(±1/√n)."""
    draw_uniform(weight, 1 / math.sqrt(weight.shape[1]), generator)
    draw_bias(weight, bias, generator)
