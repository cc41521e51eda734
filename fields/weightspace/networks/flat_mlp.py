"""FlatMLP: a plain MLP on the vector of weights, the control that equivariant networks are compared with.

    {"otype": "FlatMLP", "widths": [512, 256]}

On fields with initialisations of their own it learns next to nothing about them (17.6 % of MNIST's digits, 29.3 % with
random orders of hidden units as augmentation; Navon et al. 2023); on those that share one it may do very well. Neither
says anything without the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fieldforge.checks import expect_generator, expect_int
from fieldforge.fields.weightspace.codecs.base import WeightCodec
from fieldforge.fields.weightspace.layout import Layout
from fieldforge.fields.weightspace.networks.base import WeightNetwork
from fieldforge.fields.weightspace.networks.blocks import Perceptron
from fieldforge.registry import register


@register("weight_network", "FlatMLP")
class FlatMLP(WeightNetwork[Tensor]):
    """Linear layers with ReLU between them.

    Args:
        layout: of any field.
        n_output_dims: numbers about each field.
        widths: of the hidden layers.
        codec: configuration of a `FlatVector` codec.
        generator: source of the parameters.
    """

    otype = "FlatMLP"
    codec_name = "FlatVector"

    def __init__(
        self,
        layout: Layout,
        n_output_dims: int,
        *,
        widths: Sequence[int] = (512, 256),
        codec: str | Mapping[str, Any] | WeightCodec[Tensor] = "FlatVector",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(layout, n_output_dims, codec)
        expect_generator(generator)
        self.widths = [expect_int(f"widths[{i}]", width, 1) for i, width in enumerate(widths)]
        self.layers = Perceptron((self.layout.n_parameters, *self.widths, n_output_dims), generator)

    def read(self, code: Tensor) -> Tensor:
        out: Tensor = self.layers(code)
        return out
