"""The race: every method on the same signal with the same budget, one after another.

    race = Race(signal, job, methods, Budget(seconds=30))
    for result in race.run(folder): ...

A method's configuration is that of its preset and its table (`methods.py`), made as large as the budget's parameters
allow. Learning rates are those of the presets, or, tuned, the best of `FACTORS` times those on another signal, each
tried for a quarter of the budget with another seed; all methods are tuned alike. Each run leaves its field and its row
in the folder, and a race that was interrupted goes on with those that are missing; of the run that it was at, with its
learning rate and, where its checkpoint is there, from where it was.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fieldforge.apps.compare.methods import FAMILIES, METHODS, Method, expect_methods
from fieldforge.apps.compare.signals import Signal
from fieldforge.apps.compare.size import parameters_of, sized, with_rate
from fieldforge.apps.fit.job import Fit, Job, Plan
from fieldforge.apps.fit.progress import clock
from fieldforge.apps.fit.recipe import Config
from fieldforge.devices import find_device
from fieldforge.fields.container import replacing
from fieldforge.registry import ConfigError

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""On a method's learning rate, where it is tuned."""
TUNING_SHARE = 0.25
"""Of the budget, for each of them."""
TUNING_SEED = 1000


@dataclass(frozen=True)
class Budget:
    """What every method may spend; None sets no limit, but one of steps and seconds is given.

    Args:
        seconds: of training, wall time. steps: of training. parameters: of the field.
    """

    seconds: float | None = None
    steps: int | None = None
    parameters: int | None = None

    def describe(self) -> str:
        """For people."""
        said = [] if self.seconds is None else [f"{self.seconds:g} s of training"]
        said += [] if self.steps is None else [f"{self.steps:,} steps"]
        said += [] if self.parameters is None else [f"at most {self.parameters:,} parameters"]
        return ", ".join(said)

    def share(self, share: float) -> Budget:
        """A part of the training, of the same parameters."""
        steps = None if self.steps is None else max(1, round(share * self.steps))
        return Budget(None if self.seconds is None else share * self.seconds, steps, self.parameters)


@dataclass(frozen=True)
class Result:
    """One run.

    Attributes:
        method, seed: which.
        figures: of the stored field, by name.
        seconds, steps: of training.
        parameters: trainable numbers. n_bytes: of the file.
        rate_factor: on the method's learning rate.
        history: rows with step and the figure that training shows.
        training_step: who made the steps.
        file: of the field, in the folder.
        config: the complete run configuration.
        failure: why there are no figures; "" if there are.
        chosen: what a method that chooses has chosen.
    """

    method: str
    seed: int
    figures: dict[str, float | None] = field(default_factory=dict)
    seconds: float = 0.0
    steps: int = 0
    parameters: int = 0
    n_bytes: int = 0
    rate_factor: float = 1.0
    history: list[dict[str, float]] = field(default_factory=list)
    training_step: str = ""
    file: str = ""
    config: Config = field(default_factory=dict)
    failure: str = ""
    chosen: str = ""


class Interrupted(Exception):
    """The user asked to stop; what is finished stands in the folder."""


