"""The training loop: budgets, resuming bit for bit, rolling back, stopping on a signal."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from fieldforge.apps.fit import loop
from fieldforge.apps.fit.loop import Budget, NonFiniteError, PlainStep, Progress, State, train
from fieldforge.apps.fit.optimizers.base import Optimizer, Parameters
from fieldforge.fields.checkpoint import Checkpoints
from fieldforge.registry import build


class Line:
    """Fit y = 3 x - 1 with a linear layer, on batches that depend on the step alone."""

    def __init__(self, optimizer: str | dict = "Adam", *, bad_steps: tuple[int, ...] = (), hooks: tuple = ()) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(1, 1)
        self.bad_steps = list(bad_steps)
        parameters = Parameters(matrix=list(self.model.parameters()))
        self.optimizer: Optimizer = build("optimizer", optimizer, parameters=parameters)
        self.step = PlainStep(self.model, self.draw, build("loss", "L2"), self.optimizer, hooks)

    def draw(self, step: int) -> tuple[Tensor, Tensor]:
        x = torch.rand(16, 1, generator=torch.Generator().manual_seed(step))
        target = 3 * x - 1
        if step in self.bad_steps:
            self.bad_steps.remove(step)  # a cosmic ray: the same step is fine when it is tried again
            target = target + math.inf
        return x, target

    def train(self, n_steps: int, **options: object) -> State:
        budget = options.pop("budget", None) or Budget(n_steps)
        schedule: Callable[[int, int], float] = build("schedule", "Cosine")
        return train(self.step, self.optimizer, schedule, budget, batch_size=16, report_every=0.0, **options)

    def weights(self) -> list[float]:
        return [value for parameter in self.model.parameters() for value in parameter.flatten().tolist()]


def test_it_learns_and_counts() -> None:
    line = Line({"otype": "Adam", "learning_rate": 0.1})
    state = line.train(300)
    assert (state.step, state.stopped_by) == (300, "steps")
    assert line.weights() == pytest.approx([3.0, -1.0], abs=0.01)
    assert [row["step"] for row in state.history][-1] == 300
    assert state.history[-1]["psnr"] > state.history[0]["psnr"] + 20


DECAYING = {"otype": "ExponentialDecay", "decay_start": 5, "decay_interval": 3, "nested": "Adam"}
NESTED = {"otype": "EMA", "nested": DECAYING}


@pytest.mark.parametrize("optimizer", ["Adam", "SGD", NESTED])
@pytest.mark.parametrize("stop_at", [1, 17, 40])
def test_stop_and_resume_is_bit_identical(optimizer: str | dict, stop_at: int, tmp_path: Path) -> None:
    whole = Line(optimizer)
    expected = whole.train(60)

    def stop(progress: Progress) -> None:
        if progress.state.step == stop_at:
            os.kill(os.getpid(), signal.SIGINT)

    first = Line(optimizer)
    checkpoints = Checkpoints(tmp_path / "line.field")
    state = first.train(60, checkpoints=checkpoints, observe=stop)
    assert state.stopped_by == "signal"
    assert state.step in (stop_at, stop_at + 1)
    second = Line(optimizer)
    resumed = second.train(60, checkpoints=checkpoints, resume=True)
    assert second.weights() == whole.weights()
    assert resumed.history == expected.history
    ours, theirs = second.optimizer.state_tensors(), whole.optimizer.state_tensors()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_checkpoint_of_another_fit_is_refused(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "line.field")

    def stop(progress: Progress) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    Line().train(60, checkpoints=checkpoints, observe=stop, identity={"seed": 1})
    with pytest.raises(ValueError, match="another fit: seed differ"):
        Line().train(60, checkpoints=checkpoints, resume=True, identity={"seed": 2})


def test_a_non_finite_loss_rolls_back_and_halves_the_rate() -> None:
    messages: list[str] = []
    line = Line({"otype": "Adam", "learning_rate": 0.1}, bad_steps=(50, 90))
    state = line.train(300, observe=lambda progress: messages.append(progress.message))
    assert state.n_rollbacks == 2
    assert state.rate == 0.25
    assert (state.step, state.stopped_by) == (300, "steps")
    assert line.weights() == pytest.approx([3.0, -1.0], abs=0.02)
    assert sum("half the rate" in message for message in messages) == 2


def test_a_loss_that_stays_non_finite_is_an_error() -> None:
    line = Line(bad_steps=(3,) * 20)
    with pytest.raises(NonFiniteError, match="learning_rate"):
        line.train(60)


def test_hooks_see_every_step_and_may_veto() -> None:
    seen: list[int] = []

    def only_even(step: int, per_sample_loss: Tensor) -> bool:
        seen.append(step)
        assert per_sample_loss.shape == (16,)
        return step % 2 == 0

    line = Line(hooks=(only_even,))
    line.train(20)
    assert seen == list(range(20))
    assert line.optimizer.n_steps_done == 10


def test_a_hook_that_looks_changes_nothing() -> None:
    plain, watched = Line(), Line(hooks=(lambda step, loss: None,))
    plain.train(20)
    watched.train(20)
    assert plain.weights() == watched.weights()


def test_the_target_ends_the_fit() -> None:
    line = Line({"otype": "Adam", "learning_rate": 0.1})
    asked: list[float] = []

    def evaluate() -> float:
        x = torch.linspace(0, 1, 50)[:, None]
        asked.append(-10 * math.log10(float(((line.model(x).detach() - 3 * x + 1) ** 2).mean())))
        return asked[-1]

    state = line.train(1000, budget=Budget(1000, target=20.0), evaluate=evaluate)
    assert state.stopped_by == "target"
    assert asked[-1] >= 20.0
    assert state.step < 1000


def test_seconds_plan_the_steps() -> None:
    state = Line().train(10, budget=Budget(10, seconds=0.5))
    assert state.step > 10, "the ten steps asked for take less than half a second"
    assert state.seconds > 0.25
    assert state.stopped_by in ("seconds", "steps")


def test_what_the_first_step_waits_for_is_no_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second for the first samples, a hundredth for every step: ten seconds are some 870 steps, not nine."""
    now = 0.0

    class Slow(Line):
        def draw(self, step: int) -> tuple[Tensor, Tensor]:
            nonlocal now
            now += 1.0 if step == 0 else 0.01
            return super().draw(step)

    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: now))
    state = Slow().train(400, budget=Budget(400, seconds=10.0))
    assert state.step == pytest.approx(870, abs=30)
    assert state.seconds == pytest.approx(9.7, abs=0.2)
