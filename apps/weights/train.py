"""Train a network to tell the labels of fields from their weights.

    job = ClassifierJob(Collection("fields/"), ClassifierPlan(Path("model.net"), model="odd-graph", seed=0))
    trained = job.run()
    trained.report["accuracy"]

It goes through the loop that fits go through (`fit/loop.py`): batches, orders of hidden units and noise follow from
(seed, step number), so that a training that was interrupted ends with the bits of one that was not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fieldforge.apps.fit.loop import Budget, Figure, Progress, State, averages_in_place, settle, train
from fieldforge.apps.fit.on_device import LossStep, global_numbers
from fieldforge.apps.fit.optimizers.base import Optimizer, Parameters
from fieldforge.apps.fit.options import Options
from fieldforge.apps.fit.progress import Silent, observer
from fieldforge.apps.fit.recipe import Config, layered
from fieldforge.apps.weights.data import Examples, Parts, open_parts
from fieldforge.apps.weights.measure import accuracy_report, predictions
from fieldforge.apps.weights.presets import AUGMENTED, CONTROLS, preset
from fieldforge.checks import expect_choice, expect_float, expect_int
from fieldforge.devices import arrived, device_of, find_device, move, seeded, working_on
from fieldforge.fields.activations.base import Activation
from fieldforge.fields.checkpoint import Checkpoints
from fieldforge.fields.collection import Collection
from fieldforge.fields.weightspace.chain import Chain
from fieldforge.fields.weightspace.model_file import save_model, summary_of
from fieldforge.fields.weightspace.networks.base import WeightNetwork
from fieldforge.fields.weightspace.symmetries import Symmetries
from fieldforge.registry import ConfigError, build

SECTIONS = ("weight_network", "optimizer", "schedule", "fit")
N_LOOKED_AT = 2000
"""Validation fields that are looked at while it trains."""

ACCURACY = Figure("accuracy", "right {:.1%}", lambda loss, error: 1 - error, "fields")


@dataclass(frozen=True)
class ClassifierOptions(Options):
    """The section ``fit``.

    Args:
        batch_size: fields a step.
        storage: "float32".
        augmentation: "none"; "permutations": hidden units in another order at every look; "symmetries": with other
            signs too, where the activation allows them.
        noise: relative, on every number at every look.
        label_smoothing: share of the target that is spread over all labels.
        clip: largest length of the gradient of a step; 0: none.
    """

    n_steps: int = 5000
    batch_size: int = 128
    storage: str = "float32"
    augmentation: str = "none"
    noise: float = 0.0
    label_smoothing: float = 0.0
    clip: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_choice("storage", self.storage, ("float32",))
        expect_choice("augmentation", self.augmentation, ("none", "permutations", "symmetries"))
        expect_float("noise", self.noise, 0.0, 10.0)
        expect_float("label_smoothing", self.label_smoothing, 0.0, 0.99)
        expect_float("clip", self.clip, 0.0)


@dataclass(frozen=True)
class ClassifierPlan:
    """What is asked of a training.

    Args:
        output: the file to write; None writes nothing.
        model: one of `presets.NETWORKS`.
        config: run file (TOML), or its tables, over the preset.
        overrides: single keys, "weight_network.nested.n_channels=32".
        steps, epochs, minutes: when to stop, instead of the preset's steps.
        seed: same seed, same bits.
        device: where it trains: "auto", "cpu", "cuda" or "cuda:1".
        inits: train on the first so many initialisations of each item; None: all.
        has_controls: also train plain MLPs for as many steps.
        resume: continue the interrupted training that was to write `output`.
        progress: "auto", "json" or "quiet", or an observer.
    """

    output: Path | None = None
    model: str = "odd-graph"
    config: Path | Mapping[str, Any] | None = None
    overrides: Sequence[str] = ()
    steps: int | None = None
    epochs: float | None = None
    minutes: float | None = None
    seed: int = 0
    device: str = "auto"
    inits: int | None = None
    has_controls: bool = False
    resume: bool = False
    progress: str | Silent = "auto"


@dataclass(frozen=True)
class Trained:
    """What came of it.

    Attributes:
        network: in evaluation mode.
        parts: the collection's fields.
        state: of the training.
        report: figures on the test fields; empty where it was interrupted. `controls` holds those of the controls.
        n_bytes: size of the file, if one was written.
    """

    network: WeightNetwork[Any]
    parts: Parts
    state: State
    report: dict[str, Any] = field(default_factory=dict)
    n_bytes: int | None = None


class ClassifierJob:
    """A training, made ready; `run` does it.

    Attributes:
        config: the run configuration, complete.
    """

    def __init__(self, collection: Collection, plan: ClassifierPlan) -> None:
        expect_int("seed", plan.seed, 0, 2**31 - 1)
        if sum(one is not None for one in (plan.steps, plan.epochs, plan.minutes)) > 1:
            raise ValueError("steps, epochs, minutes: one of them says when to stop, got several")
        self.collection, self.plan, self.device = collection, plan, find_device(plan.device)
        self.config, self.notices = self._configured(plan.model, plan.config, plan.overrides, plan.steps)
        with torch.device("meta"):
            self._build(self.config, 2)  # errors before the data is read

    def run(self) -> Trained:
        """Train, measure, write the file.

        Raises:
            CollectionError: too few fields, or labels that are missing.
            FieldFileError: the file cannot be written.
        """
        plan = self.plan
        observe = plan.progress if isinstance(plan.progress, Silent) else observer(plan.progress)

        def say(text: str) -> None:
            observe(Progress(State(), message=text))

        try:
            for notice in self.notices:
                say(notice)
            parts = open_parts(self.collection, has_labels=True, say=say, inits=plan.inits)
            trained = self._trained(self.config, parts, observe, plan.output)
            if trained.state.stopped_by == "signal" or not plan.has_controls:
                return trained
            controls = {}
            for name in CONTROLS:
                say(f"control: {name}, {trained.state.step} steps")
                config, _ = self._configured(name, None, (), trained.state.step)
                keys = ("n_steps", "batch_size", "label_smoothing", "noise", "clip")
                config["fit"] |= {key: self.config["fit"][key] for key in keys if key != "n_steps"}
                config |= {key: self.config[key] for key in ("optimizer", "schedule")}
                one = self._trained(config, parts, observe, None, steps=trained.state.step)
                if one.state.stopped_by == "signal":
                    break
                controls[name] = one.report
            trained.report["controls"] = controls
            return trained
        finally:
            observe.close()

    def _configured(
        self, model: str, config: Path | Mapping[str, Any] | None, overrides: Sequence[str], steps: int | None
    ) -> tuple[Config, list[str]]:
        ground = preset(model, self.collection.config)
        ground["fit"]["augmentation"] = "permutations" if model in AUGMENTED else "none"
        return layered(ground, config, overrides, steps, ClassifierOptions, sections=SECTIONS)

    def _build(self, config: Config, n_classes: int) -> WeightNetwork[Any]:
        network: WeightNetwork[Any] = build(
            "weight_network", config["weight_network"], path="weight_network", layout=self.collection.layout,
            n_output_dims=n_classes, generator=torch.Generator().manual_seed(self.plan.seed),
        )  # fmt: skip
        return network

    def _trained(
        self, config: Config, parts: Parts, observe: Silent, output: Path | None, steps: int | None = None
    ) -> Trained:
        """Train one network; `steps` overrides when to stop."""
        plan, options = self.plan, ClassifierOptions.of(config["fit"])
        network = self._build(config, len(parts.classes))
        network.fit(parts.training.vectors)
        move(network, self.device)
        symmetries = symmetries_of(self.collection)
        if options.augmentation != "none" and symmetries is None:
            raise ConfigError("fit.augmentation: these fields are no MLP, their hidden units have no known order")
        parameters = Parameters(matrix=list(network.parameters()))
        optimizer: Optimizer = build("optimizer", config["optimizer"], path="optimizer", parameters=parameters)
        examples = parts.training.on(self.device)
        step = ClassifyingStep(network, optimizer, examples, options, symmetries, plan.seed)
        n_steps = options.n_steps if steps is None else steps
        if plan.epochs is not None and steps is None:
            n_steps = max(1, math.ceil(plan.epochs * len(parts.training) / options.batch_size))
        looked_at = parts.validation[
            torch.arange(0, len(parts.validation), max(1, math.ceil(len(parts.validation) / N_LOOKED_AT)))
        ]

        def look(state: State) -> dict[str, float]:
            if state.step % max(1, state.n_steps // 8) >= max(1, state.n_steps // 64):
                return {}
            with averages_in_place(optimizer):
                settle_norms(network, examples.vectors)
                answers = predictions(network, looked_at.vectors)
            return {"validation": float((answers.argmax(1) == looked_at.labels).float().mean())}

        with working_on(self.device):
            state = train(
                step.on(self.device),
                optimizer,
                build("schedule", config["schedule"], path="schedule"),
                Budget(n_steps, None if plan.minutes is None or steps is not None else 60 * plan.minutes),
                batch_size=options.batch_size,
                figure=ACCURACY,
                observe=observe,
                look=look,
                checkpoints=None if output is None else Checkpoints(output),
                identity={"config": config, "collection": parts.training.digest, "seed": plan.seed,
                          "minutes": plan.minutes, "epochs": plan.epochs},
                resume=plan.resume and output is not None,
            )  # fmt: skip
            if state.stopped_by != "signal":
                settle(optimizer)
                settle_norms(network, examples.vectors)
        move(network, torch.device("cpu")).eval()
        if state.stopped_by == "signal":
            return Trained(network, parts, state)
        network.requires_grad_(False)
        report = accuracy_report(network, parts.test, parts.classes, symmetries, seed=plan.seed)
        report |= {
            "validation": float((predictions(network, parts.validation.vectors).argmax(1) == parts.validation.labels)
                                .float().mean()),
            "n_training": len(parts.training), "n_left_out": len(parts.left_out), "steps": state.step,
            "seconds": round(state.seconds, 3),
            "epochs": round(state.step * options.batch_size / len(parts.training), 2),
            "parameters": sum(parameter.numel() for parameter in network.parameters()), "seed": plan.seed,
            "stopped_by": state.stopped_by,
        }  # fmt: skip
        n_bytes = None
        if output is not None:
            n_bytes = save_model(
                output, network, slot="weight_network", field=self.collection.config,
                metadata=self._metadata(config, parts, state, report),
            )  # fmt: skip
            Checkpoints(output).remove()
        return Trained(network, parts, state, report, n_bytes)

    def _metadata(self, config: Config, parts: Parts, state: State, report: dict[str, Any]) -> dict[str, Any]:
        return {
            "task": "classify",
            "classes": parts.classes,
            "collection": summary_of(self.collection) | {"training_digest": parts.training.digest},
            "report": report,
            "run": {name: config[name] for name in ("optimizer", "schedule", "fit")}
            | {"seed": self.plan.seed, "model": self.plan.model},
            "history": [{key: float(f"{value:.4g}") for key, value in row.items()} for row in state.history],
        }


def symmetries_of(collection: Collection) -> Symmetries | None:
    """Of a collection's fields; None where they have no chain of matrices."""
    try:
        chain = Chain.find(collection.layout).expect_whole("a network on weights")
    except ValueError:
        return None
    network = collection.config.get("network")
    activation = network.get("activation", "ReLU") if isinstance(network, Mapping) else None
    made: Activation | None = None if activation is None else build("activation", activation, path="activation")
    return Symmetries(chain, made)


