"""Samples in occupied cells (Müller et al. 2022, Instant-NGP).

    {"otype": "Occupancy"}

A grid beside the field learns which cells hold anything; samples of one length lie in those. Its sizes stand in the
section ``fit``: samples_across, occupancy, update_every, early_stop.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fieldforge.apps.fit.scene.inside_outside import inside_outside_step
from fieldforge.apps.fit.scene.ndc import NDCStep
from fieldforge.apps.fit.scene.options import SceneOptions
from fieldforge.apps.fit.scene.samplers.base import RayStep, Sampler, StepParts
from fieldforge.apps.fit.scene.space import inside_outside
from fieldforge.apps.fit.scene.step import scene_step
from fieldforge.fields.kinds.inside_outside import InsideOutsideField
from fieldforge.fields.kinds.ndc import NDCField
from fieldforge.fields.kinds.radiance import RadianceField
from fieldforge.registry import register


@register("sampler", "Occupancy")
class Occupancy(Sampler):
    """Trains a RadianceField on samples in occupied cells, natively where it can."""

    otype = "Occupancy"

    def field(self, radiance: Mapping[str, Any], options: SceneOptions) -> dict[str, Any]:
        described = {**radiance, "occupancy": options.occupancy, "n_cascades": options.cascades}
        return inside_outside(described) if options.space == "nerfpp" else described

    def step(self, field: RadianceField | InsideOutsideField | NDCField, parts: StepParts) -> RayStep:
        if isinstance(field, InsideOutsideField):
            return inside_outside_step(field, parts)
        if isinstance(field, NDCField):
            return NDCStep(field, parts)
        return scene_step(field, parts.draw, parts.config, parts.options, seed=parts.seed, hooks=parts.hooks)
