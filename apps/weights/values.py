"""What many fields of one kind say at the same places, for whoever learns to say the same."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fieldforge.apps.fit.collection.steps import stackable, stacked
from fieldforge.apps.fit.loop import Figure
from fieldforge.devices import arrived, move
from fieldforge.fields.file import build_field
from fieldforge.fields.kinds.image import ImageField
from fieldforge.fields.kinds.shape import OccupancyField
from fieldforge.fields.weightspace.layout import Layout

LATTICE = 1024
"""Places at which fields are compared, about."""


class Values:
    """Values of fields at places of the unit cube: colours, inside (1) or outside (0), or distances.

    Args:
        config: of the fields.
        layout: how their parameters lie in a row.

    Attributes:
        n_input_dims, n_output_dims: of a place and of a value.
        figure: what a training shows.

    Raises:
        ConfigError: the fields are no plain MLPs.
    """

    def __init__(self, config: Mapping[str, Any], layout: Layout) -> None:
        self.field = build_field(dict(config)).requires_grad_(False)
        self.network = stackable(self.field)
        self.layout = layout
        self.n_input_dims, self.n_output_dims = self.field.n_input_dims, self.field.n_output_dims
        self._scale = torch.tensor(self.field.output_scale or [1.0])
        self._offset = torch.tensor(self.field.output_offset or [0.0])
        self.figure = Figure("psnr", "PSNR {:.2f} dB", lambda loss, error: self.decibels(error), "fields")

    def on(self, device: torch.device) -> Values:
        """The same on a device."""
        if device.type == "cpu":
            return self
        other = copy.deepcopy(self)
        other.field = move(other.field, device)
        other.network = stackable(other.field)
        other._scale, other._offset = arrived(self._scale, device), arrived(self._offset, device)
        return other

    @torch.no_grad()
    def at(self, vectors: Tensor, unit: Tensor) -> Tensor:
        """(n, P) and places (p, k) to (n, p, c)."""
        h = self.field.encoding(unit).expand(len(vectors), -1, -1)
        numbers, n_layers = stacked(vectors, self.network), len(self.network.layers)
        for layer in range(n_layers):
            h = h @ numbers[layer].mT
            if self.network.has_bias:
                h = h + numbers[n_layers + layer][:, None]
            is_last = layer == n_layers - 1
            h = self.network.output_activation(h) if is_last else self.network.activation(h, is_first=layer == 0)
        if isinstance(self.field, OccupancyField):
            return h.sigmoid()
        values: Tensor = h * self._scale + self._offset
        return values.clamp(0, 1) if isinstance(self.field, ImageField) else values

    def lattice(self) -> Tensor:
        """(p, k) places in the middles of even cells."""
        n = max(2, round(LATTICE ** (1 / self.n_input_dims)))
        axis = (torch.arange(n) + 0.5) / n
        return torch.stack(torch.meshgrid(*[axis] * self.n_input_dims, indexing="ij"), -1).flatten(0, -2)

    @staticmethod
    def decibels(error: float) -> float:
        """Of a mean squared error, below 1; at most 120."""
        return -10 * math.log10(max(error, 1e-12)) if error == error else math.nan
