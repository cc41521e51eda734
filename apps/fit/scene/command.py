"""``fieldforge fit scene``."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from fieldforge.apps.cli.words import UsageError
from fieldforge.apps.fit.command import expect_writable, run_fit
from fieldforge.apps.fit.scene.job import SceneFit, SceneJob
from fieldforge.apps.fit.scene.report import PAGE


def fit_scene_command(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    source = Path(options.scene)
    output: Path = options.output or source.with_name(f"{source.stem}.field")
    if options.background is not None:
        options.overrides = [*options.overrides, f"fit.background={options.background}"]
    if options.minutes is not None:
        options.seconds = 60 * options.minutes
    report: Path | None = options.report
    if report is not None and not options.print_config:
        _expect_folder(report)
    job = SceneJob(options.scene, downscale=options.downscale, allow_missing=options.allow_missing, report=report)

    def describe(result: SceneFit) -> str:
        line = _describe(result, options.scene)
        return line if report is None else f"{line}\n{report / PAGE}: stages, curve, error, depth and normals"

    return run_fit(options, job, source, output, options.psnr, describe)


def _expect_folder(path: Path) -> None:
    """Say before the work that pictures cannot go there."""
    if path.exists() and not path.is_dir():
        raise UsageError(f"--report {path}: is a file; name a folder for the pictures")
    expect_writable((path if path.is_dir() else path.parent) / PAGE)


def _describe(result: SceneFit, source: str) -> str:
    quality = ""
    if not math.isnan(result.psnr):
        similarity = "" if math.isnan(result.ssim) else f", SSIM {result.ssim:.4f}"
        quality = f" PSNR {result.psnr:.2f} dB{similarity} over held-out views,"
    return (
        f"{result.path}:{quality} {result.n_bytes:,} bytes, {result.state.step} steps in {result.seconds:.1f} s\n"
        f"fieldforge render {result.path} -o views --split test --data {source}   shows the held-out views"
    )
