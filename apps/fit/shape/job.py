"""Fit a shape field to a mesh.

    result = fit_shape("bunny.obj")
    result.field.distance(points), result.iou

Training happens in the unit cube, on samples that a worker prepares; the field answers in the mesh's own units. It is
measured as it is stored: parameters are rounded to the storage type first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fieldforge.apps.fit.fused import make_step
from fieldforge.apps.fit.loop import Budget, Hook, Progress, State, Step, averages_in_place, settle, train
from fieldforge.apps.fit.optimizers.base import Optimizer
from fieldforge.apps.fit.options import ShapeOptions
from fieldforge.apps.fit.progress import Silent, observer
from fieldforge.apps.fit.recipe import SECTIONS, Config, bytes_of, layered, shrink
from fieldforge.apps.fit.shape.presets import KINDS
from fieldforge.apps.fit.shape.presets import preset as preset_config
from fieldforge.apps.shapes.quality import volume_iou
from fieldforge.apps.shapes.read import Cloud, Mesh, ShapeError, read_shape
from fieldforge.apps.shapes.samples import Pools
from fieldforge.apps.shapes.surface import Cube, Surface
from fieldforge.apps.shapes.truth import Truth
from fieldforge.backends import use_backend
from fieldforge.checks import expect_choice
from fieldforge.fields.checkpoint import Checkpoints
from fieldforge.fields.file import round_to, save_field
from fieldforge.fields.kinds.shape import ShapeField
from fieldforge.registry import build


@dataclass
class ShapeFit:
    """What a fit came to.

    Attributes:
        field: the fitted field, with parameters as they are stored.
        iou: volume IoU over a million points of the cube; nan for an unsigned field, which has no inside.
        seconds: of training.
        state: steps, history, why it stopped.
        config: the complete run configuration.
        surface: what was fitted.
        path: the file, if one was written.
        n_bytes: its size.
        notes: what the user was told of the mesh.
    """

    field: ShapeField
    iou: float
    seconds: float
    state: State
    config: Config
    surface: Surface
    path: Path | None = None
    n_bytes: int | None = None
    notes: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """The figures as a flat table, for JSON and benchmark rows."""
        return {
            "iou": None if math.isnan(self.iou) else round(self.iou, 6),
            "seconds": round(self.seconds, 3),
            "steps": self.state.step,
            "stopped_by": self.state.stopped_by,
            "bytes": self.n_bytes,
            "faces": self.surface.health.n_faces,
        }


def fit_shape(
    source: str | Path | Mesh,
    *,
    kind: str = "sdf",
    output: str | Path | None = None,
    preset: str = "balanced",
    config: str | Path | Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    steps: int | None = None,
    seconds: float | None = None,
    iou: float | None = None,
    max_bytes: int | None = None,
    seed: int = 0,
    backend: str = "auto",
    resume: bool = False,
    hooks: Sequence[Hook] = (),
    progress: str | Silent = "auto",
) -> ShapeFit:
    """Fit a shape field to a mesh.

    Args:
        source: a file (OBJ, PLY, STL, OFF, GLB, NPZ), or a Mesh.
        kind: "sdf", "occupancy" or "udf".
        output: the ``.field`` file to write; None writes nothing.
        preset: name of a starting point, see `fieldforge.apps.fit.shape.presets`.
        config: run file (TOML), tiny-cuda-nn network file (JSON) or the same as a mapping, over the preset.
        overrides: single keys, "encoding.n_levels=12".
        steps: training steps instead of the preset's.
        seconds: stop after about that long.
        iou: stop as soon as the volume IoU is that good.
        max_bytes: shrink the field until its file is no larger.
        seed: of initial parameters and samples; same seed, same bits.
        backend: 'auto', 'reference', 'cpu' or 'cuda'.
        resume: continue the interrupted fit that was to write `output`.
        hooks: see `fieldforge.apps.fit.loop.Hook`.
        progress: 'auto', 'json', 'quiet', or an observer of your own.

    Returns:
        The result. If a signal stopped it, `state.stopped_by` is 'signal', and with an `output` the state is saved
        beside it, no field is written, and nothing was measured (iou is nan).

    Raises:
        ShapeError: the mesh cannot be read or fitted.
        ConfigError, ValueError: options or configuration.
        BackendError: the backend asked for cannot run.
    """
    kind = expect_choice("kind", kind, KINDS)
    if iou is not None and (kind == "udf" or not 0 < iou < 1):
        raise ValueError("iou: expected a number between 0 and 1, of a field that has an inside (sdf, occupancy)")
    mesh = source if isinstance(source, Mesh) else _as_mesh(read_shape(source))
    surface = Surface.of(mesh)
    path = Path(output) if output is not None else None
    resolved, notices = run_config(
        kind, preset=preset, config=Path(config) if isinstance(config, str) else config, overrides=overrides,
        steps=steps, max_bytes=max_bytes,
    )  # fmt: skip
    observe = progress if isinstance(progress, Silent) else observer(progress)
    try:
        truth = Truth(surface.vertices, surface.faces, is_solid=surface.health.is_closed)
        notes = [*surface.notes, *advice(surface, truth, kind)]
        for notice in (*notes, *notices):
            observe(Progress(State(), message=notice))
        with use_backend(backend):
            result = _run(surface, truth, kind, resolved, path, seconds, iou, seed, resume, hooks, observe)
        result.notes = notes
    finally:
        observe.close()
    return result


def run_config(
    kind: str,
    *,
    preset: str = "balanced",
    config: Path | Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    steps: int | None = None,
    max_bytes: int | None = None,
) -> tuple[Config, list[str]]:
    """The complete configuration of a run, and notices about what was filled in or left out.

    Raises:
        ConfigError, ValueError: unknown preset, key or value; or `max_bytes` below what such a field can shrink to.
    """
    resolved, notices = layered(preset_config(preset, kind), config, overrides, steps, ShapeOptions)
    if max_bytes is not None:

        def size() -> float:
            with torch.device("meta"):
                return bytes_of(make_field(kind, resolved, Cube((0.0, 0.0, 0.0), 1.0), 0), resolved)

        shrink(resolved, size, max_bytes)
    return resolved, notices


def make_field(kind: str, config: Config, cube: Cube, seed: int) -> ShapeField:
    """The untrained field of a configuration: same seed, same parameters."""
    described = {"otype": KINDS[kind], "encoding": config["encoding"], "network": config["network"]}
    described |= {"low": list(cube.low), "side": cube.side}
    made: ShapeField = build("field", described, generator=torch.Generator().manual_seed(seed))
    return made


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
) -> tuple[Step, Optimizer, str]:
    """The training step of a configuration, the optimizer inside it, and why the step is not fused ('' if it is)."""
    learner: ShapeField = type(fitted)(encoding=fitted.encoding, network=fitted.network, low=(0.0, 0.0, 0.0), side=1.0)

    def query(points: Tensor) -> Tensor:
        raw = learner.outputs(points)
        return raw.abs() if kind == "udf" else raw

    why = "an unsigned distance is the network's output without its sign" if kind == "udf" else ""
    return make_step(fitted, learner, query, config, draw, hooks, why)


def _run(
    surface: Surface,
    truth: Truth,
    kind: str,
    config: Config,
    path: Path | None,
    seconds: float | None,
    target: float | None,
    seed: int,
    resume: bool,
    hooks: Sequence[Hook],
    observe: Silent,
) -> ShapeFit:
    options = ShapeOptions.of(config["fit"])
    fitted = make_field(kind, config, surface.cube, seed)
    pools = Pools(
        surface.vertices,
        surface.faces,
        is_solid=surface.health.is_closed,
        recipe=options.recipe,
        n=options.pool_size,
        seed=seed,
    )
    try:
        advance, optimizer, why_not_fused = step_of(fitted, kind, config, PoolDraw(pools, options, kind), hooks)
        if why_not_fused:
            observe(Progress(State(), message=f"training step by step in PyTorch: {why_not_fused}"))

        def near_or_exact() -> float:
            with averages_in_place(optimizer):
                found = volume_iou(fitted, truth, surface, n=2**16)
                return found if target is None or found < target else volume_iou(fitted, truth, surface)

        state = train(
            advance,
            optimizer,
            build("schedule", config["schedule"], path="schedule"),
            Budget(options.n_steps, seconds, target),
            batch_size=options.batch_size,
            observe=observe,
            evaluate=near_or_exact,
            checkpoints=Checkpoints(path) if path is not None else None,
            identity={
                "config": config, "shape": surface.sha256, "seed": seed, "seconds": seconds, "iou": target, "kind": kind
            },
            resume=resume,
        )  # fmt: skip
    finally:
        pools.close()
    if state.stopped_by == "signal" and path is not None:
        return ShapeFit(fitted, math.nan, state.seconds, state, config, surface, path)
    settle(optimizer)
    fitted.requires_grad_(False)
    round_to(fitted, options.storage)
    quality = volume_iou(fitted, truth, surface) if fitted.is_signed else math.nan
    result = ShapeFit(fitted, quality, state.seconds, state, config, surface, path)
    if path is not None:
        result.n_bytes = save_field(path, fitted, metadata=_metadata(result, kind, seed), dtype=options.storage)
        Checkpoints(path).remove()
    return result


def _metadata(result: ShapeFit, kind: str, seed: int) -> dict[str, Any]:
    surface = result.surface
    return {
        "signal": {
            "kind": "shape",
            "faces": surface.health.n_faces,
            "bounds": [
                surface.cube.to_world(corner[None])[0].tolist()
                for corner in (surface.vertices.min(0), surface.vertices.max(0))
            ],
            "sha256": surface.sha256,
        },
        "metrics": {"iou": None if math.isnan(result.iou) else round(result.iou, 6)},
        "history": [{"step": row["step"], "psnr": round(row["psnr"], 2)} for row in result.state.history],
        "run": {section: result.config[section] for section in SECTIONS[2:]} | {"seed": seed, "kind": kind},
    }
