"""The report as pictures and as one HTML page that opens without a network."""

from __future__ import annotations

import base64
import html
import io
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure as Drawing

from fieldforge.apps.generate.arms import Sides
from fieldforge.apps.generate.looks import PictureLooks, SolidLooks
from fieldforge.apps.generate.measure import WEIGHTS, Findings, Measured
from fieldforge.apps.generate.thumbnails import beside, thumbnails

N_FIRST, N_CLOSEST = 8, 4
"""Samples that are shown: the first ones drawn, and those closest to a training field."""
COLUMNS = ("", "1-NNA", "MMD", "COV", "Fréchet", "copies", "near", "ratio", "verdict")
_SHOWN = ("training subset", "jitter", "Gaussian", "held-out fields")


def samples_beside_training(
    looks: PictureLooks | SolidLooks, sides: Sides, model: Measured
) -> tuple[np.ndarray, list[str]]:
    """A sheet of three rows, and what each row is: samples, their nearest training fields by outputs and by weights.

    The first samples are the first that were drawn; the last ones are those closest to a training field.
    """
    usable = model.usable()
    numbers = usable.nonzero()[:, 0].numpy()
    rows = torch.cat(model.arm.rows)
    output = model.nearest[looks.output_space]
    first = np.arange(min(N_FIRST, len(numbers)))
    scaled = [near.first / max(float(np.median(near.first)), 1e-30) for near in model.nearest.values()]
    closest = np.argsort(np.minimum(*scaled), kind="stable")
    closest = closest[~np.isin(closest, first)][:N_CLOSEST]
    chosen = np.concatenate([first, closest])
    of_rows = [
        thumbnails(looks, rows[torch.from_numpy(numbers[chosen])]),
        thumbnails(looks, sides.training[torch.from_numpy(output.index[chosen])]),
        thumbnails(looks, sides.training[torch.from_numpy(model.nearest[WEIGHTS].index[chosen])]),
    ]
    said = f"the first {len(first)}, then the {len(closest)} closest to a training field"
    return beside(of_rows), [
        f"samples ({said})", f"nearest training field by {looks.output_space}", f"nearest training field by {WEIGHTS}",
    ]  # fmt: skip


