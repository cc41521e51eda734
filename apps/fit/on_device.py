"""What a fit does differently where its field is not on the CPU: data go ahead, losses come late, steps are recorded.

A GPU works on its own. Whoever asks it for a number waits until all work before is done, and whoever hands it an
operation at a time is slower than it is. So batches are sent before they are asked for (`Ahead`), losses are read some
steps at a time (`Lagging`), and where every step has the same shapes, passes are recorded once and replayed
(`GraphedStep`, CUDA graphs).
"""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fieldforge.apps.fit.loop import Hook, PlainStep, Step, allowed
from fieldforge.apps.fit.optimizers.base import Optimizer
from fieldforge.devices import arrived

Draw = Callable[[int], Any]

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
        points, target = plain.draw(step)
        plain.optimizer.zero_grad()
        prediction = plain.query(points)
        per_sample = plain.loss.per_sample(prediction, target)
        loss = per_sample.mean()
        loss.backward()
        _update(plain.optimizer, plain.hooks, step, factor, per_sample)
        return torch.stack([loss.detach(), torch.mean((prediction.detach() - target) ** 2)])


class GraphedStep:
    """The same, with both passes recorded as one CUDA graph after `N_WARM` steps; the update is made as it is.

    An optimizer counts steps and changes its rate on the host, which a recording would freeze; so it stays outside.
    Batches are copied to where the recording reads them. Only for steps that do not read numbers back, and of one
    shape; a step of another shape, or a recording that fails, goes on without one and says why in `why_not`.

    Args:
        plain: what is recorded.
        record: (function) -> a function that does the same again; None: PyTorch's CUDA graphs.
    """

    def __init__(self, plain: PlainStep, record: Callable[[Callable[[], None]], Callable[[], None]] | None = None):
        self.plain, self.eager, self.record = plain, DeviceStep(plain), record or cuda_graph
        self.n_done = 0
        self.why_not = ""
        self._replay: Callable[[], None] | None = None
        self._batch: list[Tensor] = []
        self._out: list[Tensor] = []

    def figures(self, step: int, factor: float) -> Tensor:
        if self.why_not or self.n_done < N_WARM:
            self.n_done += 1
            return self.eager.figures(step, factor)
        drawn = self.plain.draw(step)
        if self._replay is None:
            self._replay = self._recorded(drawn)
        if self._replay is None or any(a.shape != b.shape for a, b in zip(self._batch, drawn, strict=True)):
            self.why_not = self.why_not or f"a batch has the shape {tuple(drawn[0].shape)}"
            self._replay = None
            return self.eager.figures(step, factor)
        for static, tensor in zip(self._batch, drawn, strict=True):
            static.copy_(tensor)
        self._replay()
        figures, per_sample = self._out
        _update(self.plain.optimizer, self.plain.hooks, step, factor, per_sample)
        return figures.clone()

    def _recorded(self, drawn: Sequence[Tensor]) -> Callable[[], None] | None:
        self._batch = [tensor.clone() for tensor in drawn]
        parameters = self.plain.optimizer.parameters
        for parameter in parameters:  # a recording writes to the same places each time
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

        def passes() -> None:
            for parameter in parameters:
                assert parameter.grad is not None
                parameter.grad.zero_()
            points, target = self._batch
            prediction = self.plain.query(points)
            per_sample = self.plain.loss.per_sample(prediction, target)
            loss = per_sample.mean()
            loss.backward()
            error = torch.mean((prediction.detach() - target) ** 2)
            self._out = [torch.stack([loss.detach(), error]), per_sample.detach()]

        try:
            return self.record(passes)
        except Exception as error:  # what may not be recorded raises anything; then it runs as it is
            first = error.__context__ or error  # the end of a recording complains too, of what came before
            lines = str(first).splitlines() or ["no reason"]
            self.why_not = f"it cannot be recorded: {type(first).__name__}: {lines[0]}"
            return None


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
