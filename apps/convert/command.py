"""``fieldforge convert``."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from fieldforge.apps.convert.job import Conversion, conversion_of
from fieldforge.apps.fit.command import run_fit

SILENT_WORDS = ("--resume", "--restart", "--quiet", "--json", "--debug")
"""Of a command that change nothing of what it makes."""


def convert_command(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    source: Path = options.field
    output: Path = options.output or source.with_name(f"{source.stem}.{options.to}.field")
    if options.minutes is not None:
        options.seconds = 60 * options.minutes
    job = conversion_of(
        source, options.to, photos=options.photos, box=options.box, head=options.head, force=options.force,
        command=said(options.words),
    )  # fmt: skip
    options.preset, options.tune, options.encoding = options.to, "none", None
    options.precision = None
    options.diagnose, options.diagnose_every = (), None
    return run_fit(options, job, source, output, options.target, describe)


def said(words: list[str]) -> str:
    """The command as the header of its file has it: of files and folders the names alone."""
    kept = [Path(word).name if "/" in word and "=" not in word else word for word in words if word not in SILENT_WORDS]
    return " ".join(["fieldforge", *kept])


def describe(result: Conversion) -> str:
    """What is printed in the end."""
    before = result.teacher.n_bytes
    size = f"{result.n_bytes:,} bytes (the teacher's file has {before:,})" if before else f"{result.n_bytes:,} bytes"
    lines = [f"{result.path}: {size}, {result.state.step} steps in {result.seconds:.1f} s"]
    figures = {name: value for name, value in result.figures.items() if value is not None}
    against = []
    if "teacher_psnr" in figures:
        of = "rays of unseen poses" if "variation" in figures else "pixels"
        against.append(f"PSNR {figures['teacher_psnr']:.2f} dB over {of}")
    if "teacher_iou" in figures:
        against.append(f"volume IoU {figures['teacher_iou']:.4f}")
    if "teacher_error" in figures:
        against.append(f"error {100 * figures['teacher_error']:.3g} % near the surface")
    lines.append(f"against the teacher: {', '.join(against)}")
    if not math.isnan(result.figure("psnr")):
        lines.append(
            f"against held-out photos: PSNR {figures['psnr']:.2f} dB, the teacher's {figures['teachers_psnr']:.2f} dB"
        )
    return "\n".join(lines)
