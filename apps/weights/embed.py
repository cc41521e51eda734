"""Describe fields by a few numbers that are enough to draw them again (inr2vec, De Luigi et al., ICLR 2023; nf2vec).

    job = EmbeddingJob(Collection("fields/"), EmbeddingPlan(Path("model.emb")))
    job.run().report["psnr"]

A row encoder reads the weights, a decoder makes the field's value at any place out of the embedding; both learn to
reproduce the fields' own values at random places. The yardstick is the mean field: at every place the mean over all
training fields, which is what an embedding that says nothing can do. The encoder reads rows in whatever order, but
what a row means depends on the rows around it: fields that began at the same numbers are what it is made for.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch
from safetensors.torch import save_file
from torch import Tensor

from fieldforge.apps.cli.words import UsageError, print_json
from fieldforge.apps.fit.command import expect_writable, prepare_output, say_interrupted
from fieldforge.apps.fit.loop import Budget, Progress, State, averages_in_place, settle, train
from fieldforge.apps.fit.on_device import LossStep
from fieldforge.apps.fit.optimizers.base import Optimizer, Parameters
from fieldforge.apps.fit.options import Options
from fieldforge.apps.fit.progress import Silent, observer
from fieldforge.apps.fit.recipe import Config, layered
from fieldforge.apps.weights.data import Examples, Parts, examples_of, expect_same_activation, open_parts
from fieldforge.apps.weights.measure import in_parts
from fieldforge.apps.weights.train import settle_norms
from fieldforge.apps.weights.values import Values
from fieldforge.checks import expect_choice, expect_int
from fieldforge.devices import find_device, move, seeded, working_on
from fieldforge.fields.checkpoint import Checkpoints
from fieldforge.fields.collection import Collection
from fieldforge.fields.container import FieldFileError
from fieldforge.fields.weightspace.model_file import ModelFile, ModelFileError, load_model, save_model, summary_of
from fieldforge.fields.weightspace.networks.row_encoder import FieldDecoder, RowEncoder
from fieldforge.registry import ConfigError, build

SECTIONS = ("weight_network", "optimizer", "schedule", "fit")


@dataclass(frozen=True)
class EmbeddingOptions(Options):
    """The section ``fit``.

    Args:
        batch_size: fields a step.
        n_points: places of each a step.
        decoder_neurons: width of the decoder.
        decoder_frequencies: of its code of a place.
        storage: "float32".
    """

    n_steps: int = 3000
    batch_size: int = 64
    n_points: int = 64
    decoder_neurons: int = 128
    decoder_frequencies: int = 4
    storage: str = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_choice("storage", self.storage, ("float32",))
        expect_int("n_points", self.n_points, 1, 2**16)
        expect_int("decoder_neurons", self.decoder_neurons, 1, 2**14)
        expect_int("decoder_frequencies", self.decoder_frequencies, 1, 32)


@dataclass(frozen=True)
class EmbeddingPlan:
    """What is asked of a training; the words are those of `ClassifierPlan`."""

    output: Path | None = None
    config: Path | Mapping[str, Any] | None = None
    overrides: Sequence[str] = ()
    steps: int | None = None
    minutes: float | None = None
    seed: int = 0
    device: str = "auto"
    inits: int | None = None
    resume: bool = False
    progress: str | Silent = "auto"


@dataclass(frozen=True)
class Embedder:
    """An encoder and the decoder that was trained with it."""

    encoder: RowEncoder
    decoder: FieldDecoder

    def embed(self, vectors: Tensor) -> Tensor:
        """(n, P) to (n, n_embedding) on the CPU, wherever the encoder is."""
        return in_parts(self.encoder, self.encoder.embed, vectors, self.encoder.n_embedding)

    def on(self, device: torch.device) -> Embedder:
        """Both, moved to a device."""
        move(self.encoder, device), move(self.decoder, device)
        return self


@dataclass(frozen=True)
class Embedded:
    """What came of a training."""

    embedder: Embedder
    parts: Parts
    state: State
    report: dict[str, Any] = field(default_factory=dict)
    n_bytes: int | None = None


def preset() -> Config:
    """The run configuration, small: nf2vec's encoder is 512, 512, 1024, 1024 wide.

    Its rows are as they are; here each number is standardised, so that what fields with one start differ in is
    seen at once, and a learned vector says which row it is.
    """
    return {
        "weight_network": {"otype": "RowEncoder", "row_widths": [128, 128, 256], "n_embedding": 64,
                           "has_row_vectors": True,
                           "codec": {"otype": "Rows", "statistics": "entry", "initialization": "shared"}},
        "optimizer": {"otype": "Adam", "learning_rate": 3e-3, "epsilon": 1e-8, "relative_decay": 0.01},
        "schedule": {"otype": "WarmupCosine", "n_warmup_steps": 100},
        "fit": {},
    }  # fmt: skip


class EmbeddingJob:
    """A training, made ready; `run` does it.

    Attributes:
        config: the run configuration, complete.
    """

    def __init__(self, collection: Collection, plan: EmbeddingPlan) -> None:
        expect_int("seed", plan.seed, 0, 2**31 - 1)
        self.collection, self.plan, self.device = collection, plan, find_device(plan.device)
        self.config, self.notices = layered(
            preset(), plan.config, plan.overrides, plan.steps, EmbeddingOptions, sections=SECTIONS
        )
        self.values = Values(collection.config, collection.layout)
        with torch.device("meta"):
            self._build()

    def run(self) -> Embedded:
        """Train, measure, write the file.

        Raises:
            CollectionError: too few fields.
            FieldFileError: the file cannot be written.
        """
        plan = self.plan
        observe = plan.progress if isinstance(plan.progress, Silent) else observer(plan.progress)

        def say(text: str) -> None:
            observe(Progress(State(), message=text))

        try:
            for notice in self.notices:
                say(notice)
            if self.collection.body["init"].get("policy") == "random":
                say("the fields began with numbers of their own, which an encoder of rows hardly reads; "
                    "fit them with --init shared")  # fmt: skip
            return self._run(open_parts(self.collection, has_labels=False, say=say, inits=plan.inits), observe)
        finally:
            observe.close()

    def _build(self) -> Embedder:
        options = EmbeddingOptions.of(self.config["fit"])
        generator = torch.Generator().manual_seed(self.plan.seed)
        encoder = build("weight_network", self.config["weight_network"], path="weight_network",
                        layout=self.collection.layout, n_output_dims=1, generator=generator)  # fmt: skip
        if not isinstance(encoder, RowEncoder):
            raise ConfigError(f"weight_network.otype: expected RowEncoder, which has embeddings, got {encoder.otype}")
        decoder = FieldDecoder(
            encoder.n_embedding, self.values.n_input_dims, self.values.n_output_dims,
            n_neurons=options.decoder_neurons, n_frequencies=options.decoder_frequencies, generator=generator,
        )  # fmt: skip
        return Embedder(encoder, decoder)

    def _run(self, parts: Parts, observe: Silent) -> Embedded:
        plan, config, output = self.plan, self.config, self.plan.output
        options, made = EmbeddingOptions.of(config["fit"]), self._build()
        made.encoder.fit(parts.training.vectors)
        made.on(self.device)
        values = self.values.on(self.device)
        learned = [*made.encoder.learned(), *made.decoder.parameters()]
        optimizer: Optimizer = build(
            "optimizer", config["optimizer"], path="optimizer", parameters=Parameters(matrix=learned)
        )
        examples = parts.training.on(self.device)
        step = DrawingStep(made, optimizer, examples, values, options, plan.seed)
        some = parts.validation[torch.arange(min(200, len(parts.validation)))]

        def look(state: State) -> dict[str, float]:
            if state.step % max(1, state.n_steps // 8) >= max(1, state.n_steps // 64):
                return {}
            with averages_in_place(optimizer):
                settle_norms(made.encoder, examples.vectors)
                return {"validation": self._errors(made, some.on(self.device), values)[0]}

        with working_on(self.device):
            state = train(
                step.on(self.device), optimizer, build("schedule", config["schedule"], path="schedule"),
                Budget(options.n_steps, None if plan.minutes is None else 60 * plan.minutes),
                batch_size=options.batch_size, figure=self.values.figure, observe=observe, look=look,
                checkpoints=None if output is None else Checkpoints(output),
                identity={"config": config, "collection": parts.training.digest, "seed": plan.seed,
                          "minutes": plan.minutes},
                resume=plan.resume and output is not None,
            )  # fmt: skip
            if state.stopped_by != "signal":
                settle(optimizer)
                settle_norms(made.encoder, examples.vectors)
        made.on(torch.device("cpu"))
        if state.stopped_by == "signal":
            return Embedded(made, parts, state)
        report = self._report(made, parts, state)
        n_bytes = None
        if output is not None:
            made.encoder.eval().requires_grad_(False)
            beside = {f"decoder.{name}": tensor for name, tensor in made.decoder.state_dict().items()}
            metadata = {
                "task": "embed", "report": report, "collection": summary_of(self.collection),
                "run": {name: config[name] for name in ("optimizer", "schedule", "fit")} | {"seed": plan.seed},
                "decoder": {"n_input_dims": self.values.n_input_dims, "n_output_dims": self.values.n_output_dims,
                            "n_neurons": options.decoder_neurons, "n_frequencies": options.decoder_frequencies},
                "history": [{key: float(f"{value:.4g}") for key, value in row.items()} for row in state.history],
            }  # fmt: skip
            n_bytes = save_model(output, made.encoder, slot="weight_network", field=self.collection.config,
                                 metadata=metadata, beside=beside)  # fmt: skip
            Checkpoints(output).remove()
        return Embedded(made, parts, state, report, n_bytes)

    @torch.no_grad()
    def _errors(
        self, made: Embedder, examples: Examples, values: Values, mean: Tensor | None = None
    ) -> tuple[float, float]:
        """Decibels of the decoded fields, and of the mean field, over a lattice of places."""
        unit, found, plain, n = values.lattice(), 0.0, 0.0, 0
        made.encoder.eval()
        for some in examples.vectors.split(64):
            truth = values.at(some, unit)
            drawn = made.decoder(made.encoder.embed(some), unit.expand(len(some), -1, -1))
            found += float((drawn - truth).double().square().sum())
            plain += 0.0 if mean is None else float((mean - truth).double().square().sum())
            n += truth.numel()
        return self.values.decibels(found / n), self.values.decibels(plain / n)

    @torch.no_grad()
    def _report(self, made: Embedder, parts: Parts, state: State) -> dict[str, Any]:
        unit = self.values.lattice()
        total = torch.zeros(len(unit), self.values.n_output_dims, dtype=torch.float64)
        for some in parts.training.vectors.split(256):
            total += self.values.at(some, unit).double().sum(0)
        found, plain = self._errors(made, parts.test, self.values, (total / len(parts.training)).float())
        return {
            "psnr": found, "psnr_of_mean_field": plain, "gain": found - plain, "n_fields": len(parts.test),
            "n_training": len(parts.training), "n_left_out": len(parts.left_out), "steps": state.step,
            "seconds": round(state.seconds, 3), "seed": self.plan.seed, "stopped_by": state.stopped_by,
            "parameters": sum(p.numel() for p in (*made.encoder.learned(), *made.decoder.parameters())),
            "init": self.collection.body["init"].get("policy"),
        }  # fmt: skip


@dataclass
class DrawingStep(LossStep):
    """Draw fields and places from the step number, and move encoder and decoder once."""

    made: Embedder
    optimizer: Optimizer
    examples: Examples
    values: Values
    options: EmbeddingOptions
    seed: int
    clip = 1.0

    def losses(self, step: int) -> tuple[Tensor, Tensor]:
        device = self.examples.vectors.device
        generator = seeded((self.seed << 32) + step, device)
        shape = (self.options.batch_size,)
        vectors = self.examples.vectors[torch.randint(len(self.examples), shape, generator=generator, device=device)]
        unit = torch.rand(self.options.n_points, self.values.n_input_dims, generator=generator, device=device)
        with torch.no_grad():
            truth = self.values.at(vectors, unit)
        self.made.encoder.train()
        drawn = self.made.decoder(self.made.encoder.embed(vectors), unit.expand(len(vectors), -1, -1))
        loss = (drawn - truth).square().mean()
        return loss, loss.detach()


def load_embedder(path: Path) -> tuple[ModelFile, Embedder]:
    """An encoder and its decoder from their file.

    Raises:
        FieldFileError, ModelFileError: it is none, or damaged.
    """
    found = load_model(path, "weight_network")
    table = found.metadata.get("decoder")
    if found.metadata.get("task") != "embed" or not isinstance(found.model, RowEncoder) or not isinstance(table, dict):
        raise ModelFileError(path, f"is a network on weights that was trained to {found.metadata.get('task')}, not to "
                                   "embed; train one with fieldforge weights embed FIELDS -o MODEL")  # fmt: skip
    try:
        with torch.device("meta"):
            sketch = FieldDecoder(found.model.n_embedding, **table)
        state = {name.removeprefix("decoder."): t for name, t in found.beside.items() if name.startswith("decoder.")}
        wanted = {name: tuple(tensor.shape) for name, tensor in sketch.state_dict().items()}
        if wanted != {name: tuple(tensor.shape) for name, tensor in state.items()}:
            raise ValueError("its decoder has other tensors than its header describes")
        decoder = FieldDecoder(found.model.n_embedding, **table, generator=torch.Generator().manual_seed(0))
        decoder.load_state_dict(state)
    except (TypeError, ValueError, RuntimeError) as error:
        raise FieldFileError(path, f"cannot be loaded: {error}") from error
    return found, Embedder(found.model, decoder.eval().requires_grad_(False))


def embed_command(options: argparse.Namespace) -> int:
    """``fieldforge weights embed``; returns the exit code: 0 done, 130 interrupted (the state is saved)."""
    return _write(options) if options.model_file is not None else _train(options)


def _train(options: argparse.Namespace) -> int:
    output: Path = options.output
    plan = EmbeddingPlan(
        output=output, config=options.config, overrides=options.overrides, steps=options.steps,
        minutes=options.minutes, seed=options.seed, device=options.device, inits=options.inits, resume=options.resume,
        progress="quiet" if options.quiet else "json" if options.json else "auto",
    )  # fmt: skip
    job = EmbeddingJob(Collection(options.fields), plan)
    if options.print_config:
        print(tomli_w.dumps(job.config), end="")
        return 0
    if prepare_output(options, output, options.fields):
        return 0
    done = job.run()
    if done.state.stopped_by == "signal":
        return say_interrupted(done.state, output)
    report = done.report
    if options.json:
        print_json({"event": "result", "output": str(output), "bytes": done.n_bytes, **report})
    elif not options.quiet:
        print(f"{output}: {done.embedder.encoder.n_embedding} numbers a field, {report['parameters']:,} parameters, "
              f"{report['seconds']:.0f} s")  # fmt: skip
        print(f"{report['n_fields']} test fields drawn from their embeddings: {report['psnr']:.2f} dB; the mean field: "
              f"{report['psnr_of_mean_field']:.2f} dB; {report['gain']:+.2f} dB")  # fmt: skip
    return 0


def _write(options: argparse.Namespace) -> int:
    """Embeddings of a collection."""
    output: Path = options.output
    expect_writable(output)
    if output.suffix not in (".npz", ".safetensors"):
        raise UsageError(f"{output}: expected a name that ends with .npz or .safetensors, for embeddings")
    device = find_device(options.device)
    model, embedder = load_embedder(options.model_file)
    embedder.on(device)
    collection = Collection(options.fields, allow_incomplete=True)
    model.expect_layout(collection.layout, str(options.fields))
    expect_same_activation(collection.config, model, options.fields)
    told: list[str] = []
    examples, left_out = examples_of(collection, [], told.append)
    embeddings = embedder.embed(examples.vectors)
    if output.suffix == ".npz":
        names = [collection.names[index] for index in examples.indices]
        labels = ["" if collection.labels[i] is None else str(collection.labels[i]) for i in examples.indices]
        np.savez(output, embeddings=embeddings.numpy(), fields=np.array(examples.indices, np.int64),
                 names=np.array(names, dtype=str), labels=np.array(labels, dtype=str),
                 items=examples.items.numpy(), inits=examples.inits.numpy())  # fmt: skip
    else:
        save_file({"embeddings": embeddings, "fields": torch.tensor(examples.indices, dtype=torch.int64),
                   "items": examples.items, "inits": examples.inits}, output)  # fmt: skip
    found = {"output": str(output), "n_fields": len(examples), "n_left_out": len(left_out), "left_out": told,
             "numbers": embeddings.shape[1], "bytes": output.stat().st_size}  # fmt: skip
    if options.json:
        print_json({"event": "result", **found})
    elif not options.quiet:
        print("\n".join([*told, f"{output}: {len(examples)} embeddings of {embeddings.shape[1]} numbers"]))
    return 0
