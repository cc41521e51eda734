"""What the steps of fields with proposals share: rays, budget, optimizer, and the eye.

Off the CPU every ray has as many samples as every other, those that miss the box too, whose samples have no length and
show nothing. So a step is as large as its shapes say, and the host waits for nothing in it; on a CUDA device its passes
are recorded and replayed. How many rays a step has grows in the first steps, as on the CPU, and then stays.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fieldforge.apps.fit.fused import fitted_changes
from fieldforge.apps.fit.loop import allowed
from fieldforge.apps.fit.losses.base import Loss
from fieldforge.apps.fit.on_device import Lagging, Recorded
from fieldforge.apps.fit.optimizers.base import Optimizer, Parameters
from fieldforge.apps.fit.regularizers import Regularizer, counting, penalty_of, regularizers_of
from fieldforge.apps.fit.scene.ray_losses import RayLosses
from fieldforge.apps.fit.scene.rays import Rays
from fieldforge.apps.fit.scene.samplers.base import RayStep, StepParts
from fieldforge.apps.fit.scene.step import LEAST_RAYS, SceneOptimizer, rays_for_next
from fieldforge.apps.render.proposals import Looking, ProposalEye
from fieldforge.devices import device_of, seeded
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


class Drawn(NamedTuple):
    """What a step is about, whatever the fields say."""

    rays: Rays
    jitter: Tensor
    """(R, ...) random numbers in [0, 1), as the step draws them."""
    exponent: float | Tensor = 1.0
    """On weights before they are resampled."""


class ProposedStep(RayStep):
    """One step of a field and its proposals.

    Args:
        field: what is trained.
        looking: where it is asked.
        parts: rays, configuration, seed.

    The state beside the optimizer's: position among the pixels, rays in the next step, steps since the proposals moved.

    Attributes:
        recorded: the passes of a step on a CUDA device, where they can be recorded; says so where they cannot.
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
        self.device = device_of(field)
        self.draw = parts.draw.there(self.device)
        self.late = None if self.device.type == "cpu" else Lagging(self)
        can_be_recorded = self.device.type == "cuda" and not parts.hooks and not fitted_changes(field)
        self.recorded = Recorded(self.passes, list(self.optimizer.parameters)) if can_be_recorded else None

    @property
    def every(self) -> bool:
        """Whether rays that miss the box have samples too."""
        return self.late is not None

    @abstractmethod
    def drawn(self, step: int, rays: Rays, generator: torch.Generator) -> Drawn:
        """What the step draws beside its rays, and what follows from its number."""

    def teaches(self, step: int) -> bool:
        """Whether the proposals learn in a step."""
        return True

    @abstractmethod
    def tried(self, drawn: Drawn, teaches: bool) -> Tried:
        """Look along the rays, and compare; sets n_marched and n_evaluated."""

    def __call__(self, step: int, factor: float) -> tuple[float, float]:
        if self.late is not None:
            return self.late(step, factor)
        drawn, teaches = self._begin(step)
        self.optimizer.set_learning_rate_factor(factor)
        self.optimizer.zero_grad()
        seen = self.tried(drawn, teaches)
        self._end()
        loss = seen.loss.mean()
        value = float(loss.detach())
        if not math.isfinite(value):
            return value, value
        self._go_back(loss, counting(self.regularizers, step))
        if allowed(self.parts.hooks, step, seen.loss.detach()):
            self.optimizer.step()
        return value, float(torch.mean((seen.color.detach() - drawn.rays.target) ** 2))

    def figures(self, step: int, factor: float) -> Tensor:
        """(2,) loss and mean squared error, left on the device: a step whose losses are read later."""
        drawn, teaches = self._begin(step)
        exponent = torch.full((), float(drawn.exponent), device=self.device)
        kind = teaches, tuple(counting(self.regularizers, step))
        go = self.passes if self.recorded is None else self.recorded
        figures, per_ray = go([*drawn.rays, drawn.jitter, exponent], kind)
        *before, last = self.looking.counts  # known beforehand, as a replayed step sets nothing
        last += before[-1] + 1 if self.looking.joins else 0
        self.n_marched, self.n_evaluated = sum(before) * self.n_rays, last * self.n_rays
        self._end()
        if allowed(self.parts.hooks, step, per_ray):
            self.optimizer.set_learning_rate_factor(factor)
            self.optimizer.step()
        return figures.clone()

    def passes(self, batch: Sequence[Tensor], kind: Hashable) -> list[Tensor]:
        """Forward and back over what was drawn: figures (2,) and losses (R,)."""
        assert isinstance(kind, tuple)
        teaches, regularizers = kind
        rays = Rays(*batch[:-2])
        self.optimizer.zero_grad()
        seen = self.tried(Drawn(rays, *batch[-2:]), teaches)
        loss = seen.loss.mean()
        error = torch.mean((seen.color.detach() - rays.target) ** 2)
        self._go_back(loss, regularizers)
        return [torch.stack([loss.detach(), error]), seen.loss.detach()]

    def _begin(self, step: int) -> tuple[Drawn, bool]:
        position, self.n_rays, _ = self.counters.tolist()
        drawn = self.drawn(step, self.draw(position, self.n_rays), seeded(self.parts.seed * 1_000_003 + step))
        return drawn, self.teaches(step)

    def _end(self) -> None:
        position = int(self.counters[0])
        self.counters[0], self.counters[1] = position + self.n_rays, rays_for_next(self, self.parts.options)

    def _go_back(self, loss: Tensor, regularizers: Sequence[Regularizer]) -> None:
        extra = penalty_of(regularizers, self.field.field)
        if extra is not None:
            loss = loss + extra
        if loss.requires_grad:  # not where no ray meets anything
            loss.backward()

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
