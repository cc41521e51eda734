"""SphericalHarmonics: real orthonormal spherical harmonics of a direction.

    {"otype": "SphericalHarmonics", "degree": 4}

Real harmonics with the Condon-Shortley phase, in the order l² + l + m: the functions, signs and order of
tiny-cuda-nn, from the recurrences of P.-P. Sloan, "Stupid Spherical Harmonics (SH) Tricks" (2008), appendix A1.
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


@provide("spherical_harmonics", "reference")
def spherical_harmonics(x: Tensor, degree: int) -> Tensor:
    """(*batch, 3) -> (*batch, degree²); this function defines the encoding."""
    return torch.stack(harmonics(2 * x - 1, degree), -1)


@provide(
    "spherical_harmonics", "cpu", missing=cpu_door.missing, refuses=cpu_encodings.refuses, note=cpu_door.description
)
def _spherical_harmonics_on_cpu(x: Tensor, degree: int) -> Tensor:
    return cpu_encodings.formula("SphericalHarmonics", degree, x, reference=lambda x: spherical_harmonics(x, degree))


@provide(
    "spherical_harmonics", "cuda", missing=triton_door.missing, refuses=formulas.refuses, note=triton_door.description
)
def _spherical_harmonics_on_cuda(x: Tensor, degree: int) -> Tensor:
    return formulas.spherical_harmonics(x, degree, reference=lambda x: spherical_harmonics(x, degree))


@register("encoding", "SphericalHarmonics")
class SphericalHarmonics(Encoding):
    """Y_lm of the direction v, for 0 ≤ l < degree and -l ≤ m ≤ l.

    On the unit sphere the integral of Y_lm Y_l'm' is 1 where the pairs are equal, else 0. The code of a direction
    has the same length everywhere: the sum of squares is degree² / 4π.

    Args:
        n_input_dims: 3.
        degree: number of bands, 1 to 8.

    Returns:
        (*batch, degree²), channel l² + l + m.

    Example:
        >>> along_z = torch.tensor([0.5, 0.5, 1.0])  # (v + 1) / 2 of v = (0, 0, 1)
        >>> SphericalHarmonics(3, degree=2)(along_z)
        tensor([0.2821, -0.0000, 0.4886, -0.0000])
    """

    otype = "SphericalHarmonics"
    domain = "direction"
    outside = (
        "off the unit sphere the same polynomials go on: a polynomial in z times the real or imaginary part of "
        "(x + iy)^m; they are not homogeneous, so length matters: normalise directions first"
    )
    smoothness = math.inf

    def __init__(self, n_input_dims: int = 3, *, degree: int = 4) -> None:
        super().__init__()
        if n_input_dims != 3:
            raise ValueError(f"n_input_dims: SphericalHarmonics encodes directions in 3 dimensions, got {n_input_dims}")
        self.n_input_dims = 3
        self.degree = expect_int("degree", degree, 1, 8)
        self.n_output_dims = degree * degree

    def forward(self, x: Tensor) -> Tensor:
        points = expect_points(x, self.n_input_dims, owner=self).reshape(-1, self.n_input_dims)
        features: Tensor = choose("spherical_harmonics", x.device, dtype=x.dtype)(points, self.degree)
        return features.view(*x.shape[:-1], self.n_output_dims)

    def channel_order(self) -> Tensor:
        return torch.tensor([band for band in range(self.degree) for _ in range(2 * band + 1)])


def harmonics(v: Tensor, degree: int) -> list[Tensor]:
    """Y_lm(v) for v (*batch, 3) on the unit sphere; degree² tensors of shape (*batch), at place l² + l + m.

    Writing the associated Legendre function as P_l^m(z) = (1 - z²)^(m/2) p_l^m(z), the root joins cos mφ and
    sin mφ to the real and imaginary parts of (x + iy)^m, and p is a polynomial:

        p_m^m = (-1)^m (2m - 1)!!     (l - m) p_l^m = (2l - 1) z p_(l-1)^m - (l + m - 1) p_(l-2)^m
    """
    x, y, z = v.unbind(-1)
    bands = [z] * (degree * degree)
    cosine, sine = torch.ones_like(z), torch.zeros_like(z)  # Re, Im (x + iy)^m
    diagonal = 1.0  # p_m^m
    for m in range(degree):
        before, legendre = torch.zeros_like(z), torch.full_like(z, diagonal)
        for degree_l in range(m, degree):
            if degree_l > m:
                ahead = (2 * degree_l - 1) * z * legendre - (degree_l + m - 1) * before
                before, legendre = legendre, ahead / (degree_l - m)
            norm = math.sqrt((2 * degree_l + 1) / (4 * math.pi * math.perm(degree_l + m, 2 * m)))
            center = degree_l * degree_l + degree_l
            if m == 0:
                bands[center] = norm * legendre
            else:
                bands[center + m] = math.sqrt(2) * norm * legendre * cosine
                bands[center - m] = math.sqrt(2) * norm * legendre * sine
        cosine, sine = x * cosine - y * sine, x * sine + y * cosine
        diagonal *= -(2 * m + 1)
    return bands
