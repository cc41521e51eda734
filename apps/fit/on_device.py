"""What a fit does differently where its field is not on the CPU: data go ahead, losses come late, steps are recorded.

A GPU works on its own. Whoever asks it for a number waits until all work before is done, and whoever hands it an
operation at a time is slower than it is. So batches are sent before they are asked for (`Ahead`), losses are read some
steps at a time (`Lagging`), and where every step has the same shapes, passes are recorded once and replayed
(`Recorded`, CUDA graphs).
"""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from fieldforge.apps.fit.loop import Hook, PlainStep, Step, allowed
from fieldforge.apps.fit.optimizers.base import Optimizer
from fieldforge.devices import arrived

Draw = Callable[[int], Any]
Passes = Callable[[Sequence[Tensor], Hashable], list[Tensor]]
"""(batch, kind of the step) -> what is wanted of it; leaves gradients."""
Recorder = Callable[[Callable[[], None]], Callable[[], None]]
"""(function) -> a function that does the same again."""

READ_EVERY = 16
"""Steps between two readings of losses; a loss that is not finite is seen so much later, and the fit steps back."""
N_WARM = 3
"""Steps that run as they are before one is recorded (PyTorch's notes on CUDA graphs)."""


class Ahead:
    """A draw that is made on the CPU, by a thread, one step ahead, and sent to the device without waiting.

    Args:
        draw: step number -> tensors of the CPU, a tuple or a dataclass; follows from the step alone.
        device: where they are wanted.
    """

    def __init__(self, draw: Draw, device: torch.device) -> None:
        self.draw, self.device = draw, device
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="draw")
        self._next: tuple[int, Future[Any]] | None = None

    def __call__(self, step: int) -> Any:
        if self._next is not None and self._next[0] == step:
            drawn = self._next[1].result()
        else:
            drawn = self._on_cpu(step)
        self._next = step + 1, self._thread.submit(self._on_cpu, step + 1)
        if not isinstance(drawn, tuple):  # a dataclass
            return type(drawn)(**{name: arrived(tensor, self.device) for name, tensor in vars(drawn).items()})
        return tuple(arrived(tensor, self.device) for tensor in drawn)

    def close(self) -> None:
        """Let go of the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _on_cpu(self, step: int) -> Any:
        with torch.device("cpu"):
            return self.draw(step)


class StepInTensors(Protocol):
    """A step that leaves its figures where they are: (2,) loss and mean squared error, on the device."""

    def figures(self, step: int, factor: float) -> Tensor: ...


class Lagging:
    """A training step whose losses are read `every` so many steps; between two readings the last ones are told.

    What is told at a reading is the mean since the one before, or what was not finite among them, so that a fit steps
    back as it does on the CPU, some steps later.

    Args:
        inner: the step.
        every: steps from one reading to the next.
        reads_before: steps before which losses are read too, because what they do should see sound numbers only.
    """

    def __init__(
        self, inner: StepInTensors, *, every: int = READ_EVERY, reads_before: Callable[[int], bool] | None = None
    ) -> None:
        self.inner, self.every, self.reads_before = inner, every, reads_before
        self._rows: list[Tensor] = []
        self._told: tuple[float, float] | None = None

    def __call__(self, step: int, factor: float) -> tuple[float, float]:
        if self._rows and self.reads_before is not None and self.reads_before(step):
            told = self._read()
            if not math.isfinite(told[0]):
                self._told = None
                return told  # before the step; who steps back makes it again
            self._told = told
        self._rows.append(self.inner.figures(step, factor))
        if self._told is None or len(self._rows) >= self.every:
            self._told = self._read()
        told = self._told
        if not math.isfinite(told[0]):
            self._told = None
        return told

    def _read(self) -> tuple[float, float]:
        rows = torch.stack(self._rows).to("cpu", torch.float64)
        self._rows = []
        finite = rows.isfinite().all(-1)
        if not bool(finite.all()):
            bad = float(rows[~finite][0, 0])
            return (bad, bad) if not math.isfinite(bad) else (math.nan, math.nan)
        loss, error = rows.mean(0).tolist()
        return loss, error


class DeviceStep:
    """`PlainStep` without a look at its numbers: draw, predict, compare, differentiate, update.

    A hook sees the losses of every sample on the device; one that reads them waits for them.
    """

    def __init__(self, plain: PlainStep) -> None:
        self.plain = plain

    def figures(self, step: int, factor: float) -> Tensor:
        plain = self.plain
        figures, per_sample = self.go(plain.draw(step))
        _update(plain.optimizer, plain.hooks, step, factor, per_sample)
        return figures.clone()

    def go(self, batch: Sequence[Tensor]) -> list[Tensor]:
        """Both passes over points and targets."""
        return self._passes(batch, None)

    def _passes(self, batch: Sequence[Tensor], kind: Hashable) -> list[Tensor]:
        plain, (points, target) = self.plain, batch
        plain.optimizer.zero_grad()
        prediction = plain.query(points)
        per_sample = plain.loss.per_sample(prediction, target)
        loss = per_sample.mean()
        loss.backward()
        error = torch.mean((prediction.detach() - target) ** 2)
        return [torch.stack([loss.detach(), error]), per_sample.detach()]


class GraphedStep(DeviceStep):
    """The same, with both passes recorded as one CUDA graph after `N_WARM` steps; the update is made as it is.

    Args:
        plain: what is recorded; see `Recorded` for what can be.
        record: as there.
    """

    def __init__(self, plain: PlainStep, record: Recorder | None = None) -> None:
        super().__init__(plain)
        self.recorded = Recorded(self._passes, list(plain.optimizer.parameters), record)

    @property
    def why_not(self) -> str:
        """Why steps run as they are; '' while nothing says so."""
        return self.recorded.why_not

    def go(self, batch: Sequence[Tensor]) -> list[Tensor]:
        return self.recorded(batch)


@dataclass
class _Recording:
    """Where a recording reads and writes, and what sends it again."""

    batch: list[Tensor]
    out: list[Tensor] = field(default_factory=list)
    grads: list[Tensor | None] = field(default_factory=list)
    replay: Callable[[], None] = lambda: None


class Recorded:
    """Passes over a batch, recorded as one CUDA graph when they are warm, and replayed from then on.

    An optimizer counts steps and changes its rate on the host, which a recording would freeze; so it stays outside.
    Batches are copied to where the recording reads them. Only for passes that read no numbers back, draw none, and do
    the same whenever batches have the same shapes. There is one recording for each kind of step and for each of its
    shapes, after `N_WARM` of them that ran as they are; `MOST` at most. Where one fails, or there would be more, all
    goes on without and says why in `why_not`.

    Args:
        passes: (batch, kind) -> what is wanted of a step; forgets the gradients, and leaves new ones.
        parameters: whose gradients are left.
        record: (function) -> a function that does the same again; None: PyTorch's CUDA graphs.
    """

    MOST = 4

    def __init__(self, passes: Passes, parameters: Sequence[nn.Parameter], record: Recorder | None = None) -> None:
        self.passes, self.parameters, self.record = passes, parameters, record or cuda_graph
        self.why_not = ""
        self._n_done: Counter[Hashable] = Counter()
        self._recordings: dict[Hashable, _Recording] = {}

    @property
    def n_recordings(self) -> int:
        """That are replayed."""
        return len(self._recordings)

    def __call__(self, batch: Sequence[Tensor], kind: Hashable = None) -> list[Tensor]:
        """What `passes` gives; it may be overwritten in the next step."""
        key = kind, tuple(tensor.shape for tensor in batch)
        if not self.why_not and key not in self._recordings and self._n_done[key] >= N_WARM:
            self._add(key, batch, kind)
        if self.why_not or key not in self._recordings:
            self._n_done[key] += 1
            return self.passes(batch, kind)
        recording = self._recordings[key]
        for static, tensor in zip(recording.batch, batch, strict=True):
            static.copy_(tensor)
        recording.replay()
        for parameter, grad in zip(self.parameters, recording.grads, strict=True):
            parameter.grad = grad
        return recording.out

    def _add(self, key: Hashable, batch: Sequence[Tensor], kind: Hashable) -> None:
        if len(self._recordings) == self.MOST:
            self._stop(f"its steps have more than {self.MOST} kinds and shapes")
            return
        made = _Recording([tensor.clone() for tensor in batch])

        def again() -> None:
            # what is remembered of parameters for as long as they stay, such as the inverse transforms of PREF, is
            # computed inside of the recording: replayed, it follows them
            increment_version([one for one in self.parameters if one.device.type != "meta"])
            made.out = self.passes(made.batch, kind)
            made.grads = [parameter.grad for parameter in self.parameters]

        try:
            made.replay = self.record(again)
        except Exception as error:  # what may not be recorded raises anything; then it runs as it is
            first = error.__context__ or error  # the end of a recording complains too, of what came before
            lines = str(first).splitlines() or ["no reason"]
            self._stop(f"it cannot be recorded: {type(first).__name__}: {lines[0]}")
        else:
            self._recordings[key] = made

    def _stop(self, why_not: str) -> None:
        self.why_not = why_not
        self._recordings.clear()


class LossStep(ABC):
    """A step that makes its own loss, a model of weights' say: told at once on the CPU, in tensors on a device.

    Attributes:
        optimizer: moves what the loss follows from.
        clip: largest length of the gradient; 0: none.
    """

    optimizer: Optimizer
    clip: float = 0.0

    @abstractmethod
    def losses(self, step: int) -> tuple[Tensor, Tensor]:
        """The loss, differentiable, and the error that is told with it; from the step number alone."""

    def __call__(self, step: int, factor: float) -> tuple[float, float]:
        self.optimizer.zero_grad()
        loss, error = self.losses(step)
        value = float(loss.detach())
        if math.isfinite(value):
            self._move(loss, factor)
        return value, float(error)

    def figures(self, step: int, factor: float) -> Tensor:
        self.optimizer.zero_grad()
        loss, error = self.losses(step)
        self._move(loss, factor)
        return torch.stack([loss.detach(), error])

    def on(self, device: torch.device) -> Step:
        """The step itself on the CPU; on a device one whose losses are read late."""
        return self if device.type == "cpu" else Lagging(self)

    def _move(self, loss: Tensor, factor: float) -> None:
        loss.backward()
        if self.clip:
            nn.utils.clip_grad_norm_(self.optimizer.parameters, self.clip)
        self.optimizer.set_learning_rate_factor(factor)
        self.optimizer.step()


@contextlib.contextmanager
def global_numbers(seed: int, device: torch.device) -> Iterator[None]:
    """Inside the block PyTorch's global random numbers, as of dropout, begin at a seed; then they go on as before."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def cuda_graph(passes: Callable[[], None]) -> Callable[[], None]:
    """Record what `passes` sends to the device; the result sends it again, all at once.

    It runs once unrecorded on a stream of its own before, so that libraries have their workspaces and kernels are
    loaded there, as PyTorch's notes on CUDA graphs ask. A recording that fails leaves the stream as it was.
    """
    current = torch.cuda.current_stream()
    beside = torch.cuda.Stream()
    beside.wait_stream(current)
    pool = torch.cuda.graph_pool_handle()
    try:
        with torch.cuda.stream(beside):
            passes()
        current.wait_stream(beside)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, stream=beside):
            passes()
    except Exception:
        _end_recording(pool)
        torch.cuda.set_stream(current)  # a recording that cannot be ended does not go back by itself
        torch.cuda.synchronize()
        raise

    def replay() -> None:
        graph.replay()

    return replay


def _end_recording(pool: Any) -> None:
    """Where the end of a recording fails, PyTorch before 2.12 goes on as if memory were still taken for it, and the
    next `torch.cuda.empty_cache` is an error (pytorch#180395)."""
    end: Callable[[int, Any], None] | None = getattr(torch._C, "_cuda_endAllocateToPool", None)
    if end is not None:
        with contextlib.suppress(RuntimeError):  # it has ended
            end(torch.cuda.current_device(), pool)


def on_device(plain: PlainStep, device: torch.device, *, has_fixed_shapes: bool) -> Any:
    """The step of a field that is on `device`: `plain` itself on the CPU, else as above."""
    if device.type == "cpu":
        return plain
    is_graphed = has_fixed_shapes and device.type == "cuda" and not plain.hooks
    return Lagging(GraphedStep(plain) if is_graphed else DeviceStep(plain))


def _update(optimizer: Optimizer, hooks: Sequence[Hook], step: int, factor: float, per_sample: Tensor) -> None:
    if allowed(hooks, step, per_sample.detach()):
        optimizer.set_learning_rate_factor(factor)
        optimizer.step()
