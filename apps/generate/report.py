"""``fieldforge generate report``: the truth about a model that generates fields.

report("digits.gen", "fields/", ReportPlan())       # a folder with report.html, report.png and report.json
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fieldforge.apps.generate.arms import (
    CAP,
    FEWEST,
    MOST,
    Arm,
    Sides,
    baselines,
    labels_drawn,
    sides_of,
)
from fieldforge.apps.generate.data import SPLIT
from fieldforge.apps.generate.looks import PictureLooks, SolidLooks, looks_of
from fieldforge.apps.generate.measure import Findings, as_json, measure
from fieldforge.apps.generate.page import drawing, page, samples_beside_training
from fieldforge.apps.generate.sample import sample_rows
from fieldforge.apps.generate.telling import Stages
from fieldforge.devices import find_device, move
from fieldforge.fields.collection import Collection
from fieldforge.fields.container import replacing
from fieldforge.fields.file import software
from fieldforge.fields.weightspace.generators.base import Generator
from fieldforge.fields.weightspace.generators.diffusion import WeightDiffusion
from fieldforge.fields.weightspace.model_file import ModelFile, load_model, summary_of

PAGE, PICTURE, NUMBERS = "report.html", "report.png", "report.json"
N_STAGES = 7
QUICK = {"resolution": 32, "n_points": 512}
N_QUICK = 100


@dataclass(frozen=True)
class ReportPlan:
    """What is asked of a report.

    Args:
        output: folder to write; None: beside the model.
        n: samples, and as many held-out fields; None: as many as are held out, up to 400.
        n_seeds: sets of samples, of the model and of every baseline.
        seed: the first of the seeds.
        device: where the model makes its samples: "auto", "cpu", "cuda" or "cuda:1".
        quick: at most 100 samples, and shapes on a coarser lattice with fewer points.
        progress: "auto", "json" or "quiet".
    """

    output: Path | None = None
    n: int | None = None
    n_seeds: int = 1
    seed: int = 0
    device: str = "auto"
    quick: bool = False
    progress: str = "auto"


@dataclass(frozen=True)
class Report:
    """What came out: the folder, all that was measured, and the numbers as they stand in the JSON file."""

    folder: Path
    findings: Findings
    body: dict[str, Any]


def report(model: Path, collection: Path, plan: ReportPlan) -> Report:
    """Measure a model and write the report.

    Args:
        model: file of a generator of weights.
        collection: folder of the fields that it was trained on.
        plan: what is asked.

    Raises:
        FieldFileError: the model or the collection cannot be used, or they are of two architectures.
        ValueError: too few items, or a number in the plan is out of range.
        OSError: the report cannot be written.
    """
    if plan.n is not None and not FEWEST <= plan.n <= MOST:
        raise ValueError(f"-n: expected {FEWEST} to {MOST} samples, got {plan.n}")
    begun, device = time.perf_counter(), find_device(plan.device)
    fields = Collection(collection, allow_incomplete=True)
    loaded = load_model(model, layout=fields.layout, whose=str(collection))
    move(loaded.model, device)
    folder = model.with_suffix(".report") if plan.output is None else plan.output
    folder.mkdir(parents=True, exist_ok=True)
    looks = looks_of(fields.config, fields.layout, **(QUICK if plan.quick else {}))
    with Stages(plan.progress, N_STAGES) as stages:
        cap = N_QUICK if plan.quick else CAP
        sides = sides_of(fields, plan.n, plan.seed, stages.stage("reading the collection"), cap=cap)
        for sentence in (*sides.left_out, *_doubts(fields, loaded.metadata)):
            stages.say(sentence)
        findings, notes = _measured(loaded, fields, looks, sides, plan, stages)
    body = _body(model, fields, looks, sides, plan, findings)
    body["notes"] = [*_doubts(fields, loaded.metadata), *sides.notes, *notes]
    body["facts"]["seconds"] = round(time.perf_counter() - begun, 1)
    _write(folder, looks, sides, findings, body)
    return Report(folder, findings, body)


def _doubts(fields: Collection, metadata: dict[str, Any]) -> list[str]:
    """Sentences on a model that was trained on something else."""
    of_model, found = metadata.get("collection"), []
    if isinstance(of_model, dict) and of_model.get("identity") not in (None, summary_of(fields)["identity"]):
        found.append(f"the model was trained on another collection ({of_model.get('name')}): what it has copied from "
                     "there is not found here")  # fmt: skip
    missing = fields.body["n_fields"] - len(fields)
    if missing:
        found.append(f"{missing} of {fields.body['n_fields']} fields of the collection are not fitted yet")
    return found


def _measured(
    loaded: ModelFile, fields: Collection, looks: PictureLooks | SolidLooks, sides: Sides, plan: ReportPlan,
    stages: Stages,
) -> tuple[Findings, list[str]]:  # fmt: skip
    n, seeds = len(sides.reference), [plan.seed + k for k in range(plan.n_seeds)]
    observe = stages.stage("drawing samples")
    model: Generator = loaded.model
    of_training = [fields.labels[number] for number in sides.training_numbers]
    rows, how = [], f"{model.otype}, the model of this report"
    for k, seed in enumerate(seeds):
        labels = None
        if isinstance(model, WeightDiffusion) and model.denoiser.n_classes:
            labels = labels_drawn(loaded.metadata.get("labels") or [], of_training, n, seed)
            how = f"{model.otype} with labels drawn as the training fields have them, the model of this report"
        rows.append(sample_rows(model, n, seed=seed, label=labels, observe=partial(_part, observe, k, len(seeds))))
    others, notes = baselines(fields.layout, sides, n, seeds, stages.stage("fitting baselines"))
    arms = [Arm("model", how, rows), *others]
    return measure(looks, sides, arms, stages, plan.seed), notes


def _part(observe: Callable[[float], None], k: int, n: int, share: float) -> None:
    """The k-th of n equal parts of some work is done to a share."""
    observe((k + share) / n)


def _body(
    model: Path, fields: Collection, looks: PictureLooks | SolidLooks, sides: Sides, plan: ReportPlan,
    findings: Findings,
) -> dict[str, Any]:  # fmt: skip
    """What stands in the JSON file."""
    first = findings.arms[0]
    assert first.verdict is not None
    words = ["fieldforge", "generate", "report", str(model), str(fields.path)]
    words += [] if plan.output is None else ["-o", str(plan.output)]
    words += [] if plan.n is None else ["-n", str(plan.n)]
    words += ["--seeds", str(plan.n_seeds), "--seed", str(plan.seed)] + (["--quick"] if plan.quick else [])
    facts = {
        "model": f"{model.name}, {first.arm.what}",
        "collection": f"{fields.path.resolve().name}, {len(fields):,} fields of {fields.n_parameters:,} parameters",
        "training fields": f"{len(sides.training):,} (split below {SPLIT})",
        "held-out fields compared with": f"{len(sides.reference):,}, one of an item (at most {CAP} unless -n says so)",
        "samples": f"{len(sides.reference):,} for each of {plan.n_seeds} seeds from {plan.seed}",
        "compared": looks.how,
        "weights": "Euclidean distance, each number in units of its deviation over the training fields",
        "training to training": f"{len(findings.probes):,} training fields to the nearest of another item",
        "Fréchet features": findings.features,
        "intervals": "95 %, bootstrap over items",
    }
    if fields.body.get("init", {}).get("policy"):
        facts["fields began"] = str(fields.body["init"]["policy"])
    if looks.kind == "shape":
        facts["closed surfaces that are not empty"] = ", ".join(
            f"{one.arm.name} {one.closed:.1%}" for one in findings.arms
        )
    return {
        "title": f"{model.name}: {first.arm.rows[0].shape[1]:,} weights, new or remembered?",
        "verdict": first.verdict._asdict(), "command": shlex.join(words), "software": software(), "facts": facts,
        "seeds": [plan.seed + k for k in range(plan.n_seeds)], "n": len(sides.reference),
        "n_training": len(sides.training), "reference": sides.reference_numbers, "left_out": sides.left_out,
        "training_probes": [sides.training_numbers[place] for place in findings.probes],
        **as_json(findings),
    }  # fmt: skip


EXPLANATIONS = [
    "1-NNA: how often the nearest other field is of the same set; 0.5: samples are like held-out fields, 1: told apart "
    "without fail. Copies of training fields score well, so read it beside copies, near and ratio.",
    "copies, near, ratio: by outputs and by weights as listed below. near: part of the samples nearer to a training "
    "field than 95 % of training fields are to another (5 % is to be expected). ratio: median distance over that of "
    "training fields. copies: near, and at most two thirds as far from one training field as from the next.",
    "MMD: mean distance from held-out fields to the nearest sample. COV: part of them that are nearest to some sample.",
    "Samples that cannot be used (not finite, no surface) count as told apart in 1-NNA, and are in nothing else.",
]


def _write(
    folder: Path, looks: PictureLooks | SolidLooks, sides: Sides, findings: Findings, body: dict[str, Any]
) -> None:
    model = findings.arms[0]
    assert model.verdict is not None
    sheet, names = samples_beside_training(looks, sides, model) if model.nearest else (None, [])
    picture = drawing(sheet, names, findings, model.verdict.sentence)
    text = page(body, findings, picture, EXPLANATIONS).text()
    numbers = json.dumps(body, indent=1, sort_keys=True, allow_nan=False) + "\n"
    for name, content in ((PICTURE, picture), (PAGE, text.encode()), (NUMBERS, numbers.encode())):
        with replacing(folder / name) as file:
            file.write(content)
