"""FINER: a sine whose frequency grows with the size of its argument (Liu et al., CVPR 2024).

    {"otype": "FINER", "omega": 30.0, "first_omega": null, "first_bias_scale": null, "scale_requires_grad": false}

sin(omega (|z| + 1) z) with z = W x + b. Weights are SIREN's; a wider law for the first biases reaches higher
frequencies, since |z| + 1 multiplies omega there.

The paper's formula is differentiable, yet the released code holds the factor |z| + 1 constant in the backward pass
unless told otherwise, and so do we. What autograd then gives is not the slope of the function, so the activation calls
itself merely continuous and losses on spatial derivatives refuse it; ``scale_requires_grad`` gives the true slope.
The released image script leaves the first biases to PyTorch's law, its SDF script draws them from U(±1).
"""

from __future__ import annotations

import torch
from torch import Tensor

from fieldforge.checks import expect_bool, expect_float
from fieldforge.fields.activations.base import draw_uniform
from fieldforge.fields.activations.sine import Sinusoidal, draw_siren_first, draw_siren_hidden
from fieldforge.registry import register


@register("activation", "FINER")
class FINER(Sinusoidal):
    """sin(omega (|z| + 1) z).

    Args:
        omega: frequency factor.
        first_omega: the first layer's; None: omega.
        first_bias_scale: k for first biases from U(±k); None: PyTorch's U(±1/√n).
        scale_requires_grad: whether autograd sees the factor |z| + 1; the function is the same.

    Example:
        >>> FINER(omega=math.pi)(torch.tensor([0.0, 0.5]))
        tensor([0.0000, 0.7071])
    """

    otype = "FINER"

    def __init__(
        self,
        *,
        omega: float = 30.0,
        first_omega: float | None = None,
        first_bias_scale: float | None = None,
        scale_requires_grad: bool = False,
    ) -> None:
        super().__init__(omega=omega, first_omega=first_omega)
        self.first_bias_scale = (
            None if first_bias_scale is None else expect_float("first_bias_scale", first_bias_scale, 0)
        )
        self.scale_requires_grad = expect_bool("scale_requires_grad", scale_requires_grad)
        self.smoothness = 1 if self.scale_requires_grad else 0  # |z| z has one continuous derivative

    def forward(self, z: Tensor, is_first: bool = False) -> Tensor:
        scale = (z if self.scale_requires_grad else z.detach()).abs() + 1
        return torch.sin(self.factor(is_first) * scale * z)

    def derivative(self, z: Tensor, is_first: bool = False) -> Tensor:
        """As autograd takes it: with the factor |z| + 1 held constant unless `scale_requires_grad`."""
        omega, scale = self.factor(is_first), z.abs() + 1
        slope = 2 * scale - 1 if self.scale_requires_grad else scale
        return omega * slope * torch.cos(omega * scale * z)

    def init_first(self, weight: Tensor, bias: Tensor | None, generator: torch.Generator | None = None) -> None:
        draw_siren_first(weight, bias, generator)
        if self.first_bias_scale is not None:
            draw_uniform(bias, self.first_bias_scale, generator)

    def init_hidden(self, weight: Tensor, bias: Tensor | None, generator: torch.Generator | None = None) -> None:
        draw_siren_hidden(weight, bias, self.omega, generator)
