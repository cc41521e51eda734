"""Frequency: sines and cosines in octaves, the positional encoding of NeRF (Mildenhall et al. 2020, eq. 4).

    {"otype": "Frequency", "n_frequencies": 12}

Numbers and order of channels are tiny-cuda-nn's: per coordinate sin, cos, sin, cos, ... from low to high.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fieldforge.backends import choose, provide
from fieldforge.checks import expect_int, expect_points
from fieldforge.encodings.base import Encoding
from fieldforge.kernels import cpu_door, cpu_encodings
from fieldforge.kernels.triton import door as triton_door
from fieldforge.kernels.triton import formulas
from fieldforge.registry import register


@provide("frequency", "reference")
def frequency(x: Tensor, n_frequencies: int) -> Tensor:
    """(*batch, d) -> (*batch, d * n_frequencies * 2); this function defines the encoding."""
    octaves = torch.tensor([2.0**k for k in range(n_frequencies)], dtype=x.dtype, device=x.device)
    turns = x[..., None] * octaves  # (*batch, d, n), exact: the factors are powers of two
    turns = turns - 2 * torch.round(turns / 2)  # exact too; sin(π large) would lose what π's rounding takes
    return torch.stack(((math.pi * turns).sin(), (math.pi * turns).cos()), -1).flatten(-3)


@provide("frequency", "cpu", missing=cpu_door.missing, refuses=cpu_encodings.refuses, note=cpu_door.description)
def _frequency_on_cpu(x: Tensor, n_frequencies: int) -> Tensor:
    return cpu_encodings.formula("Frequency", n_frequencies, x, reference=lambda x: frequency(x, n_frequencies))


@provide("frequency", "cuda", missing=triton_door.missing, refuses=formulas.refuses, note=triton_door.description)
def _frequency_on_cuda(x: Tensor, n_frequencies: int) -> Tensor:
    return formulas.frequency(x, n_frequencies, reference=lambda x: frequency(x, n_frequencies))


@register("encoding", "Frequency")
class Frequency(Encoding):
    """sin(2^k π x) and cos(2^k π x), k = 0 ... n_frequencies - 1, for each coordinate.

    The lowest octave has period 2: points of [-1, 1) are told apart, points 2 apart are not. With N pixels along
    [0, 1] nothing above k = log2(N) can be learned from the samples (Nyquist).

    Args:
        n_input_dims: number of coordinates d.
        n_frequencies: octaves, 1 to 64; in float32 an octave above 23 carries only rounding.

    Returns:
        (*batch, d * n_frequencies * 2), the pairs sin, cos of a coordinate together.

    Example:
        >>> Frequency(1, n_frequencies=2)(torch.tensor([1 / 6]))
        tensor([0.5000, 0.8660, 0.8660, 0.5000])
    """

    otype = "Frequency"
    domain = "reals"
    outside = "the same formula holds everywhere; it repeats with period 2"
    smoothness = math.inf

    def __init__(self, n_input_dims: int, *, n_frequencies: int = 12) -> None:
        super().__init__()
        self.n_input_dims = expect_int("n_input_dims", n_input_dims, 1)
        self.n_frequencies = expect_int("n_frequencies", n_frequencies, 1, 64)
        self.n_output_dims = self.n_input_dims * self.n_frequencies * 2

    def forward(self, x: Tensor) -> Tensor:
        points = expect_points(x, self.n_input_dims, owner=self).reshape(-1, self.n_input_dims)
        run = choose("frequency", x.device, dtype=x.dtype, n_outputs=self.n_output_dims)
        features: Tensor = run(points, self.n_frequencies)
        return features.view(*x.shape[:-1], self.n_output_dims)

    def channel_order(self) -> Tensor:
        return torch.arange(self.n_frequencies).repeat_interleave(2).repeat(self.n_input_dims)
