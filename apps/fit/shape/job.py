"""Fit a shape field to a mesh, or to a cloud of points.

    result = fit_shape("bunny.obj")
    result.field.distance(points), result.iou

Training happens in the unit cube, on samples that a worker prepares; the field answers in the mesh's own units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from fieldforge.apps.fit.derivatives import finetune_derivatives
from fieldforge.apps.fit.exposure import exposed
from fieldforge.apps.fit.fused import make_step
from fieldforge.apps.fit.job import Fit, Job, Plan, PlanKeywords, Training
from fieldforge.apps.fit.loop import LOSS, Figure, Hook, Progress, State
from fieldforge.apps.fit.losses.shape_base import ShapeLoss
from fieldforge.apps.fit.on_device import Ahead, Lagging
from fieldforge.apps.fit.optimizers.base import Optimizer, Parameters
from fieldforge.apps.fit.options import ShapeOptions
from fieldforge.apps.fit.placement import N_PLACES
from fieldforge.apps.fit.progress import Silent
from fieldforge.apps.fit.recipe import SECTIONS, Config
from fieldforge.apps.fit.shape.presets import KINDS, preset
from fieldforge.apps.fit.shape.step import ShapeStep, SurfaceDraw, WithDistances, turn_outward
from fieldforge.apps.fit.slices import Slice
from fieldforge.apps.fit.tune.fresh import LARGEST
from fieldforge.apps.shapes import quality
from fieldforge.apps.shapes.cloud import PointSurface
from fieldforge.apps.shapes.points import LATTICE, PointTruth
from fieldforge.apps.shapes.quality import volume_iou
from fieldforge.apps.shapes.read import Cloud, Mesh, read_shape
from fieldforge.apps.shapes.samples import RECIPES, SURFACE_RECIPES, Pools
from fieldforge.apps.shapes.surface import Surface
from fieldforge.apps.shapes.truth import Truth
from fieldforge.checks import expect_choice, expect_int
from fieldforge.devices import arrived, device_of
from fieldforge.fields.kinds.shape import ShapeField
from fieldforge.registry import ConfigError, build

ERROR = Figure("rms_error", "error {:.3f} % of the cube", lambda loss, error: 100 * error**0.5)
"""Root mean square of the distances' errors at the samples, in hundredths of the cube's side."""


@dataclass(kw_only=True)
class ShapeFit(Fit[ShapeField]):
    """What a fit to a mesh or a cloud came to.

    Attributes:
        surface: what was fitted.
    """

    surface: Surface | PointSurface

    @property
    def iou(self) -> float:
        """Volume IoU over a million points of the cube; nan for an unsigned field, which has no inside.

        Of a cloud: against the inside that its points and normals tell of, where no distance was needed too.
        """
        return self.figure("iou")

    def summary(self) -> dict[str, Any]:
        """The figures as a flat table, for JSON and benchmark rows."""
        return super().summary() | size(self.surface)


def size(surface: Surface | PointSurface) -> dict[str, int]:
    """How many faces or points a fit had."""
    if isinstance(surface, PointSurface):
        return {"points": len(surface.vertices)}
    return {"faces": surface.health.n_faces}


def fit_shape(
    source: str | Path | Mesh | Cloud,
    *,
    kind: str = "sdf",
    iou: float | None = None,
    smooth_derivatives: int = 0,
    **plan: Unpack[PlanKeywords],
) -> ShapeFit:
    """Fit a shape field to a mesh or a cloud of points.

    Args:
        source: a file (OBJ, PLY, STL, OFF, GLB, NPZ, XYZ, NPY, LAS), a Mesh, or a Cloud.
        kind: "sdf", "occupancy" or "udf".
        iou: stop as soon as the volume IoU is that good.
        smooth_derivatives: so many further steps that bring the field's own gradient near the one of a polynomial fit,
            see `fieldforge.apps.fit.derivatives`; if a signal stops these, the field is kept as it was before them.
        plan: output, preset, steps, seconds, ...: see `fieldforge.apps.fit.job.Plan`.

    Returns:
        The result. If a signal stopped it, `state.stopped_by` is 'signal', and with an `output` the state is saved
        beside it, no field is written, and nothing was measured (iou is nan).

    Raises:
        ShapeError: the mesh or cloud cannot be read or fitted.
        ConfigError, ValueError: options or configuration.
        BackendError: the backend asked for cannot run.
    """
    result: ShapeFit = ShapeJob(source, kind=kind, smooth_derivatives=smooth_derivatives).run(Plan(**plan), iou)
    return result


class ShapeJob(Job[ShapeField]):
    """A mesh or a cloud to fit.

    Args:
        source, kind, smooth_derivatives: as for `fit_shape`.

    Raises:
        ShapeError: the mesh or cloud cannot be read or fitted.
    """

    signal = "shape"
    target = "iou"
    options = ShapeOptions
    sections = (*SECTIONS, "partition")

    def __init__(self, source: str | Path | Mesh | Cloud, *, kind: str = "sdf", smooth_derivatives: int = 0) -> None:
        self.kind = expect_choice("kind", kind, KINDS)
        self.smooth_derivatives = expect_int("smooth_derivatives", smooth_derivatives, 0, 10**6)
        if smooth_derivatives and kind == "udf":
            raise ValueError("smooth_derivatives: an unsigned distance has no normals on its sheet; see kind")
        shape = source if isinstance(source, (Mesh, Cloud)) else read_shape(source)
        self.surface: Surface | PointSurface
        self.surface = Surface.of(shape) if isinstance(shape, Mesh) else PointSurface.of(shape)

    @cached_property
    def truth(self) -> Truth | PointTruth:
        """Distances to the surface: exact of a mesh, estimated of a cloud."""
        if isinstance(self.surface, PointSurface):
            return self.surface.truth()
        return Truth(self.surface.vertices, self.surface.faces, is_solid=self.surface.health.is_closed)

    @property
    def digest(self) -> str:
        return self.surface.sha256

    def identity(self) -> dict[str, Any]:
        tuned = {"smooth_derivatives": self.smooth_derivatives} if self.smooth_derivatives else {}
        return {"kind": self.kind} | tuned

    def expect_target(self, value: float) -> None:
        if self.kind == "udf" or not 0 < value < 1:
            raise ValueError("iou: expected a number between 0 and 1, of a field that has an inside (sdf, occupancy)")

    def notices(self) -> list[str]:
        truth = self.truth  # of a cloud, making it may add a note
        if isinstance(truth, PointTruth):
            assert isinstance(self.surface, PointSurface)
            return [*self.surface.notes, *cloud_advice(self.surface, truth, self.kind)]
        assert isinstance(self.surface, Surface)
        return [*self.surface.notes, *advice(self.surface, truth, self.kind)]

    def preset(self, name: str) -> Config:
        return preset(name, self.kind, is_cloud=isinstance(self.surface, PointSurface))

    def make_field(self, config: Config, seed: int) -> ShapeField:
        described = {"otype": KINDS[self.kind], "encoding": config["encoding"], "network": config["network"]}
        described |= {"low": list(self.surface.cube.low), "side": self.surface.cube.side}
        described |= {"partition": config.get("partition")}
        sphere = ShapeOptions.of(config["fit"]).sphere
        if sphere and self.kind != "sdf":
            raise ConfigError(f"fit.sphere: is for signed distances, --kind sdf, not {self.kind}")
        if sphere:
            described["sphere"] = sphere
        made: ShapeField = build("field", described, generator=torch.Generator().manual_seed(seed))
        return made

    @contextmanager
    def training(self, fitted: ShapeField, config: Config, seed: int, hooks: Sequence[Hook]) -> Iterator[Training]:
        options = ShapeOptions.of(config["fit"])
        loss = build("loss", config["loss"], path="loss")
        if isinstance(loss, ShapeLoss):
            expect_loss(loss, fitted, self.kind)
            if options.precision != "float32":
                raise ConfigError(
                    f"fit.precision: the loss {loss.otype} looks at slopes, which lose their meaning in "
                    f"{options.precision}; leave it out, or take a loss of distances such as L1"
                )
        if isinstance(loss, ShapeLoss) and loss.reads == "surface":
            points, normals = self._surface_points(seed)
            draw: Any = SurfaceDraw(points, normals, _recipe(options, SURFACE_RECIPES), options.batch_size, seed)
            if (device := device_of(fitted)).type != "cpu":
                draw = Ahead(draw, device)
            yield shape_step(fitted, loss, config, draw, hooks)
            if getattr(loss, "normals", 1.0) == 0:  # the block is over: the parameters are what inference uses
                turn_outward(fitted)
            return
        pools = Pools(
            self.surface.vertices,
            self.surface.normals if isinstance(self.surface, PointSurface) else self.surface.faces,
            of="cloud" if isinstance(self.surface, PointSurface) else "mesh",
            is_solid=isinstance(self.surface, Surface) and self.surface.health.is_closed,
            recipe=_recipe(options, RECIPES),
            n=options.pool_size,
            seed=seed,
        )
        with closing(pools):
            pool_draw: Any = PoolDraw(pools, options, self.kind)
            if (device := device_of(fitted)).type != "cpu":
                pool_draw = Ahead(pool_draw, device)
            if isinstance(loss, ShapeLoss):
                yield shape_step(fitted, loss, config, WithDistances(pool_draw), hooks)
            else:
                yield step_of(fitted, self.kind, config, pool_draw, hooks)

    def _surface_points(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Points of the surface and their normals, (n, 3) each, in the unit cube."""
        if isinstance(self.surface, PointSurface):
            return self.surface.vertices, self.surface.normals
        return self.truth.sample_surface(2**18, np.random.default_rng(seed))

    def refine(self, fitted: ShapeField, seed: int, observe: Silent) -> None:
        if not self.smooth_derivatives:
            return
        on, _ = self._surface_points(seed)
        points = arrived(self.surface.cube.to_world(on))
        observe(Progress(State(), message=f"tuning derivatives for {self.smooth_derivatives} steps"))
        state = finetune_derivatives(fitted, points, n_steps=self.smooth_derivatives, seed=seed, observe=observe)
        if state.stopped_by == "signal":
            observe(Progress(state, message="interrupted: the field is as it was before its derivatives were tuned"))

    def shown(self, config: Config) -> Figure:
        is_plain = not isinstance(build("loss", config["loss"], path="loss"), ShapeLoss)
        return ERROR if is_plain and self.kind != "occupancy" else LOSS

    def quality(self, fitted: ShapeField, target: float) -> float:
        near = volume_iou(fitted, self.truth, self.surface, n=2**16)
        return near if near < target else self._iou(fitted)

    def measure(self, fitted: ShapeField, tell: Callable[[str], None]) -> dict[str, float | None]:
        if not fitted.is_signed:
            return {"iou": None}
        return {"iou": round(self._iou(fitted), 6)}

    def _iou(self, fitted: ShapeField) -> float:
        """Over fewer points for a cloud, whose own inside is known less well than they would tell."""
        n = quality.IOU_POINTS // 8 if isinstance(self.surface, PointSurface) else quality.IOU_POINTS
        return volume_iou(fitted, self.truth, self.surface, n=n)

    def families(self) -> dict[str, str]:
        return {} if self.kind == "udf" else {"siren": "siren", "finer": "finer", "grid": "balanced"}

    @property
    def full_side(self) -> int:
        return LARGEST

    def samples(self, n: int, seed: int) -> tuple[Tensor, Tensor]:
        """Places anywhere in the cube, and their levels; far from the surface as often as near it."""
        unit = torch.rand(min(n, 2**17), 3, generator=torch.Generator().manual_seed(seed))
        where = unit.double().numpy()
        if self.kind == "udf":
            value = self.truth.unsigned_distance(where) * self.surface.cube.side
        elif self.kind == "occupancy":
            value = np.where(self.truth.distance(where) < 0, -0.5, 0.5)
        else:
            value = self.truth.distance(where) * self.surface.cube.side
        points = torch.from_numpy(self.surface.cube.to_world(where)).float()
        return points, torch.from_numpy(np.asarray(value)).float()

    def slices(self, side: int) -> list[Slice]:
        """Three planes through the middle of the cube, across each axis."""
        center = (np.arange(side) + 0.5) / side
        found = []
        for axis in range(3):
            plane = np.full((side, side, 3), 0.5)
            plane[..., [other for other in range(3) if other != axis]] = np.stack(np.meshgrid(center, center), -1)
            unit = plane.reshape(-1, 3)
            if self.kind == "udf":
                value = self.truth.unsigned_distance(unit)
            else:
                value = self.truth.distance(unit)
            if self.kind == "occupancy":
                value = np.where(value < 0, 1.0, np.where(value > 0, 0.0, 0.5))
            points = torch.from_numpy(self.surface.cube.to_world(unit)).float().view(side, side, 3)
            found.append(Slice(points, torch.from_numpy(np.asarray(value)).float().view(side, side, 1)))
        return found

    def places(self, seed: int) -> tuple[Tensor, Tensor]:
        """Points all over the cube, weighted by one over their distance to the surface."""
        points = np.random.default_rng(seed).random((N_PLACES, 3))
        nearest = 0.5 * N_PLACES ** (-1 / 3)  # about half the way from point to point
        weights = 1 / (np.abs(self.truth.unsigned_distance(points)) + nearest)
        return torch.from_numpy(points).float(), torch.from_numpy(weights)

    def metadata(self) -> dict[str, Any]:
        surface = self.surface
        bounds = [
            surface.cube.to_world(corner[None])[0].tolist()
            for corner in (surface.vertices.min(0), surface.vertices.max(0))
        ]
        return size(surface) | {"bounds": bounds}

    def result(self, **parts: Any) -> ShapeFit:
        return ShapeFit(surface=self.surface, **parts)


