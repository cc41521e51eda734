"""RandomFourier: Gaussian Fourier features (Tancik et al. 2020, "Fourier Features Let Networks Learn High
Frequency Functions in Low Dimensional Domains", section 5).

    {"otype": "RandomFourier", "n_features": 256, "sigma": 10.0}
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fieldforge.checks import expect_float, expect_generator, expect_int, expect_points
from fieldforge.encodings.base import Encoding
from fieldforge.registry import register


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
        expect_points(x, self.n_input_dims, owner=self)
        phase = 2 * math.pi * (x @ self.frequencies.to(x.dtype).T)  # (*batch, n_features)
        return torch.cat((phase.sin(), phase.cos()), -1)

    def channel_order(self) -> Tensor:
        return self.frequencies.norm(dim=-1).argsort().argsort().repeat(2)
