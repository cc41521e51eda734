"""TriangleWave: triangle waves in octaves, a cheap frequency encoding (Müller et al. 2021, "Real-time Neural
Radiance Caching for Path Tracing", section 3.1).

    {"otype": "TriangleWave", "n_frequencies": 12}

Numbers and order of channels are tiny-cuda-nn's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fieldforge.backends import choose, provide
from fieldforge.checks import expect_int, expect_points
from fieldforge.encodings.base import Encoding
from fieldforge.kernels import cpu_door, cpu_encodings
from fieldforge.kernels.triton import door as triton_door
from fieldforge.kernels.triton import formulas
from fieldforge.registry import register


@provide("triangle_wave", "reference")
def triangle_wave(x: Tensor, n_frequencies: int) -> Tensor:
    """(*batch, d) -> (*batch, d * n_frequencies); this function defines the encoding."""
    octaves = torch.tensor([2.0 ** (k - 1) for k in range(n_frequencies)], dtype=x.dtype, device=x.device)
    phases = torch.tensor([0.25 * k for k in range(n_frequencies)], dtype=x.dtype, device=x.device)
    turns = x[..., None] * octaves + phases  # (*batch, d, n)
    return (4 * (turns - turns.floor() - 0.5).abs() - 1).flatten(-2)


@provide("triangle_wave", "cpu", missing=cpu_door.missing, refuses=cpu_encodings.refuses, note=cpu_door.description)
def _triangle_wave_on_cpu(x: Tensor, n_frequencies: int) -> Tensor:
    return cpu_encodings.formula("TriangleWave", n_frequencies, x, reference=lambda x: triangle_wave(x, n_frequencies))


@provide("triangle_wave", "cuda", missing=triton_door.missing, refuses=formulas.refuses, note=triton_door.description)
def _triangle_wave_on_cuda(x: Tensor, n_frequencies: int) -> Tensor:
    return formulas.triangle_wave(x, n_frequencies, reference=lambda x: triangle_wave(x, n_frequencies))


@register("encoding", "TriangleWave")
class TriangleWave(Encoding):
    """4 |frac(2^(k-1) x + k/4) - 1/2| - 1, k = 0 ... n_frequencies - 1, for each coordinate.

    One wave per octave and no cosine partner: the phase k/4 keeps the octaves from turning at the same places.
    Values are in [-1, 1], slopes ±2^(k+1). At a turning point autograd gives 0 (below) or -2^(k+1) (above), where
    tiny-cuda-nn takes the derivative to the right.

    Args:
        n_input_dims: number of coordinates d.
        n_frequencies: octaves, 1 to 64; in float32 an octave above 23 carries only rounding.

    Returns:
        (*batch, d * n_frequencies), the waves of a coordinate together.

    Example:
        >>> TriangleWave(1, n_frequencies=3)(torch.tensor([0.25]))
        tensor([ 0.5000, -1.0000,  1.0000])
    """

    otype = "TriangleWave"
    domain = "reals"
    outside = "the same formula holds everywhere; it repeats with period 2"
    smoothness = 0

    def __init__(self, n_input_dims: int, *, n_frequencies: int = 12) -> None:
        super().__init__()
        self.n_input_dims = expect_int("n_input_dims", n_input_dims, 1)
        self.n_frequencies = expect_int("n_frequencies", n_frequencies, 1, 64)
        self.n_output_dims = self.n_input_dims * self.n_frequencies

    def forward(self, x: Tensor) -> Tensor:
        points = expect_points(x, self.n_input_dims, owner=self).reshape(-1, self.n_input_dims)
        run = choose("triangle_wave", x.device, dtype=x.dtype, n_outputs=self.n_output_dims)
        features: Tensor = run(points, self.n_frequencies)
        return features.view(*x.shape[:-1], self.n_output_dims)

    def channel_order(self) -> Tensor:
        return torch.arange(self.n_frequencies).repeat(self.n_input_dims)
