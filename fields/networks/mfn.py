"""Multiplicative filter networks: products of filters of the coordinates (Fathony et al., ICLR 2021).

    {"otype": "FourierMFN", "n_neurons": 256, "n_hidden_layers": 3, "input_scale": 256.0, "weight_scale": 1.0,
     "has_bias": true, "output_activation": "None"}
    {"otype": "GaborMFN", ..., "alpha": 6.0, "beta": 1.0}

z_0 = g_0(x), z_i = (W_i z_{i-1} + b_i) * g_i(x), out = W z_L + b. Instead of an activation each layer multiplies by a
filter g of the raw coordinates, so the whole is a sum of sines (or of Gabor functions) of x. Made for x in [-1, 1]^d:
the centres of the Gabor filters lie there.

We follow the authors' code (boschresearch/multiplicative-filter-networks), including its law for the filters'
frequencies: PyTorch's U(±1/√d) times input_scale / √(L + 1). The copy of it in WIRE's code differs.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fieldforge.checks import expect_bool, expect_float, expect_generator, expect_int, expect_points
from fieldforge.fields.activations.base import Activation, draw_bias, draw_linear, draw_uniform
from fieldforge.fields.networks.base import Modulation, Network, empty_linear, expect_real_activation, expect_size
from fieldforge.registry import register


class FourierFilter(nn.Module):
    """g(x) = sin(Omega x + phi); Omega from U(±scale/√d), phi from U(±π), both trained."""

    def __init__(self, n_input_dims: int, n_neurons: int, scale: float, generator: torch.Generator | None) -> None:
        super().__init__()
        self.frequency = nn.Parameter(torch.empty(n_neurons, n_input_dims))
        self.phase = nn.Parameter(torch.empty(n_neurons))
        draw_uniform(self.frequency, scale / math.sqrt(n_input_dims), generator)
        draw_uniform(self.phase, math.pi, generator)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(F.linear(x, self.frequency, self.phase))


class GaborFilter(nn.Module):
    """g(x) = sin(Omega x + phi) exp(-gamma/2 |x - mu|²), all trained.

    mu from U(±1), gamma from the Gamma distribution (alpha, beta), Omega from U(±scale √gamma / √d).
    """

    def __init__(
        self,
        n_input_dims: int,
        n_neurons: int,
        scale: float,
        alpha: float,
        beta: float,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        self.wave = FourierFilter(n_input_dims, n_neurons, scale, generator)
        self.center = nn.Parameter(torch.empty(n_neurons, n_input_dims))
        self.gamma = nn.Parameter(torch.empty(n_neurons))
        draw_uniform(self.center, 1.0, generator)
        if not self.gamma.is_meta:
            shape = torch.full(self.gamma.shape, alpha, device="cpu" if generator is None else generator.device)
            with torch.no_grad():
                self.gamma.copy_(torch._standard_gamma(shape, generator=generator) / beta)
                self.wave.frequency.mul_(self.gamma.sqrt()[:, None])

    def forward(self, x: Tensor) -> Tensor:
        # |x - mu|² without a (*batch, n_neurons, d) tensor; both are of order one, so little cancels.
        square = x.square().sum(-1, keepdim=True) - 2 * F.linear(x, self.center) + self.center.square().sum(-1)
        return self.wave(x) * torch.exp(-0.5 * self.gamma * square)


class MultiplicativeFilterNetwork(Network):
    """What FourierMFN and GaborMFN share; they differ in their filters."""

    coordinates = (-1.0, 1.0)
    filters: nn.ModuleList
    layers: nn.ModuleList

    def __init__(
        self,
        n_input_dims: int,
        n_output_dims: int,
        *,
        n_neurons: int,
        n_hidden_layers: int,
        input_scale: float,
        weight_scale: float,
        has_bias: bool,
        output_activation: str | Mapping[str, Any] | Activation,
    ) -> None:
        super().__init__()
        self.n_input_dims = expect_int("n_input_dims", n_input_dims, 1)
        self.n_output_dims = expect_int("n_output_dims", n_output_dims, 1)
        self.n_neurons = expect_int("n_neurons", n_neurons, 1)
        self.n_hidden_layers = expect_int("n_hidden_layers", n_hidden_layers, 0, 1024)
        self.input_scale = expect_float("input_scale", input_scale, 0.0)
        self.weight_scale = expect_float("weight_scale", weight_scale, 0.0)
        self.has_bias = expect_bool("has_bias", has_bias)
        self.output_activation = expect_real_activation("output_activation", output_activation)
        self.smoothness = self.output_activation.smoothness
        filters = (n_hidden_layers + 1) * n_neurons * 2 * (n_input_dims + 1)
        expect_size(filters + n_hidden_layers * n_neurons * (n_neurons + 1) + n_output_dims * (n_neurons + 1))

    def forward(self, features: Tensor, *, modulate: Modulation | None = None) -> Tensor:
        """(*batch, d) coordinates -> (*batch, n_output_dims); `modulate` sees W_i z + b_i before the product."""
        expect_points(features, self.n_input_dims, name="features", owner=self)
        *hidden, last = self.layers
        (z,) = deque(products(features, self.filters, hidden, modulate), maxlen=1)
        return self.output_activation(last(z))

    def _filter_scale(self) -> float:
        """input_scale, shared out so that the product of L + 1 filters has it."""
        return self.input_scale / math.sqrt(self.n_hidden_layers + 1)

    def _linear_layers(self, generator: torch.Generator | None) -> nn.ModuleList:
        """L hidden layers with weights from U(±√(weight_scale / n)), and the output layer from PyTorch's law."""
        n = self.n_neurons
        layers = [empty_linear(n, n, has_bias=self.has_bias) for _ in range(self.n_hidden_layers)]
        for layer in layers:
            draw_uniform(layer.weight, math.sqrt(self.weight_scale / n), generator)
            draw_bias(layer.weight, layer.bias, generator)
        last = empty_linear(n, self.n_output_dims, has_bias=True)
        draw_linear(last.weight, last.bias, generator)
        return nn.ModuleList([*layers, last])


