"""The whole command: a photo fitted to 40 dB, start-up included, against the same job in idiomatic PyTorch.

Both are programs of their own, and their CPU time (user and system) is counted, one thread. Their bytecode is compiled
before, as an installation compiles it: where it is stale, or must not be written, torch alone costs 2 s more. The
command also says how much memory it took at most. The program alone is the same command with ``--print-config``: it
imports what the fit imports, reads the picture, and trains nothing; that of the PyTorch job is its imports.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fieldforge.apps.bench.cpu import plain_fit
from fieldforge.apps.bench.cpu.work import DEFAULT, FUSED, OURS, noise
from fieldforge.apps.bench.harness import Row, spread
from fieldforge.apps.bench.image import PHOTO
from fieldforge.apps.fit.image.job import ImageJob
from fieldforge.apps.fit.job import Plan
from fieldforge.apps.images import read_image

TARGET = 15.0
"""Times the CPU seconds of the PyTorch job."""
_COMMAND = """
import pathlib, sys
from fieldforge.apps.cli import main
code = main(sys.argv[1:])
status = pathlib.Path("/proc/self/status")
if status.exists():
    print("peak", status.read_text().split("VmHWM:")[1].split()[0], file=sys.stderr)
sys.exit(code)
"""


def rows_of_fit(*, is_quick: bool) -> list[Row]:
    """Rows of the command, of the PyTorch job with both Adams, and of the command's memory.

    Raises:
        RuntimeError: one of the programs failed.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photo, decibels = _noise(folder) if is_quick else PHOTO, 5.0 if is_quick else 40.0
        picture = read_image(photo)
        job = ImageJob(picture)
        config, _ = job.run_config(Plan())
        fit = ["fit", "image", str(photo), "--psnr", f"{decibels:g}", "-o", str(folder / "x.field"), "--no-report"]
        command = [sys.executable, "-c", _COMMAND, *fit, "--json", "--restart"]
        plain = [sys.executable, "-m", "fieldforge.apps.bench.cpu.plain_fit", str(photo), str(folder / "x.pt"),
                 json.dumps(config), f"{decibels:g}"]  # fmt: skip
        environment = _environment(folder)
        short = [*plain[:-2], json.dumps(config | {"fit": config["fit"] | {"n_steps": 1}}), plain[-1]]
        for first in (short, [*command, "--steps", "1"]):
            _run(first, environment)
        seconds: dict[str, list[float]] = {FUSED: [], OURS: []}
        answers: dict[str, dict[str, Any]] = {}
        start: dict[str, list[float]] = {FUSED: [], OURS: []}
        peak = program = None
        for _ in range(1 if is_quick else 2):
            taken, out, _ = _run([*plain, "fused"], environment)
            seconds[FUSED].append(taken)
            answers[FUSED] = json.loads(out[-1])
            taken, out, peak = _run(command, environment)
            seconds[OURS].append(taken)
            answers[OURS] = json.loads(out[-1])
            taken, _, _ = _run([sys.executable, "-c", f"import {plain_fit.__name__}"], environment)
            start[FUSED].append(taken)
            taken, _, program = _run([sys.executable, "-c", _COMMAND, *fit, "--print-config"], environment)
            start[OURS].append(taken)
        if not is_quick:
            taken, out, _ = _run([*plain, "default"], environment)
            seconds[DEFAULT] = [taken]
    median = {candidate: statistics.median(times) for candidate, times in seconds.items()}
    start_up = {candidate: statistics.median(times) for candidate, times in start.items()}
    figures = {
        "ratio": median[FUSED] / median[OURS], "noise": noise(seconds),
        "psnr": answers[OURS]["psnr"], "psnr_plain": answers[FUSED]["psnr"],
        "start_up": start_up[OURS], "start_up_plain": start_up[FUSED],
        "ratio_after_start_up": (median[FUSED] - start_up[FUSED]) / (median[OURS] - start_up[OURS]),
        "steps": answers[OURS]["steps"], "steps_plain": answers[FUSED]["steps"],
    }  # fmt: skip
    if not is_quick:
        figures["target_ratio"] = TARGET
        figures["ratio_default_adam"] = median[DEFAULT] / median[OURS]
    case = f"astronaut to {decibels:g} dB, whole command"
    sizes = {"decibels": decibels, "width": picture.width, "height": picture.height, "config": config}
    n_pixels = picture.width * picture.height
    rows = [
        Row("cpu", case, candidate, sizes, one, spread(seconds[candidate]), n_pixels / one,
            quality=figures if candidate == OURS else None)
        for candidate, one in median.items()
    ]  # fmt: skip
    if peak is not None and program is not None:
        with torch.device("meta"):
            n_parameters = sum(one.numel() for one in job.make_field(config, 0).parameters())
        encoding = config["encoding"]
        features = encoding["n_levels"] * encoding["n_features_per_level"] * config["fit"]["batch_size"]
        memory = {
            "peak_mib": (peak - program) / 1024,
            "program_mib": program / 1024,
            "bound_mib": 4 * (4 * n_parameters + features) / 2**20 + 64,
        }
        rows.append(Row("cpu", f"Memory of a fit, {case}", "memory", sizes, 0.0, 0.0, 0.0, quality=memory))
    return rows


def _environment(folder: Path) -> dict[str, str]:
    """One thread, and compiled bytecode that is kept in a folder."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    one = {"OMP_NUM_THREADS": "1", "FIELDFORGE_NUM_THREADS": "1"}
    return kept | one | {"PYTHONPYCACHEPREFIX": str(folder / "bytecode")}


def _run(command: Sequence[str], environment: Mapping[str, str]) -> tuple[float, list[str], int | None]:
    """CPU seconds of a program, its output, and its peak memory in KiB if it says that."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:4])} ended with exit code {done.returncode}: {done.stderr[-500:]}")
    last = (done.stderr.splitlines() or [""])[-1].split()
    peak = int(last[1]) if last[:1] == ["peak"] else None
    taken = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return taken, done.stdout.splitlines(), peak


def _noise(folder: Path) -> Path:
    from PIL import Image

    path = folder / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    return path
