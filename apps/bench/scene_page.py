"""The tables of ``fieldforge bench scene``: how good scenes become, the race, and what the occupancy grid saves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Rows = Sequence[dict[str, Any]]
Line = Callable[[Sequence[str]], str]


def tables(rows: Rows, line: Line, size: Callable[[float], str]) -> str:
    """Those of which there are rows.

    Args:
        rows: of the suite.
        line: cells to a line of a table.
        size: bytes to words.
    """
    parts = (_quality(rows, line, size), _race(rows, line), _marching(rows, line))
    return "\n\n".join(part for part in parts if part)


def _quality(rows: Rows, line: Line, size: Callable[[float], str]) -> str:
    of = [row for row in rows if row["case"].startswith("quality ")]
    moments = ("60 s", "5 min", "20 min")
    headings = [
        "scene", "photos", "PSNR", "SSIM", *(f"after {one}" for one in moments), "training", "steps", "file",
        "memory",
    ]  # fmt: skip
    lines = [line(headings), line(["---"] * len(headings))]
    for row in of:
        q, sizes = row["quality"], row["sizes"]
        width, height = sizes["size"]
        on_the_way = [q.get(f"psnr after {one}") for one in moments]
        lines.append(
            line([row["case"].removeprefix("quality "), f"{sizes['views']} of {width}x{height}",
                  f"{q['psnr']:.2f} dB", f"{q['ssim']:.3f}" if "ssim" in q else "",
                  *("" if one is None else f"{one:.1f} dB" for one in on_the_way), f"{row['seconds']:.0f} s",
                  f"{q['steps']}", size(q["bytes"]), f"{row['peak_mib']} MiB"])
        )  # fmt: skip
    return "\n".join(lines) if of else ""


def _race(rows: Rows, line: Line) -> str:
    of = [row for row in rows if row["case"].startswith(("to ", "training at ", "rendering "))]
    headings = ["on Lego at 100 pixels", "candidate", "seconds", "rays per second", "ratio"]
    lines = [line(headings), line(["---"] * len(headings))]
    base: dict[str, float] = {}
    for row in of:
        # a step of one side has other rays than a step of the other: their rates compare, their seconds do not
        is_step = row["case"].startswith("training at ")
        speed = row["rate"] if is_step else 1 / row["seconds"]
        ratio = speed / base.setdefault(row["case"], speed)
        seconds = f"{1e3 * row['seconds']:.0f} ms a step" if is_step else f"{row['seconds']:.3g}"
        lines.append(line([row["case"], row["candidate"], seconds, f"{row['rate']:,.0f}", f"{ratio:.3g} x"]))
    if not of:
        return ""
    sizes = of[0]["sizes"]
    said = f"Plain PyTorch: {sizes['plain_rays']} rays a step, {sizes['plain_samples']} samples each."
    return "\n".join([*lines, "", said])


def _marching(rows: Rows, line: Line) -> str:
    of = [row for row in rows if row["case"].startswith("marching ")]
    headings = [
        "samples",
        "PSNR",
        "marched",
        "colour evaluated",
        "from the picture with closed cells empty",
        "rays per second",
    ]
    lines = [line(headings), line(["---"] * len(headings))]
    for row in of:
        q = row["quality"]
        apart = "" if "closed" in row["candidate"] else f"{q['psnr_to_closed']:.1f} dB"
        lines.append(
            line([row["candidate"], f"{q['psnr']:.3f} dB", f"{100 * q['marched']:.1f} %",
                  f"{100 * q['evaluated']:.1f} %", apart, f"{row['rate']:,.0f}"])
        )  # fmt: skip
    large = [
        f"{row['case'][0].upper()}{row['case'][1:]}: {row['seconds']:.2f} s on one thread, "
        f"{row['quality']['wall_seconds']:.2f} s on {row['quality']['threads']:.0f}."
        for row in rows
        if row["case"].startswith("a view of ")
    ]
    return "\n".join([*lines, "", *large]) if of else ""
