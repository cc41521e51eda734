"""A training step of a student of a scene: features, then density and colour at points, then pixels (Fang et al. 2023,
"One is All: Bridging the Gap Between Neural Radiance Fields Architectures with Progressive Volume Distillation").

    step = DistillationStep(student, teacher, draw, rules, ...)
    step.on_step(number, n_steps)          # the loop says how far it is; that decides the stage
    loss, error = step(number, factor)

Teacher and student are asked at the same places, along the same directions: no picture of the teacher is ever
rendered, and what both get wrong about sampling cancels. The first two stages need no compositing. In the third the
pixels of shared samples are compared, before random backgrounds; with photos, they are those of the photos, and the
points stay the teacher's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fieldforge.apps.convert.answers import Answers, answers, n_features
from fieldforge.apps.convert.memory import Memory, points_of_rows, rays_of_rows, rows_of_points, rows_of_rays
from fieldforge.apps.convert.points import PointDraw, Points, cells_of, close_faint, points_of, shared_samples
from fieldforge.apps.convert.rules import FEATURES, PIXELS, POINTS, Rules
from fieldforge.apps.convert.teacher import SceneTeacher
from fieldforge.apps.fit.loop import Hook, allowed
from fieldforge.apps.fit.losses.base import Loss
from fieldforge.apps.fit.on_device import Lagging
from fieldforge.apps.fit.optimizers.base import Optimizer, Parameters
from fieldforge.apps.fit.regularizers import penalty, regularizers_of
from fieldforge.apps.fit.scene.options import SceneOptions
from fieldforge.apps.fit.scene.rays import Rays
from fieldforge.apps.fit.scene.step import MOST_RAYS, CellStep, SceneOptimizer, rays_for_next
from fieldforge.apps.render.radiance import new_grid
from fieldforge.devices import device_of, seeded
from fieldforge.fields.kinds.radiance import RadianceField
from fieldforge.fields.kinds.scene import SceneField
from fieldforge.registry import build
from fieldforge.renderers.compositing import composite
from fieldforge.renderers.samples import Samples

N_BEHIND = 256
"""Directions a step in which the colours behind the box are compared, where they are learned."""
N_COUNTED = 512
"""Rays along which is counted how many samples the teacher sees."""
_TINY = 1e-12
"""Under a root: its slope at 0 is infinite."""


class DistillationStep(CellStep):
    """One step towards a teacher.

    Args:
        student: what is trained.
        teacher: whose answers are learnt.
        draw: rays by position.
        has_photos: whether the rays' targets are pixels of photos; else the teacher says what they show.
        rules: of the stages.
        options: of the fit.
        loss: of pixels.
        optimizer: of what the student says of places.
        others: optimizers of what belongs to rays.
        regularizers: penalties on the parameters, while pixels are learnt.
        seed: of the points.
        hooks: as in `fieldforge.apps.fit.loop.PlainStep`; of squared differences of points, then losses of rays.

    Attributes:
        grid: where the student looks, as its teacher holds something there; it does not change before the end.
        stage: of the next step.
    """

    why_plain = "a student learns from another field"

    def __init__(
        self,
        student: RadianceField,
        teacher: SceneTeacher,
        draw: Callable[[int, int], Rays],
        *,
        has_photos: bool,
        rules: Rules,
        options: SceneOptions,
        loss: Loss,
        optimizer: Optimizer,
        others: Mapping[str, Optimizer] | None = None,
        regularizers: Sequence[Any] = (),
        seed: int = 0,
        hooks: Sequence[Hook] = (),
    ) -> None:
        super().__init__(student, cells_of(teacher, new_grid(student, options.occupancy)), options)
        self.student, self.teacher, self.draw, self.has_photos = student, teacher, draw, has_photos
        self.rules, self.loss, self.hooks = rules, loss, hooks
        self.regularizers, self.seed = regularizers, seed
        self.n_fresh = max(1, round((1 - rules.remembered) * options.batch_size))
        self.points, self.fresh = (
            PointDraw(self.grid, batch_size=n, along_rays=rules.along_rays, seed=seed)
            for n in (options.batch_size, self.n_fresh)
        )
        self.memory = Memory(self._fresh_points, n_fresh=self.n_fresh, seed=seed) if rules.remembered else None
        self.ray_memory: Memory | None = None
        self.optimizer: SceneOptimizer = SceneOptimizer(optimizer, self.grid, self.counters, others)
        self.shares_features = n_features(student) > 0 and n_features(student) == n_features(teacher.field)
        self.stage = PIXELS
        self._n_seen = 0
        self.late = None if device_of(student).type == "cpu" else Lagging(self)

    def on_step(self, step: int, n_steps: int) -> None:
        """Told before each step how far the fit is."""
        stage = self.rules.stage(step, n_steps)
        self.stage = POINTS if stage == FEATURES and not self.shares_features else stage

    def __call__(self, step: int, factor: float) -> tuple[float, float]:
        if self.late is not None:
            return self.late(step, factor)
        loss, error, per_sample, n_passed = self._learnt(step, factor)
        value = float(loss.detach())
        if not math.isfinite(value):
            return value, value
        self._go_back(step, loss, per_sample, n_passed)
        return value, float(error)

    def figures(self, step: int, factor: float) -> Tensor:
        """(2,) loss and mean squared error, left on the device: a step whose losses are read later.

        As in a fit the host waits for how many samples there are, and how many of them are seen; once more where a
        teacher looks along new rays, and the student along these and remembered ones.
        """
        loss, error, per_sample, n_passed = self._learnt(step, factor)
        told = torch.stack([loss.detach(), error])
        self._go_back(step, loss, per_sample, n_passed)
        return told

    def _learnt(self, step: int, factor: float) -> tuple[Tensor, Tensor, Tensor, int]:
        """The loss, the mean squared error, the loss of each sample, and how many pixels are drawn; 0 where no rays
        are."""
        position, self.n_rays = self.counters.tolist()
        self.optimizer.zero_grad()
        self.optimizer.set_learning_rate_factor(factor)
        n_passed = self.n_rays
        memory = self.memory if self.stage == POINTS else None
        if memory is not None:
            n_passed = 0
            loss, error, per_sample = self._points(*points_of_rows(memory(step, self.options.batch_size)))
        else:
            if self.remembers_rays:
                n_passed = self._n_filling(self.n_fresh)
                rays = rays_of_rows(self._ray_memory(n_passed)(position // n_passed, self.n_rays))
            else:
                rays = self.draw(position, self.n_rays)
            samples = self._along(rays)
            seen = points_of(samples, rays)
            if self.stage == PIXELS:
                loss, error, per_sample = self._pixels(rays, samples, seen)
            else:
                loss, error, per_sample = self._points(self.points(step, seen))
        if self.student.background_network is not None:
            loss = loss + self._behind(step)
        return loss, error, per_sample, n_passed

    def _go_back(self, step: int, loss: Tensor, per_sample: Tensor, n_passed: int) -> None:
        """Differentiate, update and count."""
        if self.stage == PIXELS and (extra := penalty(self.regularizers, self.student, step)) is not None:
            loss = loss + extra
        if loss.requires_grad:  # not where no ray meets anything
            loss.backward()
        if allowed(self.hooks, step, per_sample.detach()):
            self.optimizer.step()
        if n_passed:
            position = int(self.counters[0]) + n_passed
            self.counters.copy_(torch.tensor([position, rays_for_next(self, self.options)], device="cpu"))

    @torch.no_grad()
    def finish(self, field: SceneField) -> None:
        if self.rules.faint:
            close_faint(self.grid, field.density, length=self.step_length, least=self.rules.faint)
        super().finish(field)

    @property
    def asks_along_rays(self) -> bool:
        """Whether the teacher says anything of the samples of this stage."""
        if self.stage != PIXELS or self.rules.points_weight > 0:
            return True
        return not self.has_photos and not self.remembers_rays

    @property
    def remembers_rays(self) -> bool:
        """Whether rays of this stage are those of earlier steps, with what the teacher showed along them."""
        is_whole = self.stage == PIXELS and not self.has_photos and self.rules.points_weight == 0
        return is_whole and self.rules.remembered > 0

    def _along(self, rays: Rays) -> Samples:
        """The samples of rays, as far as the teacher, or where it is not asked the student, lets light through."""
        samples, self.n_marched = self._shared(rays, self.teacher if self.asks_along_rays else self.student)
        self.n_evaluated = samples.n_samples
        return samples

    def _shared(self, rays: Rays, who: SceneTeacher | RadianceField) -> tuple[Samples, int]:
        return shared_samples(
            rays, self.grid, who.density, step=self.step_length, cone_angle=self.cone_angle,
            near=self.options.near_plane, early_stop=self.options.early_stop,
        )  # fmt: skip

    def _n_filling(self, n_samples: int) -> int:
        """How many rays have so many samples that the teacher sees."""
        if not self._n_seen:
            self._n_seen = max(1, self._shared(self.draw(0, N_COUNTED), self.teacher)[0].n_samples)
        return min(MOST_RAYS, max(1, math.ceil(N_COUNTED * n_samples / self._n_seen)))

    def _fresh_points(self, number: int) -> Tensor:
        """New points of a step that remembers others."""
        at = Points(torch.empty(0, 3), torch.empty(0, 3))
        if self.fresh.n_along:
            n = self._n_filling(self.fresh.n_along)
            rays = self.draw(number * n, n)
            at = points_of(self._shared(rays, self.teacher)[0], rays)
        at = self.fresh(number, at)
        return rows_of_points(at, self.teacher(at.points, at.directions))

    def _ray_memory(self, n: int) -> Memory:
        """Of so many new rays a step."""

        @torch.no_grad()
        def fresh(number: int) -> Tensor:
            rays = self.draw(number * n, n)
            samples, _ = self._shared(rays, self.teacher)
            told = self.teacher(*points_of(samples, rays))
            return rows_of_rays(rays, self._composite(samples, told, self.teacher.field, rays))

        self.ray_memory = self.ray_memory or Memory(fresh, n_fresh=n, seed=self.seed)
        return self.ray_memory

    def _points(self, at: Points, told: Answers | None = None) -> tuple[Tensor, Tensor, Tensor]:
        wants = {"color": self.stage == POINTS, "features": self.stage == FEATURES}
        told = told or self.teacher(at.points, at.directions, **wants)
        said = answers(self.student, at.points, at.directions, side=self.teacher.side, **wants)
        density = density_difference(said, told, self.rules)
        if self.stage == FEATURES:
            assert said.features is not None
            assert told.features is not None
            whole = torch.cat([density[:, None], said.features - told.features], -1)
            return root_mean_square(whole), whole.detach().square().mean(), whole.square().mean(-1)
        loss, color = self._compared(said, told, density)
        return loss, color.detach().square().mean(), (density.square() + color.square().sum(-1)) / 4

    def _compared(self, said: Answers, told: Answers, density: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of density and colour, and the difference (n, 3) of colours."""
        assert said.color is not None
        assert told.color is not None
        color = said.color - told.color
        loss = self.rules.density_weight * root_mean_square(density)
        return loss + self.rules.color_weight * root_mean_square(color), color

    def _pixels(self, rays: Rays, samples: Samples, at: Points) -> tuple[Tensor, Tensor, Tensor]:
        told = self.teacher(at.points, at.directions) if self.asks_along_rays else None
        said = answers(self.student, at.points, at.directions, side=self.teacher.side)
        shown, target = self._composite(samples, said, self.student, rays), rays.target
        if told is not None and not self.has_photos:
            target = self._composite(samples, told, self.teacher.field, rays).detach()
        per_ray = self.loss.per_sample(shown, target)
        loss = (per_ray.mean() + _TINY).sqrt()
        if told is not None and samples.n_samples and self.rules.points_weight:
            loss = loss + self.rules.points_weight * self._compared(
                said, told, density_difference(said, told, self.rules)
            )[0]  # fmt: skip
        return loss, (shown.detach() - target).square().mean(), per_ray

    def _composite(self, samples: Samples, found: Answers, field: SceneField, rays: Rays) -> Tensor:
        background = rays.background
        if isinstance(field, RadianceField) and field.background_network is not None:
            background = field.behind(rays.directions)
        density = found.log_density.clamp(max=80).exp() / self.teacher.side
        assert found.color is not None
        return composite(samples, density, found.color, background=background).color

    def _behind(self, step: int) -> Tensor:
        generator = seeded((self.seed + 1) * 1_000_003 + step)
        directions = functional.normalize(torch.randn(N_BEHIND, 3, generator=generator), dim=-1)
        teacher = self.teacher.field
        assert isinstance(teacher, RadianceField)
        return root_mean_square(self.student.behind(directions) - teacher.behind(directions))


