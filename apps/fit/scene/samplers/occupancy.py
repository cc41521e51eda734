"""Samples in occupied cells (Müller et al. 2022, Instant-NGP).

    {"otype": "Occupancy"}

A grid beside the field learns which cells hold anything; samples of one length lie in those. Its sizes stand in the
section ``fit``: samples_across, occupancy, update_every, early_stop.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fieldforge.apps.fit.scene.options import SceneOptions
from fieldforge.apps.fit.scene.samplers.base import Sampler, StepParts
from fieldforge.apps.fit.scene.step import SceneStep, scene_step
from fieldforge.fields.kinds.radiance import RadianceField
from fieldforge.registry import register


@register("sampler", "Occupancy")
class Occupancy(Sampler):
    """Trains a RadianceField on samples in occupied cells, natively where it can."""

    otype = "Occupancy"

    def field(self, radiance: Mapping[str, Any], options: SceneOptions) -> dict[str, Any]:
        return {**radiance, "occupancy": options.occupancy, "n_cascades": options.cascades}

    def step(self, field: RadianceField, parts: StepParts) -> SceneStep:
        return scene_step(field, parts.draw, parts.config, parts.options, seed=parts.seed, hooks=parts.hooks)
