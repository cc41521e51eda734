"""Train a model of the weights of a collection's fields.

    job = TrainingJob(Collection("fields/"), TrainingPlan(Path("model.gen"), model="diffusion", seed=0))
    job.run()

Baselines are fitted in closed form. A diffusion model goes through the loop that fits go through (`fit/loop.py`): its
batches, steps and noise follow from (seed, step number), so that a training that was interrupted ends with the bits of
one that was not.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w
import torch
from torch import Tensor

from fieldforge.apps.cli.words import UsageError, print_json
from fieldforge.apps.fit.command import expect_another_file, prepare_output, say_interrupted
from fieldforge.apps.fit.loop import Budget, Figure, Progress, State, averages_in_place, settle, train
from fieldforge.apps.fit.on_device import LossStep
from fieldforge.apps.fit.optimizers.base import Optimizer, Parameters
from fieldforge.apps.fit.options import Options
from fieldforge.apps.fit.progress import Silent, observer
from fieldforge.apps.fit.recipe import Config, layered
from fieldforge.apps.generate.data import FieldSet, open_set
from fieldforge.apps.generate.presets import BASELINES, MODELS, preset
from fieldforge.checks import expect_choice, expect_int
from fieldforge.devices import arrived, find_device, move, seeded, working_on
from fieldforge.fields.checkpoint import Checkpoints
from fieldforge.fields.collection import Collection
from fieldforge.fields.weightspace.generators.base import Generator
from fieldforge.fields.weightspace.generators.diffusion import WeightDiffusion
from fieldforge.fields.weightspace.model_file import save_model, summary_of
from fieldforge.registry import ConfigError, build

SECTIONS = ("generator", "codec", "denoiser", "noise", "optimizer", "schedule", "fit")
N_LOOKED_AT = 256
"""Held-out fields whose loss is kept in the history."""

LOSS = Figure("loss", "loss {:.4f}", lambda loss, error: loss, "fields")


@dataclass(frozen=True)
class TrainingPlan:
    """What is asked of a training.

    Args:
        output: the .gen file to write.
        model: one of `MODELS`.
        condition: "label", or None.
        config: run file (TOML), or its tables, over the preset.
        overrides: single keys, "denoiser.width=512".
        steps: instead of the preset's.
        minutes: stop after about that long.
        seed: same seed, same bits.
        device: where it trains: "auto", "cpu", "cuda" or "cuda:1"; baselines are fitted on the CPU.
        resume: continue the interrupted training that was to write `output`.
        progress: "auto", "json" or "quiet", or an observer.
    """

    output: Path
    model: str = "diffusion"
    condition: str | None = None
    config: Path | Mapping[str, Any] | None = None
    overrides: Sequence[str] = ()
    steps: int | None = None
    minutes: float | None = None
    seed: int = 0
    device: str = "auto"
    resume: bool = False
    progress: str | Silent = "auto"


@dataclass(frozen=True)
class Trained:
    """What came of it.

    Attributes:
        model: the generator.
        fields: what it was trained on.
        state: of the training; None of a baseline.
        n_bytes: size of the file; None where it was interrupted.
        n_parameters: numbers that the model holds.
    """

    model: Generator
    fields: FieldSet
    state: State | None
    n_bytes: int | None
    n_parameters: int
    notes: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Figures for JSON."""
        state = self.state
        found: dict[str, Any] = {
            "model": self.model.otype, "parameters": self.n_parameters, "bytes": self.n_bytes,
            "n_training": len(self.fields.training), "n_held_out": len(self.fields.held_out),
            "n_left_out": len(self.fields.left_out), "notes": self.notes,
        }  # fmt: skip
        if state is not None:
            found |= {"steps": state.step, "seconds": round(state.seconds, 3), "stopped_by": state.stopped_by}
            last = state.history[-1] if state.history else {}
            found |= {key: value for key, value in last.items() if key != "step"}
        return found


