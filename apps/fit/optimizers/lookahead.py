"""Lookahead (Zhang et al. 2019): slow weights that follow the fast ones.

{"otype": "Lookahead", "alpha": 0.5, "n_steps": 16, "nested": {"otype": "Adam"}}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fieldforge.apps.fit.optimizers.base import Parameters, Wrapper, numbered, zeros_like_each
from fieldforge.checks import expect_float, expect_int
from fieldforge.registry import register


@register("optimizer", "Lookahead")
class Lookahead(Wrapper):
    """Every `n_steps` steps of `nested`, go back a part of the way; infer with where that led.

    As in tiny-cuda-nn the way back is taken just before the next step, and the slow weights begin as the weights
    before the first one.

    Args:
        parameters: what to optimize.
        alpha: the part of the way from the slow weights to the fast ones that is kept.
        n_steps: steps of `nested` for each step of the slow weights.
        nested: the optimizer of the fast weights.
    """

    otype = "Lookahead"

    def __init__(
        self,
        parameters: Parameters,
        *,
        alpha: float = 0.5,
        n_steps: int = 16,
        nested: Mapping[str, Any] | str = "Adam",
    ) -> None:
        super().__init__(parameters, nested)
        self.alpha = expect_float("alpha", alpha, 0.0, 1.0)
        self.n_steps = expect_int("n_steps", n_steps, 1, 2**20)
        self._slow = zeros_like_each(parameters)

    def update(self) -> None:
        for weight, slow in zip(self.parameters, self._slow, strict=True):
            if self.n_steps_done == 0:
                slow.copy_(weight)
            elif self.n_steps_done % self.n_steps == 0:
                slow.mul_(1.0 - self.alpha).add_(weight, alpha=self.alpha)
                weight.copy_(slow)
        self.nested.step()

    def averaged(self) -> list[Tensor]:
        return self._slow if self.n_steps_done else list(self.parameters)

    def own_state(self) -> dict[str, Tensor]:
        return numbered("slow", self._slow)
