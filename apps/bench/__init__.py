"""``fieldforge bench``: measure against plain PyTorch in the same run, keep the rows, write the README's tables.

Candidates take turns, on one thread, and are timed by the CPU time of the process; a figure is a median. Rows go to
``data/bench/<suite>.jsonl``; ``bench report`` writes the marked tables of the README from them.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

OF_DATA = (
    "presets",
    "shape",
    "clouds",
    "operators",
    "space",
    "dynamic",
    "planes",
    "signals",
)
"""Suites that measure on files of a folder."""
OF_PARTS = ("scene", "scene_models", "collections", "weights", "generate", "methods", "convert")
"""Suites on files of a folder of which parts can be measured alone."""
SUITES = ("cpu", "gpu", "encodings", "image", *OF_DATA, *OF_PARTS, "report")


def main(
    suite: str,
    *,
    rows: Path,
    data: Path | None,
    is_quick: bool,
    only: Sequence[str] = (),
    repeats: int | None = None,
) -> int:
    """Run one suite; returns the exit code.

    `only` is for 'cpu', 'gpu' and `OF_PARTS`; `repeats` for 'cpu'.
    """
    if suite == "cpu":
        from fieldforge.apps.bench.cpu import run as run_cpu

        return run_cpu(rows, is_quick=is_quick, only=only, repeats=repeats)
    if suite == "gpu" and repeats is None:
        from fieldforge.apps.bench.gpu import run as run_gpu

        return run_gpu(rows, data, is_quick=is_quick, only=only)
    if repeats is not None:
        raise ValueError(f"repeats: is for the suite 'cpu', not '{suite}'")
    if only and suite not in OF_PARTS:
        raise ValueError(f"only: is for the suites {', '.join(('cpu', 'gpu', *OF_PARTS))}, not '{suite}'")
    if suite == "report":
        from fieldforge.apps.bench.report import write_tables

        for page in (Path("README.md"), *sorted(Path("data/studies").glob("*.md"))):
            write_tables(rows, page)
        return 0
    run = importlib.import_module(f"fieldforge.apps.bench.{suite}").run
    if suite in OF_PARTS:
        run(rows, data, is_quick=is_quick, only=only)
    elif suite in OF_DATA:
        run(rows, data, is_quick=is_quick)
    else:
        run(rows, is_quick=is_quick)
    return 0
