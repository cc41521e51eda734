"""``fieldforge bench space``: a scene that goes on to the horizon, in a box, contracted, and as inside and outside.

The same photos, tables, networks, optimizer, steps, samples a step and near plane; what differs is the space. The box
reaches 20 units around what the cameras look at, the far plane that NeRF++'s comparison gives a plain field.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from fieldforge.apps.bench.harness import save, say
from fieldforge.apps.bench.scene_arms import fit_arm
from fieldforge.apps.fit.job import Plan
from fieldforge.apps.fit.scene.job import SceneJob
from fieldforge.apps.scenes import Scene, SceneError, read_scene

SCENE = Path("../shared/data/scenes/render_yard360")
FAR = 20.0
NEAR = 0.45
SHARED = [f"fit.near={NEAR}", "fit.samples_across=384", "fit.occupancy=48", "fit.coarse_start=0"]
ARMS = {
    "box, far plane 20": ["fit.space=box"],
    "contraction": ["fit.space=contraction", "fit.cascades=5"],
    "contraction2": ["fit.space=contraction2", "fit.cascades=5"],
    "nerfpp": ["fit.space=nerfpp"],
}
"""Name -> what its run file says besides `SHARED`."""
N_STEPS = 1000
DOWNSCALE = 2
"""At 4 a cell of the box is no larger than a pixel of what is near, and nothing is lost to the space."""


def run(folder: Path, data: Path | None, *, is_quick: bool) -> None:
    """Fit, measure on the held-out views, print, and keep the rows unless `is_quick`.

    Args:
        folder: of the rows.
        data: the scene's folder; None is `SCENE`.

    Raises:
        SceneError: it is not there.
    """
    scene = read_scene(data or SCENE, downscale=16 if is_quick else DOWNSCALE)
    if scene.bounds.is_bounded:
        raise SceneError(f"{scene.source}: a box holds all of it; the suite is about scenes that go on")
    rows = []
    for arm, overrides in ARMS.items():
        job = SceneJob(_in_a_box(scene) if arm.startswith("box") else scene)
        plan = Plan(steps=2 if is_quick else N_STEPS, overrides=[*SHARED, *overrides], seed=0, progress="quiet")
        rows.append(fit_arm("space", arm, job, plan, downscale=DOWNSCALE)[1])
    if not is_quick:
        say(f"rows: {save(folder, 'space', rows)}")


def _in_a_box(scene: Scene) -> Scene:
    """With a box of `FAR` units around the middle of the one that was guessed."""
    middle = scene.bounds.box.mean(0)
    return replace(scene, bounds=replace(scene.bounds, box=torch.stack([middle - FAR, middle + FAR])))
