"""RandomFourier: Gaussian Fourier features (Tancik et al. 2020, "Fourier Features Let Networks Learn High
Frequency Functions in Low Dimensional Domains", section 5).

    {"otype": "RandomFourier", "n_features": 256, "sigma": 10.0}
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fieldforge.backends import choose, provide
from fieldforge.checks import expect_float, expect_generator, expect_int, expect_points
from fieldforge.encodings.base import Encoding
from fieldforge.kernels import cpu_door, cpu_encodings
from fieldforge.kernels.triton import door as triton_door
from fieldforge.kernels.triton import formulas
from fieldforge.registry import register


@provide("random_fourier", "reference")
def random_fourier(x: Tensor, frequencies: Tensor) -> Tensor:
    """(*batch, d), (n_features, d) -> (*batch, 2 * n_features); this function defines the encoding."""
    phase = 2 * math.pi * (x @ frequencies.to(x.dtype).T)  # (*batch, n_features)
    return torch.cat((phase.sin(), phase.cos()), -1)


@provide("random_fourier", "cpu", missing=cpu_door.missing, refuses=cpu_encodings.refuses, note=cpu_door.description)
def _random_fourier_on_cpu(x: Tensor, frequencies: Tensor) -> Tensor:
    return cpu_encodings.formula("RandomFourier", len(frequencies), x, frequencies, reference=random_fourier)


@provide("random_fourier", "cuda", missing=triton_door.missing, refuses=formulas.refuses, note=triton_door.description)
def _random_fourier_on_cuda(x: Tensor, frequencies: Tensor) -> Tensor:
    return formulas.random_fourier(x, frequencies, reference=lambda x: random_fourier(x, frequencies))


@register("encoding", "RandomFourier")
class RandomFourier(Encoding):
    """γ(x) = [sin 2πBx, cos 2πBx] with rows of B drawn once from N(0, sigma²) and kept with the parameters.

    |γ(x)|² = n_features for every x, and γ(x)·γ(y) / n_features → exp(-2π² sigma² |x - y|²) as n_features grows.
    Small sigma blurs, large sigma makes noise between the samples; 10 suits photographs on [0, 1]², 14 text. With
    coordinates in [-1, 1] halve it.

    Args:
        n_input_dims: number of coordinates d.
        n_features: rows of B, 1 to 2^20.
        sigma: standard deviation of a frequency, in cycles per unit of x, > 0.
        generator: draws B.

    Returns:
        (*batch, 2 * n_features), all sines first.

    Example:
        >>> encoding = RandomFourier(2, n_features=64)
        >>> encoding(torch.rand(2)).square().sum()
        tensor(64.)
    """

    otype = "RandomFourier"
    domain = "reals"
    outside = "the same formula holds everywhere"
    smoothness = math.inf
    frequencies: Tensor

    def __init__(
        self,
        n_input_dims: int,
        *,
        n_features: int = 256,
        sigma: float = 10.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.n_input_dims = expect_int("n_input_dims", n_input_dims, 1)
        self.n_features = expect_int("n_features", n_features, 1, 2**20)
        self.sigma = expect_float("sigma", sigma, 0.0, open_low=True)
        self.n_output_dims = 2 * self.n_features
        self.register_buffer("frequencies", torch.empty(self.n_features, self.n_input_dims))  # B
        if not self.frequencies.is_meta:
            drawn = torch.empty(self.frequencies.shape, device="cpu")
            self.frequencies.copy_(drawn.normal_(0, self.sigma, generator=expect_generator(generator)))

    def forward(self, x: Tensor) -> Tensor:
        points = expect_points(x, self.n_input_dims, owner=self).reshape(-1, self.n_input_dims)
        run = choose("random_fourier", x.device, dtype=x.dtype, n_outputs=self.n_output_dims, tensor=self.frequencies)
        features: Tensor = run(points, self.frequencies)
        return features.view(*x.shape[:-1], self.n_output_dims)

    def channel_order(self) -> Tensor:
        if self.frequencies.is_meta:  # some order: how many channels share a rank is known
            return torch.arange(self.n_features, device="cpu").repeat(2)
        return self.frequencies.norm(dim=-1).argsort().argsort().repeat(2)
