"""The report picture of an audio fit: waveforms, their difference, spectrograms, and the SNR while training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fieldforge.apps.fit.diagnostics import drawing
from fieldforge.apps.sounds import Clip
from fieldforge.apps.sounds.quality import FLOOR_DB, spectrogram

_COLUMNS = 1500


def write_report(
    path: Path, clip: Clip, fit: np.ndarray, history: Sequence[dict[str, float]], *, title: str,
    diagnostics: drawing.Rows = (),
) -> None:  # fmt: skip
    """Draw the report.

    Args:
        path: where to; .png, .jpg or .webp, and PNG for any other suffix.
        clip: the source.
        fit: (n_samples, n_channels) samples of the field.
        history: rows with step, and snr or loss, as the loop keeps them.
        title: a line above.
        diagnostics: rows of what was watched; each gets a curve of its headline.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    n_more = drawing.n_rows(diagnostics)
    figure = Figure(figsize=(15, 9 + drawing.HEIGHT * n_more), layout="constrained", dpi=100)
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    rows = figure.add_gridspec(3 + n_more, 3, height_ratios=[2, 3, 2] + [2] * n_more)
    error = fit - clip.samples
    wave = figure.add_subplot(rows[0, :])
    for name, samples, color in (("source", clip.samples, "0.6"), ("fit", fit, "C0"), ("error", error, "C3")):
        at, low, high = envelope(samples[:, 0], clip.sample_rate)
        wave.fill_between(at, low, high, label=name, color=color, alpha=0.6, linewidth=0.4)
    wave.set(xlabel="time (s)", ylabel="amplitude" + (", first channel" if clip.n_channels > 1 else ""))
    wave.set_xlim(0, clip.duration)
    wave.legend(loc="upper right")
    loudest = spectrogram(clip.samples[:, 0]).max() or 1.0
    for column, (name, samples) in enumerate((("source", clip.samples), ("fit", fit), ("error", error))):
        axes = figure.add_subplot(rows[1, column])
        power = spectrogram(samples[:, 0])
        shown = axes.imshow(
            10 * np.log10(np.maximum(power / loudest, 10 ** (FLOOR_DB / 10))), origin="lower", aspect="auto",
            vmin=FLOOR_DB, vmax=0, extent=(0, clip.duration, 0, clip.sample_rate / 2000), cmap="magma",
        )  # fmt: skip
        axes.set(title=name, xlabel="time (s)", ylabel="frequency (kHz)")
        if column == 2:
            figure.colorbar(shown, ax=axes, label="dB below the loudest place")
    curve = figure.add_subplot(rows[2, :])
    name = "snr" if history and "snr" in history[0] else "loss"
    curve.plot([row["step"] for row in history], [row[name] for row in history])
    curve.set(xlabel="step", ylabel="SNR of the batches (dB)" if name == "snr" else name)
    curve.grid(alpha=0.3)
    drawing.draw(figure, rows, 3, diagnostics)
    suffix = path.suffix.lower()
    if suffix in (".jpg", ".jpeg", ".webp"):
        figure.savefig(path, pil_kwargs={"quality": 85})
    else:
        figure.savefig(path, format="png", metadata={"Software": None})


def envelope(samples: np.ndarray, sample_rate: int, n_columns: int = _COLUMNS) -> tuple[np.ndarray, ...]:
    """Times, lowest and highest samples of about `n_columns` pieces of (n_samples,) samples."""
    starts = np.unique(np.linspace(0, len(samples), min(n_columns, len(samples)), endpoint=False).astype(np.int64))
    return starts / sample_rate, np.minimum.reduceat(samples, starts), np.maximum.reduceat(samples, starts)
