"""Diagnostics in the report picture of a fit: a curve of each one's headline over steps, three in a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fieldforge.apps.fit.diagnostics.watching import named

_IN_ROW = 3
HEIGHT = 3.0
"""Inches of a row."""

Rows = Sequence[dict[str, Any]]


def watched(rows: Rows) -> list[str]:
    """The names of what was watched."""
    return [name for name in rows[0] if name != "step"] if rows else []


def n_rows(rows: Rows) -> int:
    """Rows of the picture that they take."""
    return -(-len(watched(rows)) // _IN_ROW)


def draw(figure: Any, grid: Any, first: int, rows: Rows) -> None:
    """Draw them into a figure's grid, from its row `first` on."""
    for place, name in enumerate(watched(rows)):
        row = grid[first + place // _IN_ROW, :].subgridspec(1, _IN_ROW)
        _draw_one(figure.add_subplot(row[place % _IN_ROW]), name, rows)


def _draw_one(axes: Any, name: str, rows: Rows) -> None:
    """The headline of a diagnostic over steps; of the spectrum, the error of some bands."""
    diagnostic = named([name])[name]
    steps = [row["step"] for row in rows]
    if "error" in rows[0][name]:
        frequency = rows[0][name]["frequency"]
        for band in range(0, len(frequency), max(1, len(frequency) // 6)):
            values = [row[name]["error"][band] for row in rows]
            axes.semilogy(steps, [np.nan if one is None else max(one, 1e-6) for one in values],
                          label=f"{frequency[band]:.2f}")  # fmt: skip
        axes.legend(title="cycles per sample", fontsize="x-small")
        axes.set(xlabel="step", ylabel="relative error", title=name)
    else:
        values = [row[name][diagnostic.headline] for row in rows]
        axes.plot(steps, [np.nan if one is None else one for one in values], marker=".")
        axes.set(xlabel="step", ylabel=diagnostic.unit, title=name)
    axes.grid(alpha=0.3)
