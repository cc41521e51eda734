"""A large network everywhere beside many small ones where something is, and where the ratio comes from.

    kilonerf_rendering(teacher, student, scene)

KiloNeRF (Reiser et al., ICCV 2021) gives a factor of about 2500 on a GPU. It is a product of three: samples that are
not asked for, multiply-adds that a sample does not need, and how well a processor is used. Each is told by itself.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import torch

from fieldforge.apps.bench.harness import Row
from fieldforge.apps.metrics import psnr as psnr_of
from fieldforge.apps.render.pictures import photo_of
from fieldforge.apps.render.radiance import Eye
from fieldforge.apps.render.tally import Tally
from fieldforge.apps.scenes import Scene
from fieldforge.backends import use_backend
from fieldforge.fields.kinds.radiance import RadianceField

N_DENSE = 2**12
"""Pixels that the large network is asked for: all samples of a whole view of it take minutes."""


def kilonerf_rendering(
    teacher: RadianceField,
    student: RadianceField,
    scene: Scene,
    *,
    samples_across: int = 384,
    n_views: int = 4,
    case: str = "kilonerf",
) -> list[Row]:
    """One-thread CPU time of a pixel of held-out views: the teacher as NeRF renders, the student as KiloNeRF does.

    Args:
        teacher: one large network; looked at along whole rays, all samples, in plain PyTorch.
        student: small networks in cells; samples in occupied cells, in passes.
        scene: whose held-out views are looked at.
        samples_across: samples along the diagonal of the teacher's box; the student's are as long. The authors take
            384.
        n_views: how many views at most.
        case: of the rows.

    Returns:
        A row each of "dense" and "passes"; its quality holds multiply_adds, samples and seconds of a pixel, and psnr
        of what was looked at; that of "passes" also their ratios to those of "dense": less_time, fewer_multiply_adds,
        fewer_samples.

    Raises:
        ValueError: the scene has no held-out views.
    """
    views = scene.of("test").tolist()[:n_views]
    if not views:
        raise ValueError(f"data: {scene.source} has no held-out views")
    step = math.dist(teacher.low, teacher.high) / samples_across
    dense = tallied(teacher, "dense", scene, views, step, n_pixels=N_DENSE)
    passes = tallied(student, "passes", scene, views, step)
    for name in ("time", "multiply_adds", "samples"):
        much, little = (found["seconds" if name == "time" else name] for found in (dense, passes))
        if much is not None and little:
            passes["less_time" if name == "time" else f"fewer_{name}"] = much / little
    return [
        Row(
            "convert", case, name, {"samples_across": samples_across, "views": len(views)}, found["seconds"], 0.0,
            1 / found["seconds"], quality={key: value for key, value in found.items() if value is not None},
        )
        for name, found in (("dense", dense), ("passes", passes))
    ]  # fmt: skip


def tallied(
    field: RadianceField,
    engine: str,
    scene: Scene,
    views: Sequence[int],
    step: float,
    *,
    n_pixels: int | None = None,
    early_stop: float = 0.01,
) -> dict[str, Any]:
    """CPU seconds, samples and multiply-adds of a pixel, and PSNR; of `n_pixels` spread over the views, or of all."""
    eye = Tally(Eye(field, step=step, early_stop=early_stop, engine=engine))
    cameras = scene.cameras.to(torch.float32)
    origins, directions = (
        torch.cat(rows).contiguous() for rows in zip(*(cameras.picture_rays(view) for view in views), strict=True)
    )
    wanted = torch.cat([photo_of(scene, view, eye.background).reshape(-1, 3) for view in views])
    if n_pixels is not None and n_pixels < len(origins):
        some = torch.randperm(len(origins), generator=torch.Generator().manual_seed(0))[:n_pixels]
        origins, directions, wanted = origins[some], directions[some], wanted[some]
    at_once = 2**7 if engine == "dense" else eye.n_rays_at_once  # wide layers: larger parts leave the caches
    with use_backend("reference" if engine == "dense" else "auto"):
        eye(origins[:at_once], directions[:at_once])  # unmeasured
        eye.n_rays, eye.n_evaluated, eye.n_multiply_adds = 0, 0, 0
        start = time.process_time()
        parts = zip(origins.split(at_once), directions.split(at_once), strict=True)
        shown = [eye(*rows).color for rows in parts]
        seconds = time.process_time() - start
    n_rays = max(1, eye.n_rays)
    cost = eye.n_multiply_adds
    return {
        "seconds": seconds / n_rays,
        "samples": eye.n_evaluated / n_rays,
        "multiply_adds": None if cost is None else cost / n_rays,
        "psnr": psnr_of(torch.cat(shown).clamp(0, 1), wanted, 1.0),
    }
