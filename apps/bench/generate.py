"""``fieldforge bench generate``: models of weights beside their baselines, as `generate report` measures them.

`digits`: 8,000 MNIST digits at 8 x 8 pixels as sine fields of 987 parameters that all begin where the first one ended
and are fitted for a short time, so that their weights are nearly linear in the picture. `shapes`: 800 random_urdfs
shapes as occupancy fields of 4,931 parameters with one start, at 100 samples and a lattice of 32 (`--quick` of the
report); `shapes_random`: the same with numbers to begin with of their own. Each model is trained with three seeds, the
last case's with one; each training is measured on samples, and against held-out fields, drawn by its own seed.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fieldforge.apps.bench.digits import lazy_digits
from fieldforge.apps.bench.harness import Row, save, say
from fieldforge.apps.fit.collection.job import fit_collection
from fieldforge.apps.generate.measure import Measured
from fieldforge.apps.generate.report import ReportPlan, report
from fieldforge.apps.generate.train import TrainingJob, TrainingPlan
from fieldforge.fields.collection import INDEX, Collection

DATA = Path("../shared/data")
SHAPES = "shapes/random_urdfs_800.zip"
SEEDS = (0, 1, 2)


def run(folder: Path, data: Path | None, *, is_quick: bool, only: Sequence[str] = ()) -> None:
    """Fit the collections, train, measure, print, and keep the rows unless `is_quick`.

    Args:
        folder: of the rows.
        data: folder of digits and shapes; where it holds a collection of a case's name, that is taken; None is `DATA`.
        is_quick: few items, few steps.
        only: some of `CASES`.

    Raises:
        ItemError: digits or shapes are not there.
        ValueError: no such case.
    """
    for case in only:
        if case not in CASES:
            raise ValueError(f"only: expected some of {', '.join(CASES)}, got {case}")
    for case in only or CASES:
        with tempfile.TemporaryDirectory() as scratch:
            rows = _case(case, data or DATA, Path(scratch), is_quick)
        if not is_quick:
            say(f"rows: {save(folder, 'generate', rows)}")


def _case(case: str, data: Path, scratch: Path, is_quick: bool) -> list[Row]:
    collection = data / case
    if not (collection / INDEX).exists():
        say(f"fitting the collection {case}")
        collection = CASES[case](data, scratch, is_quick)
    rows: list[Row] = []
    for seed in SEEDS[:1] if is_quick or case == "shapes_random" else SEEDS:
        model, begun = scratch / f"{seed}.gen", time.process_time()
        plan = TrainingPlan(model, seed=seed, steps=5 if is_quick else None, progress="quiet")
        job = TrainingJob(Collection(collection), plan)
        state = job.run().state
        if state is not None and state.stopped_by == "signal":
            raise KeyboardInterrupt
        seconds = time.process_time() - begun
        made = report(
            model, collection, ReportPlan(scratch / "report", n=10 if is_quick else None, seed=seed,
                                          quick=is_quick or case != "digits", progress="quiet")
        )  # fmt: skip
        arms = made.findings.arms if seed == SEEDS[0] else made.findings.arms[:1]
        for one in arms:
            sizes: dict[str, Any] = {"seed": seed, "n": made.body["n"], "n_training": made.body["n_training"]}
            if one is arms[0]:
                sizes["config"] = job.config
            figures = _figures(one, made.findings.distances[0])
            say(f"{case:13} seed {seed} {one.arm.name:16} " + "  ".join(f"{k} {v:.3f}" for k, v in figures.items()))
            is_model = one is arms[0]
            rows.append(Row("generate", case, one.arm.name, sizes, seconds if is_model else 0.0, 0.0, 0.0, figures))
        assert arms[0].verdict is not None
        say(f"{case:13} seed {seed}: {arms[0].verdict.sentence}")
    return rows


def _figures(one: Measured, distance: str) -> dict[str, float]:
    """The numbers of an arm that a table shows."""
    found: dict[str, float] = {}
    if distance in one.figures:
        scores = one.figures[distance]
        found = {"1-NNA": scores["1-NNA"].value, "low": scores["1-NNA"].low, "high": scores["1-NNA"].high,
                 "COV": scores["COV"].value, "MMD": scores["MMD"].value}  # fmt: skip
    for space, novelty in one.novelty.items():
        where = "weights" if space == "weights" else "output"
        found |= {f"copies_{where}": novelty.copies, f"ratio_{where}": novelty.ratio}
    return found | {"closed": one.closed, "lost": one.n_lost / max(1, one.n)}


def _digits(data: Path, scratch: Path, is_quick: bool) -> Path:
    return lazy_digits(data, scratch / "digits", limit=120 if is_quick else None).path


def _shapes(init: str) -> Callable[[Path, Path, bool], Path]:
    def fitted(data: Path, scratch: Path, is_quick: bool) -> Path:
        fit_collection(data / SHAPES, scratch / "shapes", init=init, skip_bad=True, limit=80 if is_quick else None,
                       steps=10 if is_quick else None, progress="quiet")  # fmt: skip
        return scratch / "shapes"

    return fitted


CASES: dict[str, Callable[[Path, Path, bool], Path]] = {
    "digits": _digits, "shapes": _shapes("shared"), "shapes_random": _shapes("random"),
}  # fmt: skip
"""Case -> what fits its collection."""