@register("network", "FourierMFN")
class FourierMFN(MultiplicativeFilterNetwork):
    """Products of sines.

    Args:
        n_input_dims: number of coordinates d.
        n_output_dims: number of outputs.
        n_neurons: width.
        n_hidden_layers: number L of products; there are L + 1 filters.
        input_scale: frequencies of the whole network, in radians per unit length, are of this order.
        weight_scale: hidden weights are drawn from U(±√(weight_scale / n_neurons)).
        has_bias: whether hidden linear layers have biases; the last has one always.
        output_activation: name or table of the last activation.
        generator: source of the initial weights; None is torch's global one.

    Example:
        >>> FourierMFN(2, 3, n_neurons=16)(torch.zeros(5, 2)).shape
        torch.Size([5, 3])
    """

    otype = "FourierMFN"

    def __init__(
        self,
        n_input_dims: int,
        n_output_dims: int,
        *,
        n_neurons: int = 256,
        n_hidden_layers: int = 3,
        input_scale: float = 256.0,
        weight_scale: float = 1.0,
        has_bias: bool = True,
        output_activation: str | Mapping[str, Any] | Activation = "None",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(
            n_input_dims,
            n_output_dims,
            n_neurons=n_neurons,
            n_hidden_layers=n_hidden_layers,
            input_scale=input_scale,
            weight_scale=weight_scale,
            has_bias=has_bias,
            output_activation=output_activation,
        )
        expect_generator(generator)
        self.filters = nn.ModuleList(
            FourierFilter(n_input_dims, n_neurons, self._filter_scale(), generator) for _ in range(n_hidden_layers + 1)
        )
        self.layers = self._linear_layers(generator)


@register("network", "GaborMFN")
class GaborMFN(MultiplicativeFilterNetwork):
    """Products of Gabor functions: sines under Gaussians.

    Args:
        n_input_dims: number of coordinates d.
        n_output_dims: number of outputs.
        n_neurons: width.
        n_hidden_layers: number L of products; there are L + 1 filters.
        input_scale: frequencies of the whole network, in radians per unit length, are of this order.
        weight_scale: hidden weights are drawn from U(±√(weight_scale / n_neurons)).
        alpha: shape of the Gamma distribution of the Gaussians' 1/variance, divided by L + 1.
        beta: its rate.
        has_bias: whether hidden linear layers have biases; the last has one always.
        output_activation: name or table of the last activation.
        generator: source of the initial weights; None is torch's global one.
    """

    otype = "GaborMFN"

    def __init__(
        self,
        n_input_dims: int,
        n_output_dims: int,
        *,
        n_neurons: int = 256,
        n_hidden_layers: int = 3,
        input_scale: float = 256.0,
        weight_scale: float = 1.0,
        alpha: float = 6.0,
        beta: float = 1.0,
        has_bias: bool = True,
        output_activation: str | Mapping[str, Any] | Activation = "None",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(
            n_input_dims,
            n_output_dims,
            n_neurons=n_neurons,
            n_hidden_layers=n_hidden_layers,
            input_scale=input_scale,
            weight_scale=weight_scale,
            has_bias=has_bias,
            output_activation=output_activation,
        )
        self.alpha = expect_float("alpha", alpha, 0.0, open_low=True)
        self.beta = expect_float("beta", beta, 0.0, open_low=True)
        expect_generator(generator)
        scale, shape = self._filter_scale(), alpha / (n_hidden_layers + 1)
        self.filters = nn.ModuleList(
            GaborFilter(n_input_dims, n_neurons, scale, shape, beta, generator) for _ in range(n_hidden_layers + 1)
        )
        self.layers = self._linear_layers(generator)


def products(
    x: Tensor, filters: nn.ModuleList, hidden: Sequence[nn.Module], modulate: Modulation | None
) -> Iterator[Tensor]:
    """z_0 = g_0(x), then z_i = (W_i z_{i-1} + b_i) * g_i(x) for i = 1 ... L, each (*batch, n_neurons)."""
    first, *later = filters
    z = first(x)
    yield z
    for index, (layer, gain) in enumerate(zip(hidden, later, strict=True)):
        z = layer(z)
        if modulate is not None:
            z = modulate(index, z)
        z = z * gain(x)
        yield z
