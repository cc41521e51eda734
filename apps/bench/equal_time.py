"""Fits of equal CPU seconds of one thread.

Learning-rate schedules go down to the end of a fit, so it cannot simply be cut off: a short trial says how many steps
there is time for. Wall time would count whoever else is on the machine.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from typing import Any, NamedTuple

from fieldforge.apps.fit.job import Fit, Job, Plan
from fieldforge.apps.fit.loop import Progress
from fieldforge.apps.fit.progress import Silent

N_TRIAL = 5
"""Steps of a trial, at least; the first one is not timed."""
TRIAL_SHARE = 0.05
"""Of the seconds of the fit, at least: tables and caches are cold at first."""


class Timed(NamedTuple):
    """A fit, the CPU seconds that its training took, and those of one step in the trial before it."""

    fit: Fit[Any]
    seconds: float
    pace: float


def fit_for(job: Job[Any], plan: Plan, seconds: float) -> Timed:
    """Fit for about so many CPU seconds of training; `plan.steps` and `plan.progress` are set here."""
    pace = pace_of(job, plan, TRIAL_SHARE * seconds)
    clock = _Clock()
    fit = job.run(dataclasses.replace(plan, steps=max(2, int(seconds / pace)), progress=clock))
    return Timed(fit, clock.last - clock.first, pace)


def pace_of(job: Job[Any], plan: Plan, at_least: float) -> float:
    """CPU seconds of a training step, the median over a trial of at least so many seconds."""
    config, _ = job.run_config(plan)
    spent: list[float] = []
    with job.training(job.make_field(config, plan.seed), config, plan.seed, ()) as training:
        training.advance(0, 1.0)
        while len(spent) < N_TRIAL or sum(spent) < at_least:
            start = time.process_time()
            training.advance(1 + len(spent), 1.0)
            spent.append(time.process_time() - start)
    return max(1e-6, statistics.median(spent))


class _Clock(Silent):
    """CPU time when training begins, and when it was last heard of."""

    first = last = 0.0

    def __call__(self, progress: Progress) -> None:
        now = time.process_time()
        if progress.message.startswith("training step"):
            self.first = now
        elif not progress.message:
            self.last = now
