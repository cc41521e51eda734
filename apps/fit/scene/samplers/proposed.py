"""What the steps of fields with proposals share: rays, budget, optimizer, and the eye."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from fieldforge.apps.fit.loop import allowed
from fieldforge.apps.fit.losses.base import Loss
from fieldforge.apps.fit.optimizers.base import Optimizer, Parameters
from fieldforge.apps.fit.regularizers import penalty, regularizers_of
from fieldforge.apps.fit.scene.ray_losses import RayLosses
from fieldforge.apps.fit.scene.rays import Rays
from fieldforge.apps.fit.scene.samplers.base import RayStep, StepParts
from fieldforge.apps.fit.scene.step import LEAST_RAYS, SceneOptimizer, rays_for_next
from fieldforge.apps.render.proposals import Looking, ProposalEye
from fieldforge.devices import seeded
from fieldforge.fields.kinds.proposal import ProposalField
from fieldforge.fields.kinds.scene import SceneField
from fieldforge.registry import build
from fieldforge.renderers.compositing import Rendered, composite
from fieldforge.renderers.ray_losses import scale_gradients
from fieldforge.renderers.samples import Samples
from fieldforge.renderers.volume import Radiance, radiance_at


class Tried(NamedTuple):
    """A step before anything moves: what is minimised for each ray (R,), and the colours (R, 3)."""

    loss: Tensor
    color: Tensor


class ProposedStep(RayStep):
    """One step of a field and its proposals.

    Args:
        field: what is trained.
        looking: where it is asked.
        parts: rays, configuration, seed.

    The state beside the optimizer's: position among the pixels, rays in the next step, steps since the proposals moved.
    """

    why_plain = "steps of fields with proposals are made there"

    def __init__(self, field: ProposalField, looking: Looking, parts: StepParts) -> None:
        self.field, self.looking, self.parts = field, looking, parts
        config = parts.config
        fields = [field.field, *field.proposals]
        networks = [
            part for one in fields for name, part in one.named_children() if name in ("network", "rgb_network")
        ]  # fmt: skip
        made: Optimizer = build(
            "optimizer", config["optimizer"], path="optimizer", parameters=Parameters.of(field, networks)
        )
        self.loss: Loss = build("loss", config["loss"], path="loss")
        self.ray_losses = RayLosses.of(config.get("ray_losses", {}))
        self.regularizers = regularizers_of(config, field.field)  # proposals have none
        n_first = max(LEAST_RAYS, parts.options.batch_size // sum(looking.n_samples))
        self.counters = torch.tensor([0, n_first, 0], device="cpu")
        self.optimizer: SceneOptimizer = SceneOptimizer(made, None, self.counters)

    @abstractmethod
    def tried(self, step: int, rays: Rays, generator: torch.Generator) -> Tried:
        """Look along the rays, and compare; sets n_marched and n_evaluated."""

    def __call__(self, step: int, factor: float) -> tuple[float, float]:
        position, self.n_rays, _ = self.counters.tolist()
        rays = self.parts.draw(position, self.n_rays)
        self.optimizer.set_learning_rate_factor(factor)
        self.optimizer.zero_grad()
        seen = self.tried(step, rays, seeded(self.parts.seed * 1_000_003 + step))
        self.counters[0], self.counters[1] = position + self.n_rays, rays_for_next(self, self.parts.options)
        loss = seen.loss.mean()
        value = float(loss.detach())
        if not math.isfinite(value):
            return value, value
        extra = penalty(self.regularizers, self.field.field, step)
        if extra is not None:
            loss = loss + extra
        if loss.requires_grad:  # not where no ray meets anything
            loss.backward()
        if allowed(self.parts.hooks, step, seen.loss.detach()):
            self.optimizer.step()
        return value, float(torch.mean((seen.color.detach() - rays.target) ** 2))

    def eye(self, field: SceneField) -> ProposalEye:
        assert isinstance(field, ProposalField)
        return ProposalEye(field, self.looking)

    def finish(self, field: SceneField) -> None:
        return None

    def shade(self, radiance: Radiance, samples: Samples, rays: Rays) -> Rendered:
        """What a field shows at samples along rays."""
        density, color = radiance_at(samples, rays.origins, rays.directions, radiance)
        if self.ray_losses.gradient_scaling:
            density, color = scale_gradients(samples, self.ray_losses.gradient_scaling, density, color)
        return composite(samples, density, color, background=rays.background)
