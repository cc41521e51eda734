"""Several batches' gradients averaged into one step (tiny-cuda-nn).

{"otype": "Batched", "batch_size_multiplier": 16, "nested": {"otype": "Adam"}}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fieldforge.apps.fit.optimizers.base import Parameters, Wrapper, numbered, zeros_like_each
from fieldforge.checks import expect_int
from fieldforge.registry import register


@register("optimizer", "Batched")
class Batched(Wrapper):
    """Step `nested` once in `batch_size_multiplier` calls, by the mean of their gradients.

    A parameter that had no gradient in a call counts as zero.

    Args:
        parameters: what to optimize.
        batch_size_multiplier: how many gradients make one step.
        nested: the optimizer that steps.
    """

    otype = "Batched"

    def __init__(
        self, parameters: Parameters, *, batch_size_multiplier: int = 16, nested: Mapping[str, Any] | str = "Adam"
    ) -> None:
        super().__init__(parameters, nested)
        self.batch_size_multiplier = expect_int("batch_size_multiplier", batch_size_multiplier, 1, 2**20)
        self._mean_gradient = zeros_like_each(parameters)

    def update(self) -> None:
        for weight, mean in zip(self.parameters, self._mean_gradient, strict=True):
            if self.n_steps_done % self.batch_size_multiplier == 0:
                mean.zero_()
            if weight.grad is not None:
                mean += weight.grad / self.batch_size_multiplier
        if (self.n_steps_done + 1) % self.batch_size_multiplier == 0:
            latest = [weight.grad for weight in self.parameters]
            for weight, mean in zip(self.parameters, self._mean_gradient, strict=True):
                weight.grad = mean
            try:
                self.nested.step()
            finally:
                for weight, gradient in zip(self.parameters, latest, strict=True):
                    weight.grad = gradient

    def averaged(self) -> list[Tensor]:
        return self.nested.averaged()

    def own_state(self) -> dict[str, Tensor]:
        return numbered("mean_gradient", self._mean_gradient)
