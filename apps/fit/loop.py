"""The training loop: one loop for every kind of field.

What varies is handed in. `Step` draws a batch, moves the parameters once and says how wrong they were; the plain one
is `PlainStep`. `train` counts, schedules, reports, keeps checkpoints, steps back from non-finite losses and stops in
an orderly way when asked. Everything a step does follows from (state, step number), so a fit that was interrupted and
resumed ends with the same bits as one that was not.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from types import FrameType
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from fieldforge.apps.fit.optimizers.base import Optimizer
from fieldforge.apps.fit.snapshot import Snapshot
from fieldforge.apps.fit.stages import Stages
from fieldforge.fields.checkpoint import Checkpoints

Schedule = Callable[[int, int], float]
"""(step, n_steps) -> factor on the learning rate."""


class NonFiniteError(RuntimeError):
    """The loss stayed non-finite after several returns to the last good state."""


class Step(Protocol):
    """Move the parameters once; returns (loss, mean squared error) of the batch before the move."""

    def __call__(self, step: int, factor: float) -> tuple[float, float]: ...


class Hook(Protocol):
    """Watches a fit from inside; may veto the update by returning False. A hook that only looks changes nothing."""

    def __call__(self, step: int, per_sample_loss: Tensor) -> bool | None: ...


class Together(Protocol):
    """Several processes that make every step together (`fieldforge.apps.fit.ranks.Ranks`)."""

    @property
    def is_first(self) -> bool: ...
    def any(self, *answers: bool) -> list[bool]: ...
    def of_first(self, *numbers: float) -> list[float]: ...


@dataclass
class PlainStep:
    """Draw, predict, compare, differentiate, update: the step that defines all others.

    Args:
        query: (n, d) points -> (n, c) predictions, differentiable in the parameters.
        draw: step number -> (points (n, d), targets (n, c)).
        loss: an object with ``per_sample(prediction, target) -> (n,)``; its mean is minimised.
        optimizer: moves the parameters that `query` reads.
        hooks: called with the per-sample loss before the update.
    """

    query: Callable[[Tensor], Tensor]
    draw: Callable[[int], tuple[Tensor, Tensor]]
    loss: Any
    optimizer: Optimizer
    hooks: Sequence[Hook] = ()

    def __call__(self, step: int, factor: float) -> tuple[float, float]:
        points, target = self.draw(step)
        self.optimizer.zero_grad()
        prediction = self.query(points)
        per_sample = self.loss.per_sample(prediction, target)
        loss = per_sample.mean()
        value = float(loss.detach())
        if not math.isfinite(value):
            return value, value
        loss.backward()
        if allowed(self.hooks, step, per_sample.detach()):
            self.optimizer.set_learning_rate_factor(factor)
            self.optimizer.step()
        return value, float(torch.mean((prediction.detach() - target) ** 2))


def allowed(hooks: Sequence[Hook], step: int, per_sample_loss: Tensor) -> bool:
    """Whether no hook vetoes the update; every hook sees every step."""
    return all([hook(step, per_sample_loss) is not False for hook in hooks])


class Figure(NamedTuple):
    """What a fit shows of how far it is."""

    name: str
    """In histories and JSON."""
    text: str
    """For people, with a place for the value."""
    of: Callable[[float, float], float]
    """From the mean loss and the mean squared error of some batches."""

    unit: str = "points"
    """What a batch is made of."""


def psnr(peak: float = 1.0) -> Figure:
    """Decibels below a peak, of colours; at most 120.

    Example:
        >>> psnr().of(0.0, 0.001)
        30.0
    """
    return Figure("psnr", "PSNR {:.2f} dB", lambda loss, error: -10 * math.log10(max(error / peak**2, 1e-12)))


LOSS = Figure("loss", "loss {:.3g}", lambda loss, error: loss)


@dataclass
class Budget:
    """When a fit ends: after `n_steps`, or as soon as `evaluate` reports the quality `target`. With `seconds`, after as
    many steps as that time allows instead, and no more than `most_steps`."""

    n_steps: int
    seconds: float | None = None
    target: float | None = None
    most_steps: int | None = None


@dataclass
class State:
    """What a fit has come to; saved with every checkpoint."""

    step: int = 0
    n_steps: int = 0
    seconds: float = 0.0
    rate: float = 1.0
    """Factor on the learning rate, halved whenever a loss was not finite."""
    n_rollbacks: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    """About 64 rows at fixed steps: step, and the mean loss and the figure of the batches since the row before."""
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    """Loss, squared error and number of batches since the last row of the history."""
    stopped_by: str = ""
    """'' while running, then 'steps', 'seconds', 'target' or 'signal'."""

    def count(self, loss: float, error: float, figure: Figure) -> bool:
        """One more step is done; says whether a row was added to the history.

        The history depends on steps alone, so that equal fits leave equal files.
        """
        self.step += 1
        self.sums = [self.sums[0] + loss, self.sums[1] + error, self.sums[2] + 1]
        if self.step % max(1, self.n_steps // 64) == 0 or self.step == self.n_steps:
            mean_loss, mean_error = self.sums[0] / self.sums[2], self.sums[1] / self.sums[2]
            self.history.append({"step": self.step, "loss": mean_loss, figure.name: figure.of(mean_loss, mean_error)})
            self.sums = [0.0, 0.0, 0.0]
            return True
        return False


@dataclass
class Progress:
    """What an observer is told now and then."""

    state: State
    points_per_second: float = 0.0
    seconds_left: float = 0.0
    figure: Figure = LOSS
    value: float = math.nan
    """Of the figure, over the batches since the last report."""
    message: str = ""

    def with_left(self, batch_size: int) -> Progress:
        """The same with the time that the rest of the steps takes at this rate."""
        n_left = (self.state.n_steps - self.state.step) * batch_size
        return replace(self, seconds_left=n_left / self.points_per_second if self.points_per_second else 0.0)


def train(
    advance: Step,
    optimizer: Optimizer,
    schedule: Schedule,
    budget: Budget,
    *,
    batch_size: int,
    figure: Figure | None = None,
    observe: Callable[[Progress], None] = lambda progress: None,
    evaluate: Callable[[], float] | None = None,
    look: Callable[[State], dict[str, float]] = lambda state: {},
    stages: Stages | None = None,
    checkpoints: Checkpoints | None = None,
    identity: Mapping[str, Any] | None = None,
    resume: bool = False,
    report_every: float = 0.5,
    checkpoint_every: float = 30.0,
    together: Together | None = None,
) -> State:
    """Run a fit to the end of its budget.

    Args:
        advance: one training step.
        optimizer: the one inside `advance`; its parameters are saved and restored with its state.
        schedule: factor on the learning rate by step.
        budget: when to stop.
        batch_size: points a step, for the rate that is shown.
        figure: what is shown and kept of how far the fit is; None: decibels below 1.
        observe: told of progress about every `report_every` seconds.
        evaluate: quality of the field as it is, asked with every row of the history if there is a `budget.target`.
        look: asked with every row of the history what else should stand in it, and be told; mostly nothing.
        stages: parts of the field that are told of each step, and have a state beside their parameters.
        checkpoints: where to keep the last two states; None keeps none.
        identity: what a checkpoint must agree with to be resumed (configuration, digest of the source).
        resume: continue from the newest checkpoint that is whole.
        report_every: seconds between reports.
        checkpoint_every: seconds between checkpoints.
        together: the other processes that run this fit, if there are any; decisions by the clock are the first one's.

    Returns:
        The final state; `stopped_by` says why it ended. On SIGINT or SIGTERM the state is saved first.

    Raises:
        NonFiniteError: ten returns to the last good state did not help.
        ValueError: the checkpoint belongs to another fit.
    """
    figure, stages = figure or psnr(), stages or Stages()
    state = State(n_steps=budget.n_steps)
    if resume and checkpoints is not None:
        state = _restore(checkpoints, optimizer, stages, dict(identity or {}), state, observe)
    folder = None if checkpoints is None else checkpoints.paths[0].parent
    reports = _Reports(state, batch_size, figure)
    last_checkpoint, steps_for_time = time.perf_counter(), _StepsForTime(budget, state)
    with (
        closing(Snapshot(optimizer, state, beside=stages.buffers.values(), folder=folder)) as good,
        orderly_stop() as asked_to_stop,
    ):
        while not state.stopped_by:
            if state.step >= state.n_steps:
                state.stopped_by = "steps"
                break
            with stages.at(state.step, state.n_steps):
                loss, error = advance(state.step, state.rate * schedule(state.step, state.n_steps))
            if not math.isfinite(loss):
                good.restore(state)
                state.rate *= 0.5
                state.n_rollbacks += 1
                good.keep(state)
                observe(Progress(state, message=f"the loss was {loss}: back to step {state.step} at half the rate"))
                if state.n_rollbacks >= 10:
                    raise NonFiniteError(
                        f"the loss was not finite {state.n_rollbacks} times, last at step {state.step} with the "
                        f"learning rate divided by {2**state.n_rollbacks}; a smaller optimizer.learning_rate may do"
                    )
                continue
            is_milestone = state.count(loss, error, figure)
            reports.add(loss, error)
            if is_milestone and (seen := look(state)):
                state.history[-1] |= seen
                told = ", ".join(f"{name} {value:.4g}" for name, value in seen.items())
                observe(Progress(state, message=f"step {state.step}: {told}"))
            if is_milestone and budget.target is not None and evaluate is not None and evaluate() >= budget.target:
                state.stopped_by = "target"
            is_late, has_to_stop = reports.seconds_since() >= report_every, asked_to_stop()
            if together is not None:
                is_late, has_to_stop = together.any(is_late and together.is_first, has_to_stop)
            if is_late or state.step == state.n_steps or has_to_stop:
                report, is_due = reports.close(), good.is_due()
                if together is not None:
                    (state.seconds,) = together.of_first(state.seconds)
                    (is_due,) = together.any(is_due and together.is_first)
                good.take_if_due(state, is_due=is_due)
                steps_for_time.plan(state)
                observe(report.with_left(batch_size))
                if has_to_stop or (together is None and asked_to_stop()):
                    state.stopped_by = "signal"
                if checkpoints is not None and time.perf_counter() - last_checkpoint >= checkpoint_every:
                    _save(checkpoints, optimizer, stages, state, identity, together)
                    last_checkpoint = time.perf_counter()
    if checkpoints is not None and (state.stopped_by == "signal" or state.seconds >= checkpoint_every):
        _save(checkpoints, optimizer, stages, state, identity, together)
    return state


@contextmanager
def averages_in_place(optimizer: Optimizer) -> Iterator[None]:
    """Inside the block the parameters hold what inference uses (EMA, Average, Lookahead); do not train there."""
    kept = [parameter.data for parameter in optimizer.parameters]
    for parameter, average in zip(optimizer.parameters, optimizer.averaged(), strict=True):
        parameter.data = average.detach()
    try:
        yield
    finally:
        for parameter, data in zip(optimizer.parameters, kept, strict=True):
            parameter.data = data


def settle(optimizer: Optimizer) -> None:
    """When training is over: the parameters become what inference uses."""
    with torch.no_grad():
        for parameter, average in zip(optimizer.parameters, optimizer.averaged(), strict=True):
            parameter.copy_(average)


class _Reports:
    """What happened between two reports."""

    def __init__(self, state: State, batch_size: int, figure: Figure) -> None:
        self.state, self.batch_size, self.figure = state, batch_size, figure
        self._begin()

    def _begin(self) -> None:
        self._start, self._loss, self._error, self._n = time.perf_counter(), 0.0, 0.0, 0

    def add(self, loss: float, error: float) -> None:
        self._loss += loss
        self._error += error
        self._n += 1

    def seconds_since(self) -> float:
        return time.perf_counter() - self._start

    def close(self) -> Progress:
        elapsed, state, n = self.seconds_since(), self.state, self._n
        state.seconds += elapsed
        value = self.figure.of(self._loss / n, self._error / n) if n else math.nan
        rate = n / elapsed if elapsed > 0 else 0.0
        self._begin()
        return Progress(state, rate * self.batch_size, figure=self.figure, value=value)


class _StepsForTime:
    """Turns seconds into steps: estimated until a twentieth of the time is gone, then fixed, so that the schedule
    depends on the step alone. What the first steps wait for (a worker's first samples, say) does not count as pace."""

    def __init__(self, budget: Budget, state: State) -> None:
        self.seconds, self.most_steps = budget.seconds, budget.most_steps
        self.is_fixed = state.n_steps != budget.n_steps  # a resumed fit is planned
        self._warm: tuple[int, float] | None = None

    def plan(self, state: State) -> None:
        if self.seconds is None:
            return
        if state.seconds >= self.seconds:
            state.stopped_by = "seconds"
        elif not self.is_fixed:
            first, start = self._warm or (0, 0.0)
            pace = (state.step - first) / (state.seconds - start)
            planned = state.step + max(1, int((0.97 * self.seconds - state.seconds) * pace))
            state.n_steps = planned if self.most_steps is None else min(planned, max(state.step, self.most_steps))
            self.is_fixed = self._warm is not None and state.seconds - start >= 0.05 * self.seconds
            self._warm = self._warm or (state.step, state.seconds)


def _save(
    checkpoints: Checkpoints,
    optimizer: Optimizer,
    stages: Stages,
    state: State,
    identity: Mapping[str, Any] | None,
    together: Together | None = None,
) -> None:
    if together is not None and not together.is_first:
        return
    tensors = {f"parameter.{number}": parameter.detach() for number, parameter in enumerate(optimizer.parameters)}
    tensors |= {f"optimizer.{name}": tensor for name, tensor in optimizer.state_tensors().items()}
    tensors |= {f"buffer.{name}": tensor for name, tensor in stages.buffers.items()}
    checkpoints.save(state.step, tensors, {"state": asdict(state), "identity": dict(identity or {})})


def _restore(
    checkpoints: Checkpoints,
    optimizer: Optimizer,
    stages: Stages,
    identity: dict[str, Any],
    fresh: State,
    observe: Callable[[Progress], None],
) -> State:
    latest = checkpoints.load_latest()
    if latest is None:
        return fresh
    theirs = latest.state["identity"]
    different = sorted(key for key in identity.keys() | theirs.keys() if identity.get(key) != theirs.get(key))
    if different:
        raise ValueError(
            f"the checkpoint belongs to another fit: {', '.join(different)} differ; "
            "repeat the options of the first run, or start anew with --restart"
        )
    with torch.no_grad():
        for number, parameter in enumerate(optimizer.parameters):
            parameter.copy_(latest.tensors[f"parameter.{number}"])
        for name, buffer in stages.buffers.items():
            buffer.copy_(latest.tensors[f"buffer.{name}"])
    prefix = "optimizer."
    optimizer.load_state_tensors(
        {name[len(prefix) :]: tensor for name, tensor in latest.tensors.items() if name.startswith(prefix)}
    )
    state = State(**latest.state["state"])
    state.stopped_by = ""
    if latest.notice:
        observe(Progress(state, message=latest.notice))
    observe(Progress(state, message=f"resumed at step {state.step} of {state.n_steps}"))
    return state


@contextmanager
def orderly_stop() -> Iterator[Callable[[], bool]]:
    """Inside the block SIGINT and SIGTERM set a flag; a second SIGINT interrupts at once."""
    asked = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    previous = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, stop)
    except ValueError:
        pass  # not the main thread (a notebook's worker, say): signals are not ours to catch
    try:
        yield lambda: asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
