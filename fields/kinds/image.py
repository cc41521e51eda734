"""ImageField: a picture as a function of the place in it.

    {"otype": "ImageField", "width": 512, "height": 384, "n_channels": 3, "color_space": "srgb",
     "encoding": {"otype": "HashGrid"}, "network": {"otype": "MLP"}}

Coordinates are pixels: x from 0 at the left edge to `width` at the right, y from 0 at the top edge to `height` at the
bottom. The centre of the pixel in column i and row j is (i + 0.5, j + 0.5). Inside, each side is mapped to [0, 1] by
itself, as instant-ngp does; a pixel of a wide picture is then not square to the encoding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fieldforge.checks import expect_choice, expect_int
from fieldforge.encodings.base import Encoding
from fieldforge.fields.kinds.signal import SignalField
from fieldforge.fields.partitions.base import Partition
from fieldforge.registry import register

_COLOR_SPACES: tuple[Literal["srgb"], Literal["linear"]] = ("srgb", "linear")

MAX_SIDE = 2**23
"""Pixels along a side: up to here float32 holds every pixel centre, i + 0.5, exactly."""


@register("field", "ImageField")
class ImageField(SignalField):
    """Colour at a place of a picture: network(encoding(place)) * output_scale + output_offset.

    Args:
        encoding: configuration of the encoding (2 coordinates), or an `Encoding`.
        network: configuration of the network, or a module.
        width, height: size in pixels; the box of the field is ((0, 0), (width, height)).
        n_channels: 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha.
        color_space: "srgb", display-encoded values nominally in [0, 1]; or "linear", light, without upper limit.
        output_scale, output_offset: one number per channel (None: 1 and 0), so that a network whose outputs are
            about 1 in size can give a picture whose values are not; the standard deviation and the mean do well.
        partition: cells with networks of their own, as for `Field`.
        generator: source of the initial parameters; None is torch's own.

    Example:
        >>> field = ImageField(encoding="Identity", network={"otype": "MLP", "n_neurons": 16}, width=8, height=6)
        >>> field.color(torch.tensor([[0.5, 0.5], [7.5, 5.5]])).shape
        torch.Size([2, 3])
        >>> field.box
        ((0.0, 0.0), (8.0, 6.0))
    """

    otype = "ImageField"
    units = "pixels from the top left corner; colour values in `color_space`"
    outside = "the colour of the nearest point of the border"

    def __init__(
        self,
        *,
        encoding: str | Mapping[str, Any] | Encoding,
        network: str | Mapping[str, Any] | nn.Module,
        width: int,
        height: int,
        n_channels: int = 3,
        color_space: Literal["srgb", "linear"] = "srgb",
        output_scale: Sequence[float] | None = None,
        output_offset: Sequence[float] | None = None,
        partition: str | Mapping[str, Any] | Partition | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        width, height = expect_int("width", width, 1, MAX_SIDE), expect_int("height", height, 1, MAX_SIDE)
        n_channels = expect_int("n_channels", n_channels, 1, 4)
        super().__init__(
            box=((0.0, 0.0), (float(width), float(height))),
            encoding=encoding,
            network=network,
            n_channels=n_channels,
            output_scale=output_scale,
            output_offset=output_offset,
            partition=partition,
            generator=generator,
        )
        self.width, self.height = width, height
        self.color_space: Literal["srgb", "linear"] = expect_choice("color_space", color_space, _COLOR_SPACES)

    def color(self, points: Tensor) -> Tensor:
        """Colour at places of the picture; points outside get that of the nearest point of the border.

        Values are not clipped: an "srgb" answer may overshoot [0, 1] a little (a picture writer clips), a "linear"
        one has no upper limit.

        Args:
            points: (*batch, 2) x and y in pixels.

        Returns:
            (*batch, n_channels).

        Raises:
            TypeError, ValueError: `points` are not (..., 2) floating-point coordinates.
        """
        return self.values(points)
