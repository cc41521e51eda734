"""``fieldforge weights classify``: train on a collection with labels, or tell the labels of fields."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import tomli_w
import torch
from torch import Tensor

from fieldforge.apps.cli.words import UsageError, print_json
from fieldforge.apps.fit.command import prepare_output, say_interrupted
from fieldforge.apps.weights.data import examples_of, expect_same_activation, read_field
from fieldforge.apps.weights.measure import accuracy_report, predictions
from fieldforge.apps.weights.train import ClassifierJob, ClassifierPlan, symmetries_of
from fieldforge.devices import find_device, move
from fieldforge.fields.collection import Collection
from fieldforge.fields.weightspace.model_file import ModelFile, ModelFileError, load_model


def classify_command(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code: 0 done, 130 interrupted (the state is saved)."""
    return _apply(options) if options.model_file is not None else _train(options)


def _train(options: argparse.Namespace) -> int:
    output: Path | None = options.output
    if output is None or len(options.fields) != 1:
        raise UsageError("classify: one collection and -o MODEL train a classifier; --with MODEL tells what fields are")
    source: Path = options.fields[0]
    plan = ClassifierPlan(
        output=output, model=options.model, config=options.config, overrides=options.overrides, steps=options.steps,
        epochs=options.epochs, minutes=options.minutes, seed=options.seed, inits=options.inits,
        device=options.device, has_controls=options.controls, resume=options.resume,
        progress="quiet" if options.quiet else "json" if options.json else "auto",
    )  # fmt: skip
    job = ClassifierJob(Collection(source), plan)
    if options.print_config:
        print(tomli_w.dumps(job.config), end="")
        return 0
    if prepare_output(options, output, source):
        return 0
    trained = job.run()
    if trained.state.stopped_by == "signal":
        return say_interrupted(trained.state, output)
    if options.json:
        print_json({"event": "result", "output": str(output), "bytes": trained.n_bytes, **trained.report})
    elif not options.quiet:
        print(f"{output}: {options.model}, {trained.report['parameters']:,} parameters, {trained.n_bytes:,} bytes, "
              f"{trained.report['seconds']:.0f} s")  # fmt: skip
        print(describe(trained.report))
    return 0


def describe(report: dict[str, Any]) -> str:
    """A report in some lines."""
    low, high = report["interval"]
    lines = [f"right: {report['accuracy']:.1%} of {report['n_fields']} test fields of {report['n_items']} items "
             f"({low:.1%} to {high:.1%}); the largest class: {report['largest_class']:.1%}"]  # fmt: skip
    words = {"permuted": "with hidden units in another order", "flipped": "with other signs too"}
    changed = [f"{report[key]:.1%} {said}" for key, said in words.items() if key in report]
    lines += [", ".join(changed)] if changed else []
    classes, confusion = report["classes"], torch.tensor(report["confusion"])
    off = confusion - torch.diag(confusion.diagonal())
    worst = off.flatten().argsort(descending=True)[:3].tolist()
    told = [f"{classes[k // len(classes)]} as {classes[k % len(classes)]} ({int(off.flatten()[k])})" for k in worst
            if off.flatten()[k]]  # fmt: skip
    lines += [f"most often taken: {', '.join(told)}"] if told else []
    for name, control in report.get("controls", {}).items():
        low, high = control["interval"]
        lines.append(f"control {name}: {control['accuracy']:.1%} ({low:.1%} to {high:.1%}), "
                     f"{control['permuted']:.1%} permuted" if "permuted" in control else
                     f"control {name}: {control['accuracy']:.1%} ({low:.1%} to {high:.1%})")  # fmt: skip
    return "\n".join(lines)


def load_classifier(path: Path) -> ModelFile:
    """A classifier from its file.

    Raises:
        FieldFileError, ModelFileError: it is none.
    """
    found = load_model(path, "weight_network")
    classes = found.metadata.get("classes")
    if found.metadata.get("task") != "classify" or not isinstance(classes, list) or found.n_output_dims != len(classes):
        raise ModelFileError(path, f"is a network on weights that was trained to {found.metadata.get('task')}, not to "
                                   "classify; train one with fieldforge weights classify FIELDS -o MODEL")  # fmt: skip
    return found


def tell(model: ModelFile, vectors: Tensor) -> tuple[list[Any], list[float]]:
    """The label of each of the vectors (n, P), and how sure the network is of it, from 0 to 1."""
    shares = predictions(model.model, vectors).softmax(1)
    best = shares.max(1)
    classes = model.metadata["classes"]
    return [classes[number] for number in best.indices.tolist()], best.values.tolist()


def _apply(options: argparse.Namespace) -> int:
    if options.output is not None:
        raise UsageError("-o: is for training; with --with, answers go to standard output (--json for all of them)")
    device = find_device(options.device)
    model = load_classifier(options.model_file)
    move(model.model, device)
    results = []
    for path in options.fields:
        results.append(_collection(path, model, options) if path.is_dir() else _single(path, model, options))
    if options.json:
        for result in results:
            print_json({"event": "result", **result})
    return 0


def _single(path: Path, model: ModelFile, options: argparse.Namespace) -> dict[str, Any]:
    vector = read_field(path, model)
    labels, sure = tell(model, vector)
    if not options.json:
        print(f"{path}: {labels[0]} ({sure[0]:.1%})")
    return {"file": str(path), "label": labels[0], "probability": sure[0]}


def _collection(path: Path, model: ModelFile, options: argparse.Namespace) -> dict[str, Any]:
    collection = Collection(path, allow_incomplete=True)
    model.expect_layout(collection.layout, str(path))
    expect_same_activation(collection.config, model, path)
    classes = model.metadata["classes"]
    told: list[str] = []
    examples, left_out = examples_of(collection, classes, told.append)
    if not options.json and not options.quiet:
        print("\n".join(told), end="\n" if told else "")
    labels, sure = tell(model, examples.vectors)
    found: dict[str, Any] = {
        "collection": str(path), "n_left_out": len(left_out), "left_out": told,
        "fields": [{"field": index, "name": collection.names[index], "label": label, "probability": probability}
                   for index, label, probability in zip(examples.indices, labels, sure, strict=True)],
    }  # fmt: skip
    known = examples[(examples.labels >= 0).nonzero()[:, 0]]
    counts = {str(name): labels.count(name) for name in classes}
    if len(known):
        found["report"] = accuracy_report(model.model, known, classes, symmetries_of(collection))
        trained_on = model.metadata.get("collection", {}).get("name")
        if trained_on == collection.path.resolve().name:
            found["note"] = "four fifths of this collection's items are those that the model was trained on"
    if not options.json:
        print(f"{path}: {len(examples)} fields: " + ", ".join(f"{n} x {name}" for name, n in counts.items() if n))
        if len(known):
            print(describe(found["report"]))
            print(found["note"] if "note" in found else "", end="\n" if "note" in found else "")
    return found
