"""The report as pictures and as one HTML page that opens without a network."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure as Drawing

from fieldforge.apps.generate.arms import Sides
from fieldforge.apps.generate.looks import PictureLooks, SolidLooks
from fieldforge.apps.generate.measure import WEIGHTS, Findings, Measured
from fieldforge.apps.generate.thumbnails import beside, thumbnails
from fieldforge.apps.html import Page

N_FIRST, N_CLOSEST = 8, 4
"""Samples that are shown: the first ones drawn, and those closest to a training field."""
COLUMNS = ("", "1-NNA", "MMD", "COV", "Fréchet", "copies", "near", "ratio", "verdict")
_SHOWN = ("training subset", "jitter", "Gaussian", "held-out fields")
_STROKES = {"training subset": "C4", "jitter": "C1", "Gaussian": "C0", "held-out fields": "C2"}


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
        thumbnails(looks, sides.training[torch.from_numpy(output.which[chosen])]),
        thumbnails(looks, sides.training[torch.from_numpy(model.nearest[WEIGHTS].which[chosen])]),
    ]
    title = f"samples ({len(first)} first, {len(closest)} closest)"
    return beside(of_rows), [title, *(f"nearest training field by {space}" for space in (looks.output_space, WEIGHTS))]


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
    highest: list[float] = []
    for place, (name, values) in enumerate(sets):
        heights, _ = np.histogram(np.clip(values, 0, bins[-1]), bins)
        share = heights / max(1, len(values))
        highest += [float(share.max())] if place < 2 else []
        if place < 2:  # what the eye has to compare: the training set and the model
            axes.stairs(share, bins, fill=place == 0, alpha=0.35 if place == 0 else 1.0, linewidth=2,
                        color="0.4" if place == 0 else "C3", label=name)  # fmt: skip
        else:
            axes.stairs(share, bins, linewidth=1, linestyle="--", color=_STROKES.get(name, "C5"), label=name)
    axes.set(
        xlabel=f"distance to the nearest training field, by {space}",
        ylabel="share",
        xlim=(0, bins[-1]),
        ylim=(0, min(1.0, 2 * max(highest))),
    )  # copies are one bar of 1: it need not be seen whole
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)


def _bars(axes: Any, findings: Findings) -> None:
    first = findings.distances[0]
    known = [one for one in findings.arms if one.figures]
    for place, one in enumerate(reversed(known)):
        score = one.figures[first]["1-NNA"]
        axes.barh(place, score.value, color="C3" if one is findings.arms[0] else "0.6")
        axes.plot([score.low, score.high], [place, place], color="k", linewidth=1)
        axes.text(0.02, place, f"{score.value:.2f}", va="center", fontsize=8)
    axes.axvline(0.5, color="k", linestyle=":", linewidth=1)
    axes.set_yticks(range(len(known)), [one.arm.name for one in reversed(known)], fontsize=8)
    axes.set(xlabel=f"1-NNA by {first} (0.5: like held-out fields)", xlim=(0, 1))


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
        row.append("/".join(f"{novelty.copies:.0%}" for novelty in found))
        row.append("/".join(f"{novelty.below:.0%}" for novelty in found))
        row.append("/".join(f"{novelty.ratio:.2f}" for novelty in found))
        assert one.verdict is not None
        lost = f", {one.n_lost} of {one.n} cannot be used" if one.n_lost else ""
        row.append(f"{one.verdict.word}{_LIKENESS[one.verdict.likeness]}{lost}")
        rows.append(row)
    return rows


_LIKENESS = {"like": ", like held-out", "apart": ", told apart", "unlike": ", unlike held-out", "unknown": ""}


def page(body: dict[str, Any], findings: Findings, picture: bytes, explanations: list[str]) -> Page:
    """One page: verdict, picture, tables, how it was measured; nothing is loaded from elsewhere."""
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
    made = Page(body["title"])
    made.banner(verdict.sentence, _COLORS[verdict.word])
    made.table(COLUMNS, table(findings))
    made.png(picture, "samples next to their nearest training fields; distances to these; 1-NNA of all arms")
    made.heading("How the sets were made")
    made.items([f"{one.arm.name}: {one.arm.what}" for one in findings.arms])
    made.heading("Quality, all distances")
    made.table(("", "distance", "1-NNA", "MMD", "COV"), others)
    made.heading("Novelty, both spaces")
    made.table(_NOVELTY, spaces)
    made.heading("How it was measured")
    made.table(("", ""), [[name, str(value)] for name, value in body["facts"].items()])
    made.items([*explanations, *body["notes"], *body["left_out"]])
    made.code(body["command"])
    return made


_NOVELTY = (
    "", "space", "ratio of medians", "the nearer one", "5 % quantile", "below it", "copies", "copies in training",
)  # fmt: skip
_COLORS = {"new": "#2a8", "interpolating": "#d90", "replaying": "#c33", "nothing": "#c33"}


def _said(figure: Any) -> str:
    return f"{figure.value:.4g} [{figure.low:.4g}, {figure.high:.4g}]"
