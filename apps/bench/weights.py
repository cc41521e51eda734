"""``fieldforge bench weights``: what networks can tell of fields by their weights alone.

8,000 MNIST digits at 14 x 14 pixels as sine fields of 151 parameters (2-10-10-1), ten of each digit with numbers to
begin with of their own, and one of each with the same ones. Items are split by name: eight tenths to train on, a tenth
to look at while training, a tenth for the test. Cases: `ten` initialisations of each digit to train on; `three` of
them, three seeds, beside the neural graph; `shared`, the control; `embed`, reconstruction and retrieval; `long`, the
same for longer; `lazy`, the same of the fields that `bench generate` makes models of.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fieldforge.apps.bench.digits import DIGITS, lazy_digits, shrunk
from fieldforge.apps.bench.harness import Row, one_thread, save, say
from fieldforge.apps.fit.collection.job import fit_collection
from fieldforge.apps.weights.data import open_parts
from fieldforge.apps.weights.embed import EmbeddingJob, EmbeddingPlan
from fieldforge.apps.weights.retrieve import retrieval_report
from fieldforge.apps.weights.train import ClassifierJob, ClassifierPlan
from fieldforge.fields.collection import INDEX, Collection

DATA = Path("../shared/data")
FIELD = ["network.n_neurons=10", "network.activation.omega=10"]
FIT_STEPS = 400
FOLDERS = {"random": 10, "shared": 1, "preset": 1}
"""Collection -> initialisations of each item. Where the data folder holds a collection of that name, it is taken.
`preset`: the digits as they are, 987 parameters with one start, as `fit collection --init shared` fits them."""
SEEDS = (0, 1, 2)


def run(folder: Path, data: Path | None, *, is_quick: bool, only: Sequence[str] = ()) -> None:
    """Fit the collections, train, print, and keep the rows unless `is_quick`.

    Args:
        folder: of the rows.
        data: folder of the digits, or of the collections; None is `DATA`.
        is_quick: few items, few steps.
        only: some of `CASES`.

    Raises:
        ItemError: the digits are not there.
        ValueError: no such case.
    """
    for case in only:
        if case not in CASES:
            raise ValueError(f"only: expected some of {', '.join(CASES)}, got {case}")
    with _collections(data or DATA, is_quick=is_quick) as found, one_thread():
        for case in only or CASES:
            rows = CASES[case](found, is_quick)
            if not is_quick:
                say(f"rows: {save(folder, 'weights', rows)}")


@contextmanager
def _collections(data: Path, *, is_quick: bool) -> Iterator[Callable[[str], Collection]]:
    """What opens a collection by name, fitting it first where it is not there."""
    with tempfile.TemporaryDirectory() as folder:

        def opened(name: str) -> Collection:
            if (data / name / INDEX).exists():
                return Collection(data / name)
            if name == "lazy" and not (Path(folder) / name).exists():
                return lazy_digits(data, Path(folder) / name, limit=200 if is_quick else None)
            if not (Path(folder) / name).exists():
                say(f"fitting the collection {name}")
                is_small = name != "preset"
                fit_collection(
                    shrunk(data / DIGITS, 14, Path(folder) / "digits.npz") if is_small else data / DIGITS,
                    Path(folder) / name,
                    init="random" if name == "random" else "shared", overrides=FIELD if is_small else (),
                    inits_per_item=2 if is_quick and name == "random" else FOLDERS[name],
                    steps=50 if is_quick else FIT_STEPS if is_small else None, limit=200 if is_quick else None,
                    progress="quiet",
                )  # fmt: skip
            return Collection(Path(folder) / name)

        yield opened


def _classified(case: str, collection: Collection, model: str, steps: int, seed: int, **plan: Any) -> list[Row]:
    """A network, and its controls where they are asked for, one row each."""
    begun = time.process_time()
    job = ClassifierJob(collection, ClassifierPlan(model=model, steps=steps, seed=seed, progress="quiet", **plan))
    report = job.run().report
    seconds = time.process_time() - begun
    rows = []
    for name, one in {model: report, **report.pop("controls", {})}.items():
        told = {key: one[key] for key in ("accuracy", "validation", "permuted", "flipped") if key in one}
        told |= {"low": one["interval"][0], "high": one["interval"][1], "wall_seconds": one["seconds"]}
        sizes = {
            key: one[key] for key in ("n_training", "n_fields", "n_items", "steps", "epochs", "parameters", "seed")
        }
        sizes |= {"field_parameters": collection.n_parameters, "config": job.config if name == model else None}
        say(f"{case:8} {name:15} seed {seed}: {one['accuracy']:.1%} ({told['low']:.1%} to {told['high']:.1%}) of "
            f"{one['n_fields']} fields, permuted {one.get('permuted', float('nan')):.1%}; {one['n_training']} to train "
            f"on, {one['steps']} steps, {one['seconds']:.0f} s")  # fmt: skip
        # the CPU time is that of the network and its controls together
        rows.append(Row("weights", case, name, sizes, seconds, 0.0, one["n_training"] * one["epochs"] / seconds, told))
    return rows


def _ten(found: Callable[[str], Collection], is_quick: bool) -> list[Row]:
    return _classified("ten", found("random"), "odd-graph", 20 if is_quick else 5000, 0, has_controls=True)


def _three(found: Callable[[str], Collection], is_quick: bool) -> list[Row]:
    steps, rows = 20 if is_quick else 1500, []
    for seed in SEEDS:
        rows += _classified("three", found("random"), "odd-graph", steps, seed, has_controls=True, inits=3)
    return rows + _classified("three", found("random"), "neural-graph", 2 if is_quick else steps, 0, inits=3)


def _shared(found: Callable[[str], Collection], is_quick: bool) -> list[Row]:
    plain = {"weight_network": {"otype": "FlatMLP", "codec": {"otype": "FlatVector", "statistics": "entry"}}}
    return _classified("shared", found("preset"), "flat", 20 if is_quick else 1500, 0, config=plain)


def _embed(found: Callable[[str], Collection], is_quick: bool) -> list[Row]:
    return [_embedded("embed", name, found(name), 20 if is_quick else EMBEDDING_STEPS) for name in
            ("preset", "shared", "random")]  # fmt: skip


def _long(found: Callable[[str], Collection], is_quick: bool) -> list[Row]:
    return [_embedded("long", "preset", found("preset"), 20 if is_quick else LONG_STEPS, "fit.n_points=32")]


def _lazy(found: Callable[[str], Collection], is_quick: bool) -> list[Row]:
    wide = ("fit.n_points=32", "weight_network.n_embedding=128")
    return [_embedded("lazy", "lazy", found("lazy"), 20 if is_quick else LAZY_EMBEDDING_STEPS, *wide)]


def _embedded(case: str, name: str, collection: Collection, steps: int, *overrides: str) -> Row:
    """Reconstruction and retrieval by an encoder of a collection's first initialisations."""
    begun = time.process_time()
    job = EmbeddingJob(collection, EmbeddingPlan(steps=steps, progress="quiet", inits=1, overrides=overrides))
    done = job.run()
    parts = open_parts(collection, has_labels=True, say=say, inits=1)
    asked = parts.test[(parts.test.inits == 0).nonzero()[:, 0]]
    report = retrieval_report(done.embedder, asked, parts.training)
    seconds = time.process_time() - begun
    told = {key: done.report[key] for key in ("psnr", "psnr_of_mean_field", "gain")}
    told |= {"retrieval": report["accuracy"], "low": report["interval"][0], "high": report["interval"][1],
             "raw_weights": report["raw"], "chance": report["chance"],
             "wall_seconds": done.report["seconds"]}  # fmt: skip
    sizes = {"n_training": len(parts.training), "n_fields": len(asked), "config": job.config, "seed": 0,
             "field_parameters": collection.n_parameters, "steps": steps}  # fmt: skip
    say(f"{case:8} {name:15} {told['psnr']:.2f} dB, mean field {told['psnr_of_mean_field']:.2f} dB, "
        f"{told['gain']:+.2f} dB; nearest is alike {told['retrieval']:.1%} ({told['low']:.1%} to "
        f"{told['high']:.1%}), by raw weights {told['raw_weights']:.1%}; {seconds:.0f} s of CPU")  # fmt: skip
    n_seen = done.report["steps"] * job.config["fit"]["batch_size"]
    return Row("weights", case, name, sizes, seconds, 0.0, n_seen / seconds, told)


EMBEDDING_STEPS, LONG_STEPS, LAZY_EMBEDDING_STEPS = 1500, 4500, 4000

CASES: dict[str, Callable[[Callable[[str], Collection], bool], list[Row]]] = {
    "ten": _ten, "three": _three, "shared": _shared, "embed": _embed, "long": _long, "lazy": _lazy,
}  # fmt: skip
