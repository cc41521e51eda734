"""NFN: permutation equivariant neural functionals (Zhou et al., NeurIPS 2023).

    {"otype": "NFN", "variant": "HNP", "n_channels": 512, "n_layers": 3, "n_frequencies": 128, "deviation": 3.0,
     "head_widths": [1000], "dropout": 0.5}

An NF layer is every linear map that commutes with the permutations: for each target and each set of its axes, all that
has these axes after means over the others, one matrix on its channels, repeated along the rest. "NP" lets inputs and
outputs be permuted too, and breaks that by learned embeddings of input columns, output rows and the last bias; "HNP"
keeps them apart, as features.

Where code and paper differ: the authors' HNP layer reads some means twice (that of W_1 beside those of its columns, and
so on), which adds parameters and no functions; here each is read once. Their embeddings are added before the first
layer, and so here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain as joined
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fieldforge.checks import expect_choice, expect_float, expect_generator, expect_int
from fieldforge.fields.weightspace.chain import WeightBatch
from fieldforge.fields.weightspace.codecs.base import WeightCodec
from fieldforge.fields.weightspace.layout import Layout
from fieldforge.fields.weightspace.networks.axes import Entries, entries_of, fold_all, spread
from fieldforge.fields.weightspace.networks.base import MLPNetwork
from fieldforge.fields.weightspace.networks.blocks import FourierFeatures, Perceptron, linear, normal
from fieldforge.registry import register


class NFLayer(nn.Module):
    """All equivariant linear maps from `n_in` to `n_out` channels, with means as pools.

    Args:
        widths: (d_0, ..., d_M) of the MLPs.
        n_in, n_out: channels of an entry.
        has_fixed_ends: True: HNP; False: NP.
        generator: source of the weights, U(±1/√n) with n all numbers that a result is the sum over.

    Attributes:
        maps: for each target and each set of axes ("0: 1,2") a matrix; the one of the empty set has the bias.
    """

    def __init__(
        self,
        widths: Sequence[int],
        n_in: int,
        n_out: int,
        *,
        has_fixed_ends: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.n_out = n_out
        self.weights, self.biases = entries_of(widths, has_fixed_ends=has_fixed_ends)
        self._all = [*self.weights, *self.biases]
        self.maps = nn.ModuleDict()
        for index, target in enumerate(self._all):
            fans = {axes: sum(one.n_fixed for one in self._all if _has(one, axes)) * n_in for axes in subsets(target)}
            bound = sum(fans.values()) ** -0.5
            for axes, fan in fans.items():
                layer = linear(fan, target.n_fixed * n_out, generator, has_bias=not axes)
                with torch.no_grad():
                    for parameter in layer.parameters():
                        parameter.mul_(bound / fan**-0.5)
                self.maps[_key(index, axes)] = layer

    def forward(self, batch: WeightBatch) -> WeightBatch:
        """Entries of `n_in` channels to entries of `n_out`."""
        folded = fold_all(batch, self.weights, self.biases)
        pooled: dict[tuple[int, ...], Tensor] = {}
        out = []
        for index, target in enumerate(self._all):
            total = None
            for axes in subsets(target):
                if axes not in pooled:
                    those = [pair for pair in zip(self._all, folded, strict=True) if _has(pair[0], axes)]
                    pooled[axes] = torch.cat([_mean_over_others(one, tensor, axes) for one, tensor in those], -1)
                part = pooled[axes]
                if list(axes) != [layer for layer in target.permutable if layer in axes]:
                    part = part.transpose(1, 2)  # axes are kept in rising order, a matrix's fall
                part = spread(self.maps[_key(index, axes)](part), axes, target)
                total = part if total is None else total + part
            assert total is not None
            shape = (len(total), *target.sizes, total.shape[-1])
            out.append(target.unfold(total.expand(shape), self.n_out))
        return WeightBatch(tuple(out[: len(self.weights)]), tuple(out[len(self.weights) :]))


def subsets(entries: Entries) -> list[tuple[int, ...]]:
    """Every set of permutable axes, each in rising order, the empty one first."""
    layers = sorted(entries.permutable)
    return [(), *((layer,) for layer in layers), *([tuple(layers)] if len(layers) == 2 else [])]


def _has(entries: Entries, axes: tuple[int, ...]) -> bool:
    return set(axes) <= set(entries.permutable)


def _key(index: int, axes: tuple[int, ...]) -> str:
    return f"{index}: {','.join(map(str, axes))}"


def _mean_over_others(entries: Entries, tensor: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Mean over the permutable axes that are not among `axes`; what is left in rising order of layers."""
    others = [axis + 1 for axis, layer in enumerate(entries.permutable) if layer not in axes]
    tensor = tensor.mean(others) if others else tensor
    return tensor.transpose(1, 2) if len(axes) == 2 and entries.permutable[0] > entries.permutable[1] else tensor


