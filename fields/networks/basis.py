"""Basis: a matrix that mixes the components of a tensor decomposition into a few features, and a network that reads
these (Chen et al. 2022, "TensoRF: Tensorial Radiance Fields", section 4.2 and appendix).

    {"otype": "Basis", "n_basis": 27, "n_direct": 16, "n_frequencies": 2,
     "nested": {"otype": "MLP", "n_neurons": 128, "n_hidden_layers": 2, "output_activation": "Sigmoid"}}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fieldforge.checks import expect_generator, expect_int, expect_points
from fieldforge.fields.networks.base import Modulation, Network, empty_linear, expect_size
from fieldforge.registry import build, register


@register("network", "Basis")
class Basis(Network):
    """nested([b, sin 2⁰b, ..., sin 2ᵏ⁻¹b, cos 2⁰b, ..., direct]) with b = B features.

    The last `n_direct` inputs, the code of the direction in a radiance field, go past the matrix; all others are what
    it mixes. B is drawn as `torch.nn.Linear` draws it, uniformly within ±1/√n.

    Args:
        n_input_dims: width of the features and of what goes past them.
        n_output_dims: number of outputs.
        n_basis: rows of the matrix.
        n_direct: inputs at the end that the nested network reads as they are.
        n_frequencies: sines and cosines of the basis features that it reads too (TensoRF: 2).
        nested: configuration of the network.
        generator: source of the initial weights.

    Attributes:
        matrix: (n_basis, n_input_dims - n_direct).

    Raises:
        ValueError: nothing is left to mix.
    """

    otype = "Basis"

    def __init__(
        self,
        n_input_dims: int,
        n_output_dims: int,
        *,
        n_basis: int = 27,
        n_direct: int = 0,
        n_frequencies: int = 0,
        nested: str | Mapping[str, Any] | Network = "MLP",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.n_input_dims = expect_int("n_input_dims", n_input_dims, 1)
        self.n_output_dims = expect_int("n_output_dims", n_output_dims, 1)
        self.n_basis = expect_int("n_basis", n_basis, 1)
        self.n_direct = expect_int("n_direct", n_direct, 0)
        self.n_frequencies = expect_int("n_frequencies", n_frequencies, 0, 32)
        n_features = n_input_dims - n_direct
        if n_features < 1:
            raise ValueError(f"n_direct: {n_direct} of {n_input_dims} inputs leave none for the matrix")
        expect_size(n_basis * n_features)
        expect_generator(generator)
        layer = empty_linear(n_features, n_basis, has_bias=False)
        assert isinstance(layer, nn.Linear)
        if not layer.weight.is_meta:
            nn.init.uniform_(layer.weight, -(n_features**-0.5), n_features**-0.5, generator=generator)
        self.matrix = layer.weight
        width = n_basis * (1 + 2 * self.n_frequencies) + n_direct
        self.nested: Network = (
            nested
            if isinstance(nested, Network)
            else build(
                "network", nested, path="nested", n_input_dims=width, n_output_dims=n_output_dims, generator=generator
            )
        )
        if (self.nested.n_input_dims, self.nested.n_output_dims) != (width, n_output_dims):
            raise ValueError(f"nested: expected a network with {width} inputs and {n_output_dims} outputs")
        self.smoothness = self.nested.smoothness

    def forward(self, features: Tensor, *, modulate: Modulation | None = None) -> Tensor:
        """(*batch, n_input_dims) -> (*batch, n_output_dims); the nested network's layers can be modulated."""
        expect_points(features, self.n_input_dims, name="features", owner=self)
        mixed, direct = features.split([self.n_input_dims - self.n_direct, self.n_direct], -1)
        basis = nn.functional.linear(mixed, self.matrix)
        waves = [2**k * basis for k in range(self.n_frequencies)]
        parts = [basis, *map(torch.sin, waves), *map(torch.cos, waves), direct]
        out: Tensor = self.nested(torch.cat(parts, -1), modulate=modulate)
        return out
