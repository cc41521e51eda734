"""Samples where a coarse field of the same kind found something (Mildenhall et al. 2020, section 5.2).

    {"otype": "Hierarchical", "n_samples": [64, 128], "near": 0.05, "far": 1000.0}

The coarse field is asked at stratified samples; the fine one at those and at as many more as wished, drawn from the
coarse weights. Both learn from the colours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fieldforge.apps.fit.scene.options import SceneOptions
from fieldforge.apps.fit.scene.rays import Rays
from fieldforge.apps.fit.scene.samplers.base import Sampler, StepParts
from fieldforge.apps.fit.scene.samplers.proposed import Drawn, ProposedStep, Tried
from fieldforge.apps.render.proposals import Looking, span
from fieldforge.fields.kinds.proposal import ProposalField
from fieldforge.fields.kinds.radiance import RadianceField
from fieldforge.registry import register
from fieldforge.renderers.proposals import resample, union
from fieldforge.renderers.spacing import at_distances, spread


@register("sampler", "Hierarchical")
class Hierarchical(Sampler):
    """Trains two RadianceFields of one configuration, a coarse and a fine one.

    Args:
        n_samples: of the coarse one, and what is drawn beside them for the fine one.
        near, far, spacing, padding: of the samples, see `fieldforge.apps.render.proposals.Looking`.
    """

    otype = "Hierarchical"

    def __init__(
        self,
        *,
        n_samples: Sequence[int] = (64, 128),
        near: float = 0.05,
        far: float = 1000.0,
        spacing: str = "linear",
        padding: float = 1e-5,
    ) -> None:
        self.looking = Looking(list(n_samples), near, far, spacing, padding, joins=True)
        if len(n_samples) != 2:
            raise ValueError(f"n_samples: expected two numbers, coarse and fine, got {list(n_samples)}")
        self.n_samples, self.near, self.far = list(n_samples), near, far
        self.spacing, self.padding = spacing, padding

    def field(self, radiance: Mapping[str, Any], options: SceneOptions) -> dict[str, Any]:
        return {"otype": "ProposalField", "field": dict(radiance), "proposals": [dict(radiance)]}

    def step(self, field: ProposalField, parts: StepParts) -> HierarchicalStep:
        return HierarchicalStep(field, self.looking, parts)


class HierarchicalStep(ProposedStep):
    """Both fields learn from the colours."""

    def drawn(self, step: int, rays: Rays, generator: torch.Generator) -> Drawn:
        n_numbers = sum(self.looking.counts) + 2
        return Drawn(rays, torch.rand(len(rays.origins), n_numbers, generator=generator, device=rays.origins.device))

    def tried(self, drawn: Drawn, teaches: bool) -> Tried:
        (coarse,), looking, rays = self.field.proposals, self.looking, drawn.rays
        assert isinstance(coarse, RadianceField)
        n_coarse, n_fine = looking.counts
        jitter = drawn.jitter.split([n_coarse + 1, n_fine + 1], -1)
        near, far = span(self.field, rays.origins, rays.directions, looking)
        shares = spread(far > near, n_coarse, jitter=jitter[0], every=self.every)
        samples = at_distances(shares, near, far, looking.spacing)
        first = self.shade(coarse.radiance, samples, rays)
        more = resample(shares, first.weights, n_fine, padding=looking.padding, jitter=jitter[1])
        self.n_marched, shares = samples.n_samples, union(shares, more)
        samples = at_distances(shares, near, far, looking.spacing)
        self.n_evaluated = samples.n_samples
        seen = self.shade(self.field.radiance, samples, rays)
        loss = self.loss.per_sample(first.color, rays.target) + self.loss.per_sample(seen.color, rays.target)
        loss = loss + self.ray_losses.of_rays(shares, seen.weights, seen.opacity)
        return Tried(loss, seen.color)
