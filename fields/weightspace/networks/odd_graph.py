"""OddGraph: units of an MLP hear of each other through its weights, and change their sign with their unit.

    {"otype": "OddGraph", "n_channels": 64, "n_layers": 3, "n_frequencies": 64, "deviation": 1.0}

Behind an odd activation (sine, tanh) a hidden unit may change its place and its sign: (b, w) and its outgoing column
change theirs together. Features here stand at hidden units alone. They begin as linear maps and sines of a unit's own
numbers (bias, fixed inputs, fixed outputs), all odd; a unit hears the sum of its neighbours' features times the weights
between them, which is odd again whatever the neighbours' signs; what follows are linear maps without biases and tanh.
The head reads even things alone: means of products of two features, and what arrives at the outputs. So the answer is
that of the field, whatever the order and the signs of its units. Kalogeropoulos et al. (NeurIPS 2024, "Scale
Equivariant Graph Metanetworks") found that signs are worth several points beside permutations; their network has edges
with features of their own, this one has none and is several times cheaper.

Nothing here asks the field for its value. Such sums of sines could come to express that, as all networks of this kind.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fieldforge.checks import expect_float, expect_generator, expect_int
from fieldforge.fields.weightspace.chain import WeightBatch
from fieldforge.fields.weightspace.codecs.base import WeightCodec
from fieldforge.fields.weightspace.layout import Layout
from fieldforge.fields.weightspace.networks.base import MLPNetwork
from fieldforge.fields.weightspace.networks.blocks import Perceptron, linear, normal
from fieldforge.registry import register

SMALLEST_SQUARE = 1e-4

MAGNITUDE: Mapping[str, Any] = {"otype": "Weights", "statistics": "magnitude"}


class OddInput(nn.Module):
    """A unit's own numbers and sines of them, mixed.

    Args:
        n_in: own numbers.
        n_frequencies: sines; 0: the numbers alone.
        deviation: of the frequencies, which are learned.
        width: of what comes out.
        generator: source of the parameters.
    """

    def __init__(
        self, n_in: int, n_frequencies: int, deviation: float, width: int, generator: torch.Generator | None
    ) -> None:
        super().__init__()
        self.frequencies = normal(n_frequencies, n_in, deviation=deviation, generator=generator)
        self.mix = linear(n_in + n_frequencies, width, generator, has_bias=False)

    def forward(self, own: Tensor) -> Tensor:
        """(batch, d_m, n_in) to (batch, d_m, width)."""
        out: Tensor = self.mix(torch.cat([own, (own @ self.frequencies.T).sin()], -1))
        return out


class OddNorm(nn.Module):
    """Each unit's features over their root mean square, times a factor for each channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to the same."""
        return x * (x.square().mean(-1, keepdim=True) + SMALLEST_SQUARE).rsqrt() * self.factor


