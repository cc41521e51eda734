"""``fieldforge fit image``."""

from __future__ import annotations

import argparse
from pathlib import Path

from fieldforge.apps.fit.command import report_of, run_fit
from fieldforge.apps.fit.image.job import ImageFit, ImageJob


def fit_image(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    output: Path = options.output or Path(options.photo).with_suffix(".field")
    report = report_of(options, output)
    job = ImageJob(options.photo, report=report)

    def describe(result: ImageFit) -> str:
        similarity = "" if result.ssim is None else f", SSIM {result.ssim:.4f}"
        line = (
            f"{result.path}: PSNR {result.psnr:.2f} dB{similarity}, {result.n_bytes:,} bytes "
            f"({result.bits_per_pixel:.2f} bits per pixel), {result.state.step} steps in {result.seconds:.1f} s"
        )
        return line if report is None else f"{line}\n{report}: source, fit, error, curves"

    return run_fit(options, job, Path(options.photo), output, options.psnr, describe)
