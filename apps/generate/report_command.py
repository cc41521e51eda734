"""``fieldforge generate report`` on the command line."""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.table import Table

from fieldforge.apps.cli.words import print_json
from fieldforge.apps.generate.page import COLUMNS, table
from fieldforge.apps.generate.report import NUMBERS, PAGE, PICTURE, Report, ReportPlan, report


def report_command(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code: 0, whatever the verdict is."""
    plan = ReportPlan(
        output=options.output, n=options.n, n_seeds=options.seeds, seed=options.seed, device=options.device,
        quick=options.quick, progress="quiet" if options.quiet else "json" if options.json else "auto",
    )  # fmt: skip
    made = report(options.model, options.collection, plan)
    if options.json:
        body = {key: made.body[key] for key in ("verdict", "n", "seeds", "n_training", "notes", "left_out")}
        scores = {
            one["name"]: {key: one[key] for key in ("figures", "frechet", "novelty", "closed", "cannot_be_used")}
            for one in made.body["arms"]
        }
        print_json({"event": "result", "output": str(made.folder), "arms": scores, **body})
    elif not options.quiet:
        _print(made)
    return 0


def _print(made: Report) -> None:
    console = Console()
    rows = Table(box=None, pad_edge=False)
    shown = [place for place, name in enumerate(COLUMNS) if name != "Fréchet"]
    for place in shown:
        rows.add_column(COLUMNS[place], no_wrap=True)
    for row in table(made.findings):
        # intervals and the rest are in the files: this fits into 80 columns
        row[1], row[-1] = row[1].split(" ")[0], row[-1].split(",")[0]
        rows.add_row(*(row[place] for place in shown))
    console.print(rows)
    for note in (*made.body["notes"], *made.body["left_out"]):
        console.print(note, markup=False)
    spaces = " / ".join(made.findings.training)
    console.print(f"copies, near and ratio: by {spaces}; {made.body['n']} samples, "
                  f"{len(made.body['seeds'])} seeds", markup=False)  # fmt: skip
    console.print(made.findings.arms[0].verdict.sentence, style="bold", markup=False)  # type: ignore[union-attr]
    console.print(f"{made.folder}: {PAGE}, {PICTURE}, {NUMBERS}", markup=False)
