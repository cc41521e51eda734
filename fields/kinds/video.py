"""VideoField: a film as a function of the place in its picture and of time.

    {"otype": "VideoField", "width": 640, "height": 272, "duration": 10.0, "frames_per_second": 25.0,
     "encoding": {"otype": "TimeGrid", "n_space_dims": 2}, "network": {"otype": "MLP"}}

Coordinates are (x, y, t): x and y in pixels as in `ImageField`, the centre of the pixel in column i and row j at
(i + 0.5, j + 0.5); t in seconds from the beginning, and frame i stands for the moment (i + 0.5) / frames_per_second.
Inside, each axis is mapped to [0, 1] by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fieldforge.checks import expect_float, expect_int
from fieldforge.encodings.base import Encoding
from fieldforge.fields.kinds.image import MAX_SIDE
from fieldforge.fields.kinds.signal import SignalField
from fieldforge.registry import register


@register("field", "VideoField")
class VideoField(SignalField):
    """Colour at a place and a time of a film: network(encoding(x, y, t)) * output_scale + output_offset.

    Args:
        encoding: configuration of the encoding (3 coordinates), or an `Encoding`.
        network: configuration of the network, or a module.
        width, height: size in pixels.
        duration: seconds; the box of the field is ((0, 0, 0), (width, height, duration)).
        frames_per_second: of the film. The field can be asked at any time between its frames.
        n_channels: 1 grey, 3 RGB.
        output_scale, output_offset: one number per channel; None: 1 and 0.
        generator: source of the initial parameters; None is torch's own.

    Example:
        >>> field = VideoField(encoding="Identity", network={"otype": "MLP", "n_neurons": 16}, width=8, height=6,
        ...                    duration=2.0, frames_per_second=4.0)
        >>> field.color(torch.tensor([[0.5, 0.5, 0.0], [7.5, 5.5, 1.75]])).shape
        torch.Size([2, 3])
    """

    otype = "VideoField"
    units = "pixels from the top left corner, and seconds from the beginning; sRGB values, nominally in [0, 1]"
    outside = "the colour of the nearest point of the border, of the first or of the last moment"

    def __init__(
        self,
        *,
        encoding: str | Mapping[str, Any] | Encoding,
        network: str | Mapping[str, Any] | nn.Module,
        width: int,
        height: int,
        duration: float,
        frames_per_second: float,
        n_channels: int = 3,
        output_scale: Sequence[float] | None = None,
        output_offset: Sequence[float] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        self.width, self.height = expect_int("width", width, 1, MAX_SIDE), expect_int("height", height, 1, MAX_SIDE)
        self.duration = expect_float("duration", duration, 0.0, 1e6, open_low=True)
        self.frames_per_second = expect_float("frames_per_second", frames_per_second, 0.0, 1e6, open_low=True)
        super().__init__(
            box=((0.0, 0.0, 0.0), (float(width), float(height), self.duration)),
            encoding=encoding,
            network=network,
            n_channels=expect_int("n_channels", n_channels, 1, 4),
            output_scale=output_scale,
            output_offset=output_offset,
            generator=generator,
        )

    def color(self, points: Tensor) -> Tensor:
        """Colour at places and times; not clipped.

        Args:
            points: (*batch, 3) x and y in pixels, t in seconds.

        Returns:
            (*batch, n_channels).

        Raises:
            TypeError, ValueError: `points` are not (..., 3) floating-point coordinates.
        """
        return self.values(points)
