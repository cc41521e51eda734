"""What a comparison comes to: a table, rows in JSON, and a page that opens offline."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fieldforge.apps.compare.about import ABOUT
from fieldforge.apps.compare.race import FACTORS, Race, Result
from fieldforge.apps.compare.signals import FigureKind, Look, Signal
from fieldforge.apps.html import Page
from fieldforge.fields.file import load_field

ROWS, PAGE = "rows.json", "index.html"
_SHOWN = {"psnr": "PSNR (dB)", "snr": "SNR (dB)", "rms_error": "root mean square error"}


def table_of(signal: Signal, results: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows, best first; of several seeds the median, and from least to most."""
    headings = ["method", *(kind.heading for kind in signal.figures), "seconds", "steps", "parameters", "bytes"]
    is_tuned = any(result.rate_factor != 1.0 for result in results)
    headings += ["learning rate"] if is_tuned else []
    by_name: dict[str, list[Result]] = {}
    for result in results:
        by_name.setdefault(result.method, []).append(result)
    rows = []
    for name in sorted(by_name, key=lambda name: -_middle(by_name[name], signal.figures[0].name)):
        runs = [run for run in by_name[name] if not run.failure]
        if not runs:
            rows.append([name, "failed", *[""] * (len(headings) - 2)])
            continue
        about = by_name[name][0]
        rate = "" if about.rate_factor == 1.0 else f"x {about.rate_factor:g}"
        rows.append(
            [f"{name} ({about.chosen})" if about.chosen else name, *(_said(kind, runs) for kind in signal.figures),
             f"{statistics.median(run.seconds for run in runs):.1f}",
             f"{statistics.median(run.steps for run in runs):,.0f}", f"{about.parameters:,}",
             f"{statistics.median(run.n_bytes for run in runs):,.0f}", *([rate] if is_tuned else [])]
        )  # fmt: skip
    return headings, rows


FEW_STEPS = 50
"""With fewer, a figure tells of the first steps and not of the method."""


def notes_of(race: Race, results: Sequence[Result]) -> list[str]:
    """What a reader of the table should know, in sentences."""
    notes = []
    if len(results) < len(race):
        notes.append(f"Interrupted: {len(results)} of {len(race)} runs.")
    finished = [result for result in results if not result.failure]
    few = list(dict.fromkeys(result.method for result in finished if result.steps < FEW_STEPS))
    if few and race.budget.steps is None:
        notes.append(f"Fewer than {FEW_STEPS} steps in this time: {', '.join(few)}. A longer budget says more of them.")
    if race.budget.parameters is not None:
        small = {result.method: f"{result.method} ({result.parameters:,})" for result in finished
                 if result.parameters < 0.95 * race.budget.parameters}  # fmt: skip
        notes += [f"Cannot be made larger, or only by a leap: {', '.join(small.values())}."] if small else []
    if any(result.chosen for result in results):
        notes.append("What auto trains before it chooses is not of its seconds.")
    if race.tuning is not None:
        ends = [f"{result.method} (x {result.rate_factor:g})" for result in finished
                if result.seed == race.seeds[0] and result.rate_factor in (min(FACTORS), max(FACTORS))]  # fmt: skip
        notes += [f"At the end of the learning rates tried: {', '.join(ends)}."] if ends else []
    notes += list(dict.fromkeys(f"{result.method} failed: {result.failure}" for result in results if result.failure))
    return notes


def _middle(runs: Sequence[Result], name: str) -> float:
    values = [value for run in runs if (value := run.figures.get(name)) is not None]
    return statistics.median(values) if values else -float("inf")


def _said(kind: FigureKind, runs: Sequence[Result]) -> str:
    values = [value for run in runs if (value := run.figures.get(kind.name)) is not None]
    if not values:
        return "–"
    middle = kind.form.format(statistics.median(values))
    if len(values) == 1:
        return middle
    return f"{middle} ({kind.form.format(min(values))} to {kind.form.format(max(values))})"


def write_report(folder: Path, race: Race, results: Sequence[Result], command: str, title: str) -> Path:
    """Write rows and page; returns the page.

    Raises:
        OSError: the file system refused.
    """
    rows = [
        {key: value for key, value in vars(result).items() if key != "history"} | {"command": command}
        for result in results
    ]
    (folder / ROWS).write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n")
    page = Page(title)
    page.code(command)
    tuned = "those of the presets" if race.tuning is None else "tuned on another signal, for all methods alike"
    page.paragraph(f"Every method: {race.budget.describe()}. Learning rates: {tuned}. Seeds: {len(race.seeds)}.")
    page.table(*table_of(race.signal, results))
    if notes := notes_of(race, results):
        page.items(notes)
    first = [result for result in results if result.seed == race.seeds[0] and not result.failure]
    looks = {result.method: race.signal.look(race.job, load_field(folder / result.file)[0]) for result in first}
    if any(result.history for result in first):
        page.heading("While training")
        page.figure(
            _curves(first),
            "What the batches of training show; the table measures the stored field. Seconds: steps at the mean pace.",
        )
    if looks:
        page.heading("Side by side")
        page.card("the signal", next(iter(looks.values())).signal)
        kind = race.signal.figures[0]
        for result in sorted(first, key=lambda result: -(result.figures.get(kind.name) or 0.0)):
            value = result.figures.get(kind.name)
            said = "" if value is None else f", {kind.form.format(value)}"
            page.card(f"{result.method}{said}", looks[result.method].pictures)
    page.heading("The methods")
    page.items([f"{name}: {ABOUT[name]}" for name in race.methods if name in ABOUT])
    if any(look.spectrum for look in looks.values()):
        page.heading("Spectra")
        page.figure(_spectra(looks, race.signal.frequency))
    page.write(folder / PAGE)
    return folder / PAGE


def _curves(results: Sequence[Result]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained", dpi=100)
    against_steps, against_seconds = figure.subplots(1, 2, sharey=True)
    for number, result in enumerate(results):
        shown = next((key for key in result.history[-1] if key not in ("step", "loss")), "loss")
        rows = [row for row in result.history if shown in row]
        steps, values = [row["step"] for row in rows], [row[shown] for row in rows]
        style = _style(number)
        against_steps.plot(steps, values, label=result.method, **style)
        pace = result.seconds / max(1, result.steps)
        against_seconds.plot([step * pace for step in steps], values, label=result.method, **style)
        against_steps.set(ylabel=_SHOWN.get(shown, shown))
    against_steps.set(xlabel="step", xscale="log")
    against_seconds.set(xlabel="seconds", xscale="log")
    for axes in (against_steps, against_seconds):
        axes.grid(alpha=0.3)
    figure.legend(*against_steps.get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    return figure


def _style(number: int) -> dict[str, Any]:
    """Ten colours, then the same with dashes."""
    return {"color": f"C{number % 10}", "linestyle": ("-", "--", ":")[number // 10 % 3]}


def _spectra(looks: Mapping[str, Look], frequency: str) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained", dpi=100)
    axes = figure.subplots()
    truth = next(look.true_spectrum for look in looks.values())
    if truth is not None:
        axes.semilogy(*truth, color="black", linewidth=2, label="signal")
    for number, (name, look) in enumerate(looks.items()):
        if look.spectrum is not None:
            axes.semilogy(*look.spectrum, label=name, **_style(number))
    axes.set(xlabel=frequency, ylabel="power")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
    return figure
