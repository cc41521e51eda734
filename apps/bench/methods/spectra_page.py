"""The tables of what `spectra` measures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fieldforge.apps.bench.harness import markdown

Rows = Sequence[dict[str, Any]]


def _of(rows: Rows, part: str) -> list[tuple[str, dict[str, Any]]]:
    """(what was measured, row) of a part."""
    return [(row["case"].removeprefix(f"{part}: "), row) for row in rows if row["case"].startswith(f"{part}: ")]


def _fresh(rows: Rows) -> str:
    headings = [
        "picture",
        "field, spectrum",
        "chosen",
        "PSNR",
        "below the best",
        "above the default",
        "cost",
        "rank corr.",
    ]
    cells = []
    for name, row in _of(rows, "fresh"):
        q = row["quality"]
        below, above = q["psnr_best"] - q["psnr"], q["psnr"] - q["psnr_default"]
        cells.append(
            [name, row["candidate"], f"{q['chosen']:.4g}", f"{q['psnr']:.2f} dB", f"{below:.2f} dB", f"{above:+.2f} dB",
             f"{q['cost']:.1%}", f"{q['rank']:.2f}"]
        )  # fmt: skip
    return markdown(headings, cells)


def _auto(rows: Rows) -> str:
    cells = [
        [name, row["candidate"], f"{row['quality']['distance']:.2f} bins", f"{row['quality']['psnr_pilot']:.2f} dB",
         f"{row['quality']['psnr']:.2f} dB"]
        for name, row in _of(rows, "auto")
    ]  # fmt: skip
    return markdown(["picture", "family", "distance", "after the pilot", "at the end"], cells)


def _int(rows: Rows) -> str:
    measured, cells = _of(rows, "int"), []
    full = {name: row["quality"]["seconds_to_level"] for name, row in measured if row["candidate"] == "all pixels"}
    for name, row in measured:
        q = row["quality"]
        ratio = q["seconds_to_level"] / full[name]
        cells.append(
            [name, row["candidate"], f"{q['psnr']:.2f} dB", f"{q['steps']}", f"{q['seconds']:.1f} s",
             f"{q['level']:.0f} dB after {q['seconds_to_level']:.1f} s", f"{ratio:.2f}"]
        )  # fmt: skip
    return markdown(["picture", "pixels", "PSNR", "steps", "CPU", "level", "of the time of all"], cells)


def _iga(rows: Rows) -> str:
    cells = [
        [name, row["candidate"], f"{row['quality']['psnr']:.2f} dB", f"{row['quality']['best']:.2f} dB",
         f"{row['quality']['seconds']:.1f} s"]
        for name, row in _of(rows, "iga")
    ]  # fmt: skip
    return markdown(["network", "gradient", "PSNR", "best on the way", "CPU"], cells)


TABLES: dict[str, Callable[[Rows], str]] = {"fresh": _fresh, "auto": _auto, "int": _int, "iga": _iga}
"""Part -> its table."""
