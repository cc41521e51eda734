"""SPDER: a sine damped by a slowly growing function of its argument (Shah and Sitawarin, ICLR 2024).

    {"otype": "SPDER", "damping": "sqrt", "omega": 30.0, "first_omega": null}
    {"otype": "SPDERSmooth", "epsilon": 1e-4, "omega": 30.0, "first_omega": null}

sin(u) √|u| with u = omega z, z = W x + b, for pictures and video; sin(u) arctan(u) for sound. Unlike the bare sine
they remember how large the coordinate is. Weights are SIREN's, as in the released code, though |sin(u) √|u|| is not
the size of |sin u|: signals change their scale with depth.

The square root has no second derivative at 0 (it grows like |u|^(-1/2)), so losses with second derivatives want
SPDERSmooth, sin(u) (u² + epsilon)^(1/4), which is ours. The released code calls "SIREN" a sine network behind a
positional encoding, and computes its PSNR from 255/MSE: its tables cannot be compared with ours.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from fieldforge.checks import expect_choice, expect_float
from fieldforge.fields.activations.sine import Sinusoidal, draw_siren_first, draw_siren_hidden
from fieldforge.registry import register


@register("activation", "SPDER")
class SPDER(Sinusoidal):
    """sin(u) √|u| or sin(u) arctan(u), with u = omega z.

    Args:
        damping: "sqrt" or "arctan".
        omega: frequency factor.
        first_omega: the first layer's; None: omega.

    Example:
        >>> SPDER(omega=math.pi / 2)(torch.tensor([-1.0, 0.0, 1.0]))
        tensor([-1.2533,  0.0000,  1.2533])
    """

    otype = "SPDER"

    def __init__(
        self,
        *,
        damping: Literal["sqrt", "arctan"] = "sqrt",
        omega: float = 30.0,
        first_omega: float | None = None,
    ) -> None:
        super().__init__(omega=omega, first_omega=first_omega)
        self.damping = expect_choice("damping", damping, ("sqrt", "arctan"))
        self.smoothness = math.inf if self.damping == "arctan" else 1

    def forward(self, z: Tensor, is_first: bool = False) -> Tensor:
        u = self.factor(is_first) * z
        return torch.sin(u) * (torch.arctan(u) if self.damping == "arctan" else root(u))

    def derivative(self, z: Tensor, is_first: bool = False) -> Tensor:
        omega = self.factor(is_first)
        u = omega * z
        if self.damping == "arctan":
            return omega * (torch.cos(u) * torch.arctan(u) + torch.sin(u) / (1 + u * u))
        return omega * (torch.cos(u) * root(u) + torch.sin(u) * u.sign() / (2 * root(u)))

    def init_first(self, weight: Tensor, bias: Tensor | None, generator: torch.Generator | None = None) -> None:
        draw_siren_first(weight, bias, generator)

    def init_hidden(self, weight: Tensor, bias: Tensor | None, generator: torch.Generator | None = None) -> None:
        draw_siren_hidden(weight, bias, self.omega, generator)


@register("activation", "SPDERSmooth")
class SPDERSmooth(Sinusoidal):
    """sin(u) (u² + epsilon)^(1/4), with u = omega z: SPDER's function for |u| well above √epsilon, and smooth.

    Args:
        epsilon: how far from 0 the corner is rounded, in u².
        omega: frequency factor.
        first_omega: the first layer's; None: omega.
    """

    otype = "SPDERSmooth"
    smoothness = math.inf

    def __init__(self, *, epsilon: float = 1e-4, omega: float = 30.0, first_omega: float | None = None) -> None:
        super().__init__(omega=omega, first_omega=first_omega)
        self.epsilon = expect_float("epsilon", epsilon, 1e-12)

    def forward(self, z: Tensor, is_first: bool = False) -> Tensor:
        u = self.factor(is_first) * z
        return torch.sin(u) * (u * u + self.epsilon) ** 0.25

    def derivative(self, z: Tensor, is_first: bool = False) -> Tensor:
        omega = self.factor(is_first)
        u = omega * z
        square = u * u + self.epsilon
        return omega * (torch.cos(u) * square**0.25 + torch.sin(u) * 0.5 * u * square**-0.75)

    def init_first(self, weight: Tensor, bias: Tensor | None, generator: torch.Generator | None = None) -> None:
        draw_siren_first(weight, bias, generator)

    def init_hidden(self, weight: Tensor, bias: Tensor | None, generator: torch.Generator | None = None) -> None:
        draw_siren_hidden(weight, bias, self.omega, generator)


def root(u: Tensor) -> Tensor:
    """√|u|, held constant within 1e-12 of 0, where the derivatives of the square root leave the floating numbers."""
    return u.abs().clamp_min(max(1e-12, torch.finfo(u.dtype).tiny)).sqrt()
