"""Training in half precision, guarded: a loss scale that finds its size, and no step from gradients that overflowed.

float16 ends at 65504 and loses what is below 6e-8, so gradients are computed of the loss times a scale and divided
afterwards (Micikevicius et al. 2018). A gradient that is not finite is not used, and halves the scale; many good steps
double it. A loss that is not finite itself is the business of the loop, which goes back to the last good state
(`fieldforge.apps.fit.loop.train`), and the scale is halved too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fieldforge.apps.fit.loop import PlainStep, allowed
from fieldforge.apps.fit.optimizers.base import Optimizer
from fieldforge.checks import expect_choice, expect_float, expect_int

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


class LossScale:
    """The factor on the loss; a power of two stays one, so that dividing by it loses nothing.

    Args:
        scale: at first; tiny-cuda-nn's is 128 for ever.
        patience: good steps after which it is doubled.
        least, most: it stays between these.

    Attributes:
        scale: at present.
        n_skipped: steps that were not made.

    Example:
        >>> scale = LossScale(128.0)
        >>> w = torch.nn.Parameter(torch.ones(1))
        >>> scale.backward(w.sum())
        >>> scale.take_off([w]), w.grad
        (True, tensor([1.]))
    """

    def __init__(
        self, scale: float = 1024.0, *, patience: int = 1000, least: float = 2.0**-14, most: float = 2.0**24
    ) -> None:
        self.least = expect_float("least", least, 0.0, open_low=True)
        self.most = expect_float("most", most, self.least)
        self.scale = expect_float("scale", scale, self.least, self.most)
        self.patience = expect_int("patience", patience, 1)
        self.n_good = self.n_skipped = 0

    def backward(self, loss: Tensor) -> None:
        """Gradients of the scaled loss."""
        (loss.float() * self.scale).backward()

    def take_off(self, parameters: list[torch.nn.Parameter]) -> bool:
        """Divide the gradients by the scale, in place; whether all of them are finite.

        Where they are not, they are forgotten and the scale is halved. Waits for the device once.
        """
        grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if grads and not bool(torch.stack([grad.isfinite().all() for grad in grads]).all()):
            for parameter in parameters:
                parameter.grad = None
            self.halve()
            return False
        for grad in grads:
            grad.mul_(1.0 / self.scale)
        self.n_good += 1
        if self.n_good == self.patience:
            self.scale, self.n_good = min(2.0 * self.scale, self.most), 0
        return True

    def halve(self) -> None:
        """A step was not made."""
        self.scale, self.n_good = max(0.5 * self.scale, self.least), 0
        self.n_skipped += 1

    def state(self) -> dict[str, float]:
        """What `load` takes, to go on as if nothing had happened."""
        return {"scale": self.scale, "n_good": self.n_good, "n_skipped": self.n_skipped}

    def load(self, state: dict[str, float]) -> None:
        """Go on from `state`.

        Raises:
            KeyError, ValueError: a number is missing or out of range; nothing was changed then.
        """
        scale = expect_float("scale", state["scale"], self.least, self.most)
        counts = [expect_int(name, int(state[name]), 0) for name in ("n_good", "n_skipped")]
        self.scale, (self.n_good, self.n_skipped) = scale, counts


@dataclass
class HalfStep(PlainStep):
    """`PlainStep` with networks in half precision (`torch.autocast`); parameters and moments stay float32.

    Args:
        dtype: "float16", or "bfloat16", which has float32's range and whose scale stays at 1.
        scale: of the loss.
    """

    dtype: str = "float16"
    scale: LossScale | None = None

    def __post_init__(self) -> None:
        expect_choice("dtype", self.dtype, tuple(DTYPES))
        if self.scale is None:
            self.scale = LossScale() if self.dtype == "float16" else LossScale(1.0, most=1.0)

    def __call__(self, step: int, factor: float) -> tuple[float, float]:
        assert self.scale is not None
        optimizer: Optimizer = self.optimizer
        points, target = self.draw(step)
        optimizer.zero_grad()
        with torch.autocast(points.device.type, DTYPES[self.dtype]):
            prediction = self.query(points)
        prediction = prediction.float()
        per_sample = self.loss.per_sample(prediction, target)
        loss = per_sample.mean()
        value = float(loss.detach())
        if not math.isfinite(value):
            self.scale.halve()
            return value, value
        self.scale.backward(loss)
        if self.scale.take_off(list(optimizer.parameters)) and allowed(self.hooks, step, per_sample.detach()):
            optimizer.set_learning_rate_factor(factor)
            optimizer.step()
        return value, float(torch.mean((prediction.detach() - target) ** 2))
