"""A training step of a scene: draw rays, march, render, compare, go back, update; and now and then look where
anything is.

How many rays a step has follows from how many samples the last ones had, so that a step's work stays the same while
the scene takes shape. That, the position among the pixels and the occupancy grid are the state of a fit beside the
optimizer's; `SceneOptimizer` keeps them together for checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fieldforge.apps.fit.fused import NATIVE_LOSSES
from fieldforge.apps.fit.half import Half, LossScale
from fieldforge.apps.fit.loop import Hook, allowed
from fieldforge.apps.fit.losses.base import Loss
from fieldforge.apps.fit.losses.robust import Huber
from fieldforge.apps.fit.on_device import Lagging
from fieldforge.apps.fit.optimizers.base import Optimizer, Parameters
from fieldforge.apps.fit.ranks import current
from fieldforge.apps.fit.regularizers import Regularizer, penalty, regularizers_of
from fieldforge.apps.fit.scene.camera_steps import CameraSteps
from fieldforge.apps.fit.scene.options import SceneOptions
from fieldforge.apps.fit.scene.poses import PoseRefinement
from fieldforge.apps.fit.scene.ray_losses import NO_RAY_LOSSES, RayLosses
from fieldforge.apps.fit.scene.rays import RayDraw, Rays
from fieldforge.apps.fit.scene.samplers.base import RayStep
from fieldforge.apps.fit.scene.unseen import close_transparent, close_unseen
from fieldforge.apps.render.radiance import Eye, asked_along, density_of, native_renderer, new_grid, parts_of
from fieldforge.devices import device_of, seeded
from fieldforge.fields.kinds.radiance import RadianceField
from fieldforge.fields.kinds.scene import SceneField
from fieldforge.kernels.cpu_radiance import RadianceRenderer, Sights
from fieldforge.registry import build
from fieldforge.renderers import volume
from fieldforge.renderers.marching import march
from fieldforge.renderers.occupancy import WARM_UP, OccupancyGrid

MOST_RAYS = 2**16
LEAST_RAYS = 64


class SceneOptimizer(Optimizer):
    """An optimizer, and what else the steps of a scene depend on.

    Args:
        optimizer: of what the field says of places.
        grid, counters: the rest of the state of a step.
        others: optimizers of what belongs to rays and photos, by name; they move in PyTorch, whoever made the step.
        scale: of the loss, where there is one.
    """

    otype = "SceneOptimizer"

    def __init__(
        self,
        optimizer: Optimizer,
        grid: OccupancyGrid | None,
        counters: Tensor,
        others: Mapping[str, Optimizer] | None = None,
        scale: LossScale | None = None,
    ) -> None:
        self.optimizer, self.grid, self.counters, self.scale = optimizer, grid, counters, scale
        self.others = dict(others or {})
        more = [parameter for one in self.others.values() for parameter in one.parameters]
        first = optimizer.parameters
        super().__init__(Parameters(matrix=first.matrix, other=[*first.other, *more]))
        self.inner |= {"optimizer": optimizer} | self.others

    def update(self) -> None:
        for optimizer in self.inner.values():
            optimizer.step()

    def count_outside_step(self) -> None:
        """A step of the field was made elsewhere: count it, and make the one of the others by their gradients."""
        self.optimizer.count_outside_step()
        for optimizer in self.others.values():
            optimizer.step()
        self._n_steps += 1

    def averaged(self) -> list[Tensor]:
        return [average for optimizer in self.inner.values() for average in optimizer.averaged()]

    def own_state(self) -> dict[str, Tensor]:
        grid, beside = self.grid, {} if self.scale is None else self.scale.state()
        beside["counters"] = self.counters
        if grid is None:
            return beside
        return beside | {
            "occupancy.density": grid.density,
            "occupancy.bricks": grid.bricks,
            "occupancy.superbricks": grid.superbricks,
        }


def rays_for_next(step: RayStep, options: SceneOptions) -> int:
    """As many as fill the budget, of which marched samples take an eighth; changes by a quarter at most."""
    cost = step.n_evaluated + step.n_marched / 8
    wanted = options.batch_size * step.n_rays / max(cost, 1.0)
    wanted = min(max(wanted, 0.75 * step.n_rays), 1.25 * step.n_rays + 1)
    return int(min(max(wanted, LEAST_RAYS), MOST_RAYS))


class CellStep(RayStep):
    """A step on samples in the occupied cells of a grid, of which a field keeps the occupied ones in the end.

    Args:
        field: what is trained.
        grid: where something is.
        options: of the fit.

    Attributes:
        step_length, cone_angle: of samples along a ray.
        counters: (2,) position among the pixels, and rays in the next step.
    """

    def __init__(self, field: RadianceField, grid: OccupancyGrid, options: SceneOptions) -> None:
        self.grid, self.options = grid, options
        self.step_length = math.dist(*field.innermost) / options.samples_across
        self.cone_angle = options.cone_angle_for(field.n_cascades)
        self.counters = torch.tensor([0, max(LEAST_RAYS, options.batch_size // options.samples_across)], device="cpu")

    def eye(self, field: SceneField) -> Eye:
        assert isinstance(field, RadianceField)
        return Eye(
            field, self.grid, step=self.step_length, cone_angle=self.cone_angle, near=self.options.near_plane,
            early_stop=self.options.early_stop,
        )  # fmt: skip

    @torch.no_grad()
    def finish(self, field: SceneField) -> None:
        assert isinstance(field, RadianceField)
        field.bricks.copy_(self.grid.bricks)


class SceneStep(CellStep):
    """One step on samples in occupied cells.

    Args:
        field: what is trained.
        draw: rays by position.
        loss, optimizer, hooks: as in `fieldforge.apps.fit.loop.PlainStep`; the loss is one of rays.
        options: of the fit.
        beside: losses of rays beside that of their colours.
        others: optimizers of what belongs to rays and photos; `optimizer` has the rest.
        poses: movements of the cameras, where they are refined.
        seed: of the cells that are looked at.
        regularizers: penalties on the parameters, added to the loss.
    """

    def __init__(
        self,
        field: RadianceField,
        draw: RayDraw,
        loss: Loss,
        optimizer: Optimizer,
        options: SceneOptions,
        *,
        beside: RayLosses = NO_RAY_LOSSES,
        others: Mapping[str, Optimizer] | None = None,
        poses: PoseRefinement | None = None,
        seed: int = 0,
        hooks: Sequence[Hook] = (),
        regularizers: Sequence[Regularizer] = (),
    ) -> None:
        self.beside, self.regularizers, self.ranks = beside, regularizers, current()
        if self.ranks.n > 1 and poses is not None:
            raise ValueError("fit.refine_cameras: several processes cannot share it; start one")
        super().__init__(field, new_grid(field, options.occupancy), options)
        self.poses = poses
        self.field, self.draw, self.loss, self.seed, self.hooks = field, draw, loss, seed, hooks
        self.half = Half(options.precision, device_of(field))
        self.optimizer: SceneOptimizer = SceneOptimizer(optimizer, self.grid, self.counters, others, self.half.scale)
        native = self._native(optimizer)
        self.native = None if isinstance(native, str) else native
        self.why_plain = native if isinstance(native, str) else ""
        is_there = device_of(field).type != "cpu" and self.ranks.n == 1
        self.late = Lagging(self, reads_before=self._looks_around) if is_there else None

    def __call__(self, step: int, factor: float) -> tuple[float, float]:
        if self.late is not None:
            return self.late(step, factor)
        rays = self._begin(step, factor)
        result = self._plain(step, rays) if self.native is None else self._fused(step, rays)
        self._end()
        return result

    def figures(self, step: int, factor: float) -> Tensor:
        """(2,) loss and mean squared error, left on the device: a step whose losses are read later.

        The host waits twice: for how many samples there are in occupied cells, and how many of them are seen. All that
        comes after is as large as these numbers, so steps are not recorded as one CUDA graph.
        """
        rays = self._begin(step, factor)
        loss, per_ray, seen = self._seen(step, rays)
        error = torch.mean((seen.color.detach() - rays.target) ** 2)
        self.n_marched, self.n_evaluated = seen.n_marched, seen.n_evaluated
        told = torch.stack([loss.detach(), error])
        self._go_back(step, loss, per_ray)
        self._end()
        return told

    def _looks_around(self, step: int) -> bool:
        """Whether the grid is looked at before a step."""
        return step % self.options.update_every == 0

    def _begin(self, step: int, factor: float) -> Rays:
        """Look at the grid if it is time, and draw."""
        if self._looks_around(step):
            generator = seeded(self.seed * 1_000_003 + step)
            # a look at all of many cells costs as much as several steps: only the first is one
            is_dear = self.grid.density.numel() > self.options.batch_size
            iteration = step + WARM_UP if step and is_dear else step
            density = density_of(self.field, generator)
            # a step whose gradients were not finite shows in the next loss, and the fit steps back: not an error here
            self.grid.update(lambda points: density(points).nan_to_num(0.0), iteration, generator=generator)
            if not self.grid.bricks.any():  # a field that is the same everywhere, as some begin, exceeds no mean
                self.grid.repack(0.0)
            self.ranks.same(self.grid.density, self.grid.bricks, self.grid.superbricks)
        position, self.n_rays = self.counters.tolist()
        part = self.ranks.share(self.n_rays)
        self.optimizer.set_learning_rate_factor(factor)
        return self.draw(position + part.start, part.stop - part.start)

    def _end(self) -> None:
        position = int(self.counters[0])
        self.counters.copy_(torch.tensor([position + self.n_rays, rays_for_next(self, self.options)], device="cpu"))

    def length_at(self, step: int) -> float:
        """Of the samples of a step."""
        coarse = self.options.coarse_start * self.options.n_steps
        factor = 4 if step < 0.25 * coarse else 2 if step < coarse else 1
        return factor * self.step_length

    def _of_rays(self, rays: Rays) -> tuple[Tensor | None, Tensor | None]:
        """Times and photos, where the field asks for them."""
        return rays.time if self.field.has_time else None, rays.photo if self.field.appearance else None

    def _behind(self, rays: Rays, directions: Tensor) -> Tensor:
        return rays.background if self.field.background_network is None else self.field.behind(directions)

    def _fused(self, step: int, rays: Rays) -> tuple[float, float]:
        assert self.native is not None
        samples = march(
            rays.origins, rays.directions, self.grid, step=self.length_at(step), cone_angle=self.cone_angle,
            near=self.options.near_plane, offset=rays.offset,
        )  # fmt: skip
        times, photos = self._of_rays(rays)
        self.optimizer.zero_grad()
        code, background = self.field.code(rays.directions, photos), self._behind(rays, rays.directions)
        grad_code = torch.empty(self.n_rays, self.field.appearance) if self.field.appearance else None
        grad_background = torch.empty(self.n_rays, 3) if background.requires_grad else None
        rules = self.optimizer.optimizer.rules()
        ray_loss = torch.empty(self.n_rays) if self.hooks else None
        sights = Sights(
            samples, rays.origins, rays.directions, code.detach(), background.detach(), self.options.early_stop,
            None if times is None else self.field.duration * times,
        )  # fmt: skip
        result = self.native.train(
            sights,
            rays.target,
            [rules[i] for i in self._order],
            loss=_native_name(self.loss),
            huber_delta=getattr(self.loss, "delta", 1.0),
            ray_loss=ray_loss,
            grad_background=grad_background,
            grad_code=grad_code,
            may_move=None if ray_loss is None else lambda: allowed(self.hooks, step, ray_loss),
        )
        if result.has_moved:
            if grad_code is not None:
                code[:, code.shape[1] - grad_code.shape[1] :].backward(grad_code)
            if grad_background is not None:
                background.backward(grad_background)
            self.optimizer.count_outside_step()
        self.n_marched, self.n_evaluated = samples.n_samples, result.n_evaluated
        return result.loss, result.squared_error

    def _plain(self, step: int, rays: Rays) -> tuple[float, float]:
        loss, per_ray, seen = self._seen(step, rays)
        error = torch.mean((seen.color.detach() - rays.target) ** 2) * (len(rays.target) / self.n_rays)
        value, squared, n_marched, n_evaluated = self.ranks.sums(
            float(loss.detach()), float(error), seen.n_marched, seen.n_evaluated
        )
        self.n_marched, self.n_evaluated = int(n_marched), int(n_evaluated)
        if math.isfinite(value):
            self._go_back(step, loss, per_ray)
            return value, squared
        return value, value

    def _seen(self, step: int, rays: Rays) -> tuple[Tensor, Tensor, volume.Seen]:
        """The loss, that of each ray, and what is seen."""
        self.optimizer.zero_grad()
        origins, directions = rays.origins, rays.directions
        if self.poses is not None:
            origins, directions = self.poses(origins, directions, rays.photo)
        asked = asked_along(self.field, *self._of_rays(rays), along=directions)
        radiance, density = map(self.half.answers, asked)
        seen = volume.render(
            origins, directions, radiance, self.grid, density=density, tell_rays=True, step=self.length_at(step),
            cone_angle=self.cone_angle, near=self.options.near_plane, background=self._behind(rays, directions),
            early_stop=self.options.early_stop, offset=rays.offset,
            gradients_whole_from=self.beside.gradient_scaling, keep_samples=True,
        )  # fmt: skip
        assert seen.samples is not None
        assert seen.weights is not None
        length = math.dist(self.field.low, self.field.high)
        per_ray = self.loss.per_sample(seen.color, rays.target)
        per_ray = per_ray + self.beside.of_rays(seen.samples, seen.weights, seen.opacity, length)
        # every ray counts the same, whichever process has it; one process has them all
        loss = per_ray.mean() if self.ranks.n == 1 else per_ray.sum() / self.n_rays
        return loss, per_ray, seen

    def _go_back(self, step: int, loss: Tensor, per_ray: Tensor) -> None:
        """Differentiate and update."""
        extra = penalty(self.regularizers, self.field, step)
        if extra is not None:
            loss = loss + extra / self.ranks.n
        scale = self.half.scale
        if loss.requires_grad:  # not where no ray meets anything
            (loss if scale is None else scale.up(loss)).backward()
        self._add_gradients()
        is_sound = scale is None or scale.take_off(list(self.optimizer.parameters))
        if isinstance(cameras := self.optimizer.others.get("cameras"), CameraSteps):
            cameras.note(per_ray.detach())
        if allowed(self.hooks, step, per_ray.detach()) and is_sound:
            self.optimizer.step()

    def _add_gradients(self) -> None:
        """Of all processes, on each of them; a parameter that none moves keeps no gradient."""
        if self.ranks.n == 1:
            return
        parameters = list(self.optimizer.parameters)
        has_one = self.ranks.any(*(parameter.grad is not None for parameter in parameters))
        for parameter, is_moved in zip(parameters, has_one, strict=True):
            if is_moved and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.ranks.add(*(parameter.grad for parameter in parameters if parameter.grad is not None))

    def _native(self, optimizer: Optimizer) -> RadianceRenderer | str:
        if self.ranks.n > 1:
            return f"{self.ranks.n} processes share the steps, and add their gradients before the update"
        if self.half.is_on:
            return self.half.why_plain
        if self.beside != NO_RAY_LOSSES:
            return f"losses of rays ({self.beside.names}) are not native"
        if self.poses is not None:
            return "refining cameras takes gradients in the rays, which the native step does not give"
        if type(self.loss) not in NATIVE_LOSSES:
            return f"the loss {self.loss.otype} is not native"
        if self.regularizers:
            return f"the regularizer {self.regularizers[0].otype} is not native"
        moved = optimizer.moved()
        if isinstance(moved, str):
            return moved
        found = native_renderer(self.field)
        if isinstance(found, str):
            return found
        table, density, color = parts_of(self.field)
        place = {id(parameter): i for i, parameter in enumerate(optimizer.parameters)}
        self._order = [place[id(parameter)] for parameter in (table, *density, *color)]
        return RadianceRenderer(found.shape, table, density, color, moved=[moved[i] for i in self._order])


def _native_name(loss: Loss) -> str:
    return "Huber" if isinstance(loss, Huber) else loss.otype


def scene_step(
    field: RadianceField,
    draw: RayDraw,
    config: Mapping[str, Any],
    options: SceneOptions,
    *,
    seed: int = 0,
    hooks: Sequence[Hook] = (),
    closes: bool = True,
) -> SceneStep:
    """The step of a configuration with the sections optimizer and loss, and regularizers if it has them.

    Cells that no camera of `draw` sees, or that its photos see through, are closed.

    Args:
        field, draw, options, seed, hooks: as for `SceneStep`.
        config: with those sections, and ray_losses where there are any.
        closes: whether the cameras of `draw` speak of the field's box, so that cells can be closed.
    """
    networks = [field.network, field.rgb_network]
    found, of_rays = Parameters.of(field, networks), {id(parameter) for parameter in field.of_rays}
    others_of_places = [parameter for parameter in found.other if id(parameter) not in of_rays]
    of_places = Parameters(found.matrix, others_of_places, found.factors)
    optimizer: Optimizer = build("optimizer", config["optimizer"], path="optimizer", parameters=of_places)
    others, poses = dict[str, Optimizer](), None
    if of_rays:
        others["of_rays"] = build(
            "optimizer", config["optimizer"], path="optimizer", parameters=Parameters(other=field.of_rays)
        )
    if options.refine_cameras:
        low, high = torch.tensor(field.low), torch.tensor(field.high)
        poses = PoseRefinement(len(draw.views), (low + high) / 2, field.longest_side / 2)
        others["cameras"] = CameraSteps(
            poses, learning_rate=options.camera_rate, first=max(1, round(options.camera_start * options.n_steps))
        )
    loss: Loss = build("loss", config["loss"], path="loss")
    regularizers = regularizers_of(config, field)
    beside = RayLosses.of(config.get("ray_losses", {}))
    step = SceneStep(
        field, draw, loss, optimizer, options, beside=beside, others=others, poses=poses, seed=seed, hooks=hooks,
        regularizers=regularizers,
    )  # fmt: skip
    step.draw = draw.there(device_of(field))
    if closes:
        close_unseen(step.grid, draw.cameras, draw.views)
    if closes and poses is None:  # from a wrong place a photo sees through what is there
        close_transparent(step.grid, draw.scene, draw.cameras, draw.views)
    return step
