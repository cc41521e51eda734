"""Several processes that fit together: ``torchrun --nproc-per-node 2 -m fieldforge fit scene ...``.

torchrun starts the same command so many times and tells each its rank. Ranks share a scene by rays: each renders its
part of a batch, and gradients are added before every rank makes the same update; so they come to what one process
comes to with the same batch, but for the order of sums. They share a collection by shards, whose fields depend on
nothing else. Rank 0 speaks and writes; decisions that depend on a clock are its own, and the others follow.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, replace
from itertools import islice

import torch
import torch.distributed as dist
from torch import Tensor

from fieldforge.apps.fit.collection.work import Outcome, Task, fit_task
from fieldforge.apps.fit.loop import orderly_stop


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is.

    Attributes:
        rank: from 0.
        n: how many.
        local: rank on this machine, which is the number of its CUDA device.
    """

    rank: int = 0
    n: int = 1
    local: int = 0

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, n: int) -> slice:
        """Which of n rows are this rank's; every rank has as many, or one more."""
        return slice(self.rank * n // self.n, (self.rank + 1) * n // self.n)

    def add(self, *tensors: Tensor) -> None:
        """Each tensor becomes its sum over the ranks, in place; equal bits on all of them."""
        if self.n > 1 and tensors:
            flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
            dist.all_reduce(flat)
            for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def same(self, *tensors: Tensor) -> None:
        """Each tensor becomes rank 0's, in place."""
        if self.n > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def sums(self, *numbers: float) -> list[float]:
        """The sum of each number over the ranks."""
        if self.n == 1:
            return list(numbers)
        row = torch.tensor(numbers, dtype=torch.float64, device="cpu")
        dist.all_reduce(row)
        return [float(number) for number in row.tolist()]

    def of_first(self, *numbers: float) -> list[float]:
        """Rank 0's numbers."""
        if self.n == 1:
            return list(numbers)
        row = torch.tensor(numbers, dtype=torch.float64, device="cpu")
        dist.broadcast(row, 0)
        return [float(number) for number in row.tolist()]

    def any(self, *answers: bool) -> list[bool]:
        """Whether any rank says so, for each."""
        return [number > 0 for number in self.sums(*map(float, answers))]


ALONE = Ranks()
_current: ContextVar[Ranks] = ContextVar("fieldforge_ranks", default=ALONE)


def current() -> Ranks:
    """This process among those that fit together; rank 0 of 1 where it is alone."""
    return _current.get()


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """Inside the block this process is one of those that torchrun started; alone where it started none.

    Raises:
        ValueError: torchrun's numbers make no sense.
    """
    n = _whole("WORLD_SIZE", 1)
    if n <= 1 or "RANK" not in os.environ:
        yield ALONE
        return
    ranks = Ranks(_whole("RANK", 0), n, _whole("LOCAL_RANK", 0))
    if not ranks.rank < ranks.n:
        raise ValueError(f"RANK: expected less than WORLD_SIZE={n}, got {ranks.rank}")
    is_cuda = torch.cuda.is_available() and ranks.local < torch.cuda.device_count()
    dist.init_process_group("cpu:gloo,cuda:nccl" if is_cuda else "gloo")
    token = _current.set(ranks)
    try:
        yield ranks
    finally:
        _current.reset(token)
        dist.destroy_process_group()


def device_name(name: str) -> str:
    """What --device means to one of several processes: each has a CUDA device of its own."""
    ranks = current()
    is_open = name == "cuda" or (name == "auto" and torch.cuda.is_available())
    return f"cuda:{ranks.local}" if ranks.n > 1 and is_open else name


def on_own_device(task: Task) -> Task:
    """The task where this process computes."""
    return replace(task, device=device_name(task.device))


class OnRanks:
    """The tasks of a collection on all ranks: rank 0 hands them out, one each, and is handed what came of them."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks

    def run(
        self, tasks: Iterable[Task], observe: Callable[[list[float]], None], should_stop: Callable[[], bool]
    ) -> Iterator[Outcome]:
        """See `fieldforge.apps.fit.collection.executors.Executor`."""
        remaining = iter(tasks)
        while not should_stop():
            own, *others = [*islice(remaining, self.ranks.n), None]
            if own is None:
                return
            others = [task for task in others if task is not None]
            for rank, task in enumerate(others, 1):
                dist.send_object_list([task], dst=rank)
            outcome = fit_task(on_own_device(own), observe, should_stop)
            if outcome is not None:
                yield outcome
            for rank in range(1, len(others) + 1):
                found: list[Outcome | None] = [None]
                dist.recv_object_list(found, src=rank)
                if found[0] is not None:
                    observe(found[0].qualities)
                    yield found[0]

    def close(self) -> None:
        """Send the others home."""
        for rank in range(1, self.ranks.n):
            dist.send_object_list([None], dst=rank)


def serve() -> int:
    """What all ranks but the first do of a collection: fit what they are handed until there is no more; the exit code.

    Asked to stop, they leave the task they have and go on listening, since rank 0 was asked too.
    """
    with orderly_stop() as is_interrupted:
        while True:
            handed: list[Task | None] = [None]
            dist.recv_object_list(handed, src=0)
            if handed[0] is None:
                return 128 + signal.SIGINT if is_interrupted() else 0
            dist.send_object_list([fit_task(on_own_device(handed[0]), should_stop=is_interrupted)], dst=0)


def _whole(name: str, otherwise: int) -> int:
    text = os.environ.get(name, str(otherwise))
    if not text.isascii() or not text.isdigit() or len(text) > 6:
        raise ValueError(f"{name}: expected a whole number, as torchrun gives it, got {text!r}")
    return int(text)
