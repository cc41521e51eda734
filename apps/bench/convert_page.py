"""Tables of conversions: who becomes whom, and what stages, cuts and penalties are worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fieldforge.apps.bench.convert import KINDS

Rows = list[dict[str, Any]]
TITLES = {
    "staged": "hash grid into MLP",
    "clipping": "logarithm of the density cut",
    "tenth": "a tenth of the time",
    "kilonerf": "KiloNeRF",
    "kilonerf-200": "KiloNeRF at 200 pixels",
    "megabyte": "1 MB",
    "picture": "100 megapixels",
}


def tables(rows: Rows, line: Callable[[Sequence[str]], str]) -> str:
    """The matrix, and one table for each of the other parts, as far as there are rows."""
    by_case = {row["case"]: row for row in rows}
    lines = [line(["teacher", "its PSNR", *KINDS]), line(["---"] * (len(KINDS) + 2))]
    scratch = [by_case.get(f"scratch: {name}") for name in KINDS]
    lines.append(line(["from photos", "", *(_psnr(row) for row in scratch)]))
    for teacher, row in zip(KINDS, scratch, strict=True):
        of_teacher = [by_case.get(f"matrix-{teacher}: {name}") for name in KINDS]
        if any(of_teacher):
            lines.append(line([teacher, _psnr(row), *map(_psnr, of_teacher)]))
    if any(row["case"].startswith("matrix-") for row in rows):
        lines += ["", _near(by_case)]
    for part, title in TITLES.items():
        found = [row for row in rows if row["case"].startswith(f"{part}: ")]
        if found:
            shown = "PSNR of all pixels" if part == "picture" else "PSNR of held-out photos"
            headings = [title, shown, "the teacher's", "PSNR against the teacher", "time", "file"]
            lines += ["", line(headings), line(["---"] * len(headings))]
            lines += [line(_cells(row)) for row in found]
    for part in ("kilonerf", "kilonerf-200"):
        found = [row for row in rows if row["case"] == part]
        if not found:
            continue
        headings = [f"rendering, {TITLES[part]}", "CPU time of a pixel", "samples", "multiply-adds", "less time",
                    "fewer multiply-adds"]  # fmt: skip
        lines += ["", line(headings), line(["---"] * len(headings))]
        for row in found:
            q = row["quality"]
            ratios = [f"{q[key]:,.0f} x" if key in q else "" for key in ("less_time", "fewer_multiply_adds")]
            work = f"{q['multiply_adds']:,.0f}" if "multiply_adds" in q else ""
            lines.append(line([row["candidate"], f"{1e6 * q['seconds']:.3g} µs", f"{q['samples']:.1f}", work, *ratios]))
    return "\n".join(lines)


def _near(by_case: dict[str, dict[str, Any]]) -> str:
    """How many students are within 1 dB of what could be asked of them."""
    own = {name: by_case[f"scratch: {name}"]["quality"]["psnr"] for name in KINDS if f"scratch: {name}" in by_case}
    found = [
        by_case[case]["quality"]["psnr"] - min(own[teacher], own[name])
        for teacher in own
        for name in own
        if (case := f"matrix-{teacher}: {name}") in by_case
    ]
    return (
        f"{sum(one > -1 for one in found)} of {len(found)} students are within 1 dB of their teacher, or of what they "
        f"come to from photos where that is less; {sum(one > 0 for one in found)} are above it."
    )


def _psnr(row: dict[str, Any] | None) -> str:
    return "" if row is None else f"{row['quality']['psnr']:.2f}"


def _cells(row: dict[str, Any]) -> list[str]:
    q = row["quality"]
    decibels = [f"{q[key]:.2f} dB" if key in q else "" for key in ("psnr", "teachers_psnr", "teacher_psnr")]
    return [row["candidate"], *decibels, f"{row['seconds']:.0f} s", f"{q['bytes'] / 1e6:.2f} MB"]
