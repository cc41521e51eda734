"""Losses around a loss of distances: one that adds the eikonal equation, one that looks at every level of a grid.

{"otype": "Eikonal", "loss": {"otype": "MAPE"}, "weight": 0.1, "slope": "taps4"}
{"otype": "MultiLevel", "loss": {"otype": "L2"}}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fieldforge.apps.fit.losses.base import Loss
from fieldforge.apps.fit.losses.shape_base import DistanceSamples, ShapeLoss, SlopeLoss, length
from fieldforge.checks import expect_float
from fieldforge.fields.fused import read
from fieldforge.fields.kinds.base import Field
from fieldforge.registry import build, register


@register("loss", "Eikonal")
class Eikonal(SlopeLoss):
    """A loss of distances plus weight · (|∇f| - 1)²: distances have slope 1 (Gropp et al. 2020).

    Args:
        loss: of the distance at each sample.
        weight: of the slope's error.
        share: of the samples whose slope is looked at; it stands for all, so the mean is that of the whole.
        slope, step: how the gradient is taken, see `SlopeLoss`.
    """

    otype = "Eikonal"
    reads = "distance"

    def __init__(
        self,
        *,
        loss: Mapping[str, Any] | str = "MAPE",
        weight: float = 0.1,
        share: float = 0.25,
        slope: str = "taps4",
        step: float | None = None,
    ) -> None:
        super().__init__(slope=slope, step=step)
        self.loss = _distance_loss(self.otype, loss)
        self.weight = expect_float("weight", weight, 0.0)
        self.share = expect_float("share", share, 0.0, 1.0, open_low=True)

    def per_sample(self, field: Field, samples: DistanceSamples) -> Tensor:
        of_distance = self.loss.per_sample(field.outputs(samples.points), samples.distance)
        n = len(samples.points)
        n_seen = max(1, round(self.share * n))
        _, slope = self.value_and_slope(field, samples.points[:n_seen])
        of_slope = self.weight * (n / n_seen) * (length(slope) - 1) ** 2
        return of_distance + torch.cat([of_slope, of_slope.new_zeros(n - n_seen)])


@register("loss", "MultiLevel")
class MultiLevel(ShapeLoss):
    """The sum of a loss over the levels of detail: the field cut off after its first, second, ... last level.

    NGLOD's (Takikawa et al. 2021, section 3.3): every level is supervised with the same distances, so that each one is
    a shape of its own. Theirs sums features and has a network for each level; here one network reads the features of
    the levels side by side, and those beyond a level are 0 (`level_outputs`).

    Args:
        loss: of the distance at each sample and level; the paper's is L2, summed over the batch.
    """

    otype = "MultiLevel"
    reads = "distance"

    def __init__(self, *, loss: Mapping[str, Any] | str = "L2") -> None:
        self.loss = _distance_loss(self.otype, loss)

    def refuses(self, field: Field) -> str:
        if field.encoding.channel_order() is not None:
            return ""
        return f"the loss {self.otype} needs an encoding with levels, and {field.encoding.otype} has none"

    def per_sample(self, field: Field, samples: DistanceSamples) -> Tensor:
        outputs = level_outputs(field, samples.points)
        return torch.stack([self.loss.per_sample(one, samples.distance) for one in outputs]).sum(0)


def level_outputs(field: Field, unit: Tensor) -> list[Tensor]:
    """What the network says after each level: (n, c) each, coarse to fine; the last is `field.outputs(unit)`.

    Raises:
        ValueError: the encoding has no levels.

    Example:
        >>> from fieldforge.fields.kinds.shape import SDFField
        >>> field = SDFField(encoding={"otype": "HashGrid", "n_levels": 3}, network={"otype": "MLP", "n_neurons": 16})
        >>> len(level_outputs(field, torch.rand(5, 3)))
        3
    """
    order = field.encoding.channel_order()
    if order is None:
        raise ValueError(f"encoding: {field.encoding.otype} has no levels")
    features = field.encoding(unit)
    order = order.to(features.device)
    return [read(field.network, features * (order <= level), unit) for level in torch.unique(order)]


def _distance_loss(owner: str, config: Mapping[str, Any] | str) -> Loss:
    made = build("loss", config, path="loss")
    if not isinstance(made, Loss):
        raise ValueError(f"loss: {owner} goes around a loss of single answers, such as MAPE or L1, not {made.otype}")
    return made
