"""Losses of predictions that say inside or outside.

{"otype": "BinaryCrossEntropy"}
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from fieldforge.apps.fit.losses.base import Loss
from fieldforge.registry import register


@register("loss", "BinaryCrossEntropy")
class BinaryCrossEntropy(Loss):
    """-t log σ(p) - (1 - t) log(1 - σ(p)) for a prediction p that is a logit and a target t in [0, 1]."""

    otype = "BinaryCrossEntropy"

    def per_channel(self, prediction: Tensor, target: Tensor) -> Tensor:
        return binary_cross_entropy_with_logits(prediction, target, reduction="none")
