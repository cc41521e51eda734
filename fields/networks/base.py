"""What a network is: features in, quantities out.

A network maps the feature vector of a point (an encoding's output, or raw coordinates) to numbers. To write one,
subclass `Network`, keep every constructor keyword as an attribute of the same name, offer modulation after each linear
layer, and run `fieldforge.contracts.check_network` on it. `fields/networks/mlp.py` is the one most fields use.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from fieldforge.fields.activations.base import Activation, expect_activation
from fieldforge.registry import config_of

Modulation = Callable[[int, Tensor], Tensor]
"""(index of the hidden linear layer, its output (*batch, width) before the activation) -> another of that shape."""

MAX_PARAMETERS = 2**30


class Network(nn.Module, ABC):
    """Features to quantities.

    Class attributes: ``otype``, the name in a configuration; ``coordinates``: None, or the range (low, high) of each
    raw coordinate that the network is made to read instead of features.

    Instance attributes: ``n_input_dims``, ``n_output_dims``; ``smoothness``, the number of continuous derivatives
    in the features (0: continuous; ``math.inf``: all); and ``mixes_points``, whether, while a step of a fit runs, a
    point's output depends on its batch.

    A network that changes by itself in the course of a fit has a method ``on_step`` (`fieldforge.apps.fit.stages`);
    where that depends on settings, ``changes_by_itself`` says whether it does.
    """

    otype: ClassVar[str]
    coordinates: ClassVar[tuple[float, float] | None] = None

    n_input_dims: int
    n_output_dims: int
    smoothness: float
    mixes_points: bool = False

    @abstractmethod
    def forward(self, features: Tensor, *, modulate: Modulation | None = None) -> Tensor:
        """(*batch, n_input_dims) -> (*batch, n_output_dims), any batch shape, also empty and non-contiguous.

        `modulate`, if given, is called with the index and the output of each hidden linear layer, in order, and what
        it returns takes that output's place.
        """

    def config(self) -> dict[str, Any]:
        """The configuration that rebuilds this network (without parameters)."""
        return config_of(self)


class ComplexLinear(nn.Module):
    """A linear layer of complex numbers, kept as pairs of real ones.

    So optimizers, storage types and ``.double()`` treat them like all others. ``weight`` (n_out, n_in) and ``bias``
    (n_out,) are complex views of the parameters ``weight_pairs`` and ``bias_pairs``, whose last axis is (real, imag).
    """

    def __init__(self, n_in: int, n_out: int, *, has_bias: bool) -> None:
        super().__init__()
        self.weight_pairs = nn.Parameter(torch.empty(n_out, n_in, 2))
        self.bias_pairs = nn.Parameter(torch.empty(n_out, 2)) if has_bias else None

    @property
    def weight(self) -> Tensor:
        """(n_out, n_in) complex."""
        return torch.view_as_complex(self.weight_pairs)

    @property
    def bias(self) -> Tensor | None:
        """(n_out,) complex, or None."""
        return None if self.bias_pairs is None else torch.view_as_complex(self.bias_pairs)

    def forward(self, x: Tensor) -> Tensor:
        """(*batch, n_in) real or complex -> (*batch, n_out) complex."""
        return functional.linear(x.to(self.weight.dtype), self.weight, self.bias)


def empty_linear(n_in: int, n_out: int, *, has_bias: bool, is_complex: bool = False) -> nn.Linear | ComplexLinear:
    """A linear layer whose numbers are not drawn yet, on the current default device and of the default dtype."""
    if is_complex:
        return ComplexLinear(n_in, n_out, has_bias=has_bias)
    # not nn.utils.skip_init: it reaches real memory by an operation on the meta device, whose first use imports sympy,
    # 2 s and 40 MiB of every short command
    layer = nn.Linear(n_in, n_out, bias=has_bias, device="meta")
    for name, parameter in list(layer.named_parameters()):
        setattr(layer, name, nn.Parameter(torch.empty(parameter.shape)))
    return layer


def expect_real_activation(name: str, value: Any) -> Activation:
    """An activation whose values are real, for outputs and for networks of real numbers."""
    activation = expect_activation(name, value)
    if activation.is_complex:
        raise ValueError(f"{name}: expected an activation with real values, got {activation.otype}")
    return activation


def expect_size(n_parameters: int) -> None:
    """Refuse a network before it is allocated when it would not fit in any machine it is meant for."""
    if n_parameters > MAX_PARAMETERS:
        raise ValueError(f"n_neurons: at most {MAX_PARAMETERS:,} parameters are allowed, got {n_parameters:,}")
