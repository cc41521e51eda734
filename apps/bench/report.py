"""``fieldforge bench report``: the tables of the README and of the studies, from the rows of the last runs.

A table stands between ``<!-- bench:NAME -->`` and ``<!-- /bench -->``; only what is between is replaced. Beside the
folder of the rows, in `pictures`, a drawing is written for the tables that have one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fieldforge.apps.bench import convert_page, methods, operators_page, scene_page, weights_page
from fieldforge.apps.bench.convert_figure import matrix_figure
from fieldforge.apps.bench.cpu.table import limits_line, lines, memory_line
from fieldforge.apps.bench.harness import latest, say

Rows = list[dict[str, Any]]


def write_tables(folder: Path, readme: Path) -> None:
    """Rewrite every marked table of a file.

    Raises:
        ValueError: a mark names no table, or there are no rows for it.
    """
    text = readme.read_text()

    def table(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in TABLES:
            raise ValueError(f"{readme}: the mark bench:{name} names no table; known: {', '.join(TABLES)}")
        suite, _, part = name.partition(".")
        rows = [row for row in latest(folder, suite) if row["case"].startswith(f"{part}: ") or not part]
        if not rows:
            only = f" --only {part}" if part else ""
            raise ValueError(f"{folder}: has no rows of {name}; run fieldforge bench {suite}{only} first")
        if name in FIGURES:
            (folder.parent / "pictures").mkdir(exist_ok=True)
            (folder.parent / "pictures" / f"{name}.svg").write_text(FIGURES[name](rows))
        return f"<!-- bench:{name} -->\n{TABLES[name](rows)}\n<!-- /bench -->"

    written = re.sub(r"<!-- bench:([\w.]+) -->.*?<!-- /bench -->", table, text, flags=re.DOTALL)
    if written != text:
        readme.write_text(written)
    say(f"{readme}: {'tables rewritten' if written != text else 'tables are up to date'}")


def _presets(rows: Rows) -> str:
    photos = list(dict.fromkeys(row["case"] for row in rows))
    names = list(dict.fromkeys(row["candidate"] for row in rows))
    by_key = {(row["case"], row["candidate"]): row["quality"] for row in rows}
    lines = [_line(["preset", *photos]), _line(["---"] * (len(photos) + 1))]
    for name in names:
        cells = []
        for photo in photos:
            figures = by_key[photo, name]
            cells.append(f"{figures['psnr']:.1f} dB, {figures['seconds']:.0f} s, {_size(figures['bytes'])}")
        lines.append(_line([f"`{name}`", *cells]))
    return "\n".join([*lines, "", _about(rows, "two threads")])


def _ratios(unit: str) -> Callable[[Rows], str]:
    def table(rows: Rows) -> str:
        return "\n".join([*_ratio_lines(unit, rows), "", _about(rows, "one thread, median of CPU time")])

    return table


def _ratio_lines(unit: str, rows: Rows) -> list[str]:
    lines = [_line(["case", "candidate", f"{unit} per second", "ratio to plain PyTorch"]), _line(["---"] * 4)]
    for case in dict.fromkeys(row["case"] for row in rows):
        of_case = [row for row in rows if row["case"] == case]
        for row in of_case:
            ratio = of_case[0]["seconds"] / row["seconds"]
            lines.append(_line([case, row["candidate"], f"{row['rate'] / 1e6:.3g} M", f"{ratio:.2g} x"]))
    return lines


def _shape(rows: Rows) -> str:
    """Three tables: quality by shape and preset, the step against plain PyTorch, recipes."""

    def of(part: str) -> Rows:
        return [row for row in rows if row["case"].startswith(part)]

    lines = [
        _line(["shape", "preset", "volume IoU", "near IoU", "F-score at 1 %", "at 0.5 %", "Chamfer", "stray",
               "training", "file"]),
        _line(["---"] * 10),
    ]  # fmt: skip
    for row in of("quality "):
        q = row["quality"]
        lines.append(
            _line([row["case"].removeprefix("quality "), f"`{row['candidate']}`", f"{q['volume_iou']:.4f}",
                   f"{q['near_iou']:.4f}", f"{q['f_score_0.01']:.4f}", f"{q['f_score_0.005']:.4f}",
                   f"{100 * q['chamfer']:.3f} %", f"{100 * q['stray']:.2f} %", f"{row['seconds']:.1f} s",
                   _size(q["bytes"])])
        )  # fmt: skip
    lines += ["", *_ratio_lines("samples", of("step of "))]
    recipes = of("recipe ")
    if recipes:
        lines += ["", _line(["shape", "samples", "volume IoU", "near IoU", "error near", "error far", "stray"])]
        lines.append(_line(["---"] * 7))
    for row in recipes:
        q = row["quality"]
        lines.append(
            _line([row["case"].removeprefix("recipe "), row["candidate"], f"{q['volume_iou']:.4f}",
                   f"{q['near_iou']:.4f}", f"{100 * q['distance_error_near']:.3f} %",
                   f"{100 * q['distance_error_far']:.3f} %", f"{100 * q['stray']:.2f} %"])
        )  # fmt: skip
    how = "quality and recipes: two cores, wall time; steps: one thread, median of CPU time"
    said = "Lengths are shares of the diagonal of the mesh's bounding box."
    return "\n".join([*lines, "", f"{said} {_about(rows, how)}"])


def _signals(rows: Rows) -> str:
    names = list(dict.fromkeys(row["candidate"] for row in rows))
    cases = list(dict.fromkeys(row["case"] for row in rows))
    by_key = {(row["case"], row["candidate"]): row["quality"] for row in rows}
    lines = [_line(["preset", *cases]), _line(["---"] * (len(cases) + 1))]
    for name in names:
        cells = []
        for case in cases:
            q = by_key.get((case, name))
            if q is None:
                cells.append("")
                continue
            figure = f"{q['snr']:.1f} dB SNR" if "snr" in q else f"{q['psnr']:.1f} dB PSNR"
            cells.append(f"{figure}, {q['steps']} steps, {_size(q['bytes'])}")
        lines.append(_line([f"`{name}`", *cells]))
    budget = f"{rows[0]['sizes']['budget']:g} CPU seconds of training"
    return "\n".join([*lines, "", _about(rows, f"one thread, {budget} each")])


def _clouds(rows: Rows) -> str:
    headings = ["points of", "preset", "volume IoU", "F-score at 1 %", "normal consistency", "training"]
    lines = [_line(headings), _line(["---"] * len(headings))]
    for row in rows:
        q = row["quality"]
        lines.append(
            _line([row["case"], row["candidate"], f"{q['volume_iou']:.4f}", f"{q['f_score_0.01']:.4f}",
                   f"{q['normal_consistency']:.3f}", f"{row['seconds']:.0f} s"])
        )  # fmt: skip
    return "\n".join([*lines, "", _about(rows, "two cores, wall time")])


def _cpu(rows: Rows) -> str:
    headings, *cells = lines(rows)
    table = [_line(headings), _line(["---"] * len(headings)), *map(_line, cells)]
    said = [limits_line(row) for row in rows if row["case"] == "limits"]
    said += [memory_line(row) for row in rows if row["candidate"] == "memory"]
    return "\n".join([*table, "", *said, "", _about(rows, "one thread, median of CPU time")])


def _weights(rows: Rows) -> str:
    return "\n\n".join([weights_page.tables(rows), _about(rows, "one thread of a machine shared with others")])


def _operators(rows: Rows) -> str:
    return "\n\n".join([operators_page.tables(rows), _about(rows, "one thread")])


def _scene(rows: Rows) -> str:
    how = "quality: two cores, wall time; the rest: one thread, CPU time"
    return "\n\n".join([scene_page.tables(rows, _line, _size), _about(rows, how)])


def _scene_models(rows: Rows) -> str:
    headings = ["preset", "PSNR of held-out pixels", "steps", "CPU time of a step", "parameters"]
    lines = [_line(headings), _line(["---"] * len(headings))]
    for row in sorted(rows, key=lambda row: -row["quality"]["psnr"]):
        q = row["quality"]
        lines.append(
            _line([f"`{row['candidate']}`", f"{q['psnr']:.2f} dB", f"{q['steps']:,}",
                   f"{1e3 * row['seconds'] / q['steps']:.0f} ms", f"{q['parameters'] / 1e6:.2f} M"])
        )  # fmt: skip
    return "\n".join([*lines, "", _about(rows, f"one thread, {rows[0]['sizes']['budget']:.0f} s of its CPU time each")])


def _space(rows: Rows) -> str:
    headings = ["space", "PSNR", "SSIM", "above the box", "training"]
    lines = [_line(headings), _line(["---"] * len(headings))]
    box = rows[0]["quality"]["psnr"]
    for row in rows:
        q = row["quality"]
        lines.append(
            _line([row["candidate"], f"{q['psnr']:.2f} dB", f"{q['ssim']:.3f}", f"{q['psnr'] - box:+.2f} dB",
                   f"{row['seconds']:.0f} s"])
        )  # fmt: skip
    return "\n".join([*lines, "", _about(rows, "wall time beside other work")])


def _collections(rows: Rows) -> str:
    headings = [
        "items",
        "begun with",
        "fields",
        "parameters",
        "mean",
        "median",
        "worst",
        "wall time",
        "CPU time a field",
    ]
    lines = [_line(headings), _line(["---"] * len(headings))]
    for row in rows:
        q, name = row["quality"], "psnr" if "psnr_mean" in row["quality"] else "iou"
        said = [f"{q[f'{name}_{which}']:.2f} dB" if name == "psnr" else f"IoU {q[f'{name}_{which}']:.3f}"
                for which in ("mean", "median", "worst")]  # fmt: skip
        lines.append(
            _line([row["case"], "the same numbers" if row["candidate"] == "shared" else "numbers of their own",
                   f"{row['sizes']['fields']:,}", f"{row['sizes']['parameters']:,}", *said,
                   f"{q['wall_seconds'] / 60:.1f} min", f"{1e3 / row['rate']:.0f} ms"])
        )  # fmt: skip
    return "\n".join([*lines, "", _about(rows, "two cores")])


def _methods(part: str) -> Callable[[Rows], str]:
    def table(rows: Rows) -> str:
        return "\n".join([methods.claim_of(part).table(part, rows), "", _about(rows, "one thread, CPU time")])

    return table


def _generate(rows: Rows) -> str:
    headings = ["fields", "arm", "seed", "1-NNA", "95 %", "COV", "nearest training field, by weights", "by output",
                "copies", "closed, not empty"]  # fmt: skip
    lines = [_line(headings), _line(["---"] * len(headings))]
    for row in rows:
        q = row["quality"]
        scores = (
            [f"{q['1-NNA']:.3f}", f"{q['low']:.2f} to {q['high']:.2f}", f"{q['COV']:.3f}"] if "1-NNA" in q else [""] * 3
        )
        lines.append(
            _line([row["case"].replace("_", ", "), row["candidate"], str(row["sizes"]["seed"]),
                   *scores,
                   *(f"{q[f'ratio_{space}']:.2f}" if f"ratio_{space}" in q else "" for space in ("weights", "output")),
                   f"{max(q.get('copies_weights', 0), q.get('copies_output', 0)):.0%}",
                   f"{q['closed']:.0%}" if row["case"] != "digits" else ""])
        )  # fmt: skip
    return "\n".join([*lines, "", _about(rows, "one thread of a machine shared with other work")])


def _convert(rows: Rows) -> str:
    return "\n\n".join([convert_page.tables(rows, _line), _about(rows, "one thread, CPU time")])


def _about(rows: Rows, how: str) -> str:
    row = rows[0]
    return (
        f"Measured with `{row['command']}` on {row['processor']}, {how}, torch {row['versions']['torch']}, "
        f"{row['time'][:10]}."
    )


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _size(n_bytes: float) -> str:
    return f"{n_bytes / 1e6:.2f} MB" if n_bytes >= 1e6 else f"{n_bytes / 1e3:.0f} KB"


TABLES: dict[str, Callable[[Rows], str]] = {
    "presets": _presets,
    "shape": _shape,
    "clouds": _clouds,
    "signals": _signals,
    "cpu": _cpu,
    "encodings": _ratios("points"),
    "image": _ratios("pixels"),
    "operators": _operators,
    "scene": _scene,
    "space": _space,
    "scene_models": _scene_models,
    "collections": _collections,
    "convert": _convert,
    "generate": _generate,
    "weights": _weights,
} | {f"methods.{part}": _methods(part) for part in methods.PARTS}
"""Suite, or suite and part -> how its table is made."""
FIGURES: dict[str, Callable[[Rows], str]] = {"convert": matrix_figure}
"""Suite -> its drawing, SVG."""
