"""Who runs the tasks of a collection.

An executor is given tasks one by one and hands back what came of each, in any order. It may lose a worker and run its
task again: a task's outcome depends on the task alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from fieldforge.apps.fit.collection.work import Outcome, Task, fit_task
from fieldforge.checks import expect_choice


class Executor(Protocol):
    """Runs tasks."""

    def run(
        self, tasks: Iterable[Task], observe: Callable[[list[float]], None], should_stop: Callable[[], bool]
    ) -> Iterator[Outcome]:
        """What came of the tasks, as they are finished.

        Args:
            tasks: made when they are asked for, so that not all items are in memory; ask for few ahead.
            observe: told the qualities of some fields as soon as they are known.
            should_stop: once it says so, no outcome follows that is not finished.
        """


class Local:
    """One after another, here; the native kernels use all cores."""

    def run(
        self, tasks: Iterable[Task], observe: Callable[[list[float]], None], should_stop: Callable[[], bool]
    ) -> Iterator[Outcome]:
        for task in tasks:
            outcome = None if should_stop() else fit_task(task, observe, should_stop)
            if outcome is None:
                return
            yield outcome


EXECUTORS = ("local", "ray")


def executor_of(name: str, workers: int | None = None, address: str | None = None) -> Executor:
    """The executor of a name.

    Args:
        name: one of `EXECUTORS`.
        workers, address: see `OnRay`; only Ray has them.

    Raises:
        ValueError: no such name; workers or an address without Ray; Ray is not installed.
    """
    if expect_choice("executor", name, EXECUTORS) == "ray":
        from fieldforge.apps.fit.collection.ray_executor import OnRay

        return OnRay(workers, address)
    for option, value in (("workers", workers), ("address", address)):
        if value is not None:
            raise ValueError(f"{option}: is for the executor 'ray', not 'local'")
    return Local()
