"""Absolute differences, plain and relative (tiny-cuda-nn).

    {"otype": "L1"}    {"otype": "RelativeL1"}    {"otype": "MAPE"}    {"otype": "SMAPE"}
    {"otype": "ClampedL1", "delta": 0.1}

The relative ones add 0.01 to what they divide by. instant-ngp's own loss of the name MAPE for scenes divides by the
prediction, as RelativeL1 does here.
"""

from __future__ import annotations

from torch import Tensor

from fieldforge.apps.fit.losses.base import Loss
from fieldforge.checks import expect_float
from fieldforge.registry import register


@register("loss", "L1")
class L1(Loss):
    """|p - t|.

    Example:
        >>> float(L1()(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 0.0]])))
        1.5
    """

    otype = "L1"

    def per_channel(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).abs()


@register("loss", "ClampedL1")
class ClampedL1(Loss):
    """|clamp(p, ±delta) - clamp(t, ±delta)|: farther than delta only the sign counts (DeepSDF; Park et al. 2019).

    Args:
        delta: in the units of the target. The paper's 0.1 is of shapes of radius 1; in a shape fit, whose lengths are
            sides of the cube, that is about 0.05.

    Example:
        >>> float(ClampedL1(delta=0.5)(torch.tensor([[2.0]]), torch.tensor([[0.25]])))
        0.25
    """

    otype = "ClampedL1"

    def __init__(self, *, delta: float = 0.1) -> None:
        self.delta = expect_float("delta", delta, 0.0, open_low=True)

    def per_channel(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction.clamp(-self.delta, self.delta) - target.clamp(-self.delta, self.delta)).abs()


@register("loss", "RelativeL1")
class RelativeL1(Loss):
    """|p - t| / (|p| + 0.01); the divisor is a constant to the gradient."""

    otype = "RelativeL1"

    def per_channel(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).abs() / (prediction.detach().abs() + 1e-2)


@register("loss", "MAPE")
class MAPE(Loss):
    """|p - t| / (|t| + 0.01), the mean absolute percentage error (as a fraction)."""

    otype = "MAPE"

    def per_channel(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).abs() / (target.abs() + 1e-2)


@register("loss", "SMAPE")
class SMAPE(Loss):
    """|p - t| / ((|p| + |t|) / 2 + 0.01), symmetric MAPE; the divisor is a constant to the gradient."""

    otype = "SMAPE"

    def per_channel(self, prediction: Tensor, target: Tensor) -> Tensor:
        size = 0.5 * (prediction.detach().abs() + target.abs())
        return (prediction - target).abs() / (size + 1e-2)