class Race:
    """A comparison.

    Args:
        signal, job: what is fitted.
        methods: names from the table of the signal.
        budget: of every run.
        n_seeds: runs of each method.
        backend, device: of every run, as for other fits.
        tuning: a job of another signal to tune learning rates on; None: those of the presets.

    Raises:
        ValueError: no such method, or a budget that it cannot keep.
    """

    def __init__(
        self,
        signal: Signal,
        job: Job[Any],
        methods: Sequence[str],
        budget: Budget,
        *,
        n_seeds: int = 1,
        tuning: Job[Any] | None = None,
        backend: str = "auto",
        device: str = "auto",
    ) -> None:
        self.signal, self.job, self.budget, self.tuning = signal, job, budget, tuning
        self.where: dict[str, Any] = {"backend": backend, "device": device}
        self.kind = find_device("cpu" if (device, backend) == ("auto", "cpu") else device).type
        self.seeds = range(n_seeds)
        self.methods = expect_methods(signal.name, methods)
        self.configs: dict[str, Config] = {}
        """Of every method, complete; of `auto` when its turn has come, as it looks at the signal first."""
        self.chosen: dict[str, str] = {}
        """What methods that choose have chosen."""
        for name, method in self.methods.items():
            if method.tune == "none":
                try:
                    self.configs[name] = self._config(job, method)
                    parameters_of(job, self.configs[name])
                except ConfigError as error:
                    raise ConfigError(f"{name}: {error}") from error
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from error

    def __len__(self) -> int:
        return len(self.methods) * len(self.seeds)

    def describe(self) -> str:
        """How much there is to do, for people."""
        said = f"{len(self)} run{'s' if len(self) > 1 else ''} of {self.budget.describe()} each"
        n_tuned = 0 if self.tuning is None else len(self.methods) * len(FACTORS)
        said += f" and {n_tuned} shorter ones for learning rates" if n_tuned else ""
        if self.budget.seconds is None:
            return said
        total = self.budget.seconds * (len(self) + TUNING_SHARE * n_tuned)
        return f"{said}: {clock(total)} of training in all, and what measuring takes"

    def run(self, folder: Path, tell: Callable[[str], None], *, progress: str = "auto") -> Iterator[Result]:
        """Every run, those of the folder that are the same ones first read and not repeated.

        Raises:
            Interrupted: a run was stopped by a signal.
        """
        number, pace = 0, _Pace(self)
        for name in self.methods:
            factor: float | None = None
            for seed in self.seeds:
                number += 1
                if name not in self.configs:
                    tell(f"{name}: choosing by short trainings, which are not of its budget")
                    self.configs[name] = self._config(self.job, self.methods[name])
                    self.chosen[name] = str((self.job.tuned or {}).get("chosen", ""))
                    tell(f"{name}: {self.chosen[name]}")
                path = folder / f"{name}-{seed}.json"
                found = _read(path, self._key(name))
                if found is None:
                    begun = _begun(path, self._key(name))
                    is_tuned_here = self.tuning is not None and begun is None and factor is None
                    factor = begun or factor or (self._tuned(name, tell) if is_tuned_here else 1.0)
                    tell(f"[{number}/{len(self)}] {name}, seed {seed}{pace.left(number)}")
                    _write(path, {"begun": factor, "key": self._key(name)})
                    found = self._fit(name, seed, factor, path, progress, resume=begun is not None)
                    _write(path, dataclasses.asdict(found) | {"key": self._key(name)})
                    pace.spent(is_tuned_here)
                else:
                    tell(f"[{number}/{len(self)}] {name}, seed {seed}: done before")
                if found.failure:
                    tell(f"{name}: {found.failure}")
                factor = found.rate_factor
                yield found

    def _config(self, job: Job[Any], method: Method) -> Config:
        config, _ = job.run_config(dataclasses.replace(method.plan(steps=self.budget.steps), **self.where))
        if self.budget.parameters is None:
            return config
        if method.tune != "none":
            method = METHODS[self.signal.name][FAMILIES[str((job.tuned or {})["chosen"])]]
        return sized(job, config, method, self.budget.parameters)

    def _fit(self, name: str, seed: int, factor: float, path: Path, progress: str, *, resume: bool) -> Result:
        config = with_rate(self.configs[name], factor)
        about = Result(
            name, seed, parameters=parameters_of(self.job, config), rate_factor=factor, config=config,
            chosen=self.chosen.get(name, ""),
        )  # fmt: skip
        plan = Plan(
            output=path.with_suffix(".field"), preset=self.methods[name].preset, config=config,
            steps=self.budget.steps, seconds=self.budget.seconds, seed=seed, progress=progress, resume=resume,
            **self.where,
        )  # fmt: skip
        try:
            fit: Fit[Any] = self.job.run(plan)
        except (RuntimeError, ValueError, MemoryError) as error:  # the others go on
            return dataclasses.replace(about, failure=str(error) or "out of memory")
        if fit.state.stopped_by == "signal":
            raise Interrupted
        return dataclasses.replace(
            about, figures=fit.figures, seconds=fit.seconds, steps=fit.state.step, n_bytes=fit.n_bytes or 0,
            history=fit.state.history, training_step=fit.training_step, file=path.with_suffix(".field").name,
        )  # fmt: skip

    def _tuned(self, name: str, tell: Callable[[str], None]) -> float:
        """The factor that ends best on the other signal; 1 if none ends with a number."""
        assert self.tuning is not None
        tell(f"{name}: learning rates on the other signal, {len(FACTORS)} fits of a quarter of the budget")
        budget, kind = self.budget.share(TUNING_SHARE), self.signal.figures[0]
        ground = self._ground(name)
        found: dict[float, float] = {}
        for factor in FACTORS:
            plan = Plan(
                preset=self.methods[name].preset, config=with_rate(ground, factor), seed=TUNING_SEED, progress="quiet",
                **self.where,
                steps=budget.steps, seconds=budget.seconds,
            )  # fmt: skip
            try:
                fit: Fit[Any] = self.tuning.run(plan)
            except (RuntimeError, ValueError, MemoryError) as error:
                tell(f"{name}: x {factor:g}: {error}")
                continue
            if fit.state.stopped_by == "signal":
                raise Interrupted
            value = fit.figure(kind.name)
            tell(f"{name}: x {factor:g}: {kind.form.format(value)} after {fit.state.step:,} steps")
            if math.isfinite(value):
                found[factor] = value
        best = max(found, key=lambda factor: found[factor], default=1.0)
        ours = "" if best != 1 else ", the preset's"
        tell(f"{name}: x {best:g} learning rate{ours}, is best on the other signal" if found else
             f"{name}: no rate ended with a number on the other signal; the preset's stays")  # fmt: skip
        return best

    def _ground(self, name: str) -> Config:
        """A method's configuration on the other signal; what has chosen there keeps to the choice made here."""
        assert self.tuning is not None
        method = self.methods[name]
        if name not in self.chosen:
            return self._config(self.tuning, method)
        like = METHODS[self.signal.name][FAMILIES[self.chosen[name]]]
        return self._config(self.tuning, like) | {"network": self.configs[name]["network"]}

    def _key(self, name: str) -> str:
        """What a run of the folder must agree with to stand for ours."""
        said = {
            "signal": self.job.digest, "config": self.configs[name], "budget": dataclasses.asdict(self.budget),
            "tuning": None if self.tuning is None else self.tuning.digest or "built in",
        }  # fmt: skip
        if self.kind != "cpu":  # seconds are worth something else there
            said["device"] = self.kind
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _read(path: Path, key: str) -> Result | None:
    """A result that an earlier race left, if it is of the same run and its field is there."""
    try:
        stored: Mapping[str, Any] = json.loads(path.read_text())
        if stored.pop("key", None) != key:  # type: ignore[attr-defined]
            return None
        result = Result(**stored)
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    return result if result.failure or (path.parent / result.file).exists() else None