def density_difference(said: Answers, told: Answers, rules: Rules) -> Tensor:
    """(n,) how far a student's density is from its teacher's, as the rules compare them.

    Example:
        >>> said, told = (Answers(torch.tensor(h), None, None) for h in ([-9.0, -9.0, 9.0], [-3.0, 1.0, 8.0]))
        >>> density_difference(said, told, Rules(clip_low=-2.0, clip_high=7.0))
        tensor([  0., -10.,   0.])
    """
    if rules.density == "alpha":
        absorbed = [-torch.expm1(-rules.alpha_length * one.log_density.clamp(max=80).exp()) for one in (said, told)]
        return absorbed[0] - absorbed[1]
    if rules.density == "raw":
        return said.log_density.clamp(max=80).exp() - told.log_density.clamp(max=80).exp()
    target = told.log_density.clamp(rules.clip_low, rules.clip_high)
    is_beyond = (said.log_density <= rules.clip_low) & (target <= rules.clip_low)
    is_beyond |= (said.log_density >= rules.clip_high) & (target >= rules.clip_high)
    return torch.where(is_beyond, 0.0, said.log_density - target)


def root_mean_square(difference: Tensor) -> Tensor:
    """Of all numbers; with a finite slope at 0."""
    return (difference.square().mean() + _TINY).sqrt()


def distillation_step(
    student: RadianceField,
    teacher: SceneTeacher,
    draw: Callable[[int, int], Rays],
    config: Mapping[str, Any],
    options: SceneOptions,
    rules: Rules,
    *,
    has_photos: bool,
    seed: int = 0,
    hooks: Sequence[Hook] = (),
) -> DistillationStep:
    """The step of a configuration with the sections optimizer and loss, and regularizers if it has them."""
    found, of_rays = Parameters.of(student, [student.network, student.rgb_network]), student.of_rays
    apart = {id(parameter) for parameter in of_rays}
    others = [parameter for parameter in found.other if id(parameter) not in apart]
    places = Parameters(found.matrix, others, found.factors)

    def optimizer(parameters: Parameters) -> Optimizer:
        made: Optimizer = build("optimizer", config["optimizer"], path="optimizer", parameters=parameters)
        return made

    return DistillationStep(
        student, teacher, draw, has_photos=has_photos, rules=rules, options=options,
        loss=build("loss", config["loss"], path="loss"), optimizer=optimizer(places),
        others={"of_rays": optimizer(Parameters(other=of_rays))} if of_rays else {},
        regularizers=regularizers_of(config, student), seed=seed, hooks=hooks,
    )  # fmt: skip