def advice(surface: Surface, truth: Truth, kind: str) -> list[str]:
    """What a user should know of a mesh that does not bound a solid: counts, how the sign is found, what else to do."""
    wrong, n_pieces = surface.health.sentence(), surface.health.n_components
    sentences = [f"{surface.source}: {wrong}"] if wrong else []
    if surface.health.is_closed and n_pieces > 1 and not truth.sides_by_faces and kind != "udf":
        sentences.append(
            f"{surface.source}: {n_pieces} closed pieces, some inside or across others; inside is where the winding "
            "number is above 1/2: inside any of them that looks outward"
        )
    if not surface.health.is_closed and kind != "udf":
        closes = ", which closes holes smoothly" if surface.health.n_boundary_edges else ""
        sentences.append(f"inside is where the winding number is above 1/2{closes}")
        sentences += open_for_good(truth, np.random.default_rng(0).random((20_000, 3)))
    return sentences


def open_for_good(truth: Truth | PointTruth, points: np.ndarray) -> list[str]:
    """A sentence about a surface that has no inside, judged at (n, 3) points; none of one that has."""
    winding = truth.winding_number(points)
    unclear = float(((winding > 0.25) & (winding < 0.75)).mean())
    deepest = float(winding.max(initial=0.0))
    if deepest >= 0.5 and unclear <= 0.02:
        return []
    return [
        f"the surface is open for good ({unclear:.1%} of the space is neither clearly inside nor outside, the "
        f"winding number goes up to {deepest:.2f}): --kind udf fits it without an inside"
    ]


