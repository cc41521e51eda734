"""The matrix of conversions as a drawing: each student's PSNR, coloured by how far it is from its teacher's."""

from __future__ import annotations

from typing import Any

from fieldforge.apps.bench.convert import KINDS

Rows = list[dict[str, Any]]
CELL, HEAD, LINE = (78, 34), (110, 64), 30
"""Pixels: of a cell, of the headings left and above, of the key below."""
WORST, BEST = -6.0, 2.0
"""Decibels from the teacher's at which the colours end."""
BELOW, LIKE, ABOVE = (178, 80, 52), (246, 243, 238), (46, 112, 142)


def matrix_figure(rows: Rows) -> str:
    """An SVG drawing: a row for each teacher, a column for each student, and above them the students' own from photos.

    Args:
        rows: of the suite convert; cells without a row stay empty.
    """
    psnr = {row["case"]: row["quality"]["psnr"] for row in rows if "psnr" in row["quality"]}
    scratch = {name: psnr.get(f"scratch: {name}") for name in KINDS}
    (wide, tall), (left, top) = CELL, HEAD
    width, height = left + wide * len(KINDS) + 8, top + tall * (len(KINDS) + 1) + 6 + LINE
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12" text-anchor="middle">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        _text(left + wide * len(KINDS) / 2, 20, "student, PSNR of held-out photos in dB", weight="bold"),
    ]
    for column, name in enumerate(KINDS):
        parts.append(_text(left + (column + 0.5) * wide, top - 14, name))
    for line, teacher in enumerate((None, *KINDS)):
        y = top + line * tall + (6 if teacher else 0)
        parts.append(_text(left - 8, y + tall / 2 + 4, f"of {teacher}" if teacher else "from photos", anchor="end"))
        for column, name in enumerate(KINDS):
            value = psnr.get(f"matrix-{teacher}: {name}") if teacher else scratch[name]
            if value is None:
                continue
            own = scratch[teacher] if teacher else None
            fill = "white" if own is None else _colour(value - own)
            x = left + column * wide
            parts.append(f'<rect x="{x + 1}" y="{y + 1}" width="{wide - 2}" height="{tall - 2}" fill="{fill}"/>')
            parts.append(_text(x + wide / 2, y + tall / 2 + 4, f"{value:.1f}"))
    key = f"blue: nearer to the photos than its teacher; red: farther, darkest at {-WORST:g} dB"
    return "\n".join([*parts, _text(left, height - 10, key, anchor="start"), "</svg>", ""])


def _text(x: float, y: float, said: str, *, anchor: str = "middle", weight: str = "normal") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-weight="{weight}">{said}</text>'


def _colour(difference: float) -> str:
    end, share = (BELOW, difference / WORST) if difference < 0 else (ABOVE, difference / BEST)
    share = min(1.0, share)
    return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in zip(LIKE, end, strict=True))
