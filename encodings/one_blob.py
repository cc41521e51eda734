"""OneBlob: a soft one-hot code of each coordinate (Müller et al. 2019, "Neural Importance Sampling", section 4.3).

    {"otype": "OneBlob", "n_bins": 16}

As in tiny-cuda-nn the blob is a quartic kernel, integrated over each bin, and the unit interval wraps around.
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


@provide("one_blob", "reference")
def one_blob(x: Tensor, n_bins: int) -> Tensor:
    """(*batch, d) -> (*batch, d * n_bins); this function defines the encoding."""
    edges = torch.arange(n_bins + 1, dtype=x.dtype, device=x.device) / n_bins
    to_edge = (edges - x[..., None]) * n_bins  # (*batch, d, n_bins + 1), in radii
    left_of_edge = quartic_cdf(to_edge - n_bins) + quartic_cdf(to_edge) + quartic_cdf(to_edge + n_bins)
    return torch.diff(left_of_edge).flatten(-2)


@provide("one_blob", "cpu", missing=cpu_door.missing, refuses=cpu_encodings.refuses, note=cpu_door.description)
def _one_blob_on_cpu(x: Tensor, n_bins: int) -> Tensor:
    return cpu_encodings.formula("OneBlob", n_bins, x, reference=lambda x: one_blob(x, n_bins))


@provide("one_blob", "cuda", missing=triton_door.missing, refuses=formulas.refuses, note=triton_door.description)
def _one_blob_on_cuda(x: Tensor, n_bins: int) -> Tensor:
    return formulas.one_blob(x, n_bins, reference=lambda x: one_blob(x, n_bins))


@register("encoding", "OneBlob")
class OneBlob(Encoding):
    """How much of a blob of radius 1/n_bins around x falls into each of n_bins equal bins of [0, 1].

    The blob is the density 15/16 (1 - u²)² n_bins, u = (t - x) n_bins, |u| ≤ 1. Three copies, at x - 1, x and
    x + 1, make 0 and 1 the same place, so in [0, 1] the bins of a coordinate are ≥ 0, sum to 1, and at most three
    of them are not 0.

    Args:
        n_input_dims: number of coordinates d.
        n_bins: bins per coordinate, a power of two from 1 to 4096.

    Returns:
        (*batch, d * n_bins), the bins of a coordinate together.

    Example:
        >>> OneBlob(1, n_bins=4)(torch.tensor([0.375]))
        tensor([0.1035, 0.7930, 0.1035, 0.0000])
    """

    otype = "OneBlob"
    domain = "unit cube"
    outside = "repeats with period 1 from -1 + 1/n_bins to 2 - 1/n_bins, beyond that fades to zero within 2/n_bins"
    smoothness = 2

    def __init__(self, n_input_dims: int, *, n_bins: int = 16) -> None:
        super().__init__()
        self.n_input_dims = expect_int("n_input_dims", n_input_dims, 1)
        self.n_bins = expect_int("n_bins", n_bins, 1, 4096)
        if n_bins & (n_bins - 1):
            raise ValueError(f"n_bins: expected a power of two, got {n_bins}")
        self.n_output_dims = self.n_input_dims * self.n_bins

    def forward(self, x: Tensor) -> Tensor:
        points = expect_points(x, self.n_input_dims, owner=self).reshape(-1, self.n_input_dims)
        run = choose("one_blob", x.device, dtype=x.dtype, n_outputs=self.n_output_dims)
        features: Tensor = run(points, self.n_bins)
        return features.view(*x.shape[:-1], self.n_output_dims)


def quartic_cdf(u: Tensor) -> Tensor:
    """Integral of 15/16 (1 - t²)² from -1 to u; 0 and 1 beyond -1 and 1.

    Example:
        >>> quartic_cdf(torch.tensor([-2.0, 0.0, 2.0]))
        tensor([0.0000, 0.5000, 1.0000])
    """
    u = u.clamp(-1, 1)
    return (1 + u) ** 3 * (8 - 9 * u + 3 * u**2) / 16  # factored, so that both ends are exact
