"""The tables of what `spectra` measures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fieldforge.apps.bench.harness import markdown

Rows = Sequence[dict[str, Any]]


def _fresh(rows: Rows) -> str:
    """Two tables: networks of coordinates, and grids."""
    headings = ["picture", "field, spectrum", "best", "chosen", "PSNR", "below the best", "above the preset's", "cost",
                "rank corr."]  # fmt: skip
    cells, grids = [], []
    for row in rows:
        name, q = row["case"].removeprefix("fresh: "), row["quality"]
        if "distance" in q:
            grids.append([name, row["candidate"], f"{q['distance']:.2f} bins", f"{q['psnr']:.2f} dB"])
            continue
        below, above = q["psnr_best"] - q["psnr"], q["psnr"] - q["psnr_default"]
        cells.append(
            [name, row["candidate"], f"{q['best']:.3g}", f"{q['chosen']:.3g}", f"{q['psnr']:.2f} dB", f"{below:.2f} dB",
             f"{above:+.2f} dB", f"{q['cost']:.1%}", f"{q['rank']:.2f}"]
        )  # fmt: skip
    found = markdown(headings, cells)
    if grids:
        found += "\n\n" + markdown(["picture", "finest level", "distance untrained", "PSNR trained"], grids)
    return found


def _auto(rows: Rows) -> str:
    cells = []
    for row in rows:
        q = row["quality"]
        distance = f"{q['distance']:.2f} bins" if "distance" in q else "-"
        cells.append([row["case"].removeprefix("auto: "), row["candidate"], distance, f"{q['psnr_pilot']:.2f} dB",
                      f"{q['psnr']:.2f} dB"])  # fmt: skip
    return markdown(["picture", "family", "distance", "after the pilot", "at the end"], cells)


TABLES: dict[str, Callable[[Rows], str]] = {"fresh": _fresh, "auto": _auto}
"""Part -> its table."""