class TrainingJob:
    """A training, made ready; `run` does it.

    Attributes:
        config: the run configuration, complete.
    """

    def __init__(self, collection: Collection, plan: TrainingPlan) -> None:
        expect_choice("model", plan.model, MODELS)
        expect_int("seed", plan.seed, 0, 2**31 - 1)
        if plan.condition is not None:
            expect_choice("condition", plan.condition, ("label",))
        self.collection, self.plan, self.device = collection, plan, find_device(plan.device)
        ground = preset(plan.model, collection.layout)
        is_trained = plan.model not in BASELINES
        sections = SECTIONS if is_trained else SECTIONS[:1]
        if is_trained:
            self.config, self.notices = layered(
                ground, plan.config, plan.overrides, plan.steps, TrainingOptions, sections=sections
            )
        else:
            if plan.steps is not None or plan.minutes is not None:
                raise ValueError(f"{plan.model}: is fitted in closed form; it has no --steps and no --minutes")
            ground["fit"] = {}
            self.config, self.notices = layered(
                ground, plan.config, plan.overrides, None, TrainingOptions, sections=(*sections, "fit")
            )
            del self.config["fit"]
        if plan.condition and not is_trained:
            raise ValueError(f"condition: {plan.model} knows no labels; diffusion does")
        if is_trained and not isinstance(self._build(), WeightDiffusion):
            raise ConfigError(f"generator.otype: expected WeightDiffusion for --model {plan.model}")

    def run(self) -> Trained:
        """Train, write the file.

        Raises:
            CollectionError: too few fields, or labels that are missing.
            FieldFileError: the file cannot be written.
        """
        plan = self.plan
        observe = plan.progress if isinstance(plan.progress, Silent) else observer(plan.progress)
        try:
            notes = list(self.notices)
            fields = open_set(self.collection, has_labels=plan.condition is not None, say=notes.append)
            for note in notes:
                observe(Progress(State(), message=note))
            return self._run(fields, notes, observe)
        finally:
            observe.close()

    def _run(self, fields: FieldSet, notes: list[str], observe: Silent) -> Trained:
        plan = self.plan
        model = self._build(fields)
        model.fit(fields.training)
        state = None
        if isinstance(model, WeightDiffusion):
            with working_on(self.device):
                state = self._train(move(model, self.device), fields, observe)
            move(model, torch.device("cpu"))
        n_parameters = sum(tensor.numel() for tensor in model.state_dict().values())
        trained = Trained(model, fields, state, None, n_parameters, notes)
        if state is not None and state.stopped_by == "signal":
            return trained
        model.requires_grad_(False)
        n_bytes = save_model(plan.output, model, field=self.collection.config, metadata=self._metadata(trained))
        Checkpoints(plan.output).remove()
        return Trained(model, fields, state, n_bytes, n_parameters, notes)

    def _build(self, fields: FieldSet | None = None) -> Generator:
        """The untrained model, of as many components as the training set has."""
        config = _table(self.config["generator"])
        if "denoiser" in self.config:
            noise = build("noise", self.config["noise"], path="noise")
            n_classes = 0 if fields is None else len(fields.label_names or [])
            denoiser = {**_table(self.config["denoiser"]), "n_classes": n_classes}
            if denoiser["otype"].lower() == "residualmlp":
                denoiser["n_steps"] = noise.n_steps
            config |= {"denoiser": denoiser, "noise": self.config["noise"], "codec": self.config["codec"]}
            if fields is not None and config.get("n_components"):
                config["n_components"] = min(config["n_components"], len(fields.training) - 1)
        generator = torch.Generator().manual_seed(self.plan.seed)
        made: Generator = build(
            "generator", config, path="generator", layout=self.collection.layout, generator=generator
        )
        return made

    def _train(self, model: WeightDiffusion, fields: FieldSet, observe: Silent) -> State:
        plan, config = self.plan, self.config
        options = TrainingOptions.of(config["fit"])
        parameters = Parameters(matrix=list(model.denoiser.parameters()))
        optimizer: Optimizer = build("optimizer", config["optimizer"], path="optimizer", parameters=parameters)
        labels = None if fields.labels is None else arrived(fields.labels)
        step = DenoisingStep(model, optimizer, arrived(fields.training), labels, options.batch_size, plan.seed)
        held_out = arrived(fields.held_out)
        seconds = None if plan.minutes is None else 60 * plan.minutes

        def look(state: State) -> dict[str, float]:
            is_due = state.step % max(1, state.n_steps // 8) < max(1, state.n_steps // 64)
            if not is_due or not len(fields.held_out):
                return {}
            with averages_in_place(optimizer), torch.no_grad():
                return {"held_out": held_out_loss(model, held_out)}

        identity = {
            "config": config, "collection": fields.digest, "seed": plan.seed, "minutes": plan.minutes,
            "condition": plan.condition,
        }  # fmt: skip
        state = train(
            step.on(self.device),
            optimizer,
            build("schedule", config["schedule"], path="schedule"),
            Budget(options.n_steps, seconds),
            batch_size=options.batch_size,
            figure=LOSS,
            observe=observe,
            look=look,
            checkpoints=Checkpoints(plan.output),
            identity=identity,
            resume=plan.resume,
        )
        if state.stopped_by != "signal":
            settle(optimizer)
        return state

    def _metadata(self, trained: Trained) -> dict[str, Any]:
        """What the file says beside the model."""
        fields, state = trained.fields, trained.state
        digest = hashlib.sha256(json.dumps(fields.training_indices).encode()).hexdigest()
        found: dict[str, Any] = {
            "collection": summary_of(self.collection) | {"training_digest": fields.digest, "indices_digest": digest},
            "n_training": len(fields.training),
            "labels": fields.label_names,
            "run": {name: self.config[name] for name in ("optimizer", "schedule", "fit") if name in self.config}
            | {"seed": self.plan.seed, "model": self.plan.model},
        }
        if state is not None:
            found["steps"] = state.step
            found["history"] = [{key: _short(value) for key, value in row.items()} for row in state.history]
        return found


@dataclass(frozen=True)
class TrainingOptions(Options):
    """Of a training: steps, and fields a step."""

    batch_size: int = 128
    storage: str = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_choice("storage", self.storage, ("float32",))


@dataclass
class DenoisingStep(LossStep):
    """Draw fields, steps of the noise and noise from the step number; move the denoiser once.

    Args:
        model: whose denoiser is trained.
        optimizer: of its parameters.
        vectors: (n, P) the training set, where the model is.
        labels: (n,) or None.
        batch_size: fields a step, drawn with replacement.
        seed: of the training.
    """

    model: WeightDiffusion
    optimizer: Optimizer
    vectors: Tensor
    labels: Tensor | None
    batch_size: int
    seed: int

    def losses(self, step: int) -> tuple[Tensor, Tensor]:
        device = self.vectors.device
        generator = seeded((self.seed << 32) + step, device)
        chosen = torch.randint(len(self.vectors), (self.batch_size,), generator=generator, device=device)
        labels = None if self.labels is None else self.labels[chosen]
        loss = self.model.loss(self.vectors[chosen], labels, generator=generator)
        return loss, loss.detach()


def held_out_loss(model: WeightDiffusion, vectors: Tensor) -> float:
    """The loss of fields that training has not seen, at steps and with noise that are always the same."""
    generator = seeded(0, vectors.device)
    some = vectors[:: max(1, len(vectors) // N_LOOKED_AT)][:N_LOOKED_AT]
    return sum(float(model.loss(some, generator=generator)) for _ in range(4)) / 4


def train_command(options: argparse.Namespace) -> int:
    """``fieldforge generate train``; returns the exit code: 0 done, 130 interrupted (the state is saved)."""
    output: Path = options.output
    if output.is_dir():
        raise UsageError(f"{output}: is a folder; name a file in it, model.gen say")
    plan = TrainingPlan(
        output=output, model=options.model, condition=options.condition, config=options.config,
        overrides=options.overrides, steps=options.steps, minutes=options.minutes, seed=options.seed,
        device=options.device, resume=options.resume,
        progress="quiet" if options.quiet else "json" if options.json else "auto",
    )  # fmt: skip
    job = TrainingJob(Collection(options.collection), plan)
    if options.print_config:
        print(tomli_w.dumps(job.config), end="")
        return 0
    expect_another_file(output, options.collection)
    if prepare_output(options, output, options.collection):
        return 0
    trained = job.run()
    if trained.state is not None and trained.state.stopped_by == "signal":
        return say_interrupted(trained.state, output)
    if options.json:
        print_json({"event": "result", "output": str(output), **trained.summary()})
    elif not options.quiet:
        print(describe(output, trained))
    return 0


def describe(output: Path, trained: Trained) -> str:
    """What is printed at the end."""
    fields, state = trained.fields, trained.state
    line = (
        f"{output}: {trained.model.otype} of {trained.n_parameters:,} numbers on {len(fields.training):,} fields of "
        f"{fields.collection.n_parameters:,}, {trained.n_bytes:,} bytes"
    )
    if state is not None:
        line += f", {state.step} steps in {state.seconds:.1f} s"
        last = next((row for row in reversed(state.history) if "held_out" in row), None)
        if last is not None:
            line += f"\nloss {last['loss']:.4f}, of {len(fields.held_out):,} fields held out {last['held_out']:.4f}"
    return line


def _table(config: Any) -> Config:
    return {"otype": config} if isinstance(config, str) else dict(config)


def _short(value: float) -> float:
    return float(f"{value:.5g}")
