"""Fits in normalised device coordinates: where these are, and a training step whose rays are bent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fieldforge.apps.fit.optimizers.base import Optimizer
from fieldforge.apps.fit.scene.samplers.base import RayStep, StepParts
from fieldforge.apps.fit.scene.step import scene_step
from fieldforge.apps.render.ndc import NDCEye
from fieldforge.apps.scenes import Scene
from fieldforge.fields.frustum import Frustum
from fieldforge.fields.kinds.ndc import NDCField
from fieldforge.fields.kinds.scene import SceneField
from fieldforge.renderers.cameras.paths import toward

NARROWEST = 0.9
"""Cosine between a camera's axis and the mean of all, below which the cameras do not look the same way."""


def why_not_forward(scene: Scene) -> str:
    """'' where all cameras look the same way, and at things that are all ahead of them; else why not."""
    cameras = scene.cameras
    if cameras.model not in ("pinhole", "opencv"):
        return f"its lenses are {cameras.model}"
    axis = torch.nn.functional.normalize(cameras.forwards.double().mean(0), dim=0)
    if len(cameras) < 2 or float((cameras.forwards.double() @ axis).min()) < NARROWEST:
        return "its cameras do not look the same way"
    ahead = (cameras.positions.double() - cameras.positions.double().mean(0)) @ axis
    if not 0 < scene.bounds.near < np.inf or float(ahead.max()) >= scene.bounds.near:
        return "its cameras stand among what they see"
    if scene.times is not None:
        return "it changes with time"
    return ""


def frustum_of(scene: Scene) -> Frustum:
    """That of a camera amid the cameras: their mean place, axis and angles of view."""
    cameras = scene.cameras
    poses, sizes = cameras.poses.double().numpy(), cameras.sizes.double()
    pose = toward(poses[:, :, 3].mean(0)[None], poses[:, :, 2].mean(0)[None], poses[:, :, 1].sum(0))[0]
    slopes = (sizes / 2 / cameras.intrinsics[:, :2].double()).mean(0)
    x, y = slopes.tolist()
    return Frustum(pose.tolist(), (x, y), scene.bounds.near)


def place_in_ndc(scene: Scene) -> dict[str, Any]:
    """The box of a field in these coordinates: what the rays of the photos' corners pass."""
    frustum, cameras = frustum_of(scene), scene.cameras
    found = list[Tensor]()
    for view in range(len(cameras)):
        width, height = cameras.sizes[view].tolist()
        pixels = torch.tensor([[0, 0], [width, 0], [0, height], [width, height]]).double()
        origins, directions = cameras.rays(torch.full((4,), view), pixels)
        is_seen = directions.isfinite().all(-1)
        bent = frustum.bend(origins[is_seen].double(), directions[is_seen].double())
        to_end = (1 - bent.origins[:, 2]) / bent.directions[:, 2]
        found += [bent.origins, bent.origins + to_end[:, None] * bent.directions]
    points = torch.cat(found)[:, :2]
    low, high = points.amin(0).tolist(), points.amax(0).tolist()
    return {"low": [*low, -1.0], "high": [*high, 1.0]}


def in_ndc(radiance: Mapping[str, Any], scene: Scene) -> dict[str, Any]:
    """The configuration of a scene's field in these coordinates, from that of the RadianceField inside."""
    frustum, far = frustum_of(scene), scene.bounds.far
    return {
        "otype": "NDC",
        "field": dict(radiance),
        "pose": frustum.pose.tolist(),
        "slopes": list(frustum.slopes),
        "near": frustum.near,
        "far": far if frustum.near < far < np.inf else 10 * frustum.near,
    }


class NDCStep(RayStep):
    """One step of the field inside, along bent rays.

    Args:
        field: what is trained.
        parts: of the step.
    """

    def __init__(self, field: NDCField, parts: StepParts) -> None:
        self.inside = scene_step(
            field.field, parts.draw.bent(field.frustum.bend), parts.config, parts.options, seed=parts.seed,
            hooks=parts.hooks, closes=False,
        )  # fmt: skip
        self.optimizer: Optimizer = self.inside.optimizer
        self.why_plain = self.inside.why_plain

    def __call__(self, step: int, factor: float) -> tuple[float, float]:
        result = self.inside(step, factor)
        self.n_rays, self.n_marched, self.n_evaluated = (
            self.inside.n_rays, self.inside.n_marched, self.inside.n_evaluated,
        )  # fmt: skip
        return result

    def eye(self, field: SceneField) -> NDCEye:
        assert isinstance(field, NDCField)
        return NDCEye(field, self.inside.eye(field.field))

    def finish(self, field: SceneField) -> None:
        assert isinstance(field, NDCField)
        self.inside.finish(field.field)
