"""``fieldforge bench collections``: thousands of small fields at once, as the presets fit them.

8,000 MNIST digits as pictures' fields and 800 random_urdfs shapes as occupancy fields, each with numbers to begin with
of its own and with the same ones: quality over all fields, and the time of the whole, reading and writing included.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from fieldforge.apps.bench.digits import DIGITS
from fieldforge.apps.bench.harness import Row, save, say
from fieldforge.apps.fit.collection.job import CollectionJob
from fieldforge.apps.fit.collection.plan import CollectionPlan

DATA = Path("../shared/data")
SOURCES = {"digits": DIGITS, "shapes": "shapes/random_urdfs_800.zip"}
"""Case -> file in the data folder."""
POLICIES = ("shared", "random")


def run(folder: Path, data: Path | None, *, is_quick: bool, only: Sequence[str] = ()) -> None:
    """Fit, print, and keep the rows unless `is_quick`.

    Args:
        folder: of the rows.
        data: folder of `SOURCES`; None is `DATA`.
        is_quick: few items.
        only: some of `SOURCES`.

    Raises:
        ItemError: they are not there.
        ValueError: no such case.
    """
    for case in only:
        if case not in SOURCES:
            raise ValueError(f"only: expected some of {', '.join(SOURCES)}, got {case}")
    for case in only or SOURCES:
        source = (data or DATA) / SOURCES[case]
        rows = [_fit(case, source, init, limit=8 if is_quick else None) for init in POLICIES]
        if not is_quick:
            say(f"rows: {save(folder, 'collections', rows)}")


def _fit(case: str, source: Path, init: str, limit: int | None) -> Row:
    """A collection in a temporary folder, and how long it took."""
    with tempfile.TemporaryDirectory() as folder:
        plan = CollectionPlan(Path(folder) / "fields", init=init, limit=limit, skip_bad=True, progress="quiet")
        wall, cpu = time.perf_counter(), time.process_time()
        job = CollectionJob(source, plan)
        fit = job.run()
        if fit.stopped_by == "signal":
            raise KeyboardInterrupt
        found = fit.summary()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    n = found["fields"]
    figures = {name: value for name, value in found.items() if name.startswith(("psnr", "iou"))}
    told = "  ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in figures.items())
    say(f"{case:12} {init:7} {n:5} fields of {job.n_parameters:,} parameters  {told}  {wall:.0f} s, {cpu:.0f} s of CPU")
    sizes = {"fields": n, "parameters": job.n_parameters, "config": job.config}
    return Row("collections", case, init, sizes, cpu, 0.0, n / cpu, quality=figures | {"wall_seconds": wall})
