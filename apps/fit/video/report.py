"""The report picture of a video fit: some frames, source, fit and error; the PSNR of every frame and while training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fieldforge.apps.fit.diagnostics import drawing
from fieldforge.apps.render.film import frame
from fieldforge.apps.videos import Film
from fieldforge.fields.kinds.video import VideoField

_N_SHOWN, _WIDEST = 5, 320


def write_report(
    path: Path,
    film: Film,
    fitted: VideoField,
    frame_psnr: Sequence[float],
    history: Sequence[dict[str, float]],
    *,
    title: str,
    diagnostics: drawing.Rows = (),
) -> None:
    """Draw the report.

    Args:
        path: where to; .png, .jpg or .webp, and PNG for any other suffix.
        film: the source.
        fitted: the field.
        frame_psnr: of each frame.
        history: rows with step and psnr, as the loop keeps them.
        title: a line above.
        diagnostics: rows of what was watched; each gets a curve of its headline.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = np.unique(np.linspace(0, film.n_frames - 1, min(_N_SHOWN, film.n_frames)).round().astype(int))
    every = max(1, math.ceil(max(film.width, film.height) / _WIDEST))
    height = 3 * film.height / film.width
    n_more = drawing.n_rows(diagnostics)
    figure = Figure(figsize=(15, 3 * height + 3.4 + drawing.HEIGHT * n_more), layout="constrained", dpi=100)
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    heights = [height, height, height, 3] + [drawing.HEIGHT] * n_more
    rows = figure.add_gridspec(4 + n_more, 2 * len(shown), height_ratios=heights)
    for column, index in enumerate(int(i) for i in shown):
        source = film.frame(index)[::every, ::every]
        fit = frame(fitted, film.time(index))[::every, ::every]
        pictures = (("", source), ("fit of ", fit), ("error x 10 of ", (10 * np.abs(fit - source)).clip(0, 1)))
        for row, (what, picture) in enumerate(pictures):
            axes = figure.add_subplot(rows[row, 2 * column : 2 * column + 2])
            axes.imshow(picture.squeeze(-1) if picture.shape[2] == 1 else picture, cmap="gray", vmin=0, vmax=1)
            axes.set_title(f"{what}frame {film.first + index}", fontsize=9)
            axes.set_axis_off()
    frames = figure.add_subplot(rows[3, : len(shown)])
    frames.plot(film.first + np.arange(film.n_frames), frame_psnr, marker="." if film.n_frames < 60 else "")
    frames.set(xlabel="frame", ylabel="PSNR (dB)")
    frames.grid(alpha=0.3)
    curve = figure.add_subplot(rows[3, len(shown) :])
    curve.plot([row["step"] for row in history], [row["psnr"] for row in history])
    curve.set(xlabel="step", ylabel="PSNR of the batches (dB)")
    curve.grid(alpha=0.3)
    drawing.draw(figure, rows, 4, diagnostics)
    suffix = path.suffix.lower()
    if suffix in (".jpg", ".jpeg", ".webp"):
        figure.savefig(path, pil_kwargs={"quality": 85})
    else:
        figure.savefig(path, format="png", metadata={"Software": None})
