"""Exponential moving average of the weights, for inference (tiny-cuda-nn).

{"otype": "EMA", "decay": 0.99, "nested": {"otype": "Adam"}}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fieldforge.apps.fit.optimizers.base import BELOW_ONE, Parameters, Wrapper, numbered, zeros_like_each
from fieldforge.checks import expect_bool, expect_float
from fieldforge.kernels.cpu_training import Moved, Rule
from fieldforge.registry import register


@register("optimizer", "EMA")
class EMA(Wrapper):
    """Train with `nested`, infer with the fading mean of the weights after each step.

    After t steps weight w_s counts ``decay^(t - s)``, divided by the sum of these: the mean is free of bias from the
    first step on. It does not feed back into training. Around Lookahead, Average or EMA it averages their averages.

    Args:
        parameters: what to optimize.
        decay: what one step leaves of the weight of older ones.
        full_precision: tiny-cuda-nn's choice between float and half for the average; here it has the
            parameters' own type in either case.
        nested: the optimizer that trains.
    """

    otype = "EMA"

    def __init__(
        self,
        parameters: Parameters,
        *,
        decay: float = 0.99,
        full_precision: bool = False,
        nested: Mapping[str, Any] | str = "Adam",
    ) -> None:
        super().__init__(parameters, nested)
        self.decay = expect_float("decay", decay, 0.0, BELOW_ONE)
        self.full_precision = expect_bool("full_precision", full_precision)
        self._average = zeros_like_each(parameters)

    def update(self) -> None:
        self.nested.step()
        newest = self._newest()
        for average, weight in zip(self._average, self.nested.averaged(), strict=True):
            average.lerp_(weight, newest)

    def _newest(self) -> float:
        # tiny-cuda-nn takes the bias out of the old mean and puts it into the new one; the two factors
        # and the decay add up to one with what the new weight gets, so it is one interpolation.
        return (1.0 - self.decay) / (1.0 - self.decay ** (self.n_steps_done + 1))

    def moved(self) -> list[Moved] | str:
        nested = self.nested.moved()
        if type(self) is not EMA or isinstance(nested, str):
            return nested if isinstance(nested, str) else super().moved()
        if any(beside.average is not None for beside in nested):
            return "an EMA of averages has a step in PyTorch only"
        return [beside._replace(average=one) for beside, one in zip(nested, self._average, strict=True)]

    def rules(self) -> list[Rule]:
        newest = self._newest()
        return [rule._replace(newest=newest) for rule in self.nested.rules()]

    def averaged(self) -> list[Tensor]:
        return self._average if self.n_steps_done else self.nested.averaged()

    def own_state(self) -> dict[str, Tensor]:
        return numbered("average", self._average)
