"""``fieldforge fit scene``."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from fieldforge.apps.fit.command import run_fit
from fieldforge.apps.fit.scene.job import SceneFit, SceneJob


def fit_scene_command(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    source = Path(options.scene)
    output: Path = options.output or source.with_name(f"{source.stem}.field")
    if options.background is not None:
        options.overrides = [*options.overrides, f"fit.background={options.background}"]
    if options.minutes is not None:
        options.seconds = 60 * options.minutes
    job = SceneJob(options.scene, downscale=options.downscale, allow_missing=options.allow_missing)
    return run_fit(options, job, source, output, options.psnr, lambda result: _describe(result, options.scene))


def _describe(result: SceneFit, source: str) -> str:
    quality = ""
    if not math.isnan(result.psnr):
        similarity = "" if math.isnan(result.ssim) else f", SSIM {result.ssim:.4f}"
        quality = f" PSNR {result.psnr:.2f} dB{similarity} over held-out views,"
    return (
        f"{result.path}:{quality} {result.n_bytes:,} bytes, {result.state.step} steps in {result.seconds:.1f} s\n"
        f"fieldforge render {result.path} -o views --split test --data {source}   shows the held-out views"
    )
