"""``fieldforge bench scene_models``: kinds of radiance fields at equal CPU time, from the same photos.

Each preset trains for `BUDGET` CPU seconds of one thread, its schedule stretched over them, and is then measured over
`fieldforge.apps.fit.scene.job.N_SAMPLED` pixels drawn from all held-out views. That is far from where papers stop: it
says what a laptop has after a short wait, not what a representation can hold.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

from fieldforge.apps.bench.harness import Row, one_thread, save, say
from fieldforge.apps.bench.scene import DATA, SCENES, SMALL, ball
from fieldforge.apps.fit.job import Plan
from fieldforge.apps.fit.loop import settle
from fieldforge.apps.fit.scene.job import SceneJob
from fieldforge.apps.scenes import Scene
from fieldforge.checks import expect_choice
from fieldforge.fields.storage import round_to
from fieldforge.registry import build

BUDGET = 30.0
"""CPU seconds of training."""
SHOWN = ("balanced", "kplanes", "tensorf", "tensorf-cp", "densegrid", "pref", "mimlp")
QUICK = ("encoding.log2_hashmap_size=10", "fit.batch_size=512", "fit.samples_across=16", "fit.occupancy=8")


def run(folder: Path, data: Path | None, *, is_quick: bool, only: Sequence[str] = ()) -> None:
    """Train, measure, print, and keep each row when it is there, unless `is_quick`.

    Args:
        folder: of the rows.
        data: folder that holds `lego_tiny100.npz`.
        only: some of `SHOWN`; none is all.

    Raises:
        SceneError, ValueError: no such preset, or the scene is not there.
    """
    names = [expect_choice("only", name, SHOWN) for name in only] or list(SHOWN)
    for name in names[: 1 if is_quick else None]:
        source = ball() if is_quick else (data or DATA) / SCENES[SMALL]
        with one_thread():
            row = measure(name, source, *((0.1, QUICK) if is_quick else (BUDGET,)))
        q = row.quality or {}
        say(f"{name:12} {q['psnr']:6.2f} dB  {q['steps']:6.0f} steps  {q['parameters']:>12,.0f} parameters")
        if not is_quick:
            save(folder, "scene_models", [row])


def measure(name: str, source: Path | Scene, budget: float, overrides: Sequence[str] = ()) -> Row:
    """One preset trained for so many CPU seconds."""
    job = SceneJob(source)
    config, _ = job.run_config(Plan(preset=name, overrides=overrides))
    fitted = job.make_field(config, 0)
    n_parameters = sum(one.numel() for one in fitted.parameters())
    schedule, n_steps = build("schedule", config["schedule"]), config["fit"]["n_steps"]
    with job.training(fitted, config, 0, ()) as training:
        start, n_done, spent = time.process_time(), 0, 0.0
        while spent < budget:
            training.advance(n_done, schedule(int(spent / budget * n_steps), n_steps))
            n_done, spent = n_done + 1, time.process_time() - start
        settle(training.optimizer)
        why_plain = training.why_not_fused
    fitted.requires_grad_(False)
    round_to(fitted, config["fit"]["storage"])
    figures = {"psnr": job.quality(fitted, math.inf), "steps": n_done, "parameters": n_parameters}
    sizes = {"budget": budget, "config": config, "why_plain": why_plain}
    return Row("scene_models", name, name, sizes, spent, 0.0, n_done / spent, quality=figures)
