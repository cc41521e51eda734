"""Training steps of a field inside and outside of a sphere: PyTorch over the native encodings and networks.

Off the CPU the host waits for three sizes in a step, and for nothing else: how many samples lie in occupied cells
inside, how many of them are seen, and how many rays go on outside.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fieldforge.apps.fit.loop import Hook, allowed
from fieldforge.apps.fit.losses.base import Loss
from fieldforge.apps.fit.on_device import Lagging
from fieldforge.apps.fit.optimizers.base import Optimizer, Parameters
from fieldforge.apps.fit.scene.options import SceneOptions
from fieldforge.apps.fit.scene.rays import RayDraw, Rays
from fieldforge.apps.fit.scene.samplers.base import RayStep, StepParts
from fieldforge.apps.fit.scene.step import LEAST_RAYS, SceneOptimizer, rays_for_next
from fieldforge.apps.fit.scene.unseen import close_unseen
from fieldforge.apps.render.inside_outside import InsideOutsideEye, see
from fieldforge.apps.render.radiance import new_grid
from fieldforge.devices import device_of, seeded
from fieldforge.fields.kinds.inside_outside import InsideOutsideField
from fieldforge.fields.kinds.scene import SceneField
from fieldforge.registry import build
from fieldforge.renderers.volume import Seen


class InsideOutsideStep(RayStep):
    """One step on samples in occupied cells inside, and even in inverse radius outside.

    Args:
        field: what is trained.
        draw, loss, optimizer, options, seed, hooks: as for `fieldforge.apps.fit.scene.step.SceneStep`.
    """

    why_plain = "a field inside and outside of a sphere has no native step"

    def __init__(
        self,
        field: InsideOutsideField,
        draw: RayDraw,
        loss: Loss,
        optimizer: Optimizer,
        options: SceneOptions,
        *,
        seed: int = 0,
        hooks: Sequence[Hook] = (),
    ) -> None:
        self.field, self.loss, self.options, self.seed, self.hooks = field, loss, options, seed, hooks
        self.draw = draw.there(device_of(field))
        self.grid = new_grid(field.inside, options.occupancy)
        self.step_length = math.dist(field.low, field.high) / options.samples_across
        self.counters = torch.tensor([0, max(LEAST_RAYS, options.batch_size // options.samples_across)], device="cpu")
        self.optimizer: SceneOptimizer = SceneOptimizer(optimizer, self.grid, self.counters)
        is_there = device_of(field).type != "cpu"
        self.late = Lagging(self, reads_before=self._looks_around) if is_there else None

    def __call__(self, step: int, factor: float) -> tuple[float, float]:
        if self.late is not None:
            return self.late(step, factor)
        rays, seen, per_ray = self._tried(step, factor)
        loss = per_ray.mean()
        value = float(loss.detach())
        if not math.isfinite(value):
            return value, value
        self._go_back(step, loss, per_ray)
        return value, float(torch.mean((seen.color.detach() - rays.target) ** 2))

    def figures(self, step: int, factor: float) -> Tensor:
        """(2,) loss and mean squared error, left on the device: a step whose losses are read later."""
        rays, seen, per_ray = self._tried(step, factor)
        loss = per_ray.mean()
        error = torch.mean((seen.color.detach() - rays.target) ** 2)
        told = torch.stack([loss.detach(), error])
        self._go_back(step, loss, per_ray)
        return told

    def _looks_around(self, step: int) -> bool:
        """Whether the grid is looked at before a step."""
        return step % self.options.update_every == 0

    def _tried(self, step: int, factor: float) -> tuple[Rays, Seen, Tensor]:
        """Look at the grid if it is time, draw, and see: rays, what they show, and their losses."""
        if self._looks_around(step):
            generator = seeded(self.seed * 1_000_003 + step)
            # a step whose gradients were not finite shows in the next loss, and the fit steps back: not an error here
            density = self.field.inside_density
            self.grid.update(lambda points: density(points).nan_to_num(0.0), step, generator=generator)
        position, self.n_rays = self.counters.tolist()
        rays = self.draw(position, self.n_rays)
        self.optimizer.set_learning_rate_factor(factor)
        self.optimizer.zero_grad()
        seen = see(
            self.field, self.grid, rays.origins, rays.directions, step=self.step_length,
            near=self.options.near_plane, early_stop=self.options.early_stop, offset=rays.offset,
        )  # fmt: skip
        self.n_marched, self.n_evaluated = seen.n_marched, seen.n_evaluated
        self.counters.copy_(torch.tensor([position + self.n_rays, rays_for_next(self, self.options)], device="cpu"))
        return rays, seen, self.loss.per_sample(seen.color, rays.target)

    def _go_back(self, step: int, loss: Tensor, per_ray: Tensor) -> None:
        loss.backward()
        if allowed(self.hooks, step, per_ray.detach()):
            self.optimizer.step()

    def eye(self, field: SceneField) -> InsideOutsideEye:
        assert isinstance(field, InsideOutsideField)
        return InsideOutsideEye(
            field, self.grid, step=self.step_length, near=self.options.near_plane, early_stop=self.options.early_stop
        )

    @torch.no_grad()
    def finish(self, field: SceneField) -> None:
        assert isinstance(field, InsideOutsideField)
        field.inside.bricks.copy_(self.grid.bricks)


def inside_outside_step(field: InsideOutsideField, parts: StepParts) -> InsideOutsideStep:
    """The step of a configuration with the sections optimizer and loss."""
    inside = field.inside
    networks = [inside.network, inside.rgb_network, field.outside_network, field.outside_rgb_network]
    parameters = Parameters.of(field, networks)
    optimizer: Optimizer = build("optimizer", parts.config["optimizer"], path="optimizer", parameters=parameters)
    loss: Loss = build("loss", parts.config["loss"], path="loss")
    step = InsideOutsideStep(
        field, parts.draw, loss, optimizer, parts.options, seed=parts.seed, hooks=parts.hooks
    )  # fmt: skip
    close_unseen(step.grid, parts.draw.cameras, parts.draw.views)
    return step
