"""Losses that large differences do not dominate (instant-ngp).

    {"otype": "Huber", "delta": 0.1}    {"otype": "LogL1"}

SmoothL1 is instant-ngp's old name of Huber.
"""

from __future__ import annotations

from torch import Tensor

from fieldforge.apps.fit.losses.base import Loss
from fieldforge.checks import expect_float
from fieldforge.registry import register


@register("loss", "Huber")
@register("loss", "SmoothL1")
class Huber(Loss):
    """d² for a difference d up to `delta`, beyond it the straight line that goes on from there: 2 delta |d| - delta².

    It agrees with L2 near zero, so that its values can be read as errors; instant-ngp's delta is 0.1.

    Args:
        delta: where the parabola ends, in the units of the target.

    Example:
        >>> Huber(delta=1.0).per_sample(torch.tensor([[0.5], [3.0]]), torch.zeros(2, 1))
        tensor([0.2500, 5.0000])
    """

    otype = "Huber"

    def __init__(self, *, delta: float = 0.1) -> None:
        self.delta = expect_float("delta", delta, 0.0, open_low=True)

    def per_channel(self, prediction: Tensor, target: Tensor) -> Tensor:
        difference = (prediction - target).abs()
        inside = difference.clamp(max=self.delta)
        return inside * (2 * difference - inside)


@register("loss", "LogL1")
class LogL1(Loss):
    """log(1 + |p - t|)."""

    otype = "LogL1"

    def per_channel(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).abs().log1p()