@dataclass
class ClassifyingStep(LossStep):
    """Draw fields from the step number, move the network once.

    Args:
        network: told to be in training mode.
        optimizer: of its parameters.
        examples: the training set, where the network is, gone through in a new order each time.
        options: batch size, augmentation, ...
        symmetries: of the fields, for augmentation.
        seed: of the training.
    """

    network: WeightNetwork[Any]
    optimizer: Optimizer
    examples: Examples
    options: ClassifierOptions
    symmetries: Symmetries | None
    seed: int

    def __post_init__(self) -> None:
        self._order, self.clip = lru_cache(2)(self._drawn), self.options.clip
        self._device = self.examples.vectors.device

    def losses(self, step: int) -> tuple[Tensor, Tensor]:
        generator = seeded((self.seed << 32) + step, self._device)
        chosen = self.batch(step)
        labels = self.examples.labels[chosen]
        vectors = self.augmented(self.examples.vectors[chosen], generator)
        self.network.train()
        with global_numbers((self.seed << 32) + step, self._device):  # of dropout
            answers = self.network(vectors)
        loss = functional.cross_entropy(answers, labels, label_smoothing=self.options.label_smoothing)
        return loss, (answers.detach().argmax(1) != labels).float().mean()

    def batch(self, step: int) -> Tensor:
        """Places (batch_size,) of the fields of a step: all of them once, in a random order, then again in another."""
        n, size = len(self.examples), self.options.batch_size
        parts, at = [], step * size
        while at < (step + 1) * size:
            epoch, first = divmod(at, n)
            parts.append(self._order(epoch)[first : first + (step + 1) * size - at])
            at += len(parts[-1])
        return torch.cat(parts)

    def augmented(self, vectors: Tensor, generator: torch.Generator) -> Tensor:
        """Other weights of the same fields, and nearby ones, as the options say."""
        if self.options.augmentation != "none":
            assert self.symmetries is not None
            has_signs = self.options.augmentation == "symmetries"
            change = self.symmetries.draw(len(vectors), generator, has_signs=has_signs)
            vectors = self.symmetries.apply(vectors, change)
        if self.options.noise:
            drawn = torch.randn(vectors.shape, generator=generator, device=self._device)
            vectors = vectors * (1 + self.options.noise * drawn)
        return vectors

    def _drawn(self, epoch: int) -> Tensor:
        generator = seeded((self.seed << 32) + 2**31 + epoch, torch.device("cpu"))  # the same on every device
        return arrived(torch.randperm(len(self.examples), generator=generator, device="cpu"), self._device)


@torch.no_grad()
def settle_norms(network: nn.Module, vectors: Tensor, n_batches: int = 16, size: int = 256) -> None:
    """Batch normalisations keep the statistics of the parameters as they are, over the same training fields.

    So that what a network answers follows from its parameters alone, whatever steps led to them; a fit that was
    interrupted gives the same.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm1d)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    network.train()
    with global_numbers(0, device_of(network)):
        stride = max(1, len(vectors) // (n_batches * size))
        for some in vectors[::stride][: n_batches * size].split(size):
            if len(some) > 1:
                network(some)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()
