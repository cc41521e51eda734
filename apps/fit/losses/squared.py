"""Squared differences, plain and relative (tiny-cuda-nn; Lehtinen et al. 2018; Müller et al. 2021).

{"otype": "L2"}    {"otype": "RelativeL2"}    {"otype": "RelativeL2Luminance"}
"""

from __future__ import annotations

from torch import Tensor

from fieldforge.apps.fit.losses.base import Loss
from fieldforge.registry import register


@register("loss", "L2")
class L2(Loss):
    """(p - t)².

    Example:
        >>> float(L2()(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 0.0]])))
        2.5
    """

    otype = "L2"

    def per_channel(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target) ** 2


@register("loss", "RelativeL2")
class RelativeL2(Loss):
    """(p - t)² / (p² + 0.01), for targets of high dynamic range; the divisor is a constant to the gradient."""

    otype = "RelativeL2"

    def per_channel(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target) ** 2 / (prediction.detach() ** 2 + 1e-2)


@register("loss", "RelativeL2Luminance")
class RelativeL2Luminance(Loss):
    """(p - t)² / (Y² + 0.01) with Y the luminance of the prediction; the divisor is a constant to the gradient.

    Y = 0.299 R + 0.587 G + 0.114 B of the first three channels; from six channels on, of the sum of the first two
    triples (direct and reflected light).

    Raises:
        ValueError: the prediction has fewer than three channels.
    """

    otype = "RelativeL2Luminance"

    def per_channel(self, prediction: Tensor, target: Tensor) -> Tensor:
        n_channels = prediction.shape[-1]
        if n_channels < 3:
            raise ValueError(f"prediction: RelativeL2Luminance needs red, green and blue, got {n_channels} channels")
        color = prediction.detach()
        rgb = color[:, :3] + color[:, 3:6] if n_channels >= 6 else color[:, :3]
        luminance = 0.299 * rgb[:, :1] + 0.587 * rgb[:, 1:2] + 0.114 * rgb[:, 2:3]
        return (prediction - target) ** 2 / (luminance**2 + 1e-2)
