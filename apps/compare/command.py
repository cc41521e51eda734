"""``fieldforge compare``: options in, a folder with a page, rows and fields out."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from fieldforge.apps.cli.words import UsageError, print_json
from fieldforge.apps.compare.methods import METHODS
from fieldforge.apps.compare.page import ROWS, notes_of, table_of, write_report
from fieldforge.apps.compare.race import Budget, Interrupted, Race, Result
from fieldforge.apps.compare.signals import signal_of
from fieldforge.backends import use_backend

SECONDS = 30.0
"""Of training, where neither steps nor seconds are given."""


def compare_command(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code: 0 done, 1 no method came to an end, 130 interrupted (what is finished
    stays)."""
    source, folder = Path(options.source), options.output
    signal = signal_of(source, options.signal)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"output: expected a folder, and {folder} is a file")
    seconds = options.budget if options.budget is not None or options.steps is not None else SECONDS
    budget = Budget(seconds, options.steps, options.params)
    with use_backend(options.backend):
        job = signal.open(source, options.downscale)
        tuning = None
        if options.tune_lr is not None:
            tuning = signal.other() if options.tune_lr == "" else signal.open(Path(options.tune_lr), options.downscale)
            if tuning.digest is not None and tuning.digest == job.digest:
                raise UsageError("tune-lr: learning rates are to be tuned on another signal than the one compared on")
        methods = options.methods or tuple(METHODS[signal.name])
        race = Race(
            signal, job, methods, budget, n_seeds=options.seeds, tuning=tuning, backend=options.backend,
            device=options.device,
        )  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        is_quiet = options.quiet or options.json

        def tell(text: str) -> None:
            if not is_quiet:
                print(text, file=sys.stderr, flush=True)

        results: list[Result] = []
        is_interrupted = False
        tell(race.describe())
        try:
            for result in race.run(folder, tell, progress="quiet" if is_quiet else "auto"):
                results.append(result)
                if options.json:
                    print_json({"event": "run", **{k: v for k, v in vars(result).items() if k != "history"}})
        except (Interrupted, KeyboardInterrupt):
            is_interrupted = True
        if results:
            tell("writing the page")
            command = shlex.join(["fieldforge", *options.words])
            page = write_report(folder, race, results, command, f"{source.name}: {', '.join(race.methods)}")
    if results and not is_quiet:
        print(_as_text(*table_of(signal, results)))
        for note in notes_of(race, results):
            print(note)
        print(f"{page}: the same with curves and pictures; {folder / ROWS}: rows")
    if is_interrupted:
        print(f"interrupted after {len(results)} of {len(race)} runs; the same command goes on", file=sys.stderr)
        return 130
    return 1 if all(result.failure for result in results) else 0


def _as_text(headings: list[str], rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in (headings, *rows)) for column in range(len(headings))]
    lines = []
    for row in (headings, *rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
