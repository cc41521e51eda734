"""Novograd (Ginsburg et al. 2019): Adam with one second moment for a whole layer.

    {"otype": "Novograd", "learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}

tiny-cuda-nn moves only the matrices of networks with it and leaves tables at their first values; here every
parameter is a layer, as in the paper.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fieldforge.apps.fit.optimizers.base import (
    BELOW_ONE,
    LARGEST,
    Optimizer,
    Parameters,
    decayed,
    numbered,
    squared_norm,
    zeros_like_each,
)
from fieldforge.checks import expect_float
from fieldforge.registry import register


@register("optimizer", "Novograd")
class Novograd(Optimizer):
    """Step by the running mean of gradients that were divided by the root of their layer's mean squared norm.

    With g the gradient of a layer; the first step takes both betas as 0::

        v = beta2 v + (1 - beta2) |g|²
        m = beta1 m + (1 - beta1) g / (sqrt(v) + epsilon)
        w <- w - learning_rate * m

    Args:
        parameters: what to optimize; each tensor is one layer.
        learning_rate: step length.
        beta1: fading of the mean gradient.
        beta2: fading of the mean squared norm.
        epsilon: added to sqrt(v).
        relative_decay: part of a weight lost per unit of learning rate.
        absolute_decay: amount of a weight lost per unit of learning rate.
    """

    otype = "Novograd"

    def __init__(
        self,
        parameters: Parameters,
        *,
        learning_rate: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        relative_decay: float = 0.0,
        absolute_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters)
        self.learning_rate = expect_float("learning_rate", learning_rate, 0.0, LARGEST)
        self.beta1 = expect_float("beta1", beta1, 0.0, BELOW_ONE)
        self.beta2 = expect_float("beta2", beta2, 0.0, BELOW_ONE)
        self.epsilon = expect_float("epsilon", epsilon, 0.0, LARGEST, open_low=True)
        self.relative_decay = expect_float("relative_decay", relative_decay, 0.0, LARGEST)
        self.absolute_decay = expect_float("absolute_decay", absolute_decay, 0.0, LARGEST)
        self._first = zeros_like_each(parameters)
        self._second = [torch.zeros_like(parameter.data[:0].sum()) for parameter in parameters]

    def update(self) -> None:
        beta1, beta2 = (0.0, 0.0) if self.n_steps_done == 0 else (self.beta1, self.beta2)
        rate = self.learning_rate * self.learning_rate_factor
        for weight, first, second in zip(self.parameters, self._first, self._second, strict=True):
            if weight.grad is None:
                continue
            second.mul_(beta2).add_((1.0 - beta2) * squared_norm(weight.grad))
            first.mul_(beta1).add_((1.0 - beta1) * weight.grad / (second.sqrt() + self.epsilon))
            weight.copy_(decayed(weight, rate, self.relative_decay, self.absolute_decay) - rate * first)

    def averaged(self) -> list[Tensor]:
        return list(self.parameters)

    def own_state(self) -> dict[str, Tensor]:
        return numbered("first_moment", self._first) | numbered("second_moment", self._second)
