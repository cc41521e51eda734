"""FAN: layers of which a part is periodic (Dong et al. 2024, "FAN: Fourier Analysis Networks").

    {"otype": "FAN", "n_neurons": 128, "n_hidden_layers": 3, "periodic_share": 0.25, "omega": 1.0, "is_gated": false,
     "activation": "GELU", "has_periodic_bias": true, "output_activation": "None"}

phi(h) = [cos(W_p h + b_p), sin(W_p h + b_p), activation(W_q h + b_q)], where W_p has int(p n) rows and W_q the n - 2
int(p n) that are left. A linear layer leads in, n_hidden_layers of these follow, a linear layer leads out; with equal
widths a layer has 1 - p times the weights of a dense one. The gated form multiplies the periodic part by g and the rest
by 1 - g, with g the sigmoid of one number, drawn from N(0, 1).

The paper's formula has no b_p; the authors' code (YihongDong/FAN) has it unless told otherwise, and so have we. Their
networks of "L layers" count the linear one that leads in. `omega`, the frequency of the first periodic part,
is not theirs: at 1, coordinates from [-1, 1] leave the sines where they are almost lines, and the network is as smooth
as one of tanh; a frequency, or Fourier features in front, makes it see detail.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fieldforge.checks import expect_bool, expect_float, expect_generator, expect_int, expect_points
from fieldforge.fields.activations.base import Activation, draw_linear
from fieldforge.fields.networks.base import Modulation, Network, empty_linear, expect_real_activation, expect_size
from fieldforge.registry import register


class FANLayer(nn.Module):
    """(*batch, n_in) -> (*batch, n_out): n_periodic cosines, as many sines, and n_out - 2 n_periodic others."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        n_periodic: int,
        *,
        has_periodic_bias: bool,
        is_gated: bool,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        self.periodic = empty_linear(n_in, n_periodic, has_bias=has_periodic_bias)
        self.other = empty_linear(n_in, n_out - 2 * n_periodic, has_bias=True)
        for layer in (self.periodic, self.other):
            draw_linear(layer.weight, layer.bias, generator)
        self.gate = nn.Parameter(torch.empty(1)) if is_gated else None
        if self.gate is not None and not self.gate.is_meta:
            nn.init.normal_(self.gate, generator=generator)

    def forward(self, h: Tensor) -> Tensor:
        """(*batch, n_in) -> (*batch, n_out - n_periodic): W_p h + b_p, then W_q h + b_q."""
        return torch.cat([self.periodic(h), self.other(h)], -1)

    def bend(self, z: Tensor, activation: Activation, omega: float) -> Tensor:
        """What `forward` gives, through its cosines, sines and activation: (*batch, n_out)."""
        n_periodic = self.periodic.weight.shape[0]
        phase, rest = omega * z[..., :n_periodic], activation(z[..., n_periodic:])
        cosine, sine = torch.cos(phase), torch.sin(phase)
        if self.gate is not None:
            share = torch.sigmoid(self.gate)
            cosine, sine, rest = share * cosine, share * sine, (1 - share) * rest
        return torch.cat([cosine, sine, rest], -1)


@register("network", "FAN")
class FAN(Network):
    """A linear layer, `n_hidden_layers` Fourier analysis layers, a linear layer; all weights by PyTorch's law.

    Args:
        n_input_dims: width of the features.
        n_output_dims: number of outputs.
        n_neurons: n, width of the hidden layers.
        n_hidden_layers: number of Fourier analysis layers, at least 1.
        periodic_share: p, between 0 and 1/2: int(p n) cosines and as many sines; at least one of each, and at least
            one unit left for the activation.
        omega: factor on the argument of the first layer's sines and cosines.
        is_gated: whether each layer learns how much of it is periodic.
        activation: of the other units.
        has_periodic_bias: whether sines and cosines have phases.
        output_activation: name or table of the last one.
        generator: source of the initial weights; None is torch's global one.

    Attributes:
        first, last: the linear layers. layers: the `FANLayer`s.

    Raises:
        ValueError: a number is out of range, or `periodic_share` leaves one of the parts empty.

    Example:
        >>> FAN(2, 3, n_neurons=16, n_hidden_layers=2).n_periodic
        4
    """

    otype = "FAN"

    def __init__(
        self,
        n_input_dims: int,
        n_output_dims: int,
        *,
        n_neurons: int = 128,
        n_hidden_layers: int = 3,
        periodic_share: float = 0.25,
        omega: float = 1.0,
        is_gated: bool = False,
        activation: str | Mapping[str, Any] | Activation = "GELU",
        has_periodic_bias: bool = True,
        output_activation: str | Mapping[str, Any] | Activation = "None",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.n_input_dims = expect_int("n_input_dims", n_input_dims, 1)
        self.n_output_dims = expect_int("n_output_dims", n_output_dims, 1)
        self.n_neurons = expect_int("n_neurons", n_neurons, 1)
        self.n_hidden_layers = expect_int("n_hidden_layers", n_hidden_layers, 1, 1024)
        self.periodic_share = expect_float("periodic_share", periodic_share, 0.0, 0.5)
        self.omega = expect_float("omega", omega, 0.0, 1e6, open_low=True)
        self.is_gated = expect_bool("is_gated", is_gated)
        self.activation = expect_real_activation("activation", activation)
        self.has_periodic_bias = expect_bool("has_periodic_bias", has_periodic_bias)
        self.output_activation = expect_real_activation("output_activation", output_activation)
        self.smoothness = min(self.activation.smoothness, self.output_activation.smoothness)
        n = n_neurons
        self.n_periodic = math.floor(self.periodic_share * n)
        if not 0 < self.n_periodic < n / 2:
            raise ValueError(
                f"periodic_share: {periodic_share:g} of {n} neurons makes {self.n_periodic} cosines, as many sines and "
                f"{n - 2 * self.n_periodic} others; each part needs at least one"
            )

        expect_size(n * (n_input_dims + 1 + n_hidden_layers * (n + 1)) + n_output_dims * (n + 1))
        expect_generator(generator)
        self.first = empty_linear(n_input_dims, n, has_bias=True)
        draw_linear(self.first.weight, self.first.bias, generator)
        self.layers = nn.ModuleList(
            FANLayer(n, n, self.n_periodic, has_periodic_bias=has_periodic_bias, is_gated=is_gated, generator=generator)
            for _ in range(n_hidden_layers)
        )
        self.last = empty_linear(n, n_output_dims, has_bias=True)
        draw_linear(self.last.weight, self.last.bias, generator)

    def forward(self, features: Tensor, *, modulate: Modulation | None = None) -> Tensor:
        """(*batch, n_input_dims) -> (*batch, n_output_dims).

        `modulate` sees, before sines and activation, the n - n_periodic numbers of each Fourier analysis layer.
        """
        expect_points(features, self.n_input_dims, name="features", owner=self)
        h = self.first(features)
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, FANLayer)
            z = layer(h)
            if modulate is not None:
                z = modulate(index, z)
            h = layer.bend(z, self.activation, 1.0 if index else self.omega)
        return self.output_activation(self.last(h))