@register("weight_network", "NFN")
class NFN(MLPNetwork):
    """Fourier features of each number, NF layers with ReLU between them, means, an MLP.

    Args:
        layout: an MLP's matrices and biases, at least one hidden layer.
        n_output_dims: numbers about each field.
        variant: "HNP", or "NP" with embeddings of inputs and outputs.
        n_channels: of the layers; the authors' 512.
        n_layers: how many.
        n_frequencies: random Fourier features of each number (blocks.py); 0: the number itself.
        deviation: of their frequencies; the authors' 3 for digits, 10 by default in their code.
        head_widths: hidden widths of the MLP after the means.
        dropout: in that MLP, before each of its layers but the first.
        codec: configuration of a `Weights` codec.
        generator: source of the parameters.
    """

    otype = "NFN"

    def __init__(
        self,
        layout: Layout,
        n_output_dims: int,
        *,
        variant: Literal["HNP", "NP"] = "HNP",
        n_channels: int = 512,
        n_layers: int = 3,
        n_frequencies: int = 128,
        deviation: float = 3.0,
        head_widths: Sequence[int] = (1000,),
        dropout: float = 0.5,
        codec: str | Mapping[str, Any] | WeightCodec[WeightBatch] = "Weights",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(layout, n_output_dims, codec)
        expect_generator(generator)
        self.variant: Literal["HNP", "NP"] = expect_choice("variant", variant, ("HNP", "NP"))
        self.n_channels, self.n_layers = (
            expect_int("n_channels", n_channels, 1),
            expect_int("n_layers", n_layers, 1, 1000),
        )
        self.n_frequencies = expect_int("n_frequencies", n_frequencies, 0)
        self.deviation = expect_float("deviation", deviation, 0.0, open_low=True)
        self.head_widths = [expect_int(f"head_widths[{i}]", width, 1) for i, width in enumerate(head_widths)]
        self.dropout = expect_float("dropout", dropout, 0.0, 0.999)

        widths, has_fixed_ends = self.chain.widths, self.variant == "HNP"
        self.fourier = FourierFeatures(1, n_frequencies, self.deviation, generator) if n_frequencies else None
        n_in = self.fourier.n_output_dims if self.fourier else 1
        if not has_fixed_ends:
            self.input_embedding = normal(1, 1, widths[0], n_in, generator=generator)
            self.output_embedding = normal(1, widths[-1], 1, n_in, generator=generator)
            self.bias_embedding = normal(1, widths[-1], n_in, generator=generator)
        self.layers = nn.ModuleList(
            NFLayer(widths, n_in if index == 0 else n_channels, n_channels, has_fixed_ends=has_fixed_ends,
                    generator=generator) for index in range(n_layers)
        )  # fmt: skip
        self._entries = list(joined(*entries_of(widths, has_fixed_ends=has_fixed_ends)))
        n_pooled = sum(entries.n_fixed for entries in self._entries) * n_channels
        self.head = Perceptron((n_pooled, *self.head_widths, n_output_dims), generator)
        self.drop = nn.Dropout(self.dropout)

    def features(self, batch: WeightBatch) -> WeightBatch:
        if self.fourier is not None:
            batch = batch.map(self.fourier)
        if self.variant == "NP":
            first, *rest = batch.weights
            rest = [first + self.input_embedding, *rest]
            rest[-1] = rest[-1] + self.output_embedding
            batch = WeightBatch(tuple(rest), (*batch.biases[:-1], batch.biases[-1] + self.bias_embedding))
        for index, layer in enumerate(self.layers):
            batch = layer(batch.map(torch.relu) if index else batch)
        return batch

    def pool(self, features: WeightBatch) -> Tensor:
        active = features.map(torch.relu)
        tensors = (*active.weights, *active.biases)
        means = [_mean_over_others(entries, entries.fold(tensor), ()) for entries, tensor
                 in zip(self._entries, tensors, strict=True)]  # fmt: skip
        h = torch.cat(means, -1)
        for index, layer in enumerate(self.head):
            h = layer(self.drop(h) if index and isinstance(layer, nn.Linear) else h)
        return h