class OddLayer(nn.Module):
    """One round: every hidden layer hears of its neighbours; layers have maps of their own.

    Args:
        n_hidden: hidden layers of the MLP.
        width: channels of a unit.
        generator: source of the parameters.
    """

    def __init__(self, n_hidden: int, width: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.norms = nn.ModuleList(OddNorm(width) for _ in range(n_hidden))
        n_heard = [1 + (m > 0) + (m < n_hidden - 1) for m in range(n_hidden)]
        self.ins = nn.ModuleList(linear(width * n, 2 * width, generator, has_bias=False) for n in n_heard)
        self.outs = nn.ModuleList(linear(2 * width, width, generator, has_bias=False) for _ in n_heard)

    def forward(self, units: Sequence[Tensor], weights: Sequence[Tensor]) -> list[Tensor]:
        """Units (batch, d_m, width) and the matrices between them (batch, d_{m+1}, d_m) to new units."""
        seen = [norm(unit) for norm, unit in zip(self.norms, units, strict=True)]
        new = []
        for m, unit in enumerate(units):
            heard = [seen[m]]
            if m > 0:
                heard.append(weights[m - 1] @ seen[m - 1] / math.sqrt(seen[m - 1].shape[1]))
            if m < len(units) - 1:
                heard.append(weights[m].mT @ seen[m + 1] / math.sqrt(seen[m + 1].shape[1]))
            new.append(unit + self.outs[m](torch.tanh(self.ins[m](torch.cat(heard, -1)))))
        return new


@register("weight_network", "OddGraph")
class OddGraph(MLPNetwork):
    """Sums over neighbours, weighted by the weights themselves; invariant to places and, exactly, to signs.

    Args:
        layout: an MLP's matrices and biases, at least one hidden layer.
        n_output_dims: numbers about each field.
        n_channels: of a unit.
        n_layers: rounds.
        n_frequencies: sines of each unit's own numbers, with learned frequencies; 0: the numbers themselves.
        deviation: of these frequencies at first, over numbers that have a mean square of 1.
        codec: configuration of a `Weights` codec without means ("magnitude" or "none"): they would have a sign.
        generator: source of the parameters.
    """

    otype = "OddGraph"

    def __init__(
        self,
        layout: Layout,
        n_output_dims: int,
        *,
        n_channels: int = 64,
        n_layers: int = 3,
        n_frequencies: int = 64,
        deviation: float = 1.0,
        codec: str | Mapping[str, Any] | WeightCodec[WeightBatch] = MAGNITUDE,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(layout, n_output_dims, codec)
        expect_generator(generator)
        if self.codec.statistics not in ("none", "magnitude"):
            raise ValueError(
                f"codec.statistics: {self.otype} lets hidden units change their signs, which means do not; "
                f"'magnitude' or 'none' do, got {self.codec.statistics!r}"
            )
        widths = self.chain.widths
        n_hidden = len(widths) - 2
        if n_hidden < 1:
            raise ValueError(f"layout: {self.otype} needs at least one hidden layer, got widths {list(widths)}")
        self.n_channels, self.n_layers = expect_int("n_channels", n_channels, 1), expect_int("n_layers", n_layers, 1)
        self.n_frequencies = expect_int("n_frequencies", n_frequencies, 0)
        self.deviation = expect_float("deviation", deviation, 0.0, open_low=True)
        own = [1 + widths[0] * (m == 0) + widths[-1] * (m == n_hidden - 1) for m in range(n_hidden)]
        self.inputs = nn.ModuleList(OddInput(n, n_frequencies, self.deviation, n_channels, generator) for n in own)
        self.layers = nn.ModuleList(OddLayer(n_hidden, n_channels, generator) for _ in range(n_layers))
        self.products = nn.ModuleList(
            linear(n_channels, 2 * n_channels, generator, has_bias=False) for _ in range(n_hidden)
        )
        n_read = n_hidden * n_channels + widths[-1] * (n_channels + 1)
        self.norm = nn.LayerNorm(n_read)
        self.head = Perceptron(
            (n_read, 2 * n_channels, 2 * n_channels, n_output_dims), generator, activation=nn.GELU
        )  # fmt: skip

    def features(self, batch: WeightBatch) -> WeightBatch:
        """Weights as they are, units' features at the hidden biases, and what arrives at the outputs at the last."""
        weights = [weight[..., 0] for weight in batch.weights]
        last = len(weights) - 2
        units = []
        for m, bias in enumerate(batch.biases[:-1]):
            own = [bias, *([weights[0]] if m == 0 else []), *([weights[-1].mT] if m == last else [])]
            units.append(self.inputs[m](torch.cat(own, -1)))
        for layer in self.layers:
            units = layer(units, weights[1:-1])
        arrived = weights[-1] @ units[-1] / math.sqrt(units[-1].shape[1])
        return WeightBatch(batch.weights, (*units, torch.cat([arrived, batch.biases[-1]], -1)))

    def pool(self, features: WeightBatch) -> Tensor:
        *units, outputs = features.biases
        read = [outputs.flatten(1)]
        for product, unit in zip(self.products, units, strict=True):
            one, other = product(unit).chunk(2, -1)
            read.append((one * other).mean(1))
        out: Tensor = self.head(self.norm(torch.cat(read, -1)))
        return out
