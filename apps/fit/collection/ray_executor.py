"""Collections on a Ray cluster: on the cores of this machine, or on machines that others have joined.

    fit_collection("digits.npz", "fields/", executor=OnRay(workers=8))
    fit_collection("digits.npz", "fields/", executor=OnRay(address="10.0.0.1:6379"))

Tasks are cut in pieces of `N_AT_ONCE` fields, which is how `fit_task` cuts them too, so that the same bytes come out as
from `Local`; on machines with other processors the last bits may differ, as they may between two such machines. A
worker that is lost (killed, out of memory, its machine gone) costs the pieces it had, and others fit those.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import shutil
import signal
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import fieldforge
from fieldforge.apps.fit.collection.work import N_AT_ONCE, Outcome, Task, fit_task
from fieldforge.checks import expect_int

MAX_LOSSES = 5
"""How many workers a piece may cost before it is believed that the piece is to blame."""
MAX_STARTS = 3
POLL_SECONDS = 0.1
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_RECORD_ACTOR_TASK_LOGGING": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else a FutureWarning
    "RAY_LOG_TO_STDERR": "0",
}


class ClusterError(ValueError):
    """Ray is not there, cannot be reached, or loses every worker; the message says what would do."""


@dataclass(frozen=True)
class Report:
    """What a worker hands back: the fields, and who it is."""

    outcome: Outcome
    host: str
    pid: int


class OnRay:
    """Workers of a Ray cluster.

    A cluster that this starts is on this machine, and ends with the fit; one that was there, by its address or because
    the process has joined it before, goes on.

    Args:
        workers: how many pieces are fitted at the same time; None: as many as there are cores.
        address: of a running cluster, "host:port" or "auto"; None starts one here.
        threads: of each worker.

    Attributes:
        pids: process numbers of the workers that have handed something back, each once, in that order.
        n_lost: pieces that were lost with their worker and fitted again.

    Raises:
        ClusterError: Ray is not installed.
    """

    def __init__(self, workers: int | None = None, address: str | None = None, threads: int = 1) -> None:
        self.workers = None if workers is None else expect_int("workers", workers, 1, 100_000)
        self.address, self.threads = address, expect_int("threads", threads, 1, 1024)
        self.pids: list[int] = []
        self.n_lost = 0
        _ray()

    def run(
        self, tasks: Iterable[Task], observe: Callable[[list[float]], None], should_stop: Callable[[], bool]
    ) -> Iterator[Outcome]:
        """See `Executor`.

        Raises:
            ClusterError: no cluster answers, or a piece loses its worker again and again.
        """
        todo = iter(tasks)
        first = None if should_stop() else next(todo, None)
        if first is None:
            return  # no cluster is started for nothing
        with self._cluster() as ray:
            yield from _Work(self, ray, _chain(first, todo), observe, should_stop).outcomes()

    @contextlib.contextmanager
    def _cluster(self) -> Iterator[Any]:
        ray = _ray()
        if ray.is_initialized():
            yield ray
            return
        folder = None if self.address else tempfile.mkdtemp(prefix="fieldforge-ray-", dir=_short_folder())
        try:
            self._start(ray, folder)
            try:
                yield ray
            finally:
                _shut_down(ray)
        finally:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)

    def _start(self, ray: Any, folder: str | None) -> None:
        os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
        quiet = {"logging_level": "critical", "log_to_driver": False}
        for attempt in range(1, MAX_STARTS + 1):
            try:
                with _signals_kept(), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    if self.address:
                        ray.init(self.address, **quiet)
                    else:
                        n_cores = (self.workers or _n_cores()) * self.threads
                        ray.init("local", num_cpus=n_cores, num_gpus=0, include_dashboard=False, _temp_dir=folder,
                                 **quiet)  # fmt: skip
                return
            except Exception as error:  # whatever an address, a port or a busy machine leads to
                if self.address:
                    why = f"no Ray cluster answers at {self.address!r}: {_first_line(error)}"
                    raise ClusterError(why) from error
                _reap(_processes_of(ray))  # Ray gives its processes 30 seconds, and leaves them where they are
                if attempt == MAX_STARTS:
                    why = f"Ray could not be started: {_first_line(error)}; --executor local does without"
                    raise ClusterError(why) from error


class _Work:
    """Pieces under way, and what has come of them."""

    def __init__(
        self, owner: OnRay, ray: Any, tasks: Iterator[Task], observe: Callable[[list[float]], None],
        should_stop: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._owner, self._ray, self._observe, self._should_stop = owner, ray, observe, should_stop
        self._fit = ray.remote(num_cpus=owner.threads, max_retries=0)(_fit_piece)
        self._tasks = enumerate(tasks)
        self._waiting: list[tuple[int, int, Task]] = []  # (task, piece, what)
        self._under_way: dict[Any, tuple[int, int, Task, int]] = {}  # reference -> the same, and workers it has cost
        self._whole: dict[int, tuple[Task, list[Outcome | None]]] = {}
        n_cores = max(1, int(ray.cluster_resources().get("CPU", 1)) // owner.threads)
        workers = min(owner.workers or n_cores, n_cores)
        # one more than can run waits where it will, so that no worker does; where others run too, just as many
        self._most = workers if owner.address else 2 * workers

    def outcomes(self) -> Iterator[Outcome]:
        try:
            while self._fill():
                if self._should_stop():
                    return
                done, _ = self._ray.wait(list(self._under_way), num_returns=1, timeout=POLL_SECONDS)
                for reference in done:
                    outcome = self._take(reference)
                    if outcome is not None:
                        yield outcome
        finally:
            for reference in self._under_way:
                self._ray.cancel(reference, force=False)

    def _fill(self) -> bool:
        """Give out pieces while there is room; False once there are none."""
        while len(self._under_way) < self._most:
            if not self._waiting:
                found = next(self._tasks, None)
                if found is None:
                    break
                number, task = found
                pieces = pieces_of(task)
                self._whole[number] = (task, [None] * len(pieces))
                self._waiting = [(number, place, piece) for place, piece in enumerate(pieces)]
            self._submit(*self._waiting.pop(0), 0)
        return bool(self._under_way)

    def _submit(self, number: int, place: int, piece: Task, n_lost: int) -> None:
        reference = self._fit.remote(piece, self._owner.threads, fieldforge.__version__)
        self._under_way[reference] = (number, place, piece, n_lost)

    def _take(self, reference: Any) -> Outcome | None:
        """What came of a piece, or its next try; the whole task once all of its pieces are there."""
        number, place, piece, n_lost = self._under_way.pop(reference)
        try:
            report: Report = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause if isinstance(getattr(error, "cause", None), Exception) else error
            raise cause from None  # what `fit_task` raised, as if it had been here
        except self._ray.exceptions.RayError as error:  # the worker is gone, or what it wrote
            self._owner.n_lost += 1
            if n_lost + 1 >= MAX_LOSSES:
                raise ClusterError(
                    f"{len(piece.seats)} fields of shard {piece.number} cost {MAX_LOSSES} workers "
                    f"({_first_line(error)}); what is finished stays, --resume goes on, --executor local does without"
                ) from error
            self._submit(number, place, piece, n_lost + 1)
            return None
        if report.pid not in self._owner.pids:
            self._owner.pids.append(report.pid)
        task, found = self._whole[number]
        found[place] = report.outcome
        self._observe(report.outcome.qualities)
        outcomes = [outcome for outcome in found if outcome is not None]
        if len(outcomes) < len(found):
            return None
        del self._whole[number]
        rows = torch.cat([outcome.rows for outcome in outcomes])
        return Outcome(task, rows, [quality for outcome in outcomes for quality in outcome.qualities])


def pieces_of(task: Task, n_at_once: int = N_AT_ONCE) -> list[Task]:
    """A task cut where `fit_task` cuts it, each piece with the items of its own fields only."""
    pieces = []
    for first in range(0, len(task.seats), n_at_once):
        seats = task.seats[first : first + n_at_once]
        wanted = sorted({seat.item for seat in seats})
        seats = [replace(seat, item=wanted.index(seat.item)) for seat in seats]
        pieces.append(replace(task, seats=seats, items=[task.items[item] for item in wanted]))
    return pieces


def _fit_piece(piece: Task, threads: int, version: str) -> Report:
    """What a worker does."""
    if fieldforge.__version__ != version:
        raise ClusterError(f"a worker has fieldforge {fieldforge.__version__}, and {version} is asked for; "
                           "install the same on every machine of the cluster")  # fmt: skip
    os.environ["FIELDFORGE_NUM_THREADS"] = os.environ["IGL_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    outcome = fit_task(piece)
    assert outcome is not None
    bare = replace(piece, items=(), start=None)  # whoever asked has them
    return Report(replace(outcome, task=bare), os.uname().nodename, os.getpid())


def _ray() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module("ray")
        except ImportError as error:
            raise ClusterError("executor: 'ray' needs Ray; pip install 'fieldforge[cluster]' brings it") from error


def _shut_down(ray: Any) -> None:
    """Leave the cluster, and end it if this started it."""
    with _signals_kept(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        started = _processes_of(ray)
        ray.shutdown()
        _reap(started)


def _processes_of(ray: Any) -> list[subprocess.Popen[bytes]]:
    """What Ray has started in this process's name; Ray kills them and does not look whether they are gone."""
    with contextlib.suppress(AttributeError):  # another version of Ray keeps them elsewhere
        nodes = [thing for thing in gc.get_objects() if type(thing) is ray._private.node.Node]
        return [info.process for node in nodes for infos in node.all_processes.values() for info in infos]
    return []


def _reap(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            process.kill()
            process.wait(10)


def _n_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _short_folder() -> str | None:
    """Where Ray's sockets fit, whose paths may have some 100 characters; None: the usual place for such files."""
    return "/tmp" if len(tempfile.gettempdir()) > 20 and Path("/tmp").is_dir() else None


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray answers SIGTERM in its own way; the fit has a better one."""
    before = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(ValueError):
            before[number] = signal.getsignal(number)
    try:
        yield
    finally:
        for number, handler in before.items():
            with contextlib.suppress(ValueError, TypeError):  # not the main thread, or not set from Python
                signal.signal(number, handler)


def _chain(first: Task, rest: Iterator[Task]) -> Iterator[Task]:
    yield first
    yield from rest


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
