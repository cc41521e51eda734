"""Samples where small proposal networks expect something (Barron et al. 2022, mip-NeRF 360; nerfacto).

    {"otype": "Proposal", "n_samples": [64, 48, 24], "resolutions": [64, 128], "near": 0.05, "far": 1000.0}

No grid has to know the box: rays may run as far as the field's space reaches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fieldforge.apps.fit.scene.options import SceneOptions
from fieldforge.apps.fit.scene.rays import Rays
from fieldforge.apps.fit.scene.samplers.base import Sampler, StepParts
from fieldforge.apps.fit.scene.samplers.proposed import Drawn, ProposedStep, Tried
from fieldforge.apps.render.proposals import Looking, samples_along
from fieldforge.checks import expect_float, expect_int
from fieldforge.fields.kinds.proposal import ProposalField
from fieldforge.registry import register
from fieldforge.renderers.proposals import annealing
from fieldforge.renderers.ray_losses import interlevel


@register("sampler", "Proposal")
class Proposal(Sampler):
    """Trains a RadianceField beside proposal networks: hash grids with one small hidden layer each.

    Args:
        n_samples: of each proposal and, last, of the field. nerfacto has 256, 96 and 48.
        resolutions: of the finest level of each proposal's grid.
        n_levels, log2_hashmap_size, n_neurons: of their grids and networks.
        near, far, spacing, padding: of the samples, see `fieldforge.apps.render.proposals.Looking`.
        annealing_steps, annealing_bias: of the exponent on weights, see `fieldforge.renderers.proposals.annealing`.
        update_every: proposals learn in every step at first and, `update_warm_up` steps later, in one of so many.
        interlevel: factor on the loss that teaches them.
    """

    otype = "Proposal"

    def __init__(
        self,
        *,
        n_samples: Sequence[int] = (64, 48, 24),
        resolutions: Sequence[int] = (64, 128),
        n_levels: int = 5,
        log2_hashmap_size: int = 15,
        n_neurons: int = 16,
        near: float = 0.05,
        far: float = 1000.0,
        spacing: str = "piecewise",
        padding: float = 0.01,
        annealing_steps: int = 1000,
        annealing_bias: float = 10.0,
        update_every: int = 5,
        update_warm_up: int = 5000,
        interlevel: float = 1.0,
    ) -> None:
        self.looking = Looking(list(n_samples), near, far, spacing, padding)
        self.n_samples, self.near, self.far = list(n_samples), near, far
        self.spacing, self.padding = spacing, padding
        if isinstance(resolutions, str) or len(resolutions) != len(n_samples) - 1:
            raise ValueError(f"resolutions: expected {len(n_samples) - 1}, one for each proposal, got {resolutions!r}")
        self.resolutions = [expect_int(f"resolutions[{i}]", n, 16, 2**16) for i, n in enumerate(resolutions)]
        self.n_levels = expect_int("n_levels", n_levels, 2, 32)
        self.log2_hashmap_size, self.n_neurons = log2_hashmap_size, n_neurons
        self.annealing_steps = expect_int("annealing_steps", annealing_steps, 0)
        self.annealing_bias = expect_float("annealing_bias", annealing_bias, 0.0, open_low=True)
        self.update_every = expect_int("update_every", update_every, 1, 10**6)
        self.update_warm_up = expect_int("update_warm_up", update_warm_up, 0)
        self.interlevel = expect_float("interlevel", interlevel, 0.0)

    def field(self, radiance: Mapping[str, Any], options: SceneOptions) -> dict[str, Any]:
        place = {key: radiance[key] for key in ("low", "high", "space") if key in radiance}
        proposals = [
            {
                "otype": "DensityField",
                "encoding": {
                    "otype": "HashGrid",
                    "n_levels": self.n_levels,
                    "n_features_per_level": 2,
                    "log2_hashmap_size": self.log2_hashmap_size,
                    "base_resolution": 16,
                    "per_level_scale": round((finest / 16) ** (1 / (self.n_levels - 1)), 6),
                },
                "network": {"otype": "MLP", "n_neurons": self.n_neurons, "n_hidden_layers": 1, "activation": "ReLU"},
                **place,
            }
            for finest in self.resolutions
        ]
        return {"otype": "ProposalField", "field": dict(radiance), "proposals": proposals}

    def step(self, field: ProposalField, parts: StepParts) -> ProposalStep:
        return ProposalStep(field, self, parts)


class ProposalStep(ProposedStep):
    """The field learns from colours, its proposals from where the field's weights are."""

    def __init__(self, field: ProposalField, sampler: Proposal, parts: StepParts) -> None:
        super().__init__(field, sampler.looking, parts)
        self.sampler = sampler

    def teaches(self, step: int) -> bool:
        """Whether the proposals learn in a step; counts those in which they did not (nerfacto)."""
        sampler, since = self.sampler, int(self.counters[2]) + 1
        grown = min(1.0, step / sampler.update_warm_up) if sampler.update_warm_up else 1.0
        is_due = since > max(1.0, grown * sampler.update_every) or step < 10
        self.counters[2] = 0 if is_due else since
        return is_due

    def drawn(self, step: int, rays: Rays, generator: torch.Generator) -> Drawn:
        sampler = self.sampler
        jitter = torch.rand(
            len(rays.origins), len(sampler.n_samples), generator=generator, device=rays.origins.device
        )  # fmt: skip
        return Drawn(rays, jitter, annealing(step, sampler.annealing_steps, sampler.annealing_bias))

    def tried(self, drawn: Drawn, teaches: bool) -> Tried:
        sampler, rays = self.sampler, drawn.rays
        with torch.set_grad_enabled(teaches):
            levels, shares, samples = samples_along(
                self.field, rays.origins, rays.directions, self.looking, jitter=drawn.jitter,
                exponent=drawn.exponent, every=self.every,
            )  # fmt: skip
        self.n_marched = sum(level.samples.n_samples for level in levels)
        self.n_evaluated = samples.n_samples
        rendered = self.shade(self.field.radiance, samples, rays)
        loss: Tensor = self.loss.per_sample(rendered.color, rays.target)
        loss = loss + self.ray_losses.of_rays(shares, rendered.weights, rendered.opacity)
        for level in levels:
            missed = interlevel(level.shares, level.weights, shares, rendered.weights)
            loss = loss + sampler.interlevel * missed
        return Tried(loss, rendered.color)
