"""``fieldforge bench operators``: normals and curvature of fitted fields against closed forms.

A ball and a torus are fitted as `fieldforge fit shape` would, with the presets' own steps, to the exact distance. Then
every operator answers at points of the surface, where the normal and the mean curvature are known. Lengths are counted
in the finest cells of the field; a field without cells is given 1/256 of the cube.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fieldforge.apps.bench.harness import Row, latest, one_thread, save, say
from fieldforge.apps.bench.operators_page import u_curves
from fieldforge.apps.fit.derivatives import finetune_derivatives
from fieldforge.apps.fit.job import Plan
from fieldforge.apps.fit.loop import Budget, settle, train
from fieldforge.apps.fit.options import ShapeOptions
from fieldforge.apps.fit.recipe import Config
from fieldforge.apps.fit.shape.job import ShapeJob, step_of
from fieldforge.apps.fit.shape.presets import preset
from fieldforge.apps.shapes.samples import RECIPES
from fieldforge.apps.shapes.samples import draw as draw_samples
from fieldforge.fields.file import round_to
from fieldforge.fields.kinds.shape import SDFField, ShapeField
from fieldforge.registry import build

CELLS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Steps and deviations, in finest cells."""
CASES = (
    ("fast", "ball"),
    ("fast", "torus"),
    ("balanced", "ball"),
    ("balanced", "torus"),
    ("tiny", "ball"),
    ("tiny", "torus"),
    ("siren", "ball"),
)
"""Presets and bodies; SIREN, smooth by itself, is the control."""
MESHES = ("ingp_armadillo.obj", "fandisk.obj")
"""A detailed one and one with sharp edges, for the same sweep where the truth is flat triangles."""
N_POINTS = 10_000
TUNED = (("fast", "ball"), ("balanced", "ball"))
TUNING = 200
"""Steps of fine-tuning."""
CONTROL = 300
"""Steps of the control, instead of the preset's thousand, which take minutes."""


