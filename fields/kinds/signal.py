"""What fields of recorded signals share: a picture, a sound, a film.

    answer(point) = network(encoding(point in the unit cube)) * output_scale + output_offset, channel by channel

A point outside the box is answered as the nearest point of its border. Scale and offset let a network whose outputs
are about 1 in size give a signal whose values are not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fieldforge.checks import expect_float
from fieldforge.encodings.base import Encoding
from fieldforge.fields.kinds.base import Box, Field
from fieldforge.fields.partitions.base import Partition


class SignalField(Field):
    """Values of some channels at a place, a time, or both.

    Args:
        box: lowest and highest corner in world units.
        encoding, network: configurations, or the parts themselves.
        n_channels: numbers at a point.
        output_scale, output_offset: one number per channel; None: 1 and 0.
        generator: source of the initial parameters; None is torch's own.
        partition: as for `Field`.
    """

    _scale: Tensor
    _offset: Tensor

    def __init__(
        self,
        *,
        box: Box,
        encoding: str | Mapping[str, Any] | Encoding,
        network: str | Mapping[str, Any] | nn.Module,
        n_channels: int,
        output_scale: Sequence[float] | None,
        output_offset: Sequence[float] | None,
        generator: torch.Generator | None,
        partition: str | Mapping[str, Any] | Partition | None = None,
    ) -> None:
        super().__init__(
            box=box, encoding=encoding, network=network, n_output_dims=n_channels, partition=partition,
            generator=generator,
        )  # fmt: skip
        self.n_channels = n_channels
        self.output_scale = _per_channel("output_scale", output_scale, 1.0, n_channels)
        self.output_offset = _per_channel("output_offset", output_offset, 0.0, n_channels)
        # not saved: they are part of the configuration
        self.register_buffer("_scale", torch.tensor(self.output_scale), persistent=False)
        self.register_buffer("_offset", torch.tensor(self.output_offset), persistent=False)

    def values(self, points: Tensor) -> Tensor:
        """(*batch, n_input_dims) world points -> (*batch, n_channels)."""
        return self.outputs(self.to_unit(points).clamp(0, 1)) * self._scale + self._offset

    def forward(self, points: Tensor) -> Tensor:
        """The same as `values`."""
        return self.values(points)


def _per_channel(name: str, values: Sequence[float] | None, default: float, n_channels: int) -> list[float]:
    if values is None:
        return [default] * n_channels
    if isinstance(values, str) or not isinstance(values, Sequence) or len(values) != n_channels:
        raise ValueError(f"{name}: expected {n_channels} numbers, one per channel, got {values!r}")
    return [expect_float(f"{name}[{channel}]", value) for channel, value in enumerate(values)]