def drawing(sheet: np.ndarray | None, names: list[str], findings: Findings, title: str) -> bytes:
    """The picture of the report, a PNG: samples next to training fields, distances to these, 1-NNA of all arms."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    height = 0.0 if sheet is None else 13 * sheet.shape[0] / sheet.shape[1]
    figure = Drawing(figsize=(14, height + 5.2), layout="constrained", dpi=90)
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11, wrap=True)
    n_spaces = len(findings.training)
    grid = figure.add_gridspec(2, n_spaces + 1, height_ratios=[max(height, 0.01), 4.4])
    if sheet is not None:
        axes = figure.add_subplot(grid[0, :])
        axes.imshow(sheet, interpolation="nearest")
        axes.set_yticks([(2 * row + 1) * sheet.shape[0] / (2 * len(names)) for row in range(len(names))],
                        [name.replace(" (", "\n(").replace(" by", "\nby") for name in names], fontsize=8)  # fmt: skip
        axes.set_xticks([])
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    for place, space in enumerate(findings.training):
        _histogram(figure.add_subplot(grid[1, place]), findings, space)
    _bars(figure.add_subplot(grid[1, n_spaces]), findings)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _histogram(axes: Any, findings: Findings, space: str) -> None:
    sets = [("training to training", findings.training[space].first)]
    sets += [
        (one.arm.name, one.nearest[space].first)
        for place, one in enumerate(findings.arms)
        if space in one.nearest and (place == 0 or one.arm.name in _SHOWN)
    ]
    finite = np.concatenate([values[np.isfinite(values)] for _, values in sets])
    high = float(np.quantile(finite, 0.995)) * 1.05 if len(finite) else 1.0
    bins = np.linspace(0, max(high, 1e-12), 41)
    for place, (name, values) in enumerate(sets):
        heights, _ = np.histogram(np.clip(values, 0, bins[-1]), bins)
        share = heights / max(1, len(values))
        if place < 2:  # what the eye has to compare: the training set and the model
            axes.stairs(share, bins, fill=place == 0, alpha=0.35 if place == 0 else 1.0, linewidth=2,
                        color="0.4" if place == 0 else "C3", label=name)  # fmt: skip
        else:
            axes.stairs(share, bins, linewidth=1, linestyle="--", color=f"C{place}", label=name)
    axes.set(xlabel=f"distance to the nearest training field, by {space}", ylabel="share", xlim=(0, bins[-1]))
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)


def _bars(axes: Any, findings: Findings) -> None:
    first = findings.distances[0]
    known = [one for one in findings.arms if one.figures]
    for place, one in enumerate(reversed(known)):
        score = one.figures[first]["1-NNA"]
        axes.barh(place, score.value, color="C3" if one is findings.arms[0] else "0.6")
        axes.plot([score.low, score.high], [place, place], color="k", linewidth=1)
        axes.text(min(score.value, 0.86) + 0.02, place, f"{score.value:.2f}", va="center", fontsize=8)
    axes.axvline(0.5, color="k", linestyle=":", linewidth=1)
    axes.set_yticks(range(len(known)), [one.arm.name for one in reversed(known)], fontsize=8)
    axes.set(xlabel=f"1-NNA by {first}: 0.5 is like held-out fields, 1 told apart without fail", xlim=(0, 1))
    axes.xaxis.label.set_fontsize(8)


def table(findings: Findings) -> list[list[str]]:
    """Rows under `COLUMNS`, one for each arm; quality by the first distance, novelty in the space that says more."""
    first = findings.distances[0]
    rows = []
    for one in findings.arms:
        scores = one.figures.get(first)
        row = [one.arm.name]
        if scores is None:
            row += ["", "", ""]
        else:
            accuracy = scores["1-NNA"]
            row += [f"{accuracy.value:.3f} [{accuracy.low:.2f}, {accuracy.high:.2f}]"]
            row += [f"{scores['MMD'].value:.4g}", f"{scores['COV'].value:.3f}"]
        row.append("" if one.frechet is None else f"{one.frechet:.3g}")
        found = list(one.novelty.values())
        row.append(" / ".join(f"{novelty.copies:.0%}" for novelty in found))
        row.append(" / ".join(f"{novelty.below:.0%}" for novelty in found))
        row.append(" / ".join(f"{novelty.ratio:.2f}" for novelty in found))
        assert one.verdict is not None
        lost = f", {one.n_lost} of {one.n} cannot be used" if one.n_lost else ""
        row.append(f"{one.verdict.word}{_LIKENESS[one.verdict.likeness]}{lost}")
        rows.append(row)
    return rows


_LIKENESS = {"like": ", like held-out", "apart": ", told apart", "unlike": ", unlike held-out", "unknown": ""}


def page(body: dict[str, Any], findings: Findings, picture: bytes, explanations: list[str]) -> str:
    """One HTML file: verdict, picture, tables, how it was measured; nothing is loaded from elsewhere."""

    def cell(text: str, tag: str = "td") -> str:
        return f"<{tag}>{html.escape(text)}</{tag}>"

    def rows_of(rows: list[list[str]]) -> str:
        return "".join(f"<tr>{''.join(cell(text) for text in row)}</tr>\n" for row in rows)

    def table_of(head: tuple[str, ...], rows: list[list[str]]) -> str:
        return f"<table><tr>{''.join(cell(name, 'th') for name in head)}</tr>\n{rows_of(rows)}</table>"

    verdict = findings.arms[0].verdict
    assert verdict is not None
    others = [
        [one.arm.name, distance, *(_said(scores[name]) for name in ("1-NNA", "MMD", "COV"))]
        for one in findings.arms
        for distance, scores in one.figures.items()
    ]
    spaces = [
        [one.arm.name, space, *(f"{value:.4g}" for value in found)]
        for one in findings.arms
        for space, found in one.novelty.items()
    ]
    image = base64.b64encode(picture).decode("ascii")
    facts = [[name, str(value)] for name, value in body["facts"].items()]
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in (*explanations, *body["notes"], *body["left_out"]))
    made = "".join(f"<li>{html.escape(f'{one.arm.name}: {one.arm.what}')}</li>" for one in findings.arms)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{html.escape(body["title"])}</title>
<style>body{{font:15px/1.45 system-ui,sans-serif;max-width:76rem;margin:2rem auto;padding:0 1rem;color:#222}}
table{{border-collapse:collapse;margin:1rem 0}}
td,th{{padding:.25rem .7rem;border-bottom:1px solid #ddd;text-align:left}}
img{{max-width:100%}}.verdict{{font-size:1.2rem;padding:.8rem 1rem;background:#f3f3f3;border-left:.4rem solid
{_COLORS[verdict.word]}}}code{{background:#f3f3f3}}</style></head><body>
<h1>{html.escape(body["title"])}</h1>
<p class="verdict">{html.escape(verdict.sentence)}</p>
{table_of(COLUMNS, table(findings))}
<img alt="samples next to their nearest training fields; distances to these; 1-NNA of all arms"
 src="data:image/png;base64,{image}">
<h2>How the sets were made</h2><ul>{made}</ul>
<h2>Quality, all distances</h2>
{table_of(("", "distance", "1-NNA", "MMD", "COV"), others)}
<h2>Novelty, both spaces</h2>
{table_of(("", "space", "ratio of medians", "the nearer one", "5 % quantile", "below it", "copies"), spaces)}
<h2>How it was measured</h2>
{table_of(("", ""), facts)}
<ul>{notes}</ul>
<p><code>{html.escape(body["command"])}</code></p>
</body></html>
"""


_COLORS = {"new": "#2a8", "interpolating": "#d90", "replaying": "#c33", "nothing": "#c33"}


def _said(figure: Any) -> str:
    return f"{figure.value:.4g} [{figure.low:.4g}, {figure.high:.4g}]"
