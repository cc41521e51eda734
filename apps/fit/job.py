"""One outline for every fit: configure, train, round, measure, write.

    class ShapeJob(Job[SDFField]): ...            what a signal adds to the outline
    ShapeJob(mesh).run(Plan(steps=100), target=0.99)

A signal (picture, shape) says how its configuration begins, makes the untrained field and its training step, and
measures the result. The field is measured as it is stored: parameters are rounded to the storage type first.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, TypedDict, TypeVar

import torch
from torch import Tensor

from fieldforge.apps.fit.diagnostics.watching import Watch, named
from fieldforge.apps.fit.loop import Budget, Figure, Hook, Progress, State, Step, averages_in_place, settle, train
from fieldforge.apps.fit.optimizers.base import Optimizer
from fieldforge.apps.fit.options import Options
from fieldforge.apps.fit.placement import place_centers
from fieldforge.apps.fit.progress import Silent, observer
from fieldforge.apps.fit.ranks import current, device_name
from fieldforge.apps.fit.recipe import SECTIONS, Config, bytes_of, layered, shrink
from fieldforge.apps.fit.slices import Slice
from fieldforge.apps.fit.stages import Stages, carried_by
from fieldforge.apps.fit.tune.cells import choose_cells
from fieldforge.apps.fit.tune.family import choose_family
from fieldforge.apps.fit.tune.fresh import LARGEST, tune
from fieldforge.backends import use_backend
from fieldforge.checks import expect_choice, with_article
from fieldforge.devices import find_device, here, move, working_on
from fieldforge.fields.checkpoint import Checkpoints
from fieldforge.fields.file import round_to, save_field
from fieldforge.fields.kinds.base import Field
from fieldforge.fields.networks.mlp import MLP
from fieldforge.kernels import cpu_door
from fieldforge.registry import ConfigError, build

F = TypeVar("F", bound=Field)

DIAGNOSED_SIDE = 64
"""Samples along an axis that diagnostics look at."""


class PlanKeywords(TypedDict, total=False):
    """The keywords of `Plan`, for functions that pass them on."""

    output: str | Path | None
    preset: str
    config: str | Path | Mapping[str, Any] | None
    overrides: Sequence[str]
    steps: int | None
    seconds: float | None
    max_bytes: int | None
    seed: int
    backend: str
    device: str
    resume: bool
    hooks: Sequence[Hook]
    progress: str | Silent
    tune: str
    diagnose: Sequence[str]
    diagnose_every: int | None


@dataclass(frozen=True)
class Plan:
    """What is asked of a fit, whatever the signal.

    Args:
        output: the ``.field`` file to write; None writes nothing.
        preset: name of a starting point, see `presets.py` beside each job.
        config: run file (TOML), tiny-cuda-nn network file (JSON) or the same as a mapping, over the preset.
        overrides: single keys, "encoding.n_levels=12".
        steps: training steps instead of the preset's.
        seconds: stop after about that long, with as many steps as that allows, at most `steps` if they are given.
        max_bytes: shrink the field until its file is no larger.
        seed: of initial parameters and samples; same seed, same bits.
        backend: 'auto', 'reference', 'cpu' or 'cuda'.
        device: 'auto' (a CUDA device where there is one, unless the backend is the CPU's), 'cpu', 'cuda' or 'cuda:1'.
        resume: continue the interrupted fit that was to write `output`.
        hooks: see `fieldforge.apps.fit.loop.Hook`.
        progress: 'auto', 'json', 'quiet', or an observer of your own.
        tune: 'none'; 'fresh': choose the setting that gives the untrained field its frequencies by the signal's
            spectrum; 'cells': cells of a partition where the error is, see `fieldforge.apps.fit.tune.cells`; 'auto':
            choose the family of encoding and network too, see `fieldforge.apps.fit.tune.family`.
        diagnose: names of diagnostics to keep rows of, see `fieldforge.apps.fit.diagnostics`; training stays the same
            bits. With an `output` the rows stand beside it, in ``NAME.diagnostics.jsonl``.
        diagnose_every: steps between rows; None: a sixteenth of the fit.
    """

    output: str | Path | None = None
    preset: str = "balanced"
    config: str | Path | Mapping[str, Any] | None = None
    overrides: Sequence[str] = ()
    steps: int | None = None
    seconds: float | None = None
    max_bytes: int | None = None
    seed: int = 0
    backend: str = "auto"
    device: str = "auto"
    resume: bool = False
    hooks: Sequence[Hook] = ()
    progress: str | Silent = "auto"
    tune: str = "none"
    diagnose: Sequence[str] = ()
    diagnose_every: int | None = None


@dataclass(kw_only=True)
class Fit(Generic[F]):
    """What a fit came to.

    Attributes:
        field: the fitted field, with parameters as they are stored.
        state: steps, seconds, history, why it stopped.
        config: the complete run configuration.
        training_step: who made the training steps: "native, x86-64-v4", or "PyTorch, as ..." with the reason.
        figures: how good it is, by name; empty if nothing was measured.
        notes: what the user was told of the signal and the configuration.
        path: the file, if one was written.
        n_bytes: its size.
        tuned: what was chosen before training, and how near every candidate came; None if nothing was.
        diagnostics: rows of what was asked for, {"step": ..., name: {...}}.
    """

    field: F
    state: State
    config: Config
    training_step: str
    figures: dict[str, float | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    path: Path | None = None
    n_bytes: int | None = None
    tuned: dict[str, Any] | None = None
    diagnostics: list[dict[str, Any]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Of training."""
        return self.state.seconds

    def figure(self, name: str) -> float:
        """One of the figures; nan where it was not measured."""
        value = self.figures.get(name)
        return math.nan if value is None else value

    def summary(self) -> dict[str, Any]:
        """The figures as a flat table, for JSON and benchmark rows."""
        return self.figures | {
            "seconds": round(self.seconds, 3),
            "steps": self.state.step,
            "stopped_by": self.state.stopped_by,
            "training_step": self.training_step,
            "bytes": self.n_bytes,
        }


class Training(NamedTuple):
    """What moves the parameters of a run."""

    advance: Step
    optimizer: Optimizer
    why_not_fused: str
    """'' if the step is one native call."""


class Job(ABC, Generic[F]):
    """A signal to fit.

    Class attributes: ``signal``, its name in files and messages; ``target``, the figure that a fit can be asked to
    reach, and ``asked``, the option for it where that has another name; ``options``, what checks the section ``fit``;
    ``sections``, what its run file holds.
    """

    signal: ClassVar[str]
    target: ClassVar[str]
    asked: ClassVar[str] = ""
    options: ClassVar[type[Options]]
    sections: ClassVar[tuple[str, ...]] = SECTIONS
    is_shared: ClassVar[bool] = False
    """Whether several processes can fit it together."""
    tuned: dict[str, Any] | None = None
    """The record of what `run_config` chose, if it did."""

    @property
    @abstractmethod
    def digest(self) -> str | None:
        """SHA-256 of what is fitted, which a checkpoint must agree with; None if it came from memory."""

    @abstractmethod
    def preset(self, name: str) -> Config:
        """The run configuration of a named preset; ValueError if there is none."""

    @abstractmethod
    def make_field(self, config: Config, seed: int) -> F:
        """The untrained field of a configuration: same seed, same parameters."""

    @abstractmethod
    def training(self, fitted: F, config: Config, seed: int, hooks: Sequence[Hook]) -> AbstractContextManager[Training]:
        """The training step of a run, which may hold workers and files open until the block ends."""

    @abstractmethod
    def shown(self, config: Config) -> Figure:
        """What progress shows."""

    @abstractmethod
    def quality(self, fitted: F, target: float) -> float:
        """The target's figure of a field under way: exact where it reaches the target, from few samples below it."""

    def slices(self, side: int) -> list[Slice]:
        """The signal on regular lattices of at most `side` samples along an axis, for choosers and diagnostics.

        Raises:
            ConfigError: such a signal has none.
        """
        raise ConfigError(
            f"{with_article(self.signal)} has no regular samples, so neither --tune nor --diagnose can look at it"
        )

    def places(self, seed: int) -> tuple[Tensor, Tensor]:
        """Where the signal has something to tell, for centres that follow it: points (n, d) of the field's unit cube,
        and weights (n,), see `fieldforge.apps.fit.placement`.

        Raises:
            ConfigError: such a signal does not say.
        """
        raise ConfigError(
            f"placement: {with_article(self.signal)} does not say where centres are of use; placement=Even does not ask"
        )

    def samples(self, n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """World points (n, d) spread over the signal, or fewer, and what a field should say there, (n, ...).

        Raises:
            ConfigError: such a signal has none.
        """
        raise ConfigError(f"{with_article(self.signal)} has no samples of its own, so --tune cells cannot look at it")

    def families(self) -> Mapping[str, str]:
        """Presets that --encoding auto chooses from, by the name of their family; none: it cannot."""
        return {}

    @property
    def full_side(self) -> int:
        """Samples that the signal has along its longest axis."""
        return self.slices(LARGEST)[0].values.shape[0]

    def look(self, fitted: F, state: State) -> dict[str, float]:
        """Figures of a field under way, by name, asked with every row of the history; mostly none."""
        return {}

    @abstractmethod
    def measure(self, fitted: F, tell: Callable[[str], None]) -> dict[str, float | None]:
        """The figures of a field; tells the user before it takes long."""

    @abstractmethod
    def metadata(self) -> dict[str, Any]:
        """What the header of the file says of the signal."""

    @abstractmethod
    def result(self, **parts: Any) -> Fit[F]:
        """A `Fit` of these parts."""

    def notices(self) -> list[str]:
        """What the user should know of the signal before it is fitted."""
        return []

    def provenance(self) -> dict[str, Any]:
        """What else the header of the file says of the run, which a checkpoint need not agree with."""
        return {}

    def complete(self, given: Config) -> list[str]:
        """Fill in what a tiny-cuda-nn file leaves to the program, in place; returns notices."""
        return []

    def settle(self, config: Config) -> list[str]:
        """Decide what a complete configuration leaves to the signal, in place; returns notices."""
        return []

    def identity(self) -> dict[str, Any]:
        """What else a checkpoint must agree with."""
        return {}

    def expect_target(self, value: float) -> None:
        """Raise ValueError if the target cannot be reached by such a field."""

    def refine(self, fitted: F, seed: int, observe: Silent) -> None:
        """Called when training is over and the field is not yet rounded; moves its parameters in place."""

    def finish(self, result: Any) -> None:
        """Called when all is measured and written."""

    def run_config(self, plan: Plan, tell: Callable[[str], None] = lambda text: None) -> tuple[Config, list[str]]:
        """The complete configuration of a run, and notices about what was filled in or left out.

        The preset is the ground; sections of `plan.config` replace its sections; `overrides` change single keys;
        `steps` and `max_bytes` come last. Choosing (`plan.tune`) may take a while: `tell` is told what is under way.

        Raises:
            ConfigError, ValueError: unknown preset, key or value; or `max_bytes` below what such a field can shrink to.
        """
        expect_choice("tune", plan.tune, ("none", "fresh", "cells", "auto"))
        self.tuned = None
        if plan.tune == "auto":
            resolved, notices, self.tuned = choose_family(self, plan, device_for(plan), tell)
        else:
            resolved, notices = self.layered(plan, plan.preset)
        if plan.tune == "fresh":
            tell("fresh: comparing spectra of untrained networks with the signal's")
            with use_backend(plan.backend):
                found = tune(self.make_field, resolved, self.slices, self.full_side, seed=plan.seed)
            resolved, self.tuned = found.config, found.record()
            notices.append(found.sentence())
        if plan.tune == "cells":
            tell("cells: fitting a few steps at a time to see where the error is")
            with use_backend(plan.backend):
                resolved, sentence, self.tuned = choose_cells(self, resolved, plan.seed)
            notices.append(sentence)
        if plan.max_bytes is not None:
            shrink(resolved, lambda: self.stored_bytes(resolved), plan.max_bytes)
        return resolved, notices

    def layered(self, plan: Plan, preset: str) -> tuple[Config, list[str]]:
        """What a plan makes of a preset, and notices."""
        config = Path(plan.config) if isinstance(plan.config, str) else plan.config
        resolved, notices = layered(
            self.preset(preset), config, plan.overrides, plan.steps, self.options,
            sections=self.sections, fill=self.complete,
        )  # fmt: skip
        return resolved, notices + self.settle(resolved)

    def stored_bytes(self, config: Config) -> float:
        """An upper bound on the size of the file a configuration makes, without allocating its parameters."""
        with torch.device("meta"):
            skeleton = self.make_field(config, 0)
            materialise(skeleton)
            return bytes_of(skeleton, config)

    def run(self, plan: Plan, target: float | None = None) -> Any:
        """Fit.

        Args:
            plan: what is asked for.
            target: stop as soon as the figure of that name is that good.

        Returns:
            The `Fit` of this signal. If a signal of the system stopped it, `state.stopped_by` is 'signal', and with an
            `output` the state is saved beside it, no field is written, and nothing was measured.

        Raises:
            ConfigError, ValueError: options or configuration.
            BackendError: the backend asked for cannot run.
        """
        if target is not None:
            self.expect_target(target)
        ranks = current()
        progress = plan.progress if ranks.is_first else "quiet"
        observe = progress if isinstance(progress, Silent) else observer(progress)
        try:
            config, notices = self.run_config(plan, lambda text: observe(Progress(State(), message=text)))
            if ranks.n > 1 and not self.is_shared:
                raise ValueError(f"torchrun: {ranks.n} processes share the fit of a scene or of a collection, and this "
                                 f"is a {self.signal}; start it once")  # fmt: skip
            if ranks.n > 1 and (plan.hooks or plan.diagnose):
                raise ValueError("torchrun: hooks and diagnostics see one process only; fit alone with them")
            with use_backend(plan.backend), working_on(device_for(plan)):
                notes = [*self.notices(), *notices]
                for note in notes:
                    observe(Progress(State(), message=note))
                return self._run(config, plan, target, notes, observe)
        finally:
            observe.close()

    def _run(self, config: Config, plan: Plan, target: float | None, notes: list[str], observe: Silent) -> Fit[F]:
        path = None if plan.output is None else Path(plan.output)
        fitted = self._new_field(config, plan.seed)
        identity = {
            "config": config, self.signal: self.digest, "seed": plan.seed, "seconds": plan.seconds, self.target: target
        } | self.identity()  # fmt: skip
        watch = self._watch(fitted, config, plan, path)
        state, training_step = self._train(fitted, identity, plan, path, target, observe, watch)
        result = self.result(
            field=fitted, state=state, config=config, training_step=training_step, notes=notes, path=path,
            tuned=self.tuned, diagnostics=[] if watch is None else watch.rows,
        )  # fmt: skip
        if (state.stopped_by == "signal" and path is not None) or not current().is_first:
            return result
        storage = self.options.of(config["fit"]).storage
        fitted.requires_grad_(False)
        if state.stopped_by != "signal":
            self.refine(fitted, plan.seed, observe)
        materialise(fitted)
        round_to(fitted, storage)
        result.figures = self.measure(fitted, lambda text: observe(Progress(state, message=text)))
        if path is not None:
            result.n_bytes = save_field(path, fitted, metadata=self._header(result, plan), dtype=storage)
            Checkpoints(path).remove()
        self.finish(result)
        return result

    def _new_field(self, config: Config, seed: int) -> F:
        """The untrained field where training goes on: made on the CPU, so that a seed means the same everywhere."""
        device = here()
        if device.type == "cpu":
            made = self.make_field(config, seed)
            place_centers(made, self.places, seed)
            return made
        with torch.device("cpu"):
            made = self.make_field(config, seed)
            place_centers(made, self.places, seed)
        return move(made, device)

    def _watch(self, fitted: F, config: Config, plan: Plan, path: Path | None) -> Watch | None:
        if not plan.diagnose:
            return None
        every = plan.diagnose_every or max(1, self.options.of(config["fit"]).n_steps // 16)
        rows = None if path is None else path.with_suffix(".diagnostics.jsonl")
        grid = self.slices(DIAGNOSED_SIDE)[0]
        return Watch(named(plan.diagnose), fitted, grid, every=every, path=rows, resume=plan.resume)

    def _train(
        self,
        fitted: F,
        identity: dict[str, Any],
        plan: Plan,
        path: Path | None,
        target: float | None,
        observe: Silent,
        watch: Watch | None,
    ) -> tuple[State, str]:
        """Train a field in place, up to what inference uses; the state it ends in, and who made the steps.

        The moments and averages of the optimizer, several times the field in size, are free when this returns.
        """
        config, ranks = identity["config"], current()
        options = self.options.of(config["fit"])
        with self.training(fitted, config, plan.seed, plan.hooks) as (advance, optimizer, why_not_fused):
            training_step = f"PyTorch, as {why_not_fused}" if why_not_fused else cpu_door.description()
            observe(Progress(State(), message=f"training step: {training_step}"))

            def evaluate() -> float:
                assert target is not None
                with averages_in_place(optimizer), torch.no_grad():
                    return self.quality(fitted, target)

            def look(state: State) -> dict[str, float]:
                with averages_in_place(optimizer), torch.no_grad():
                    return self.look(fitted, state)

            state = train(
                advance if watch is None else watch.around(advance),
                optimizer,
                build("schedule", config["schedule"], path="schedule"),
                Budget(options.n_steps, plan.seconds, target, plan.steps),
                batch_size=options.batch_size,
                figure=self.shown(config),
                observe=observe,
                evaluate=None if target is None else evaluate,
                look=look,
                stages=Stages(fitted, carried_by(advance), [advance]),
                checkpoints=Checkpoints(path) if path is not None else None,
                identity=identity,
                resume=plan.resume,
                together=ranks if ranks.n > 1 else None,
            )
            if watch is not None and state.stopped_by != "signal":
                watch.look(state.step)
            if state.stopped_by != "signal" or path is None:
                settle(optimizer)
        return state, training_step

    def _header(self, result: Fit[F], plan: Plan) -> dict[str, Any]:
        name = self.shown(result.config).name
        sections = [name for name in self.sections if name in result.config and name not in ("encoding", "network")]
        parts = {section: result.config[section] for section in sections}
        tuned = {} if result.tuned is None else {"tuned": result.tuned}
        return {
            "signal": {"kind": self.signal, **self.metadata(), "sha256": self.digest},
            "metrics": result.figures,
            "history": [
                {"step": row["step"], name: float(f"{row[name]:.4g}")}
                | {key: float(f"{value:.4g}") for key, value in row.items() if key not in ("step", "loss", name)}
                for row in result.state.history
            ],
            "run": parts
            | trained_as(result.config)
            | {"seed": plan.seed, "training_step": result.training_step}
            | self.identity()
            | self.provenance()
            | tuned,
        }


def device_for(plan: Plan) -> torch.device:
    """Where a plan is carried out: where the backend of the CPU is asked for by name, auto is the CPU.

    Raises:
        ValueError: there is no such device here.
    """
    return find_device("cpu" if (plan.device, plan.backend) == ("auto", "cpu") else device_name(plan.device))


def materialise(field: Field) -> None:
    """Make networks that were trained as something else plain, in place, unless they are to stay as they are."""
    for module in field.modules():
        if isinstance(module, MLP) and module.reparameterisation is not None and not module.reparameterisation.keep:
            module.materialise()


def trained_as(config: Config) -> Config:
    """The reparameterisation of a run, which the configuration of a materialised field does not tell."""
    rule = config.get("network", {}).get("reparameterisation")
    return {"reparameterisation": rule} if rule else {}
