"""OneBlobFrequency, also called NRC: the input code of neural radiance caching (Müller et al. 2021, "Real-time
Neural Radiance Caching for Path Tracing", table 1), as tiny-cuda-nn composes it.

    {"otype": "OneBlobFrequency", "n_frequencies": 12, "n_bins": 4}
"""

from __future__ import annotations

import torch
from torch import Tensor

from fieldforge.checks import expect_int, expect_points
from fieldforge.encodings.base import Encoding
from fieldforge.encodings.composite import at_once
from fieldforge.encodings.one_blob import OneBlob
from fieldforge.encodings.triangle_wave import TriangleWave
from fieldforge.registry import register


@register("encoding", "NRC")
@register("encoding", "OneBlobFrequency")
class OneBlobFrequency(Encoding):
    """Triangle waves of the position, blobs of angles and roughness, the rest as it is.

    Coordinates 0-2 (position) go to `TriangleWave`, 3-7 (two angles of the view, two of the normal, roughness) to
    `OneBlob`, all others (albedos) pass unchanged.

    Args:
        n_input_dims: number of coordinates, at least 8.
        n_frequencies: of the triangle waves.
        n_bins: of the blobs, a power of two.

    Returns:
        (*batch, 3 * n_frequencies + 5 * n_bins + n_input_dims - 8).

    Example:
        >>> OneBlobFrequency(14).n_output_dims
        62
    """

    otype = "OneBlobFrequency"
    domain = "unit cube"
    outside = "triangle waves and the unchanged coordinates go on; blobs repeat once to either side, then fade"
    smoothness = 0

    def __init__(self, n_input_dims: int = 8, *, n_frequencies: int = 12, n_bins: int = 4) -> None:
        super().__init__()
        self.n_input_dims = expect_int("n_input_dims", n_input_dims, 8)
        self.waves = TriangleWave(3, n_frequencies=n_frequencies)
        self.blobs = OneBlob(5, n_bins=n_bins)
        self.n_frequencies = n_frequencies
        self.n_bins = n_bins
        self.n_output_dims = self.waves.n_output_dims + self.blobs.n_output_dims + n_input_dims - 8

    def forward(self, x: Tensor) -> Tensor:
        return at_once(self, expect_points(x, self.n_input_dims, owner=self))

    def one_by_one(self, x: Tensor) -> Tensor:
        """Each part by itself, then joined; this defines the encoding."""
        return torch.cat((self.waves(x[..., :3]), self.blobs(x[..., 3:8]), x[..., 8:]), -1)

    def channel_order(self) -> Tensor:
        """Octaves in order; the channels that are no waves count as coarse."""
        waves = self.waves.channel_order()
        return torch.cat((waves, waves.new_zeros(self.n_output_dims - len(waves))))
