"""What a field is: world coordinates in, quantities out.

A field owns its world: the box it lives in, the units of its coordinates and of its answers. Inside, an encoding
reads the box as the unit cube and a network turns its features into numbers; neither ever sees the world. Outside,
nobody ever sees the unit cube.

To write one, subclass `Field`, keep every constructor keyword as an attribute of the same name, name each quantity
by a method, and run `fieldforge.contracts.check_field` on it. `fields/kinds/image.py` is the shortest example.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fieldforge.checks import expect_int, expect_points
from fieldforge.encodings.base import Encoding
from fieldforge.fields import fused
from fieldforge.fields.partitions.base import Partition
from fieldforge.fields.partitions.stacks import encode, for_cells
from fieldforge.registry import ConfigError, build, config_of

Box = tuple[tuple[float, ...], tuple[float, ...]]
"""The lowest and the highest corner of an axis-aligned box, in world units."""


class Field(nn.Module, ABC):
    """An encoding and a network over a box of the world.

    Class attributes: ``otype``, the name in a configuration; ``units``, one phrase on the units of the coordinates;
    ``outside``, one sentence on the answer outside the box.

    Attributes: ``box`` ((low, ...), (high, ...)) in world units; ``n_input_dims``, ``n_output_dims``; ``encoding``,
    ``network``; ``partition``, the cells that have networks of their own, or None; ``smoothness``, the number of
    continuous derivatives of the answer in the coordinates inside the box.

    Args:
        box: lowest and highest corner.
        encoding: a configuration (an otype, or a table with the key otype), or an `Encoding` already made.
        network: a configuration, or a module already made. A field that is made of other fields has neither; it gives
            its own `smoothness`.
        n_output_dims: how many numbers the network gives per point.
        partition: configuration of the cells that the box is cut into (`fieldforge.fields.partitions`), or a
            `Partition`: encoding and network are then those of one cell, and every cell has its own; None is one
            network for all.
        generator: source of the initial parameters; None is torch's own.

    Raises:
        ConfigError: the encoding or the network cannot be built; begins with the path of the key.
    """

    otype: ClassVar[str]
    units: ClassVar[str]
    outside: ClassVar[str]

    encoding: Encoding
    network: nn.Module
    partition: Partition | None
    output_scale: Sequence[float] = ()
    """Factor and summand on each output of the network, for fields that have them; none: 1 and 0."""
    output_offset: Sequence[float] = ()

    def __init__(
        self,
        *,
        box: Box,
        encoding: str | Mapping[str, Any] | Encoding | None,
        network: str | Mapping[str, Any] | nn.Module | None,
        n_output_dims: int,
        partition: str | Mapping[str, Any] | Partition | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.box = box
        self.partition = None
        self.n_input_dims, self.n_output_dims = len(box[0]), n_output_dims
        if encoding is None and network is None:
            return
        if partition is not None:
            self.partition = part_of("partition", partition, Partition, n_input_dims=self.n_input_dims)
        self.encoding = self.part_of(
            "encoding", encoding, Encoding, n_input_dims=self.n_input_dims, generator=generator
        )
        sizes: dict[str, Any] = {"n_input_dims": self.encoding.n_output_dims, "n_output_dims": n_output_dims}
        read: dict[str, Any] = {"n_coordinates": self.n_input_dims, "channel_order": order_of(self.encoding)}
        self.network = self.part_of("network", network, nn.Module, **sizes, **read, generator=generator)

    def part_of(self, key: str, part: Any, made: type, **context: Any) -> Any:
        """As `part_of`; of a field with a partition, as every cell has it."""
        one = part_of(key, part, made, **context)
        if self.partition is None:
            return one
        try:
            return for_cells(one, self.partition.n_cells)
        except ValueError as error:
            raise ConfigError(f"{key}.{error}") from None

    @property
    def smoothness(self) -> float:
        """Continuous derivatives of the answer in the coordinates: those of its least smooth part; -1 where cells
        meet and do not agree."""
        if self.partition is not None and self.partition.n_cells > 1:
            return -1
        return min(self.encoding.smoothness, getattr(self.network, "smoothness", math.inf))

    @abstractmethod
    def forward(self, points: Tensor) -> Tensor:
        """The field's first quantity at world points (*batch, n_input_dims), any batch shape, also empty."""

    def to_unit(self, points: Tensor) -> Tensor:
        """World points (*batch, n_input_dims) to the unit cube, each axis by itself; may fall outside [0, 1].

        Raises:
            TypeError, ValueError: `points` are not floating-point coordinates of this field's world.
        """
        expect_points(points, self.n_input_dims, name="points", owner=self)
        # axis by axis with plain numbers: exact in any precision, and nothing to move between devices
        sides = zip(points.unbind(-1), *self.box, strict=True)
        return torch.stack([(axis - low) / (high - low) for axis, low, high in sides], -1)

    def outputs(self, unit: Tensor) -> Tensor:
        """What the network says at points of the unit cube: (*batch, n_input_dims) -> (*batch, n_output_dims)."""
        parameter = next((p for p in self.parameters() if p.is_floating_point()), unit)
        unit = unit.to(parameter.dtype)  # world points may be finer
        if self.partition is None:
            return fused.apply(self.encoding, self.network, unit)
        cells = self.partition.sort(unit.reshape(-1, unit.shape[-1]))
        out = cells.restore(self.network(encode(self.encoding, cells), cells.offsets))
        return out.view(*unit.shape[:-1], out.shape[-1])

    def show_level(self, max_level: int | None) -> None:
        """Answer from now on with the first levels of a network that has levels of detail (PINs); None: with all.

        Raises:
            ValueError: the network has none, or not so many.
        """
        network: Any = getattr(self, "network", None)
        if not hasattr(network, "max_level"):
            name = getattr(network, "otype", type(network).__name__)
            raise ValueError(f"max_level: the network {name} has no levels of detail; PINs has")
        network.max_level = None if max_level is None else expect_int("max_level", max_level, 1, network.n_levels)

    def config(self) -> dict[str, Any]:
        """The complete configuration that rebuilds this field, with those of its parts inside (no parameters)."""
        return config_of(self)


def order_of(encoding: Encoding) -> Tensor | None:
    """The `channel_order` of an encoding as numbers, also where its parameters are on the meta device."""
    with torch.device("cpu"):
        order = encoding.channel_order()
    return order


def part_of(key: str, part: Any, made: type, *, kind: str = "", **context: Any) -> Any:
    """Build a part from its configuration; one that was made beforehand must fit its place.

    Args:
        key: what the part is called in the field's configuration.
        part: configuration, or an instance of `made`.
        made: the class that parts of this kind have.
        kind: of the registry; the key itself where that is empty.
        context: what the surroundings decide, n_input_dims and so on.
    """
    if not isinstance(part, made):
        return build(kind or key, part, path=key, **context)
    for size in context.keys() & {"n_input_dims", "n_output_dims"}:
        if getattr(part, size, context[size]) != context[size]:
            what = f"{type(part).__name__} with {size}={context[size]}"
            raise ValueError(f"{key}: expected {what}, got {getattr(part, size)}")
    return part