def cloud_advice(surface: PointSurface, truth: PointTruth, kind: str) -> list[str]:
    """What a user should know of a cloud's normals, which say where inside is."""
    if kind == "udf":
        return []
    where = "its normals" if surface.has_normals else "normals estimated from its neighbours (it has none)"
    sentences = [] if surface.has_normals else [f"{surface.source}: inside is told by {where}"]
    wrong = 1 - truth.agreement()
    if wrong > 0.02:
        sentences.append(
            f"{surface.source}: {wrong:.1%} of {where} do not agree with the winding number of all: the sign may be "
            "wrong there; better normals, or --kind udf, which has no inside"
        )
    places = np.random.default_rng(0).random((5000, 3))
    is_clear = truth.unsigned_distance(places) > 2 / LATTICE  # nearer, the lattice is blurred
    sentences += open_for_good(truth, places[is_clear])
    return sentences


def expect_loss(loss: ShapeLoss, field: ShapeField, kind: str) -> None:
    """Refuse a loss that this field cannot be trained with.

    Raises:
        ConfigError: with the reason.
    """
    reason = loss.refuses(field)
    if kind != "sdf":
        reason = f"the loss {loss.otype} is of signed distances, --kind sdf, not {kind}"
    if reason:
        raise ConfigError(f"loss.otype: {reason}")


