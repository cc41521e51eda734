"""Learning rate that drops by a factor every so many steps (tiny-cuda-nn).

{"otype": "ExponentialDecay", "decay_base": 0.33, "decay_start": 20000, "decay_interval": 10000,
 "nested": {"otype": "Adam", "learning_rate": 1e-2}}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fieldforge.apps.fit.optimizers.base import LARGEST, MOST_STEPS, Parameters, Wrapper
from fieldforge.checks import expect_float, expect_int
from fieldforge.kernels.cpu_training import Moved, Rule
from fieldforge.registry import register


@register("optimizer", "ExponentialDecay")
class ExponentialDecay(Wrapper):
    """Multiply the learning rate of `nested` by `decay_base` at step `decay_start` and every `decay_interval` after.

    Args:
        parameters: what to optimize.
        decay_base: the factor of one drop.
        decay_start: the step of the first drop; the first step of all is 0.
        decay_end: no drops after this step.
        decay_interval: steps from one drop to the next.
        nested: the optimizer that steps.
    """

    otype = "ExponentialDecay"

    def __init__(
        self,
        parameters: Parameters,
        *,
        decay_base: float = 0.1,
        decay_start: int = 10_000,
        decay_end: int = 10_000_000,
        decay_interval: int = 10_000,
        nested: Mapping[str, Any] | str = "Adam",
    ) -> None:
        super().__init__(parameters, nested)
        self.decay_base = expect_float("decay_base", decay_base, 0.0, LARGEST)
        self.decay_start = expect_int("decay_start", decay_start, 0, MOST_STEPS)
        self.decay_end = expect_int("decay_end", decay_end, 0, MOST_STEPS)
        self.decay_interval = expect_int("decay_interval", decay_interval, 1, MOST_STEPS)

    def decay(self, step: int) -> float:
        """The product of all drops up to and including `step`; a base above 1 stops growing at 3e38."""
        last = min(step, self.decay_end)
        n_drops = (last - self.decay_start) // self.decay_interval + 1 if last >= self.decay_start else 0
        try:
            return min(self.decay_base**n_drops, LARGEST)
        except OverflowError:
            return LARGEST

    def update(self) -> None:
        self._pass_factor_on()
        self.nested.step()

    def _pass_factor_on(self) -> None:
        factor = self.learning_rate_factor * self.decay(self.n_steps_done)
        self.nested.set_learning_rate_factor(min(factor, LARGEST))

    def moved(self) -> list[Moved] | str:
        return self.nested.moved() if type(self) is ExponentialDecay else super().moved()

    def rules(self) -> list[Rule]:
        self._pass_factor_on()
        return self.nested.rules()

    def averaged(self) -> list[Tensor]:
        return self.nested.averaged()

    def own_state(self) -> dict[str, Tensor]:
        return {}
