"""Mean of the weights over the last steps, for inference (tiny-cuda-nn).

{"otype": "Average", "n_samples": 128, "nested": {"otype": "Adam"}}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fieldforge.apps.fit.optimizers.base import Parameters, Wrapper, numbered
from fieldforge.checks import expect_int
from fieldforge.registry import register

MOST_NUMBERS = 2**31
"""The most weights that the window may hold, all samples together: 8 GiB of float32."""


@register("optimizer", "Average")
class Average(Wrapper):
    """Train with `nested`, infer with the mean of the weights after each of the last `n_samples` steps.

    It does not feed back into training. Fewer steps than `n_samples` are divided by their own number; tiny-cuda-nn
    divides by `n_samples` from the start, so that its first averages are too small. It keeps `n_samples` copies of
    the weights; EMA keeps one.

    Args:
        parameters: what to optimize.
        n_samples: length of the window.
        nested: the optimizer that trains.
    """

    otype = "Average"

    def __init__(
        self, parameters: Parameters, *, n_samples: int = 128, nested: Mapping[str, Any] | str = "Adam"
    ) -> None:
        super().__init__(parameters, nested)
        n_weights = max(1, sum(parameter.numel() for parameter in parameters))
        self.n_samples = expect_int("n_samples", n_samples, 1, max(1, MOST_NUMBERS // n_weights))
        self._window = [torch.zeros_like(w.data).expand(n_samples, *w.shape).clone() for w in parameters]
        self._sum = [torch.zeros_like(w.data) for w in parameters]

    def update(self) -> None:
        self.nested.step()
        slot = self.n_steps_done % self.n_samples
        for weight, window, total in zip(self.parameters, self._window, self._sum, strict=True):
            total.add_(weight - window[slot])
            window[slot] = weight

    def averaged(self) -> list[Tensor]:
        if self.n_steps_done == 0:
            return list(self.parameters)
        return [total / min(self.n_steps_done, self.n_samples) for total in self._sum]

    def own_state(self) -> dict[str, Tensor]:
        return numbered("window", self._window) | numbered("sum", self._sum)
