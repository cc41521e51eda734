"""SceneField: what every field of a scene is, whoever makes its numbers.

A scene absorbs and shines: `density` at places, `radiance` along directions. Whoever looks at one asks for no more, and
tests `isinstance(field, SceneField)`. A `RadianceField` is one; so are fields made of other fields, which leave
out `encoding` and `network` below.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fieldforge.checks import expect_choice, expect_float
from fieldforge.encodings.base import Encoding
from fieldforge.fields.kinds.base import Field
from fieldforge.fields.partitions.base import Partition

ColorSpace = Literal["srgb", "linear"]


class SceneField(Field):
    """Density and colour of a scene in a box.

    Args:
        low, high: corners of the box, in world units.
        color_space: "srgb", display-encoded colours; or "linear", light.
        background: the colour behind the scene, where one belongs to it; None leaves that to the renderer.
        has_time: whether the field is asked at times, from 0 to 1, which are then the last coordinate of its box.
        encoding, network, n_output_dims, partition: of the field's own, as for `Field`; None where it is made of other
            fields.
        generator: source of the initial parameters; None is torch's own.
    """

    units = "world units of the cameras; density per world unit; colour values in `color_space`"
    outside = "density 0: the box holds all there is"

    def __init__(
        self,
        *,
        low: Sequence[float],
        high: Sequence[float],
        color_space: ColorSpace = "srgb",
        background: Sequence[float] | None = None,
        has_time: bool = False,
        encoding: str | Mapping[str, Any] | Encoding | None = None,
        network: str | Mapping[str, Any] | nn.Module | None = None,
        n_output_dims: int = 1,
        partition: str | Mapping[str, Any] | Partition | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        box = corner("low", low), corner("high", high)
        if not all(a < b for a, b in zip(*box, strict=True)):
            raise ValueError(f"high: expected each number above that of low, {box[0]}, got {box[1]}")
        world = ((*box[0], 0.0), (*box[1], 1.0)) if has_time else box
        super().__init__(
            box=world, encoding=encoding, network=network, n_output_dims=n_output_dims, partition=partition,
            generator=generator,
        )  # fmt: skip
        self.low, self.high = list(box[0]), list(box[1])
        self.color_space: ColorSpace = expect_choice("color_space", color_space, ("srgb", "linear"))
        self.background = None if background is None else list(corner("background", background))

    @property
    def has_time(self) -> bool:
        """Whether it is asked at times."""
        return self.n_input_dims == 4

    @property
    def longest_side(self) -> float:
        """Of the box, in world units."""
        return max(b - a for a, b in zip(self.low, self.high, strict=True))

    @abstractmethod
    def density(self, points: Tensor) -> Tensor:
        """Extinction at places of the world: (*batch, 3) -> (*batch,), 1 / length, at least 0."""

    @abstractmethod
    def radiance(self, points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Density, and the colour that is seen by who looks along a direction.

        Args:
            points: (*batch, 3) in world units.
            directions: (*batch, 3) of unit length, away from the camera.

        Returns:
            (*batch,) 1 / length, and (*batch, 3).

        Raises:
            TypeError, ValueError: not floating-point coordinates, or not a direction for each point.
        """

    def forward(self, points: Tensor) -> Tensor:
        """The same as `density`."""
        return self.density(points)


def corner(name: str, values: Sequence[float]) -> tuple[float, float, float]:
    """Three finite numbers, of a corner or a colour."""
    if isinstance(values, str) or not isinstance(values, Sequence) or len(values) != 3:
        raise ValueError(f"{name}: expected three numbers, got {values!r}")
    x, y, z = (expect_float(f"{name}[{axis}]", value, -1e30, 1e30) for axis, value in enumerate(values))
    return x, y, z
