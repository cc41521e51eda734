"""AudioField: a sound as a function of time.

    {"otype": "AudioField", "n_samples": 308207, "sample_rate": 44100, "n_channels": 1, "peak": 0.71,
     "encoding": {"otype": "HashGrid"}, "network": {"otype": "MLP"}}

The coordinate is time in seconds. Sample i stands for the moment (i + 1/2) / sample_rate, as a pixel does for its
centre, so that the box, 0 to n_samples / sample_rate, is the same at every rate. Inside, time is mapped to [0, 1]. Ask
in float64 where you can: float32 seconds tell the samples of a minute at 44.1 kHz apart, but not much more than that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fieldforge.checks import expect_float, expect_int
from fieldforge.encodings.base import Encoding
from fieldforge.fields.kinds.signal import SignalField
from fieldforge.registry import register

MAX_SAMPLES = 2**23
"""Up to here float32 tells all samples in [0, 1) apart; 190 s at 44.1 kHz."""
MAX_CHANNELS = 8


@register("field", "AudioField")
class AudioField(SignalField):
    """Amplitude of each channel at a time: network(encoding(time)) * peak.

    Args:
        encoding: configuration of the encoding (1 coordinate), or an `Encoding`.
        network: configuration of the network, or a module.
        n_samples: length of the clip; the box of the field is ((0,), (n_samples / sample_rate,)).
        sample_rate: samples a second of the clip. The field can be asked at any time between them.
        n_channels: 1 mono, 2 stereo (left, right), up to 8.
        peak: largest amplitude of the clip, where 1 is full scale; what the network gives is in units of it.
        generator: source of the initial parameters; None is torch's own.

    Example:
        >>> field = AudioField(encoding="Identity", network={"otype": "MLP", "n_neurons": 16}, n_samples=8,
        ...                    sample_rate=4)
        >>> field.amplitude(torch.tensor([[0.0], [1.75]])).shape, field.duration
        (torch.Size([2, 1]), 2.0)
    """

    otype = "AudioField"
    units = "seconds from the beginning; amplitudes, 1 is full scale"
    outside = "the amplitude of the nearer end"

    def __init__(
        self,
        *,
        encoding: str | Mapping[str, Any] | Encoding,
        network: str | Mapping[str, Any] | nn.Module,
        n_samples: int,
        sample_rate: int,
        n_channels: int = 1,
        peak: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        self.n_samples = expect_int("n_samples", n_samples, 1, MAX_SAMPLES)
        self.sample_rate = expect_int("sample_rate", sample_rate, 1, 2**31 - 1)
        n_channels = expect_int("n_channels", n_channels, 1, MAX_CHANNELS)
        self.peak = expect_float("peak", peak, 0.0, open_low=True)
        super().__init__(
            box=((0.0,), (n_samples / sample_rate,)),
            encoding=encoding,
            network=network,
            n_channels=n_channels,
            output_scale=[self.peak] * n_channels,
            output_offset=None,
            generator=generator,
        )

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.n_samples / self.sample_rate

    def amplitude(self, points: Tensor) -> Tensor:
        """Amplitudes at some times; before the first and after the last sample those of that end.

        Args:
            points: (*batch, 1) seconds.

        Returns:
            (*batch, n_channels), 1 is full scale; not clipped.

        Raises:
            TypeError, ValueError: `points` are not (..., 1) floating-point coordinates.
        """
        return self.values(points)
