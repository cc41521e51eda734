"""The square root of a square that is never 0: L1 with a round bottom.

{"otype": "Charbonnier", "epsilon": 0.001}
"""

from __future__ import annotations

from torch import Tensor

from fieldforge.apps.fit.losses.base import Loss
from fieldforge.checks import expect_float
from fieldforge.registry import register


@register("loss", "Charbonnier")
class Charbonnier(Loss):
    """sqrt(d² + epsilon²) - epsilon for a difference d (Charbonnier et al. 1994; Barron et al. 2022, mip-NeRF 360).

    The constant is ours: a perfect prediction costs nothing.

    Args:
        epsilon: where the bottom ends, in the units of the target; 0.001 for colours in mip-NeRF 360.

    Example:
        >>> float(Charbonnier(epsilon=3.0)(torch.tensor([[4.0]]), torch.tensor([[0.0]])))
        2.0
    """

    otype = "Charbonnier"

    def __init__(self, *, epsilon: float = 1e-3) -> None:
        self.epsilon = expect_float("epsilon", epsilon, 0.0, 1e3, open_low=True)

    def per_channel(self, prediction: Tensor, target: Tensor) -> Tensor:
        return ((prediction - target) ** 2 + self.epsilon**2).sqrt() - self.epsilon
