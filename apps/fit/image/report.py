"""The report picture of an image fit: source, fit, error times ten, the PSNR curve and both radial spectra."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fieldforge.apps.fit.diagnostics import drawing
from fieldforge.apps.images import Picture, linear_to_srgb
from fieldforge.apps.metrics import radial_spectrum
from fieldforge.apps.render.image import render
from fieldforge.fields.kinds.image import ImageField


@dataclass(frozen=True)
class Comparison:
    """Source and fit at display size, each (height, width, n_channels) float; spectra are taken of a crop at full
    resolution when the picture was reduced for display."""

    source: np.ndarray
    fit: np.ndarray
    source_crop: np.ndarray
    fit_crop: np.ndarray
    color_space: str


def compare(picture: Picture, fitted: ImageField) -> Comparison:
    """Source and fit at most 640 pixels wide, and a centre crop of at most 512 at full resolution."""
    height, width, _ = picture.pixels.shape
    every = max(1, math.ceil(max(width, height) / 640))
    side = min(512, width, height)
    x, y = (width - side) // 2, (height - side) // 2
    crop = picture.rows(y, y + side)[:, x : x + side]
    reduced = block_means(picture, every)
    return Comparison(
        source=reduced,
        fit=render(fitted, size=(reduced.shape[1], reduced.shape[0])),
        source_crop=crop,
        fit_crop=render(fitted, crop=(x, y, side, side)),
        color_space=picture.color_space,
    )


def block_means(picture: Picture, every: int) -> np.ndarray:
    """The picture with every x every pixels made one, (rows, columns, n_channels); what is left over goes."""
    n_blocks = picture.width // every
    strips = (picture.rows(top, top + every) for top in range(0, picture.height - every + 1, every))
    means = [strip[:, : n_blocks * every].reshape(every, n_blocks, every, -1).mean((0, 2)) for strip in strips]
    return np.stack(means)


def write_report(
    path: Path,
    comparison: Comparison,
    history: Sequence[dict[str, float]],
    *,
    title: str,
    psnr: float,
    diagnostics: Sequence[dict[str, Any]] = (),
) -> None:
    """Draw the report.

    Args:
        path: where to; .png, .jpg or .webp, and PNG for any other suffix.
        comparison: what to show.
        history: rows with step and psnr, as the loop keeps them.
        title: a line above the pictures.
        psnr: of the stored field, marked in the curve.
        diagnostics: rows of what was watched; each gets a curve of its headline.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shape = comparison.source.shape
    n_more = drawing.n_rows(diagnostics)
    tall = 5 * shape[0] / shape[1]
    figure = Figure(figsize=(15, tall + 4.6 + drawing.HEIGHT * n_more), layout="constrained", dpi=100)
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    rows = figure.add_gridspec(2 + n_more, 6, height_ratios=[tall, 4] + [drawing.HEIGHT] * n_more)
    error = 10 * np.abs(display(comparison.fit, comparison) - display(comparison.source, comparison))
    pictures = (("source", comparison.source), ("fit", comparison.fit))
    for column, (name, picture) in enumerate((*pictures, ("error x 10", None))):
        axes = figure.add_subplot(rows[0, 2 * column : 2 * column + 2])
        shown = error if picture is None else display(picture, comparison)
        axes.imshow(shown.clip(0, 1), interpolation="nearest" if shape[1] < 200 else "antialiased")
        axes.set_title(name)
        axes.set_axis_off()
    curve = figure.add_subplot(rows[1, :3])
    curve.plot([row["step"] for row in history], [row["psnr"] for row in history], label="batches while training")
    curve.axhline(psnr, color="0.4", linestyle="--", label=f"stored field, all pixels: {psnr:.2f} dB")
    curve.set(xlabel="step", ylabel="PSNR (dB)")
    curve.grid(alpha=0.3)
    curve.legend()
    spectrum = figure.add_subplot(rows[1, 3:])
    crops = (("source", comparison.source_crop), ("fit", comparison.fit_crop))
    for name, crop in (*crops, ("error", comparison.fit_crop - comparison.source_crop)):
        frequency, power = radial_spectrum(crop)
        spectrum.semilogy(frequency, np.maximum(power, 1e-20), label=name)
    spectrum.set(xlabel="radial frequency (cycles per pixel)", ylabel="power")
    spectrum.grid(alpha=0.3)
    spectrum.legend()
    drawing.draw(figure, rows, 2, diagnostics)
    suffix = path.suffix.lower()
    if suffix in (".jpg", ".jpeg", ".webp"):
        figure.savefig(path, pil_kwargs={"quality": 85})
    else:
        figure.savefig(path, format="png", metadata={"Software": None})


def display(image: np.ndarray, comparison: Comparison) -> np.ndarray:
    """RGB in [0, 1] for the eye: alpha over a light grey, linear light exposed to its 99th percentile."""
    has_alpha = image.shape[2] in (2, 4)
    color = image[..., :-1] if has_alpha else image
    if comparison.color_space == "linear":
        exposure = float(np.percentile(comparison.source[..., :3], 99)) or 1.0
        color = linear_to_srgb(np.clip(color / exposure, 0, 1))
    color = np.repeat(color, 3, axis=2) if color.shape[2] == 1 else color
    return color * image[..., -1:] + 0.9 * (1 - image[..., -1:]) if has_alpha else color
