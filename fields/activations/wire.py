"""WIRE: the complex Gabor wavelet as activation (Saragadam et al., CVPR 2023, eq. 5).

    {"otype": "WIRE", "omega": 20.0, "scale": 10.0, "first_omega": null}

exp(j omega z - |scale z|²). The first layer is real, the others have complex weights, and the network gives the real
part of its output; so that the number of real parameters stays that of a real network, the hidden width is
int(n_neurons / √2). Weights and biases come from PyTorch's law, U(±1/√n), for real and imaginary part each.

For complex z, |exp(j omega z)| = exp(-omega Im z) may be large and only the Gaussian bounds it: large omega / scale
diverges at large learning rates. Defaults of omega and scale differ among the authors' scripts (omega 10 with scale 10
or 40 in the class, 20 and 10 for images in FINER's comparison, which are ours).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fieldforge.checks import expect_float
from fieldforge.fields.activations.base import draw_linear
from fieldforge.fields.activations.sine import Sinusoidal
from fieldforge.registry import register


@register("activation", "WIRE")
class WIRE(Sinusoidal):
    """exp(j omega z - |scale z|²), for real or complex z; the values are complex.

    Args:
        omega: frequency of the wave.
        scale: one over the half-width of the Gaussian at 1/e.
        first_omega: the first layer's; None: omega.

    Example:
        >>> WIRE(omega=2.0, scale=1.0)(torch.tensor([0.0, 1.0]))
        tensor([ 1.0000+0.0000j, -0.1531+0.3345j])
    """

    otype = "WIRE"
    smoothness = math.inf
    is_complex = True

    def __init__(self, *, omega: float = 20.0, scale: float = 10.0, first_omega: float | None = None) -> None:
        super().__init__(omega=omega, first_omega=first_omega)
        self.scale = expect_float("scale", scale, 0.0, open_low=True)

    def forward(self, z: Tensor, is_first: bool = False) -> Tensor:
        omega = self.factor(is_first)
        if not z.is_complex():
            return torch.exp(torch.complex(-((self.scale * z) ** 2), omega * z))
        size = (self.scale * z.real) ** 2 + (self.scale * z.imag) ** 2  # abs() has no second derivative at 0
        return torch.exp(torch.complex(-omega * z.imag - size, omega * z.real))

    def derivative(self, z: Tensor, is_first: bool = False) -> Tensor:
        """Along the real axis, d/d(Re z): the function is not holomorphic. Complex."""
        slope = torch.complex(-2 * self.scale**2 * z.real, torch.full_like(z.real, self.factor(is_first)))
        return slope * self.forward(z, is_first)

    def init_first(self, weight: Tensor, bias: Tensor | None, generator: torch.Generator | None = None) -> None:
        draw_linear(weight, bias, generator)

    def init_hidden(self, weight: Tensor, bias: Tensor | None, generator: torch.Generator | None = None) -> None:
        draw_linear(weight, bias, generator)
