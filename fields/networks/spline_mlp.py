"""SplineMLP: an MLP whose activations are learnt B-splines (Yu, Yu and Wang 2024, "KAN or MLP: A Fairer Comparison").

    {"otype": "SplineMLP", "n_neurons": 64, "n_hidden_layers": 2, "n_intervals": 5, "degree": 3, "low": -1.0,
     "high": 1.0, "sharing": "channel", "initial": "noise", "has_bias": true, "output_activation": "None"}

z = W h + b, then a_o(z_o) = sum_m c_om B_m(z_o) with G + k coefficients for each neuron and no residual SiLU; the last
layer is linear. Why this is a network and no activation: an activation of an `MLP` is one object for all layers, is
built without a random generator, and knows no channels, so it has no place for parameters of a layer or a neuron.

As in the authors' code (yu-rp/KANbeFair) splines begin as noise of 0.1 / G at the knots, and weights by PyTorch's law:
values are about a hundredth at first, and a fit starts slowly. With `initial` "silu" splines begin as the SiLU instead
(our option). Their helper counts splines of the output layer too, which their network has not; we count what
there is: (n_in + 1) n_out of each linear layer, G + k more for each hidden neuron (or layer).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from fieldforge.checks import expect_bool, expect_choice, expect_generator, expect_int, expect_points
from fieldforge.fields.activations.base import Activation, draw_linear, draw_uniform
from fieldforge.fields.networks import splines
from fieldforge.fields.networks.base import Modulation, Network, empty_linear, expect_real_activation, expect_size
from fieldforge.fields.networks.kan import NOISE, expect_range, expect_spline
from fieldforge.registry import register


@register("network", "SplineMLP")
class SplineMLP(Network):
    """Linear layers with splines between them.

    Args:
        n_input_dims: width of the features.
        n_output_dims: number of outputs.
        n_neurons: width of the hidden layers.
        n_hidden_layers: number of hidden layers, also 0.
        n_intervals: G, cells of each spline.
        degree: k, at least 1; the network has k - 1 continuous derivatives.
        low, high: where the cells are; beyond, splines fade to 0 over k cells.
        sharing: whether each neuron has a spline of its own ("channel") or all of a layer have one ("layer").
        initial: "noise", or "silu", the function z / (1 + exp(-z)) at the knots.
        has_bias: whether linear layers have biases.
        output_activation: name or table of the last one.
        generator: source of the initial weights; None is torch's global one.

    Attributes:
        layers: the linear layers, the output's last.
        coefficients: of each hidden layer, (n_neurons, G + k), or (1, G + k) where they are shared.

    Raises:
        ValueError: a number is out of range, or `low` is not below `high`.

    Example:
        >>> SplineMLP(2, 3, n_neurons=16, n_hidden_layers=1)(torch.zeros(5, 2)).shape
        torch.Size([5, 3])
    """

    otype = "SplineMLP"

    knots: Tensor

    def __init__(
        self,
        n_input_dims: int,
        n_output_dims: int,
        *,
        n_neurons: int = 64,
        n_hidden_layers: int = 2,
        n_intervals: int = 5,
        degree: int = 3,
        low: float = -1.0,
        high: float = 1.0,
        sharing: Literal["channel", "layer"] = "channel",
        initial: Literal["noise", "silu"] = "noise",
        has_bias: bool = True,
        output_activation: str | Mapping[str, Any] | Activation = "None",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.n_input_dims = expect_int("n_input_dims", n_input_dims, 1)
        self.n_output_dims = expect_int("n_output_dims", n_output_dims, 1)
        self.n_neurons = expect_int("n_neurons", n_neurons, 1)
        self.n_hidden_layers = expect_int("n_hidden_layers", n_hidden_layers, 0, 1024)
        self.n_intervals, self.degree = expect_spline(n_intervals, degree)
        self.low, self.high = expect_range(low, high)
        self.sharing = expect_choice("sharing", sharing, ("channel", "layer"))
        self.initial = expect_choice("initial", initial, ("noise", "silu"))
        self.has_bias = expect_bool("has_bias", has_bias)
        self.output_activation = expect_real_activation("output_activation", output_activation)
        hidden = self.degree - 1 if n_hidden_layers else math.inf
        self.smoothness = min(hidden, self.output_activation.smoothness)

        shapes = list(itertools.pairwise((n_input_dims, *[n_neurons] * n_hidden_layers, n_output_dims)))
        n_splines = n_neurons if self.sharing == "channel" else 1
        expect_size(
            sum((n_in + 1) * n_out for n_in, n_out in shapes) + len(shapes) * n_splines * (n_intervals + degree)
        )
        expect_generator(generator)
        layers = [empty_linear(n_in, n_out, has_bias=has_bias) for n_in, n_out in shapes]
        for layer in layers:
            draw_linear(layer.weight, layer.bias, generator)
        self.layers = nn.ModuleList(layers)
        # not saved: it is part of the configuration
        self.register_buffer("knots", splines.uniform_knots(self.low, self.high, n_intervals, degree), persistent=False)
        self.coefficients = nn.ParameterList(self._drawn(n_splines, generator) for _ in range(n_hidden_layers))

    def _drawn(self, n_splines: int, generator: torch.Generator | None) -> Tensor:
        """(n_splines, G + k) coefficients of untrained splines."""
        values = torch.empty(n_splines, self.n_intervals + 1)
        if values.is_meta:
            return torch.empty(n_splines, self.n_intervals + self.degree)
        draw_uniform(values, 0.5 * NOISE / self.n_intervals, generator)
        if self.initial == "silu":
            values[:] = functional.silu(torch.linspace(self.low, self.high, self.n_intervals + 1))
        return splines.at_inner_knots(values, self.low, self.high, self.degree)

    def forward(self, features: Tensor, *, modulate: Modulation | None = None) -> Tensor:
        """(*batch, n_input_dims) -> (*batch, n_output_dims); `modulate` sees W h + b before the splines."""
        expect_points(features, self.n_input_dims, name="features", owner=self)
        *hidden, last = self.layers
        h = features
        for index, (layer, coefficients) in enumerate(zip(hidden, self.coefficients, strict=True)):
            z = layer(h)
            if modulate is not None:
                z = modulate(index, z)
            h = (splines.basis(z, self.knots[None], self.degree) * coefficients).sum(-1)
        return self.output_activation(last(h))
