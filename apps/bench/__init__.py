"""``fieldforge bench``: measure against plain PyTorch in the same run, keep the rows, write the README's tables.

Candidates take turns, on one thread, and are timed by the CPU time of the process; a figure is a median. Rows go to
``data/bench/<suite>.jsonl``; ``bench report`` writes the marked tables of the README from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def main(
    suite: str,
    *,
    rows: Path,
    data: Path | None,
    is_quick: bool,
    only: Sequence[str] = (),
    repeats: int | None = None,
) -> int:
    """Run one suite; returns the exit code. `only` and `repeats` are those of the suite 'cpu'."""
    if suite == "cpu":
        from fieldforge.apps.bench.cpu import run as run_cpu

        return run_cpu(rows, is_quick=is_quick, only=only, repeats=repeats)
    if only or repeats is not None:
        raise ValueError(f"only, repeats: are for the suite 'cpu', not '{suite}'")
    if suite == "encodings":
        from fieldforge.apps.bench.encodings import run as run_encodings

        run_encodings(rows, is_quick=is_quick)
    elif suite == "image":
        from fieldforge.apps.bench.image import run as run_image

        run_image(rows, is_quick=is_quick)
    elif suite == "presets":
        from fieldforge.apps.bench.presets import run as run_presets

        run_presets(rows, data, is_quick=is_quick)
    elif suite == "shape":
        from fieldforge.apps.bench.shape import run as run_shape

        run_shape(rows, data, is_quick=is_quick)
    else:
        from fieldforge.apps.bench.report import write_tables

        write_tables(rows, Path("README.md"))
    return 0