def _recipe(options: ShapeOptions, known: Mapping[str, Any]) -> str:
    if options.recipe not in known:
        raise ConfigError(f"fit.recipe: expected one of {', '.join(known)} with this loss, got {options.recipe!r}")
    return options.recipe


@dataclass
class PoolDraw:
    """The samples of a step: a slice of one of the last `n_passes` pools in turn, with targets for the kind of field.

    A new pool comes every `n_passes` passes and is gone through once in each of so many phases, mixed with those before
    it. Passes one after another over the same pool taught the finest cells that pool, and the next one at the cost of
    it. The step's number alone decides, so a resumed fit sees the same samples.

    Calling it gives points (batch, 3) in the unit cube and targets (batch, 1).
    """

    pools: Pools
    options: ShapeOptions
    kind: str
    _kept: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        size, n_passes = self.options.batch_size, self.options.n_passes
        per_pass = self.options.pool_size // size
        newest, within = divmod(step, per_pass * n_passes)
        at, turn = divmod(within, n_passes)
        points, target = self._pool(newest - turn % min(n_passes, newest + 1), newest)
        first = (at + turn * per_pass // n_passes) % per_pass * size
        return points[first : first + size], target[first : first + size]

    def _pool(self, number: int, newest: int) -> tuple[Tensor, Tensor]:
        if number not in self._kept:
            self._kept = {old: kept for old, kept in self._kept.items() if old > newest - self.options.n_passes}
            points, distance = self.pools.get(number)
            target = self._targets(torch.from_numpy(distance))[:, None].contiguous()
            self._kept[number] = torch.from_numpy(points), target
        return self._kept[number]

    def _targets(self, distance: Tensor) -> Tensor:
        if self.kind == "occupancy":
            return torch.where(distance < 0, 1.0, torch.where(distance > 0, 0.0, 0.5))
        return distance.abs() if self.kind == "udf" else distance


def step_of(
    fitted: ShapeField,
    kind: str,
    config: Config,
    draw: Callable[[int], tuple[Tensor, Tensor]],
    hooks: Sequence[Hook] = (),
) -> Training:
    """The training step of a configuration."""
    learner = in_unit_cube(fitted)

    def query(points: Tensor) -> Tensor:
        raw = learner.outputs(points)
        return raw.abs() if kind == "udf" else raw

    why = "an unsigned distance is the network's output without its sign" if kind == "udf" else ""
    return Training(*make_step(fitted, learner, query, config, draw, hooks, why))


def shape_step(
    fitted: ShapeField, loss: ShapeLoss, config: Config, draw: Callable[[int], Any], hooks: Sequence[Hook]
) -> Training:
    """The training step of a loss that is given the field itself."""
    parameters = Parameters.of(fitted, [fitted.network])
    optimizer: Optimizer = build("optimizer", config["optimizer"], path="optimizer", parameters=parameters)
    why, learner = f"the loss {loss.otype} asks the field itself", in_unit_cube(fitted)
    draw, hooks, optimizer = exposed(learner, draw, hooks, optimizer, config["fit"]["n_steps"])
    step = ShapeStep(learner, draw, loss, optimizer, hooks)
    return Training(step if device_of(fitted).type == "cpu" else Lagging(step), optimizer, why)


def in_unit_cube(fitted: ShapeField) -> ShapeField:
    """The same parameters over the unit cube."""
    return type(fitted)(
        encoding=fitted.encoding, network=fitted.network, low=(0.0, 0.0, 0.0), side=1.0, partition=fitted.partition
    )