class Solid(Protocol):
    """A body in the unit cube whose distance, normals and curvature are known."""

    def sample_surface(self, n: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Uniform points (n, 3) of the surface, and the normals there."""

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Signed distance (n,)."""

    def mean_curvature(self, points: np.ndarray) -> np.ndarray:
        """Mean curvature (n,) at points of the surface."""


@dataclass(frozen=True)
class Ball:
    """As large as a mesh would be in its cube."""

    radius: float = 1 / 2.2

    def sample_surface(self, n: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        normals = random.normal(size=(n, 3))
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        return 0.5 + self.radius * normals, normals

    def distance(self, points: np.ndarray) -> np.ndarray:
        found: np.ndarray = np.linalg.norm(points - 0.5, axis=1) - self.radius
        return found

    def mean_curvature(self, points: np.ndarray) -> np.ndarray:
        return np.full(len(points), 1 / self.radius)


@dataclass(frozen=True)
class Torus:
    """Radii 0.6 and 0.25, scaled to the cube."""

    major: float = 0.6 / 1.87
    minor: float = 0.25 / 1.87

    def sample_surface(self, n: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        around, across = random.uniform(0, 2 * np.pi, (2, 3 * n + 100))
        share = (self.major + self.minor * np.cos(across)) / (self.major + self.minor)  # of area, outside has more
        kept = random.random(len(share)) < share
        u, v = around[kept][:n], across[kept][:n]
        normals = np.stack([np.cos(u) * np.cos(v), np.sin(u) * np.cos(v), np.sin(v)], 1)
        middle = np.stack([np.cos(u), np.sin(u), np.zeros_like(u)], 1)
        return 0.5 + self.major * middle + self.minor * normals, normals

    def distance(self, points: np.ndarray) -> np.ndarray:
        x, y, z = (points - 0.5).T
        found: np.ndarray = np.hypot(np.hypot(x, y) - self.major, z) - self.minor
        return found

    def mean_curvature(self, points: np.ndarray) -> np.ndarray:
        from_axis = np.hypot(points[:, 0] - 0.5, points[:, 1] - 0.5)
        found: np.ndarray = (1 / self.minor + (from_axis - self.major) / (self.minor * from_axis)) / 2
        return found


SOLIDS: dict[str, Solid] = {"ball": Ball(), "torus": Torus()}


def run(folder: Path, data: Path | None, *, is_quick: bool) -> None:
    """Fit, measure, print; keep the rows and draw the picture beside them unless `is_quick`.

    Args:
        folder: of the rows; the picture goes to ``pictures/derivatives.webp`` beside it.
        data: folder that holds `MESHES`; None leaves them out.
    """
    rows: list[Row] = []
    with one_thread():
        for name, body in CASES[:1] if is_quick else CASES:
            config, solid = preset(name, "sdf"), SOLIDS[body]
            config["fit"]["n_steps"] = 2 if is_quick else CONTROL if name == "siren" else config["fit"]["n_steps"]
            field = fit_solid(solid, config)
            rows += _solid(f"{body}, {name}", field, solid, config, is_quick)
            if (name, body) in TUNED:
                rows.append(_tuned(f"{body}, {name}", field, solid, config, is_quick))
        if data is not None:
            for file in MESHES:
                rows += _mesh(data / file, "fast" if is_quick else "balanced", steps=2 if is_quick else None)
    if not is_quick:
        say(f"rows: {save(folder, 'operators', rows)}")
        picture = folder.parent / "pictures" / "derivatives.webp"
        u_curves(latest(folder, "operators"), picture)
        say(f"picture: {picture}")


def fit_solid(solid: Solid, config: Config, seed: int = 0) -> SDFField:
    """The field of a body, trained to its exact distance as `fit_shape` trains, and rounded as it would be stored."""
    options = ShapeOptions.of(config["fit"])
    described = {"otype": "SDFField", "encoding": config["encoding"], "network": config["network"]}
    described |= {"low": [0.0, 0.0, 0.0], "side": 1.0}
    field: SDFField = build("field", described, generator=torch.Generator().manual_seed(seed))
    truth: Any = solid
    pool: tuple[Tensor, Tensor] = torch.empty(0), torch.empty(0)
    per_pool = options.pool_size // options.batch_size

    def draw(step: int) -> tuple[Tensor, Tensor]:
        nonlocal pool
        number, within = divmod(step, per_pool * options.n_passes)
        if within == 0:
            points, distance = draw_samples(truth, RECIPES[options.recipe], options.pool_size, (seed, number))
            pool = torch.from_numpy(points), torch.from_numpy(distance)[:, None]
        first = within % per_pool * options.batch_size
        return pool[0][first : first + options.batch_size], pool[1][first : first + options.batch_size].contiguous()

    advance, optimizer, _ = step_of(field, "sdf", config, draw)
    schedule = build("schedule", config["schedule"], path="schedule")
    train(advance, optimizer, schedule, Budget(options.n_steps), batch_size=options.batch_size)
    settle(optimizer)
    field.requires_grad_(False)
    round_to(field, options.storage)
    return field


def figures(field: ShapeField, solid: Solid, method: str, cells: float | None, n: int = N_POINTS) -> dict[str, float]:
    """How far an operator's answers at points of the surface are from the closed forms.

    Args:
        field: in the unit cube.
        solid: what it was fitted to.
        method: of `fieldforge.fields.operators.METHODS`.
        cells: step or deviation in finest cells; None where the method has none.
        n: points.

    Returns:
        Median and mean angle of normals in degrees, shares within 1 and 2 degrees, and the median relative error of
        the mean curvature where the method has second derivatives.
    """
    points, normals = solid.sample_surface(n, np.random.default_rng(1))
    x = torch.from_numpy(points).float()
    angle = _angles(field, x, normals, method, cells)
    found = _shares(angle)
    if method in ("autodiff", "taps6", "quadratic"):
        width = {} if cells is None else {"sigma": cells * field.finest_cell}
        curvature = field.mean_curvature(x, method, **width).double().numpy()
        exact = solid.mean_curvature(points)
        error = np.abs(curvature - exact) / np.abs(exact)
        found["curvature_error"] = float(np.median(np.nan_to_num(error, nan=np.inf)))  # no slope there, no curvature
    return found


def _angles(field: ShapeField, x: Tensor, normals: np.ndarray, method: str, cells: float | None) -> np.ndarray:
    """Degrees between what an operator finds and the normals, (n,)."""
    key = "step" if method.startswith("taps") else "sigma"
    width = {} if cells is None else {key: cells * field.finest_cell}
    found = field.normal(x, method, **width).detach().double().numpy()
    across = np.linalg.norm(np.cross(found, normals), axis=1)
    degrees: np.ndarray = np.degrees(np.arctan2(across, np.einsum("ij,ij->i", found, normals)))
    return degrees


def _shares(angle: np.ndarray) -> dict[str, float]:
    return {
        "median_degrees": float(np.median(angle)),
        "mean_degrees": float(angle.mean()),
        "within_1_degree": float((angle < 1).mean()),
        "within_2_degrees": float((angle < 2).mean()),
    }


def _candidates() -> Iterator[tuple[str, float | None]]:
    yield "autodiff", None
    for method in ("taps6", "taps4", "plane", "quadratic"):
        for cells in CELLS:
            yield method, cells


def _solid(case: str, field: SDFField, solid: Solid, config: Config, is_quick: bool) -> list[Row]:
    n = 50 if is_quick else N_POINTS
    sizes = {"n_points": n, "n_samples": 64, "cell": field.finest_cell, "config": config}
    rows = []
    for method, cells in _candidates():
        start = time.process_time()
        found = figures(field, solid, method, cells, n)
        seconds = time.process_time() - start
        rows.append(_row(case, method, cells, sizes, seconds, found))
    return rows


def _tuned(case: str, field: SDFField, solid: Solid, config: Config, is_quick: bool) -> Row:
    n, n_steps, batch_size = (50, 1, 2**8) if is_quick else (N_POINTS, TUNING, 2**14)
    points, _ = solid.sample_surface(2**18, np.random.default_rng(2))
    tuned = copy.deepcopy(field)
    start = time.process_time()
    state = finetune_derivatives(tuned, torch.from_numpy(points), n_steps=n_steps, batch_size=batch_size)
    seconds = time.process_time() - start
    round_to(tuned, config["fit"]["storage"])
    x = torch.from_numpy(solid.sample_surface(n, np.random.default_rng(3))[0]).float()
    found = figures(tuned, solid, "autodiff", None, n)
    found |= {"value_error_before": _size(field, x), "value_error": _size(tuned, x)}
    found |= {"degrees_first": state.history[0]["degrees"], "degrees_last": state.history[-1]["degrees"]}
    sizes = {"n_points": n, "cell": field.finest_cell, "config": config, "n_steps": n_steps, "batch_size": batch_size}
    return _row(case, "fine-tuned autodiff", None, sizes, seconds, found)


def _size(field: SDFField, x: Tensor) -> float:
    """Mean |level| at points of the surface, in sides of the cube."""
    return float(field.level(x).abs().mean())


def _mesh(path: Path, name: str, *, steps: int | None) -> list[Row]:
    """The sweep of normals on a mesh, against those of its triangles; in the unit cube."""
    job = ShapeJob(path)
    fitted = job.run(Plan(preset=name, steps=steps, progress="quiet"))
    field = SDFField(encoding=fitted.field.encoding, network=fitted.field.network, low=(0.0, 0.0, 0.0), side=1.0)
    points, normals = job.truth.sample_surface(N_POINTS, np.random.default_rng(1))
    x = torch.from_numpy(points).float()
    sizes = {"n_points": N_POINTS, "n_samples": 64, "cell": field.finest_cell, "config": fitted.config}
    rows = []
    for method, cells in _candidates():
        start = time.process_time()
        found = _shares(_angles(field, x, normals, method, cells))
        rows.append(_row(f"{path.stem}, {name}", method, cells, sizes, time.process_time() - start, found))
    return rows


def _row(
    case: str, method: str, cells: float | None, sizes: dict[str, Any], seconds: float, found: dict[str, float]
) -> Row:
    name = method if cells is None else f"{method}, {cells:g} cells"
    curvature = found.get("curvature_error", math.nan)
    say(
        f"{case:26} {name:24} {found['median_degrees']:8.3f}° median {found['mean_degrees']:8.3f}° mean  "
        f"{found['within_1_degree']:6.1%} within 1°  curvature {'-' if math.isnan(curvature) else f'{curvature:.1%}'}"
    )
    rate = sizes["n_points"] / seconds if seconds else 0.0
    detail = {"method": method, "cells": cells}
    return Row("operators", case, name, sizes | detail, seconds, 0.0, rate, quality=found)
