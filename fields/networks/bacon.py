"""BACON: a network whose every output has a known band limit (Lindell et al., CVPR 2022).

    {"otype": "BACON", "n_neurons": 256, "n_hidden_layers": 4, "resolution": 256,
     "scales": [0.125, 0.125, 0.25, 0.25, 0.25], "output_layers": [1, 2, 4], "output_activation": "None"}

z_0 = g_0(x), z_i = (W_i z_{i-1} + b_i) * g_i(x), out_i = W'_i z_i + b'_i with filters g_i(x) = sin(2 π K_i x + phi_i).
The frequencies K_i are frozen whole numbers of cycles per unit length, drawn from -B_i ... B_i on each axis with
B_i = round(resolution scales_i / 2). A product of sines has the sums and differences of their frequencies, so out_i
holds none above B_0 + ... + B_i and repeats with period 1, whatever the weights: made for x in [-1/2, 1/2]^d. Scales
that sum to 1 reach the Nyquist frequency of `resolution` samples per unit length.

The released code (computational-imaging/bacon) also trains the phases and has a head, unused, on the layers without
output; its multiscale loss is the mean over the outputs. Sharing filters between layers, as its SDF script does, is
not implemented here.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fieldforge.checks import expect_float, expect_generator, expect_int, expect_points
from fieldforge.fields.activations.base import Activation, draw_bias, draw_uniform
from fieldforge.fields.networks.base import Modulation, Network, empty_linear, expect_real_activation, expect_size
from fieldforge.fields.networks.mfn import products
from fieldforge.registry import register


class BandLimitedFilter(nn.Module):
    """g(x) = sin(2 π K x + phi), K frozen and drawn evenly from the whole numbers -band ... band, phi from U(±π)."""

    cycles: Tensor

    def __init__(self, n_input_dims: int, n_neurons: int, band: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.register_buffer("cycles", torch.empty(n_neurons, n_input_dims))  # kept with the weights: it is random
        self.phase = nn.Parameter(torch.empty(n_neurons))
        if not self.cycles.is_meta:
            device = self.cycles.device if generator is None else generator.device
            self.cycles.copy_(torch.randint(-band, band + 1, self.cycles.shape, generator=generator, device=device))
        draw_uniform(self.phase, math.pi, generator)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(F.linear(2 * math.pi * x, self.cycles, self.phase))


@register("network", "BACON")
class BACON(Network):
    """Products of sines of frozen frequencies, with outputs at several depths.

    `forward` gives the finest output; `forward_levels` all of them. Modulation that depends on the point adds its own
    frequencies to the bands, and an output activation other than None widens them.

    Args:
        n_input_dims: number of coordinates d.
        n_output_dims: number of outputs.
        n_neurons: width.
        n_hidden_layers: number L of products; there are L + 1 filters.
        resolution: samples per unit length whose Nyquist frequency the whole network reaches.
        scales: share of each of the L + 1 filters in it; None: equal shares.
        output_layers: ascending numbers from 1 to L of the layers with an output; L is the last; None: all.
        output_activation: name or table of the last activation, for every output.
        generator: source of frequencies and weights; None is torch's global one.

    Attributes:
        bands: for each output, its highest frequency on each axis in cycles per unit length.

    Raises:
        ValueError: there are not L + 1 scales, or `output_layers` is not ascending and ending with L.

    Example:
        >>> BACON(2, 3, n_hidden_layers=2, resolution=64, scales=[0.25, 0.25, 0.5]).bands
        [16, 32]
    """

    otype = "BACON"
    coordinates = (-0.5, 0.5)

    def __init__(
        self,
        n_input_dims: int,
        n_output_dims: int,
        *,
        n_neurons: int = 256,
        n_hidden_layers: int = 4,
        resolution: int = 256,
        scales: Sequence[float] | None = None,
        output_layers: Sequence[int] | None = None,
        output_activation: str | Mapping[str, Any] | Activation = "None",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.n_input_dims = expect_int("n_input_dims", n_input_dims, 1)
        self.n_output_dims = expect_int("n_output_dims", n_output_dims, 1)
        self.n_neurons = expect_int("n_neurons", n_neurons, 1)
        self.n_hidden_layers = expect_int("n_hidden_layers", n_hidden_layers, 1, 1024)
        self.resolution = expect_int("resolution", resolution, 1, 2**24)
        self.scales = scales
        self.output_layers = output_layers
        self.output_activation = expect_real_activation("output_activation", output_activation)
        self.smoothness = self.output_activation.smoothness
        n_filters = n_hidden_layers + 1
        shares = [1 / n_filters] * n_filters if scales is None else scales
        if len(shares) != n_filters:
            raise ValueError(f"scales: expected {n_filters} numbers, one for each filter, got {len(shares)}")
        widths = [round(resolution * expect_float("scales", share, 0.0, 1.0) / 2) for share in shares]
        self._heads_at = list(range(1, n_filters)) if output_layers is None else list(output_layers)
        for layer in self._heads_at:
            expect_int("output_layers", layer, 1, n_hidden_layers)
        if self._heads_at != sorted({*self._heads_at, n_hidden_layers}):
            raise ValueError(
                f"output_layers: expected ascending layers, the last {n_hidden_layers}, got {self._heads_at}"
            )
        expect_size(
            n_filters * n_neurons * (n_input_dims + 1)
            + n_hidden_layers * n_neurons * (n_neurons + 1)
            + len(self._heads_at) * n_output_dims * (n_neurons + 1)
        )
        total = list(accumulate(widths))
        self.bands = [total[level] for level in self._heads_at]

        expect_generator(generator)
        self.filters = nn.ModuleList(BandLimitedFilter(n_input_dims, n_neurons, band, generator) for band in widths)
        layers = [empty_linear(n_neurons, n_neurons, has_bias=True) for _ in range(n_hidden_layers)]
        heads = [empty_linear(n_neurons, n_output_dims, has_bias=True) for _ in self._heads_at]
        for linear in (*layers, *heads):
            draw_uniform(linear.weight, math.sqrt(6 / n_neurons), generator)
            draw_bias(linear.weight, linear.bias, generator)
        self.layers, self.heads = nn.ModuleList(layers), nn.ModuleList(heads)

    def forward(self, features: Tensor, *, modulate: Modulation | None = None) -> Tensor:
        """(*batch, d) coordinates -> (*batch, n_output_dims): the output with the widest band."""
        expect_points(features, self.n_input_dims, name="features", owner=self)
        (z,) = deque(products(features, self.filters, list(self.layers), modulate), maxlen=1)
        return self.output_activation(self.heads[-1](z))

    def forward_levels(self, features: Tensor, *, modulate: Modulation | None = None) -> list[Tensor]:
        """Every output, each (*batch, n_output_dims), from the narrowest band (`bands`) to the widest."""
        expect_points(features, self.n_input_dims, name="features", owner=self)
        heads = dict(zip(self._heads_at, self.heads, strict=True))
        return [
            self.output_activation(heads[index](z))
            for index, z in enumerate(products(features, self.filters, list(self.layers), modulate))
            if index in heads
        ]
