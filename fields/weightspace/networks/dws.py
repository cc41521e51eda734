"""DWSNets: layers for deep weight spaces (Navon et al., ICML 2023).

    {"otype": "DWS", "n_channels": 32, "n_hidden_layers": 4, "reduction": "max", "set_layer": "attention",
     "n_heads": 8, "has_norm": true, "is_diagonal": false}

A DWS layer has a block for every pair of tensors. What the two have in common says what the block is: two axes, a x + b
(pool over rows) + c (pool over columns) + d (pool over both); one, a set layer Γ(x) - Λ(pool x); none, a matrix on what
is left after pooling. Inputs and outputs of the MLP are channels. The sum is divided by the number of tensors.

With reduction "mean" (or "sum") and set_layer "linear" this is the paper's theorem: every equivariant affine map, and
the number of its parameters does not depend on the hidden widths. The released trainers do something else by default,
maxima as pools and one attention block (set transformer's SAB) in place of set layers; so is the default here, and
the words choose. In the code a bias of a target stands in every one of its blocks; here it is one, the same function.
The code wants three layers or more; here two will do. Biases are drawn from U(±1e-4) and matrices from N(0, 4 n_in /
(n_out (n_in + n_out))), as in the code, where "xavier" stands for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fieldforge.checks import expect_bool, expect_choice, expect_generator, expect_int
from fieldforge.fields.activations.base import draw_uniform
from fieldforge.fields.networks.base import empty_linear
from fieldforge.fields.weightspace.chain import WeightBatch
from fieldforge.fields.weightspace.codecs.base import WeightCodec
from fieldforge.fields.weightspace.layout import Layout
from fieldforge.fields.weightspace.networks.axes import Entries, entries_of, fold_all, spread
from fieldforge.fields.weightspace.networks.base import MLPNetwork
from fieldforge.fields.weightspace.networks.blocks import ChannelNorm, draw_normal, expect_heads
from fieldforge.registry import register

Reduction = Literal["max", "mean", "sum"]
SetLayer = Literal["attention", "linear"]


def dws_linear(n_in: int, n_out: int, generator: torch.Generator | None, *, has_bias: bool = False) -> nn.Linear:
    """A linear layer with DWSNets' initial numbers."""
    layer = empty_linear(n_in, n_out, has_bias=has_bias)
    assert isinstance(layer, nn.Linear)
    draw_normal(layer.weight, math.sqrt(2 / (n_in + n_out)) * math.sqrt(2 * n_in / n_out), generator)
    draw_uniform(layer.bias, 1e-4, generator)
    return layer


def pool_over(tensor: Tensor, axes: Sequence[int], reduction: Reduction, *, keepdim: bool = False) -> Tensor:
    """Mean, sum or maximum over axes; over none it is the tensor."""
    if not axes:
        return tensor
    if reduction == "max":
        return tensor.amax(tuple(axes), keepdim=keepdim)
    if reduction == "mean":
        return tensor.mean(tuple(axes), keepdim=keepdim)
    return tensor.sum(tuple(axes), keepdim=keepdim)


