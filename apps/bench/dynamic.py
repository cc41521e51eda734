"""``fieldforge bench dynamic``: a scene that moves, fitted as one that stands still and as one that changes with time.

The same photos, preset, steps and seed; what differs is whether the field is asked at the time of each photo.
"""

from __future__ import annotations

from pathlib import Path

from fieldforge.apps.bench.harness import save, say
from fieldforge.apps.bench.scene_arms import fit_arm
from fieldforge.apps.fit.job import Plan
from fieldforge.apps.fit.scene.job import SceneJob
from fieldforge.apps.scenes import SceneError, read_scene

SCENE = Path("../shared/data/scenes/render_dynamic")
ARMS = {"static": ["fit.time=off"], "time": []}
"""Name -> what its run file says besides the preset."""
PRESET = "fast"
DOWNSCALE = 2
BAR = 3.0
"""Decibels by which the field with time has to be better."""


def run(folder: Path, data: Path | None, *, is_quick: bool) -> None:
    """Fit, measure on the held-out views, print, and keep the rows unless `is_quick`.

    Args:
        folder: of the rows.
        data: the scene's folder; None is `SCENE`.

    Raises:
        SceneError: it is not there, or its photos have no times.
    """
    scene = read_scene(data or SCENE, downscale=16 if is_quick else DOWNSCALE)
    if scene.times is None:
        raise SceneError(f"{scene.source}: its photos have no times; the suite is about scenes that move")
    rows, found = [], dict[str, float]()
    for arm, overrides in ARMS.items():
        plan = Plan(preset=PRESET, steps=2 if is_quick else None, overrides=overrides, seed=0, progress="quiet")
        result, row = fit_arm("dynamic", arm, SceneJob(scene), plan, downscale=DOWNSCALE)
        rows.append(row)
        found[arm] = result.psnr
    if not is_quick:
        gain = found["time"] - found["static"]
        say(f"time is worth {gain:.2f} dB; the bar is {BAR:g} dB: {'met' if gain >= BAR else 'missed'}")
        say(f"rows: {save(folder, 'dynamic', rows)}")
