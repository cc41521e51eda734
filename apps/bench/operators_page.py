"""The tables and the picture of data/studies/derivatives.md, from the rows of ``fieldforge bench operators``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

Rows = Sequence[dict[str, Any]]


def tables(rows: Rows) -> str:
    """Three tables in Markdown: every operator where it does best, then the fits over their deviation."""
    cases = list(dict.fromkeys(row["case"] for row in rows))
    solids = [case for case in cases if any("curvature_error" in row["quality"] for row in rows if row["case"] == case)]
    heading = ["field", "autodiff", "tuned", "`taps6`, best", "`taps4`, best", "fit, σ = 2", "fit, best", "ratio"]
    lines = [_line(heading), _line(["---"] * len(heading))]
    for case in cases:
        plain, two = _one(rows, case, "autodiff"), _one(rows, case, "quadratic", 2.0)
        tuned = [row for row in rows if row["case"] == case and row["candidate"] == "fine-tuned autodiff"]
        ratio = plain["quality"]["median_degrees"] / two["quality"]["median_degrees"]
        best = [_degrees(_best(rows, case, method), with_cells=True) for method in ("taps6", "taps4", "quadratic")]
        cells = [_degrees(plain), _degrees(tuned[0]) if tuned else "", best[0], best[1], _degrees(two), best[2]]
        lines.append(_line([case, *cells, f"{ratio:.1f}"]))
    said = [
        "Median (mean) angle of normals in degrees; steps and σ in finest cells; ratio: autodiff over the fit, medians."
    ]
    curves = [_curves(rows, cases, "median_degrees", "{:.3f}"), _curves(rows, solids, "curvature_error", "{:.1%}")]
    said += ["Median angle of normals in degrees, by autodiff and by the fit over σ:"]
    said += ["Median relative error of the mean curvature, by autodiff and by the fit over σ:"]
    parts = [said[0], "\n".join(lines), said[1], curves[0], said[2], curves[1]]
    return "\n\n".join(parts)


def _curves(rows: Rows, cases: Sequence[str], key: str, form: str) -> str:
    widths = sorted({row["sizes"]["cells"] for row in rows if row["sizes"].get("method") == "quadratic"})
    lines = [_line(["field", "autodiff", *(f"{cells:g}" for cells in widths)]), _line(["---"] * (len(widths) + 2))]
    for case in cases:
        found = [_one(rows, case, "autodiff"), *(_one(rows, case, "quadratic", cells) for cells in widths)]
        lines.append(_line([case, *(form.format(row["quality"][key]) for row in found)]))
    return "\n".join(lines)


def _one(rows: Rows, case: str, method: str, cells: float | None = None) -> dict[str, Any]:
    name = method if cells is None else f"{method}, {cells:g} cells"
    return next(row for row in rows if row["case"] == case and row["candidate"] == name)


def _best(rows: Rows, case: str, method: str) -> dict[str, Any]:
    found = [row for row in rows if row["case"] == case and row["sizes"].get("method") == method]
    return min(found, key=lambda row: float(row["quality"]["median_degrees"]))


def _degrees(row: dict[str, Any], *, with_cells: bool = False) -> str:
    figures = row["quality"]
    where = f" at {row['sizes']['cells']:g}" if with_cells else ""
    return f"{figures['median_degrees']:.3f} ({figures['mean_degrees']:.2f}){where}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def u_curves(rows: Rows, path: Path) -> None:
    """Error of normals and of curvature over the deviation of the samples, a line for each preset and body.

    Args:
        rows: of ``fieldforge bench operators``.
        path: the picture to write, a WebP.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 3.6), layout="constrained", dpi=100)
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2)
    cases = [case for case in dict.fromkeys(row["case"] for row in rows) if case.split(",")[0] in ("ball", "torus")]
    colors = {name: f"C{number}" for number, name in enumerate(dict.fromkeys(case.split(", ")[1] for case in cases))}
    for case in cases:
        body, preset = case.split(", ")
        style = {"color": colors[preset], "linestyle": "-" if body == "ball" else "--"}
        fits = [row for row in rows if row["case"] == case and row["sizes"].get("method") == "quadratic"]
        (plain,) = (row for row in rows if row["case"] == case and row["candidate"] == "autodiff")
        cells = [row["sizes"]["cells"] for row in fits]
        for panel, key, factor in zip(panels, ("median_degrees", "curvature_error"), (1, 100), strict=True):
            panel.plot(cells, [factor * row["quality"][key] for row in fits], marker="o", markersize=3, **style)
        panels[0].axhline(plain["quality"]["median_degrees"], linewidth=0.6, alpha=0.6, **style)
    for name, color in colors.items():
        panels[0].plot([], [], color=color, label=name)
    panels[0].plot([], [], color="gray", label="ball")
    panels[0].plot([], [], color="gray", linestyle="--", label="torus")
    panels[0].plot([], [], color="gray", linewidth=0.6, label="autodiff")
    panels[1].axhline(5, color="black", linewidth=0.6)
    titles = ("median angle of normals, degrees", "median relative error of mean curvature, %")
    for panel, title in zip(panels, titles, strict=True):
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_xlabel("σ in finest cells")
        panel.set_title(title, fontsize=9)
        panel.grid(alpha=0.3)
    panels[0].legend(fontsize=7, ncols=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, pil_kwargs={"quality": 85, "method": 6})
