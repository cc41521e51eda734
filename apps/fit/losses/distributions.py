"""Losses of predictions that are probability densities (tiny-cuda-nn; Neural Importance Sampling, Müller et al. 2019).

    {"otype": "CrossEntropy"}    {"otype": "Variance"}

Predictions have to be positive. The weight of a sample is 1 / (density it was drawn from).
"""

from __future__ import annotations

from torch import Tensor

from fieldforge.apps.fit.losses.base import Loss
from fieldforge.registry import register


@register("loss", "CrossEntropy")
class CrossEntropy(Loss):
    """-t log p; least where p is proportional to t."""

    otype = "CrossEntropy"

    def per_channel(self, prediction: Tensor, target: Tensor) -> Tensor:
        return -target * prediction.log()


@register("loss", "Variance")
class Variance(Loss):
    """t² / p - t², the variance of estimating the integral of t by samples drawn from p.

    tiny-cuda-nn multiplies the second term, which has no gradient, by the weight twice.
    """

    otype = "Variance"

    def per_channel(self, prediction: Tensor, target: Tensor) -> Tensor:
        return target**2 / prediction - target**2
