"""PINs: a network of networks, each of which reads the next finer part of an ordered encoding (after Landgraf, Hornung
and Cabral 2022, "PINs: Progressive Implicit Networks for Multi-Scale Neural Representations").

    {"otype": "PINs", "n_levels": 4, "n_neurons": 128, "n_hidden_layers": 2, "head": "residual", "progressive": false}

PINs-style: designed anew from the abstract, as no code was found. A hierarchy of small MLPs, incremental parts of a
frequency encoding, levels that can be cut off, and no loss on the levels between are the paper's; sizes, heads and the
way of unlocking are ours. With gamma_l the l-th part of the features,

    h_l = MLP_l([h_{l-1}, gamma_l]),   y_l = y_{l-1} + W_l h_l   (residual)   or   y_l = W_l h_l   (independent)

The answer is y_L; `forward_levels` gives all of them, and `forward(..., max_level=l)` stops at one. ReLU levels are not
band limited: how smooth y_l is has to be measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fieldforge.checks import expect_bool, expect_choice, expect_generator, expect_int, expect_points
from fieldforge.fields.activations.base import Activation
from fieldforge.fields.networks.base import Modulation, Network, empty_linear, expect_real_activation, expect_size
from fieldforge.registry import register


@register("network", "PINs")
class PINs(Network):
    """Levels from coarse to fine, each an MLP of the level before and its own part of the features.

    Features of equal rank stay in one level; else levels get about equally many. Heads of the residual levels after the
    first begin at 0: the untrained stack is its coarsest level, and cutting it off means something. With independent
    heads and a loss on the last output alone nothing is asked of the others.

    Args:
        n_input_dims: width of the features.
        n_output_dims: number of outputs.
        n_levels: L, at least 1.
        n_neurons: width of every level.
        n_hidden_layers: hidden layers of every level, at least 1.
        activation: name or table of the hidden activation.
        output_activation: name or table of the last one, for every output.
        has_bias: whether linear layers have biases.
        head: "residual" or "independent".
        progressive: whether a fit unlocks the levels one after another: level l (counted from 0) fades in, by a raised
            cosine on its residual, from l / (2 L) to (l + 1) / (2 L) of the fit's steps. For residual heads.
        channel_order: (n_input_dims,) rank of each feature from coarse to fine, what a field gives of its encoding;
            "as they come": features stand in order; None: they have none, which is an error.
        generator: source of the initial weights; None is torch's global one.

    Attributes:
        channels: (n_input_dims,) int64, features from coarse to fine; part of the state, as encodings draw frequencies.
        opened: how many levels are open, a number from 0 to L; the first always is. Part of the state.
        ends: how many of `channels` the levels up to each one read.
        max_level: what `forward` stops at where it is not told; None, as at first: nothing. Not part of the state.

    Raises:
        ValueError: the features have no order, or fewer ranks than there are levels.

    Example:
        >>> network = PINs(8, 3, n_levels=2, n_neurons=16, channel_order=torch.arange(8))
        >>> [y.shape for y in network.forward_levels(torch.rand(5, 8))]
        [torch.Size([5, 3]), torch.Size([5, 3])]
    """

    otype = "PINs"
    channels: Tensor
    opened: Tensor

    def __init__(
        self,
        n_input_dims: int,
        n_output_dims: int,
        *,
        n_levels: int = 4,
        n_neurons: int = 128,
        n_hidden_layers: int = 2,
        activation: str | Mapping[str, Any] | Activation = "ReLU",
        output_activation: str | Mapping[str, Any] | Activation = "None",
        has_bias: bool = True,
        head: Literal["residual", "independent"] = "residual",
        progressive: bool = False,
        channel_order: Tensor | Literal["as they come"] | None = "as they come",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.n_input_dims = expect_int("n_input_dims", n_input_dims, 1)
        self.n_output_dims = expect_int("n_output_dims", n_output_dims, 1)
        self.n_levels = expect_int("n_levels", n_levels, 1, 64)
        self.n_neurons = expect_int("n_neurons", n_neurons, 1)
        self.n_hidden_layers = expect_int("n_hidden_layers", n_hidden_layers, 1, 64)
        self.activation = expect_real_activation("activation", activation)
        self.output_activation = expect_real_activation("output_activation", output_activation)
        self.has_bias = expect_bool("has_bias", has_bias)
        self.head = expect_choice("head", head, ("residual", "independent"))
        self.progressive = expect_bool("progressive", progressive)
        if progressive and head != "residual":
            raise ValueError("progressive: levels fade in by their residuals; head is 'independent'")
        self.smoothness = min(self.activation.smoothness, self.output_activation.smoothness)
        self.max_level: int | None = None

        order = torch.arange(n_input_dims, device="cpu") if isinstance(channel_order, str) else channel_order
        channels, self.ends = _parts(order, n_input_dims, n_levels)
        self.register_buffer("channels", channels.to(torch.get_default_device()))
        self.register_buffer("opened", torch.tensor(0.0 if progressive else float(n_levels)))
        begins = [0, *self.ends[:-1]]
        firsts = [
            end - begin + (n_neurons if i else 0) for i, (begin, end) in enumerate(zip(begins, self.ends, strict=True))
        ]
        later = n_levels * (n_hidden_layers - 1) * n_neurons * (n_neurons + 1)
        expect_size(sum(firsts) * n_neurons + later + n_levels * n_output_dims * (n_neurons + 1))

        expect_generator(generator)
        self.levels = nn.ModuleList()
        self.heads = nn.ModuleList()
        for i, n_in in enumerate(firsts):
            layers = nn.ModuleList()
            for depth in range(n_hidden_layers):
                layer = empty_linear(n_neurons if depth else n_in, n_neurons, has_bias=has_bias)
                is_first = i == 0 and depth == 0
                draw = self.activation.init_first if is_first else self.activation.init_hidden
                draw(layer.weight, layer.bias, generator)
                layers.append(layer)
            self.levels.append(layers)
            head_layer = empty_linear(n_neurons, n_output_dims, has_bias=has_bias)
            self.activation.init_hidden(head_layer.weight, head_layer.bias, generator)
            if i and head == "residual":
                for parameter in head_layer.parameters():
                    nn.init.zeros_(parameter)
            self.heads.append(head_layer)

    def forward(self, features: Tensor, *, modulate: Modulation | None = None, max_level: int | None = None) -> Tensor:
        """(*batch, n_input_dims) -> (*batch, n_output_dims).

        Args:
            features: what the network reads.
            modulate: as for `Network.forward`; hidden layers are counted through all levels.
            max_level: the last level that is asked, from 1 to `n_levels`; None: the attribute's, or all.
        """
        max_level = self.max_level if max_level is None else max_level
        *_, last = self._outputs(features, modulate, max_level)
        return last

    def forward_levels(self, features: Tensor, *, modulate: Modulation | None = None) -> list[Tensor]:
        """The output after each level, coarse to fine, (*batch, n_output_dims) each; the last is `forward`'s."""
        return list(self._outputs(features, modulate, None))

    def weight_of(self, level: int) -> Tensor:
        """How far a level (from 0) is open, 0 to 1: BARF's window of `opened` (Lin et al. 2021), the first always."""
        if level == 0:
            return torch.ones_like(self.opened)
        return (1 - torch.cos(math.pi * (self.opened - level).clamp(0, 1))) / 2

    @property
    def changes_by_itself(self) -> bool:
        """Whether levels fade in during a fit."""
        return self.progressive

    def on_step(self, step: int, n_steps: int) -> None:
        """Called before each step of a fit (`fieldforge.apps.fit.stages`)."""
        if self.progressive:
            self.opened.fill_(min(float(self.n_levels), 2 * self.n_levels * (step + 1) / n_steps))

    def _outputs(self, features: Tensor, modulate: Modulation | None, max_level: int | None) -> Iterator[Tensor]:
        expect_points(features, self.n_input_dims, name="features", owner=self)
        n_asked = self.n_levels if max_level is None else expect_int("max_level", max_level, 1, self.n_levels)
        begin, index = 0, 0
        h: Tensor | None = None
        y: Tensor | None = None
        for level in range(n_asked):
            part = features[..., self.channels[begin : self.ends[level]]]
            begin = self.ends[level]
            h = part if h is None else torch.cat((h, part), -1)
            layers = self.levels[level]
            assert isinstance(layers, nn.ModuleList)
            for layer in layers:
                z = layer(h)
                if modulate is not None:
                    z = modulate(index, z)
                h = self.activation(z, is_first=index == 0)
                index += 1
            own = self.heads[level](h)
            y = own if y is None or self.head == "independent" else y + self.weight_of(level) * own
            assert y is not None
            yield self.output_activation(y)


def _parts(order: Tensor | None, n_features: int, n_levels: int) -> tuple[Tensor, list[int]]:
    """Features from coarse to fine, and where in that row each level ends: between two ranks, near equal shares."""
    if order is None:
        raise ValueError(
            "channel_order: PINs need an encoding whose channels go from coarse to fine, such as Frequency, "
            "RandomFourier or a grid; this one's have no order"
        )
    if order.shape != (n_features,):
        raise ValueError(f"channel_order: expected {n_features} ranks, got {tuple(order.shape)}")
    ranked, channels = order.cpu().sort(stable=True)
    cuts = (ranked.diff().nonzero().flatten() + 1).tolist()  # where a rank ends
    if len(cuts) + 1 < n_levels:
        raise ValueError(f"n_levels: {n_levels} levels need as many ranks of features, and there are {len(cuts) + 1}")
    ends: list[int] = []
    for level in range(n_levels - 1):
        n_left = n_levels - 1 - level  # cuts that this level and those after it need
        wanted = n_features * (level + 1) / n_levels
        found = min(cuts[: len(cuts) - n_left + 1], key=lambda cut: abs(cut - wanted))
        ends.append(found)
        cuts = [cut for cut in cuts if cut > found]
    return channels, [*ends, n_features]