def _begun(path: Path, key: str) -> float | None:
    """The factor on the learning rate of a run that an earlier race began and did not end, if it is of the same run."""
    try:
        stored = json.loads(path.read_text())
        return float(stored["begun"]) if stored.get("key") == key else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _write(path: Path, row: Mapping[str, Any]) -> None:
    with replacing(path) as file:
        file.write((json.dumps(row, indent=1) + "\n").encode())


class _Pace:
    """How long the rest of a race takes: by its runs so far, tuned ones counted as what they are more."""

    def __init__(self, race: Race) -> None:
        self.n_runs, self.n_seeds = len(race), len(race.seeds)
        self.tuning = len(FACTORS) * TUNING_SHARE if race.tuning is not None else 0.0
        self._at, self._seconds, self._units = time.perf_counter(), 0.0, 0.0

    def spent(self, is_tuned: bool) -> None:
        """A run has ended."""
        now = time.perf_counter()
        self._seconds += now - self._at
        self._units += 1 + (self.tuning if is_tuned else 0.0)
        self._at = now

    def left(self, number: int) -> str:
        """To the end of the race, from the beginning of a run, tuned by then; nothing before one has ended."""
        if not self._units:
            return ""
        n_tuned = (self.n_runs - number) // self.n_seeds
        units = self.n_runs - number + 1 + n_tuned * self.tuning
        return f", about {clock(units * self._seconds / self._units)} to the end of all"
