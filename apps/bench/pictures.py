"""Pictures of the studies, from benchmark rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def u_curves(rows: Sequence[dict[str, Any]], path: Path) -> None:
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
        fits = [row for row in rows if row["case"] == case and row["sizes"]["method"] == "quadratic"]
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
