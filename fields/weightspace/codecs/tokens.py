"""Tokens: one token for each tensor, or for each layer (HyperDiffusion; Erkoç et al., ICCV 2023; G.pt before it).

{"otype": "Tokens", "by": "tensor", "statistics": "none"}

HyperDiffusion calls "layer by layer" what is "tensor" here: weights and biases are tokens of their own, eight for its
four linear layers. It subtracts nothing and divides by nothing.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fieldforge.checks import expect_choice
from fieldforge.fields.weightspace.codecs.base import Initialization, Statistics, WeightCodec
from fieldforge.fields.weightspace.layout import Layout
from fieldforge.registry import register


@register("codec", "Tokens")
class Tokens(WeightCodec[tuple[Tensor, ...]]):
    """A tuple of (batch, n_i): tokens of different lengths, in the order of the layout.

    Args:
        layout: names and shapes of the parameters.
        by: "tensor", one token each; "layer": tensors that stand side by side and have the same name up to the last
            dot are one.
        statistics, initialization: as for every codec.

    Attributes:
        sizes: n_i of each token.
    """

    otype = "Tokens"

    def __init__(
        self,
        layout: Layout,
        *,
        by: Literal["tensor", "layer"] = "tensor",
        statistics: Statistics = "none",
        initialization: Initialization = "unknown",
    ) -> None:
        super().__init__(layout, statistics=statistics, initialization=initialization)
        self.by: Literal["tensor", "layer"] = expect_choice("by", by, ("tensor", "layer"))
        sizes: list[int] = []
        before = None
        for (name, _), size in zip(self.layout.tensors, self.layout.sizes, strict=True):
            owner = name.rpartition(".")[0] if self.by == "layer" else name
            if owner == before:
                sizes[-1] += size
            else:
                sizes.append(size)
            before = owner
        self.sizes = tuple(sizes)

    def arrange(self, vectors: Tensor) -> tuple[Tensor, ...]:
        return vectors.split(self.sizes, -1)

    def restore(self, code: tuple[Tensor, ...]) -> Tensor:
        return torch.cat(code, -1)
