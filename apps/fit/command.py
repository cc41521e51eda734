"""What every ``fieldforge fit`` command does: options in, a field file and a few lines out."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tomli_w

from fieldforge.apps.cli.words import UsageError, print_json
from fieldforge.apps.fit.job import Fit, Job, Plan
from fieldforge.apps.fit.loop import State
from fieldforge.apps.fit.ranks import joined
from fieldforge.fields.checkpoint import Checkpoints


def run_fit(
    options: argparse.Namespace,
    job: Job[Any],
    source: Path,
    output: Path,
    target: float | None,
    describe: Callable[[Any], str],
) -> int:
    """Run a fit command; returns the exit code: 0 done, 130 interrupted (the state is saved).

    Args:
        options: of the command.
        job: the signal.
        source: the file it came from.
        output: the field file to write.
        target: the figure to reach, if one was asked for.
        describe: what to print of a result.
    """
    overrides = [*options.overrides, *([f"fit.precision={options.precision}"] if options.precision else [])]
    plan = Plan(
        output=output, preset=options.preset, config=options.config, overrides=overrides, steps=options.steps,
        seconds=options.seconds, max_bytes=options.max_bytes, seed=options.seed, backend=options.backend,
        device=options.device,
        resume=options.resume, progress="quiet" if options.quiet else "json" if options.json else "auto",
        diagnose=options.diagnose, diagnose_every=options.diagnose_every,
        tune="auto" if options.encoding == "auto" else options.tune,
    )  # fmt: skip
    if options.print_config:
        config, notices = job.run_config(plan)
        print("".join(f"# {one}\n" for one in notices if job.tuned) + tomli_w.dumps(config), end="")
        return 0
    with joined() as ranks:
        if ranks.is_first and prepare_output(options, output, source):
            ranks.of_first(1)
            return 0
        if ranks.of_first(0)[0]:
            return 0
        result: Fit[Any] = job.run(plan, target)
    if not ranks.is_first:
        return 128 + signal.SIGINT if result.state.stopped_by == "signal" else 0
    if result.state.stopped_by == "signal":
        return say_interrupted(result.state, output)
    if options.json:
        print_json({"event": "result", "output": str(output), "notes": result.notes, **result.summary()})
    elif not options.quiet:
        print(describe(result))
        if target is not None and result.figure(job.target) < target:
            option = job.asked or job.target
            print(f"--{option} {target:g} was not reached in {result.state.step} steps; --steps allows more")
        if result.state.n_rollbacks:
            print(f"the loss was not finite {result.state.n_rollbacks} times; the learning rate was halved each time")
    return 0


def prepare_output(options: argparse.Namespace, output: Path, source: Path) -> bool:
    """Look before the work whether the field can be written, and at an interrupted fit beside it.

    Args:
        options: with resume, restart and quiet.

    Returns:
        True where nothing is left to do: the fit to resume is finished.

    Raises:
        UsageError: the output cannot be written, is what is read, or an interrupted fit stands beside it.
    """
    expect_writable(output)
    expect_another_file(output, source)
    if not options.resume:
        _expect_no_interrupted_fit(output, is_discarded=options.restart)
    elif not any(path.exists() for path in Checkpoints(output).paths):
        if output.exists():
            _tell(options, f"{output} is finished; nothing to resume. Without --resume it is fitted anew")
            return True
        _tell(options, f"no interrupted fit stands beside {output}: starting from the beginning")
    return False


def report_of(options: argparse.Namespace, output: Path) -> Path | None:
    """The report picture that is wanted, by default beside the field; both can be written.

    Args:
        options: with no_report, report and print_config.

    Raises:
        UsageError: one of them cannot be written.
    """
    if not options.print_config:
        expect_writable(output)
    report: Path | None = None if options.no_report else options.report or output.with_suffix(".report.png")
    if report is not None and not options.print_config:
        expect_writable(report)
    return report


def expect_writable(path: Path) -> None:
    """Say before the work, not after it, that a file cannot be written.

    Raises:
        UsageError: no such folder, a folder of that name, or no permission.
    """
    folder = path.parent
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; name a file in it")
    if not folder.is_dir():
        raise UsageError(f"{path}: the folder {folder} does not exist; make it first or choose another output")
    if not os.access(folder, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise UsageError(f"{path}: no permission to write there; choose another output")


def expect_another_file(output: Path, source: Path) -> None:
    """Never write over what is being read.

    Raises:
        UsageError: both are the same file.
    """
    if output.exists() and source.exists() and output.samefile(source):
        raise UsageError(f"{output}: is the file that is read; choose another output")


def _expect_no_interrupted_fit(output: Path, *, is_discarded: bool) -> None:
    checkpoints = Checkpoints(output)
    if is_discarded:
        checkpoints.remove()
    elif any(path.exists() for path in checkpoints.paths):
        raise UsageError(f"{output}: an interrupted fit stands beside it; --resume continues it, --restart discards it")


def _tell(options: argparse.Namespace, sentence: str) -> None:
    if not options.quiet:
        print(sentence, file=sys.stderr)


def say_interrupted(state: State, output: Path) -> int:
    print(
        f"stopped at step {state.step} of {state.n_steps}; the state is saved beside {output}. "
        "Repeat the command with --resume to go on",
        file=sys.stderr,
    )
    return 128 + signal.SIGINT