class SetAttention(nn.Module):
    """Set transformer's SAB (Lee et al. 2019): h = q + attention, h + relu(W h), as in DWSNets without normalisation.

    Heads share `n_out` evenly; scores are divided by √n_out, not by the root of a head's width, in that code.
    """

    def __init__(self, n_in: int, n_out: int, n_heads: int, generator: torch.Generator | None) -> None:
        super().__init__()
        expect_heads(n_out, n_heads)
        self.n_heads = n_heads
        self.query, self.key, self.value = (dws_linear(n_in, n_out, generator, has_bias=True) for _ in range(3))
        self.out = dws_linear(n_out, n_out, generator, has_bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n, n_in) to (batch, n, n_out)."""
        q, k, v = (f(x).unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for f in (self.query, self.key, self.value))
        weight = (q @ k.transpose(-1, -2) / math.sqrt(self.out.in_features)).softmax(-1)
        h = (q + weight @ v).transpose(1, 2).flatten(2)
        out: Tensor = h + torch.relu(self.out(h))
        return out


class Block(nn.Module):
    """From one tensor to another: pool over the source's own axes, then what the shared axes call for.

    Args:
        source, target: the tensors.
        n_in, n_out: channels of an entry.
        reduction, set_layer, n_heads: as for `DWS`.
        generator: source of the weights.
    """

    def __init__(
        self,
        source: Entries,
        target: Entries,
        n_in: int,
        n_out: int,
        *,
        reduction: Reduction = "mean",
        set_layer: SetLayer = "linear",
        n_heads: int = 8,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.source, self.target, self.reduction = source, target, reduction
        self.shared = [layer for layer in source.permutable if layer in target.permutable]
        n_in, n_out = source.n_fixed * n_in, target.n_fixed * n_out
        self.attention: SetAttention | None = None
        if len(self.shared) == 1 and set_layer == "attention":
            self.attention = SetAttention(n_in, n_out, n_heads, generator)
        n_maps = 0 if self.attention else 2 ** len(self.shared)
        self.maps = nn.ModuleList(dws_linear(n_in, n_out, generator) for _ in range(n_maps))

    def forward(self, x: Tensor) -> list[Tensor]:
        """(batch, *source.sizes, n) to parts of (batch, *target.sizes, n'), an axis 1 long where all of it is alike."""
        own = [axis + 1 for axis, layer in enumerate(self.source.permutable) if layer not in self.shared]
        return [spread(part, self.shared, self.target) for part in self._mix(pool_over(x, own, self.reduction))]

    def _mix(self, x: Tensor) -> list[Tensor]:
        if self.attention is not None:
            return [self.attention(x)]
        pools = [x]
        for axes in ((1,), (2,), (1, 2))[: len(self.maps) - 1]:
            pools.append(pool_over(x, axes, self.reduction, keepdim=True))
        parts = [one(pool) for one, pool in zip(self.maps, pools, strict=True)]
        if len(self.shared) == 1:
            return [parts[0], -parts[1]]
        return [part / 4 for part in parts] if len(self.shared) == 2 else parts


class DWSLayer(nn.Module):
    """Every block, summed for each target and divided by the number of tensors, with one bias a channel.

    Args:
        widths: (d_0, ..., d_M) of the MLPs.
        n_in, n_out: channels of an entry.
        reduction, set_layer, n_heads, is_diagonal: as for `DWS`.
        generator: source of the weights.
    """

    def __init__(
        self,
        widths: Sequence[int],
        n_in: int,
        n_out: int,
        *,
        reduction: Reduction = "mean",
        set_layer: SetLayer = "linear",
        n_heads: int = 8,
        is_diagonal: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.n_out = n_out
        self.weights, self.biases = entries_of(widths)
        self._all = [*self.weights, *self.biases]
        n = len(self.weights)
        self.blocks = nn.ModuleDict()
        self.offsets = nn.ParameterList()
        for to, target in enumerate(self._all):
            for of, source in enumerate(self._all):
                if is_diagonal and abs(to % n - of % n) > 1:
                    continue
                self.blocks[f"{of} to {to}"] = Block(
                    source, target, n_in, n_out, reduction=reduction, set_layer=set_layer, n_heads=n_heads,
                    generator=generator,
                )  # fmt: skip
            offset = nn.Parameter(torch.empty(target.n_fixed * n_out))
            draw_uniform(offset, 1e-4, generator)
            self.offsets.append(offset)

    def forward(self, batch: WeightBatch) -> WeightBatch:
        """Entries of `n_in` channels to entries of `n_out`."""
        folded = fold_all(batch, self.weights, self.biases)
        out = []
        for to, (target, offset) in enumerate(zip(self._all, self.offsets, strict=True)):
            of_shape: dict[torch.Size, Tensor] = {}  # small parts are summed before they meet the large ones
            for of, source in enumerate(folded):
                key = f"{of} to {to}"
                for part in self.blocks[key](source) if key in self.blocks else ():
                    of_shape[part.shape] = of_shape[part.shape] + part if part.shape in of_shape else part
            total = sum(sorted(of_shape.values(), key=Tensor.numel), start=offset * len(self._all)) / len(self._all)
            out.append(target.unfold(total.expand(len(batch.biases[0]), *target.sizes, total.shape[-1]), self.n_out))
        return WeightBatch(tuple(out[: len(self.weights)]), tuple(out[len(self.weights) :]))


@register("weight_network", "DWS")
class DWS(MLPNetwork):
    """DWS layers with normalisation and ReLU between them, pools, one matrix.

    The head reads f (2 M - 3 + d_0 + 2 d_M) numbers: pools of the hidden matrices and biases, of W_1 for each input, of
    W_M for each output, and b_M.

    Args:
        layout: an MLP's matrices and biases, at least one hidden layer.
        n_output_dims: numbers about each field.
        n_channels: of the layers.
        n_hidden_layers: DWS layers after the first.
        reduction: how axes are pooled: "max" (the released trainers), "mean" or "sum" (the theorem).
        set_layer: "attention" (the released trainers) or "linear" (the theorem).
        n_heads: of the attention; the last layer has one.
        has_norm: batch normalisation of each tensor's channels before ReLU.
        is_diagonal: only blocks between the same and neighbouring layers.
        codec: configuration of a `Weights` codec; the released one's statistics of single numbers are not
            equivariant and are refused.
        generator: source of the parameters.
    """

    otype = "DWS"

    def __init__(
        self,
        layout: Layout,
        n_output_dims: int,
        *,
        n_channels: int = 32,
        n_hidden_layers: int = 4,
        reduction: Reduction = "max",
        set_layer: SetLayer = "attention",
        n_heads: int = 8,
        has_norm: bool = True,
        is_diagonal: bool = False,
        codec: str | Mapping[str, Any] | WeightCodec[WeightBatch] = "Weights",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(layout, n_output_dims, codec)
        expect_generator(generator)
        self.n_channels = expect_int("n_channels", n_channels, 1)
        self.n_hidden_layers = expect_int("n_hidden_layers", n_hidden_layers, 0, 1000)
        self.reduction: Reduction = expect_choice("reduction", reduction, ("max", "mean", "sum"))
        self.set_layer: SetLayer = expect_choice("set_layer", set_layer, ("attention", "linear"))
        self.n_heads = expect_int("n_heads", n_heads, 1)
        self.has_norm, self.is_diagonal = expect_bool("has_norm", has_norm), expect_bool("is_diagonal", is_diagonal)

        widths = self.chain.widths
        self.layers = nn.ModuleList(
            DWSLayer(
                widths, 1 if index == 0 else n_channels, n_channels, reduction=self.reduction, set_layer=self.set_layer,
                n_heads=n_heads if index < n_hidden_layers or not n_hidden_layers else 1, is_diagonal=is_diagonal,
                generator=generator,
            )
            for index in range(n_hidden_layers + 1)
        )  # fmt: skip
        norms = [ChannelNorm(len(widths) - 1, n_channels) for _ in range(n_hidden_layers if has_norm else 0)]
        self.norms = nn.ModuleList(norms)
        weights, biases = entries_of(widths)
        self._entries = [*weights, *biases]
        n_pooled = sum(entries.n_fixed for entries in self._entries)
        self.head = dws_linear(n_pooled * n_channels, n_output_dims, generator, has_bias=True)

    def features(self, batch: WeightBatch) -> WeightBatch:
        batch = self.layers[0](batch)
        for index, layer in enumerate(self.layers[1:]):
            batch = self.norms[index](batch) if self.has_norm else batch
            batch = layer(batch.map(torch.relu))
        return batch

    def pool(self, features: WeightBatch) -> Tensor:
        active = features.map(torch.relu)
        tensors = (*active.weights, *active.biases)
        pools = []
        for entries, tensor in zip(self._entries, tensors, strict=True):
            folded = entries.fold(tensor)
            pools.append(pool_over(folded, range(1, folded.ndim - 1), self.reduction))
        out: Tensor = self.head(torch.cat(pools, -1))
        return out
