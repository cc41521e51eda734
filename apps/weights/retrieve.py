"""``fieldforge weights retrieve``: the fields whose embeddings are nearest, and how often these have the same label."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fieldforge.apps.cli.words import UsageError, print_json
from fieldforge.apps.weights.data import AT_LEAST, BOUNDS, Examples, examples_of, expect_same_activation, read_field
from fieldforge.apps.weights.embed import Embedder, load_embedder
from fieldforge.apps.weights.measure import interval
from fieldforge.devices import find_device
from fieldforge.fields.collection import Collection, CollectionError
from fieldforge.fields.weightspace.model_file import ModelFile


def nearest(queries: Tensor, base: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Euclidean distances (n, k) of the nearest of `base` (m, d) to each of `queries` (n, d), and their places."""
    found = [torch.cdist(some, base).topk(min(k, len(base)), largest=False) for some in queries.split(512)]
    return torch.cat([one.values for one in found]), torch.cat([one.indices for one in found])


def retrieval_report(
    embedder: Embedder, queries: Examples, base: Examples, *, seed: int = 0, k: int = 1
) -> dict[str, Any]:
    """How often the nearest of `base` to each of `queries` has its label.

    Returns:
        accuracy and interval (resampled items) by embeddings; `raw`: by the weights themselves; `chance`: by a field at
        random.
    """
    found: dict[str, Any] = {"n_queries": len(queries), "n_fields": len(base), "k": k}
    seen = {"accuracy": (embedder.embed(queries.vectors), embedder.embed(base.vectors)),
            "raw": (queries.vectors, base.vectors)}  # fmt: skip
    for name, (ours, theirs) in seen.items():
        _, places = nearest(ours, theirs, k)
        is_right = (base.labels[places].mode(1).values if k > 1 else base.labels[places[:, 0]]) == queries.labels
        found[name] = float(is_right.float().mean())
        if name == "accuracy":
            found["interval"] = list(interval(is_right, queries.items))
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(base), (len(queries),), generator=generator)
    found["chance"] = float((base.labels[drawn] == queries.labels).float().mean())
    return found


def retrieve_command(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    device = find_device(options.device)
    model, embedder = load_embedder(options.model_file)
    embedder.on(device)
    if options.query.is_dir():
        if options.fields is not None:
            raise UsageError(
                "retrieve: either a .field file and a collection to look in, or one collection with labels"
            )
        result = _accuracy(options.query, model, embedder)
        if options.json:
            print_json({"event": "result", **result})
        elif not options.quiet:
            low, high = result["interval"]
            print(f"{result['n_queries']} test fields; the nearest of {result['n_fields']} others has the same label: "
                  f"{result['accuracy']:.1%} ({low:.1%} to {high:.1%}); by weights as they are {result['raw']:.1%}, "
                  f"by chance {result['chance']:.1%}")  # fmt: skip
        return 0
    if options.fields is None:
        raise UsageError(
            f"retrieve: in which collection? fieldforge weights retrieve {options.query} FIELDS --with MODEL"
        )
    collection, examples, told = _open(options.fields, model, [])
    if not len(examples):
        raise CollectionError(options.fields, "has no field that can be used")
    distances, places = nearest(
        embedder.embed(read_field(options.query, model)), embedder.embed(examples.vectors), options.k
    )
    rows = []
    for distance, place in zip(distances[0].tolist(), places[0].tolist(), strict=True):
        index = examples.indices[place]
        rows.append({"field": index, "name": collection.names[index], "label": collection.labels[index],
                     "init": collection.inits[index], "distance": distance})  # fmt: skip
    if options.json:
        print_json({"event": "result", "query": str(options.query), "nearest": rows, "left_out": told})
    else:
        print("\n".join(told), end="\n" if told else "")
        for row in rows:
            label = "" if row["label"] is None else f"  label {row['label']}"
            print(f"field {row['field']} ({row['name']}){label}  distance {row['distance']:.4g}")
    return 0


def _open(path: Path, model: ModelFile, classes: list[int | str]) -> tuple[Collection, Examples, list[str]]:
    collection = Collection(path, allow_incomplete=True)
    model.expect_layout(collection.layout, str(path))
    expect_same_activation(collection.config, model, path)
    told: list[str] = []
    examples, _ = examples_of(collection, classes, told.append)
    return collection, examples, told


def _accuracy(path: Path, model: ModelFile, embedder: Embedder) -> dict[str, Any]:
    """Test fields ask, training fields answer; no item is on both sides."""
    labels = Collection(path, allow_incomplete=True).labels
    classes = sorted({label for label in labels if label is not None}, key=lambda one: (isinstance(one, str), one))
    if len(classes) < 2:
        raise CollectionError(
            path, f"has {len(classes)} different labels; at least 2 are needed to say which are alike"
        )
    collection, examples, told = _open(path, model, classes)
    examples = examples[(examples.labels >= 0).nonzero()[:, 0]]
    split = torch.tensor([collection.splits[index] for index in examples.indices], dtype=torch.float64)
    queries, base = examples[(split >= BOUNDS[1]).nonzero()[:, 0]], examples[(split < BOUNDS[0]).nonzero()[:, 0]]
    if len(queries) < AT_LEAST or len(base) < AT_LEAST:
        raise CollectionError(path, f"has {len(queries)} test and {len(base)} training fields with labels, and at "
                                    f"least {AT_LEAST} of each are needed")  # fmt: skip
    return retrieval_report(embedder, queries, base) | {"collection": str(path), "left_out": told}
