"""What an answer of a field costs: multiply-adds of its networks' matrices.

They are counted, not measured, so that a comparison is the same on every machine. Encodings, activations and the way to
a cell are not in it; of networks without a table they are a few hundredths.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

from torch import nn

from fieldforge.fields.kinds.base import Field
from fieldforge.fields.kinds.radiance import RadianceField
from fieldforge.fields.networks.mlp import MLP
from fieldforge.fields.networks.stacked import StackedMLP
from fieldforge.fields.partitions.stacks import StackedNetwork


class Cost(NamedTuple):
    """Multiply-adds of one point."""

    density: int
    """Of the density alone; of a field without colours, of its answer."""
    color: int
    """Of the colour, when the density is there."""


def multiply_adds(network: nn.Module) -> int | None:
    """Multiply-adds of one point in a network's matrices; None of a network that is not made of plain layers.

    Example:
        >>> multiply_adds(MLP(63, 4, n_neurons=32, n_hidden_layers=2))
        3168
    """
    if isinstance(network, StackedNetwork):
        return None if network.mlp is None else multiply_adds(network.mlp)
    if isinstance(network, StackedMLP):
        return sum(n_in * n_out for n_in, n_out in itertools.pairwise(network.widths))
    if isinstance(network, MLP) and not network.activation.is_complex and network.modulation is None:
        return sum(layer.weight.numel() for layer in network.layers)  # type: ignore[union-attr,operator,misc]
    return None


def cost_of(field: Field) -> Cost | None:
    """Multiply-adds of one point of a field; None where its networks are not made of plain layers.

    Example:
        >>> network = {"otype": "MLP", "n_neurons": 256, "n_hidden_layers": 8}
        >>> cost_of(RadianceField(encoding="Identity", network=network, rgb_network=network, n_geometry=1))
        Cost(density=459776, color=463872)
    """
    network = getattr(field, "network", None)
    density = None if network is None else multiply_adds(network)
    if density is None or not isinstance(field, RadianceField):
        return None if density is None else Cost(density, 0)
    color = multiply_adds(field.rgb_network)
    return None if color is None else Cost(density, color)
