"""Fit a shape field to a mesh.

    result = fit_shape("bunny.obj")
    result.field.distance(points), result.iou

Training happens in the unit cube, on samples that a worker prepares; the field answers in the mesh's own units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from fieldforge.apps.fit.fused import make_step
from fieldforge.apps.fit.job import Fit, Job, Plan, PlanKeywords, Training
from fieldforge.apps.fit.loop import LOSS, Figure, Hook
from fieldforge.apps.fit.options import ShapeOptions
from fieldforge.apps.fit.recipe import Config
from fieldforge.apps.fit.shape.presets import KINDS, preset
from fieldforge.apps.shapes.quality import volume_iou
from fieldforge.apps.shapes.read import Cloud, Mesh, ShapeError, read_shape
from fieldforge.apps.shapes.samples import Pools
from fieldforge.apps.shapes.surface import Surface
from fieldforge.apps.shapes.truth import Truth
from fieldforge.checks import expect_choice
from fieldforge.fields.kinds.shape import ShapeField
from fieldforge.registry import build

ERROR = Figure("rms_error", "error {:.3f} % of the cube", lambda loss, error: 100 * error**0.5)
"""Root mean square of the distances' errors at the samples, in hundredths of the cube's side."""


@dataclass(kw_only=True)
class ShapeFit(Fit[ShapeField]):
    """What a fit to a mesh came to.

    Attributes:
        surface: what was fitted.
    """

    surface: Surface

    @property
    def iou(self) -> float:
        """Volume IoU over a million points of the cube; nan for an unsigned field, which has no inside."""
        return self.figure("iou")

    def summary(self) -> dict[str, Any]:
        """The figures as a flat table, for JSON and benchmark rows."""
        return super().summary() | {"faces": self.surface.health.n_faces}


def fit_shape(
    source: str | Path | Mesh, *, kind: str = "sdf", iou: float | None = None, **plan: Unpack[PlanKeywords]
) -> ShapeFit:
    """Fit a shape field to a mesh.

    Args:
        source: a file (OBJ, PLY, STL, OFF, GLB, NPZ), or a Mesh.
        kind: "sdf", "occupancy" or "udf".
        iou: stop as soon as the volume IoU is that good.
        plan: output, preset, steps, seconds, ...: see `fieldforge.apps.fit.job.Plan`.

    Returns:
        The result. If a signal stopped it, `state.stopped_by` is 'signal', and with an `output` the state is saved
        beside it, no field is written, and nothing was measured (iou is nan).

    Raises:
        ShapeError: the mesh cannot be read or fitted.
        ConfigError, ValueError: options or configuration.
        BackendError: the backend asked for cannot run.
    """
    result: ShapeFit = ShapeJob(source, kind=kind).run(Plan(**plan), iou)
    return result


class ShapeJob(Job[ShapeField]):
    """A mesh to fit.

    Args:
        source, kind: as for `fit_shape`.

    Raises:
        ShapeError: the mesh cannot be read or fitted.
    """

    signal = "shape"
    target = "iou"
    options = ShapeOptions

    def __init__(self, source: str | Path | Mesh, *, kind: str = "sdf") -> None:
        self.kind = expect_choice("kind", kind, KINDS)
        self.surface = Surface.of(source if isinstance(source, Mesh) else _as_mesh(read_shape(source)))

    @cached_property
    def truth(self) -> Truth:
        """Exact distances to the surface."""
        return Truth(self.surface.vertices, self.surface.faces, is_solid=self.surface.health.is_closed)

    @property
    def digest(self) -> str:
        return self.surface.sha256

    def identity(self) -> dict[str, Any]:
        return {"kind": self.kind}

    def expect_target(self, value: float) -> None:
        if self.kind == "udf" or not 0 < value < 1:
            raise ValueError("iou: expected a number between 0 and 1, of a field that has an inside (sdf, occupancy)")

    def notices(self) -> list[str]:
        return [*self.surface.notes, *advice(self.surface, self.truth, self.kind)]

    def preset(self, name: str) -> Config:
        return preset(name, self.kind)

    def make_field(self, config: Config, seed: int) -> ShapeField:
        described = {"otype": KINDS[self.kind], "encoding": config["encoding"], "network": config["network"]}
        described |= {"low": list(self.surface.cube.low), "side": self.surface.cube.side}
        made: ShapeField = build("field", described, generator=torch.Generator().manual_seed(seed))
        return made

    @contextmanager
    def training(self, fitted: ShapeField, config: Config, seed: int, hooks: Sequence[Hook]) -> Iterator[Training]:
        options = ShapeOptions.of(config["fit"])
        pools = Pools(
            self.surface.vertices,
            self.surface.faces,
            is_solid=self.surface.health.is_closed,
            recipe=options.recipe,
            n=options.pool_size,
            seed=seed,
        )
        with closing(pools):
            yield step_of(fitted, self.kind, config, PoolDraw(pools, options, self.kind), hooks)

    def shown(self, config: Config) -> Figure:
        return LOSS if self.kind == "occupancy" else ERROR

    def quality(self, fitted: ShapeField, target: float) -> float:
        near = volume_iou(fitted, self.truth, self.surface, n=2**16)
        return near if near < target else volume_iou(fitted, self.truth, self.surface)

    def measure(self, fitted: ShapeField, tell: Callable[[str], None]) -> dict[str, float | None]:
        if not fitted.is_signed:
            return {"iou": None}
        return {"iou": round(volume_iou(fitted, self.truth, self.surface), 6)}

    def metadata(self) -> dict[str, Any]:
        surface = self.surface
        bounds = [
            surface.cube.to_world(corner[None])[0].tolist()
            for corner in (surface.vertices.min(0), surface.vertices.max(0))
        ]
        return {"faces": surface.health.n_faces, "bounds": bounds}

    def result(self, **parts: Any) -> ShapeFit:
        return ShapeFit(surface=self.surface, **parts)


def advice(surface: Surface, truth: Truth, kind: str) -> list[str]:
    """What a user should know of a mesh that does not bound a solid: counts, how the sign is found, what else to do."""
    wrong = surface.health.sentence()
    if not wrong:
        return []
    sentences = [f"{surface.source}: {wrong}"]
    if not surface.health.is_closed and kind != "udf":
        points = np.random.default_rng(0).random((20_000, 3))
        winding = truth.winding_number(points)
        unclear = float(((winding > 0.25) & (winding < 0.75)).mean())
        deepest = float(winding.max())
        sentences.append("inside is where the winding number is above 1/2, which closes holes smoothly")
        if deepest < 0.5 or unclear > 0.02:
            sentences.append(
                f"the surface is open for good ({unclear:.1%} of the space is neither clearly inside nor outside, the "
                f"winding number goes up to {deepest:.2f}): --kind udf fits it without an inside"
            )
    return sentences


def _as_mesh(shape: Mesh | Cloud) -> Mesh:
    if isinstance(shape, Cloud):
        raise ShapeError(
            f"{shape.source}: is a cloud of {len(shape.points):,} points without faces; only meshes can be fitted yet"
        )
    return shape


@dataclass
class PoolDraw:
    """The samples of a step: a slice of the pool in turn, with targets for the kind of field.

    Calling it gives points (batch, 3) in the unit cube and targets (batch, 1).
    """

    pools: Pools
    options: ShapeOptions
    kind: str
    _number: int = -1
    _points: Tensor = field(default_factory=lambda: torch.empty(0))
    _target: Tensor = field(default_factory=lambda: torch.empty(0))

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        size, per_pass = self.options.batch_size, self.options.pool_size // self.options.batch_size
        number, within = divmod(step, per_pass * self.options.n_passes)
        if number != self._number:
            points, distance = self.pools.get(number)
            self._number, self._points = number, torch.from_numpy(points)
            self._target = self._targets(torch.from_numpy(distance))[:, None].contiguous()
        first = within % per_pass * size
        return self._points[first : first + size], self._target[first : first + size]

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
    learner: ShapeField = type(fitted)(encoding=fitted.encoding, network=fitted.network, low=(0.0, 0.0, 0.0), side=1.0)

    def query(points: Tensor) -> Tensor:
        raw = learner.outputs(points)
        return raw.abs() if kind == "udf" else raw

    why = "an unsigned distance is the network's output without its sign" if kind == "udf" else ""
    return Training(*make_step(fitted, learner, query, config, draw, hooks, why))
