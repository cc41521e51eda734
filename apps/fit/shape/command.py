"""``fieldforge fit shape``."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from fieldforge.apps.fit.command import run_fit
from fieldforge.apps.fit.shape.job import ShapeFit, ShapeJob, size


def fit_shape_command(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    output: Path = options.output or Path(options.shape).with_suffix(".field")
    job = ShapeJob(options.shape, kind=options.kind, smooth_derivatives=options.smooth_derivatives)
    return run_fit(options, job, Path(options.shape), output, options.iou, _describe)


def _describe(result: ShapeFit) -> str:
    ((what, count),) = size(result.surface).items()
    quality = "" if math.isnan(result.iou) else f" volume IoU {result.iou:.5f},"
    return (
        f"{result.path}:{quality} {result.n_bytes:,} bytes, {count:,} {what} fitted in "
        f"{result.state.step} steps, {result.seconds:.1f} s\n"
        f"fieldforge mesh {result.path} -o mesh.ply   gives a mesh back"
    )
