"""``fieldforge fit shape``: options in, a field file and a few lines out."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import tomli_w

from fieldforge.apps.cli import print_json
from fieldforge.apps.fit.command import prepare_output, say_interrupted
from fieldforge.apps.fit.shape.job import ShapeFit, fit_shape, run_config


def fit_shape_command(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code: 0 done, 130 interrupted (the state is saved)."""
    if options.print_config:
        config, _ = run_config(
            options.kind, preset=options.preset, config=options.config, overrides=options.overrides,
            steps=options.steps, max_bytes=options.max_bytes,
        )  # fmt: skip
        print(tomli_w.dumps(config), end="")
        return 0
    output: Path = options.output or Path(options.shape).with_suffix(".field")
    if prepare_output(options, output, Path(options.shape)):
        return 0
    result = fit_shape(
        options.shape, kind=options.kind, output=output, preset=options.preset, config=options.config,
        overrides=options.overrides, steps=options.steps, seconds=options.seconds, iou=options.iou,
        max_bytes=options.max_bytes, seed=options.seed, backend=options.backend, resume=options.resume,
        progress="quiet" if options.quiet else "json" if options.json else "auto",
    )  # fmt: skip
    if result.state.stopped_by == "signal":
        return say_interrupted(result.state, output)
    if options.json:
        print_json({"event": "result", "output": str(output), "notes": result.notes, **result.summary()})
    elif not options.quiet:
        _print_result(result, options.iou)
    return 0


def _print_result(result: ShapeFit, target: float | None) -> None:
    quality = "" if math.isnan(result.iou) else f" volume IoU {result.iou:.5f},"
    print(
        f"{result.path}:{quality} {result.n_bytes:,} bytes, {result.surface.health.n_faces:,} faces fitted in "
        f"{result.state.step} steps, {result.seconds:.1f} s"
    )
    if target is not None and result.iou < target:
        print(f"an IoU of {target:g} was asked for and not reached in {result.state.step} steps; --steps allows more")
    if result.state.n_rollbacks:
        print(f"the loss was not finite {result.state.n_rollbacks} times; the learning rate was halved each time")
    print(f"fieldforge mesh {result.path} -o mesh.ply   gives a mesh back")
