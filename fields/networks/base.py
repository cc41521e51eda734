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
from torch.nn.utils import skip_init

from fieldforge.fields.activations.base import Activation, expect_activation
from fieldforge.registry import config_of

Modulation = Callable[[int, Tensor], Tensor]
"""(index of the hidden linear layer, its output (*batch, width) before the activation) -> another of that shape."""

MAX_PARAMETERS = 2**30


class Network(nn.Module, ABC):
    """Features to quantities.

    Class attributes: ``otype``, the name in a configuration; ``coordinates``: None, or the range (low, high) of each
    raw coordinate that the network is made to read instead of features.

    Instance attributes: ``n_input_dims``, ``n_output_dims``, and ``smoothness``, the number of continuous derivatives
    in the features (0: continuous; ``math.inf``: all).
    """

    otype: ClassVar[str]
    coordinates: ClassVar[tuple[float, float] | None] = None

    n_input_dims: int
    n_output_dims: int
    smoothness: float

    @abstractmethod
    def forward(self, features: Tensor, *, modulate: Modulation | None = None) -> Tensor:
        """(*batch, n_input_dims) -> (*batch, n_output_dims), any batch shape, also empty and non-contiguous.

        `modulate`, if given, is called with the index and the output of each hidden linear layer, in order, and what
        it returns takes that output's place.
        """

    def config(self) -> dict[str, Any]:
        """The configuration that rebuilds this network (without parameters)."""
        return config_of(self)


class ComplexLinear(nn.Linear):
    """A linear layer of complex numbers that follows ``.double()`` and ``.float()``, which PyTorch's does not."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ComplexLinear:
        def through_real(tensor: Tensor) -> Tensor:
            if not tensor.is_complex():
                return fn(tensor)
            return torch.view_as_complex(fn(torch.view_as_real(tensor)))

        super()._apply(through_real, recurse)
        return self


def empty_linear(n_in: int, n_out: int, *, has_bias: bool, is_complex: bool = False) -> nn.Linear:
    """A linear layer whose numbers are not drawn yet, on the current default device and of the default dtype."""
    dtype = torch.get_default_dtype()
    return skip_init(
        ComplexLinear if is_complex else nn.Linear,
        n_in,
        n_out,
        bias=has_bias,
        dtype=dtype.to_complex() if is_complex else dtype,
        device=torch.get_default_device(),  # skip_init would take the CPU even under torch.device("meta")
    )


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
