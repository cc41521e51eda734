"""Plain gradient descent with L2 regularization (tiny-cuda-nn).

{"otype": "SGD", "learning_rate": 1e-3, "l2_reg": 1e-8}
"""

from __future__ import annotations

from torch import Tensor

from fieldforge.apps.fit.optimizers.base import LARGEST, OWN_PACE, Optimizer, Parameters
from fieldforge.checks import expect_float
from fieldforge.kernels.cpu_training import Moved, Mover, Rule
from fieldforge.registry import register


@register("optimizer", "SGD")
class SGD(Optimizer):
    """w <- w - learning_rate * (g + l2_reg * w).

    Args:
        parameters: what to optimize; both groups alike.
        learning_rate: step length.
        l2_reg: strength of the pull toward zero, added to the gradient.

    Example:
        >>> w = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> w.grad = torch.tensor([1.0, -1.0])
        >>> SGD(Parameters(other=[w]), learning_rate=0.5, l2_reg=0.0).step()
        >>> w.tolist()
        [0.5, 2.5]
    """

    otype = "SGD"

    def __init__(self, parameters: Parameters, *, learning_rate: float = 1e-3, l2_reg: float = 1e-8) -> None:
        super().__init__(parameters)
        self.learning_rate = expect_float("learning_rate", learning_rate, 0.0, LARGEST)
        self.l2_reg = expect_float("l2_reg", l2_reg, 0.0, LARGEST)

    def update(self) -> None:
        rate = self.learning_rate * self.learning_rate_factor
        for weight in self.parameters:
            if weight.grad is not None:
                weight.sub_(rate * (weight.grad + self.l2_reg * weight))

    def moved(self) -> list[Moved] | str:
        if type(self) is not SGD:
            return super().moved()
        return OWN_PACE if self.parameters.factors else [Moved() for _ in self.parameters]

    def rules(self) -> list[Rule]:
        rule = Rule(Mover.SGD, rate=self.learning_rate * self.learning_rate_factor, l2=self.l2_reg)
        return [rule] * len(self.parameters)

    def averaged(self) -> list[Tensor]:
        return list(self.parameters)

    def own_state(self) -> dict[str, Tensor]:
        return {}
