"""The tables of data/studies/spectra.md, from the rows of ``fieldforge bench spectra``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Rows = Sequence[dict[str, Any]]


def tables(rows: Rows, line: Callable[[Sequence[str]], str]) -> str:
    """A table for each part that was measured."""
    parts = [_fresh, _auto, _int, _iga]
    return "\n\n".join(text for part in parts if (text := part(rows, line)))


def _table(headings: Sequence[str], cells: Sequence[Sequence[str]], line: Callable[[Sequence[str]], str]) -> str:
    return "\n".join([line(headings), line(["---"] * len(headings)), *map(line, cells)]) if cells else ""


def _of(rows: Rows, part: str) -> list[tuple[str, dict[str, Any]]]:
    """(what was measured, row) of a part."""
    return [(row["case"].removeprefix(f"{part} "), row) for row in rows if row["case"].startswith(f"{part} ")]


def _fresh(rows: Rows, line: Callable[[Sequence[str]], str]) -> str:
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
    return _table(headings, cells, line)


def _auto(rows: Rows, line: Callable[[Sequence[str]], str]) -> str:
    cells = [
        [name, row["candidate"], f"{row['quality']['distance']:.2f} bins", f"{row['quality']['psnr_pilot']:.2f} dB",
         f"{row['quality']['psnr']:.2f} dB"]
        for name, row in _of(rows, "auto")
    ]  # fmt: skip
    return _table(["picture", "family", "distance", "after the pilot", "at the end"], cells, line)


def _int(rows: Rows, line: Callable[[Sequence[str]], str]) -> str:
    measured, cells = _of(rows, "int"), []
    full = {name: row["quality"]["seconds_to_level"] for name, row in measured if row["candidate"] == "all pixels"}
    for name, row in measured:
        q = row["quality"]
        ratio = q["seconds_to_level"] / full[name]
        cells.append(
            [name, row["candidate"], f"{q['psnr']:.2f} dB", f"{q['steps']}", f"{q['seconds']:.1f} s",
             f"{q['level']:.0f} dB after {q['seconds_to_level']:.1f} s", f"{ratio:.2f}"]
        )  # fmt: skip
    return _table(["picture", "pixels", "PSNR", "steps", "CPU", "level", "of the time of all"], cells, line)


def _iga(rows: Rows, line: Callable[[Sequence[str]], str]) -> str:
    cells = [
        [name, row["candidate"], f"{row['quality']['psnr']:.2f} dB", f"{row['quality']['best']:.2f} dB",
         f"{row['quality']['seconds']:.1f} s"]
        for name, row in _of(rows, "iga")
    ]  # fmt: skip
    return _table(["network", "gradient", "PSNR", "best on the way", "CPU"], cells, line)
