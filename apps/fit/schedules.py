"""Schedules: the factor on the learning rate at each step of a fit.

    {"otype": "Cosine", "final_factor": 0.01}
    {"otype": "Warmup", "n_warmup_steps": 100, "nested": {"otype": "Exponential", "final_factor": 0.1}}

A schedule is a pure function of the step and the length of the fit; a fit that is resumed needs nothing else. The
optimizers EMA, ExponentialDecay, ... of a configuration are apart from it, and their factors multiply.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from fieldforge.checks import expect_float, expect_int
from fieldforge.registry import build, config_of, register


class Schedule(ABC):
    """(step, n_steps) -> factor."""

    otype: ClassVar[str]

    @abstractmethod
    def factor(self, step: int, n_steps: int) -> float:
        """The factor at a step from 0 to `n_steps`."""

    def __call__(self, step: int, n_steps: int) -> float:
        """The factor on the learning rate.

        Args:
            step: steps done before this one; from `n_steps` on the factor stays what it is there.
            n_steps: how many steps the fit has.
        """
        return self.factor(min(expect_int("step", step, 0), expect_int("n_steps", n_steps, 1)), n_steps)

    def config(self) -> dict[str, Any]:
        """The configuration that rebuilds this schedule."""
        return config_of(self)


@register("schedule", "Constant")
class Constant(Schedule):
    """1 throughout."""

    otype = "Constant"

    def factor(self, step: int, n_steps: int) -> float:
        return 1.0


@register("schedule", "Cosine")
class Cosine(Schedule):
    """Half a cosine wave from 1 down to `final_factor` (Loshchilov & Hutter 2017, without restarts).

    Example:
        >>> [round(Cosine()(step, 4), 3) for step in (0, 2, 4)]
        [1.0, 0.5, 0.0]
    """

    otype = "Cosine"

    def __init__(self, *, final_factor: float = 0.0) -> None:
        self.final_factor = expect_float("final_factor", final_factor, 0.0, 1e6)

    def factor(self, step: int, n_steps: int) -> float:
        return self.final_factor + (1.0 - self.final_factor) * 0.5 * (1.0 + math.cos(math.pi * step / n_steps))


@register("schedule", "Exponential")
class Exponential(Schedule):
    """From 1 to `final_factor` by the same ratio at each step.

    Example:
        >>> round(Exponential(final_factor=0.01)(50, 100), 3)
        0.1
    """

    otype = "Exponential"

    def __init__(self, *, final_factor: float = 0.1) -> None:
        self.final_factor = expect_float("final_factor", final_factor, 0.0, 1e6, open_low=True)

    def factor(self, step: int, n_steps: int) -> float:
        return self.final_factor ** (step / n_steps)


@register("schedule", "ConstantThenLinear")
class ConstantThenLinear(Schedule):
    """1 until `decay_start` of the way, then in a straight line to `final_factor`.

    The preset `balanced` ends 0.7 dB above a cosine with it on the astronaut (--set schedule.otype=Cosine).

    Args:
        decay_start: the part of the fit at 1.
        final_factor: where the line ends, at the end of the fit.

    Example:
        >>> [ConstantThenLinear(final_factor=0.0)(step, 100) for step in (0, 50, 75)]
        [1.0, 1.0, 0.5]
    """

    otype = "ConstantThenLinear"

    def __init__(self, *, decay_start: float = 0.5, final_factor: float = 0.01) -> None:
        self.decay_start = expect_float("decay_start", decay_start, 0.0, 0.999999)
        self.final_factor = expect_float("final_factor", final_factor, 0.0, 1e6)

    def factor(self, step: int, n_steps: int) -> float:
        decayed = max(0.0, step / n_steps - self.decay_start) / (1 - self.decay_start)
        return 1.0 + (self.final_factor - 1.0) * decayed


@register("schedule", "Warmup")
class Warmup(Schedule):
    """A straight line up to 1 during the first steps, then another schedule over the rest of the fit.

    Step s of the warm-up has the factor (s + 1) / n_warmup_steps: none is lost at 0.

    Args:
        n_warmup_steps: length of the line; a fit that is shorter never gets to `nested`.
        nested: the schedule that follows, stretched over the steps that are left.

    Example:
        >>> warmup = Warmup(n_warmup_steps=4, nested="Cosine")
        >>> [warmup(step, 104) for step in (0, 1, 3, 4, 54)]
        [0.25, 0.5, 1.0, 1.0, 0.5]
    """

    otype = "Warmup"

    def __init__(self, *, n_warmup_steps: int = 100, nested: Mapping[str, Any] | str = "Constant") -> None:
        self.n_warmup_steps = expect_int("n_warmup_steps", n_warmup_steps, 0, 2**32 - 1)
        self.nested: Schedule = build("schedule", nested, path="nested")

    def factor(self, step: int, n_steps: int) -> float:
        if step < self.n_warmup_steps:
            return (step + 1) / self.n_warmup_steps
        return self.nested(step - self.n_warmup_steps, max(1, n_steps - self.n_warmup_steps))


@register("schedule", "WarmupCosine")
class WarmupCosine(Schedule):
    """Warmup around Cosine, in one line of a run file."""

    otype = "WarmupCosine"

    def __init__(self, *, n_warmup_steps: int = 100, final_factor: float = 0.0) -> None:
        self.final_factor = expect_float("final_factor", final_factor, 0.0, 1e6)
        self._both = Warmup(n_warmup_steps=n_warmup_steps, nested=Cosine(final_factor=final_factor).config())
        self.n_warmup_steps = n_warmup_steps

    def factor(self, step: int, n_steps: int) -> float:
        return self._both.factor(step, n_steps)
