"""``fieldforge bench shape``: how good a shape fit is and how long it takes; its step against plain PyTorch; recipes.

Three parts, in one file of rows:

- quality: `balanced` on eight meshes, other presets on two, each measured as `fieldforge evaluate` does, on the file
  that was written;
- step: a training step of instant-ngp's recipe (Müller et al. 2022: hash grid of 16 levels, two hidden layers of 64,
  MAPE, batches of 2^16 samples), and of `balanced`, against the loop that a PyTorch user would write: same samples
  from memory, same network; with torch's default Adam and with its fused one;
- recipes: where samples are taken, by the published recipes and by ours, at equal steps.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fieldforge.apps.bench.harness import Row, one_thread, save, say, spread, take_turns
from fieldforge.apps.bench.peers import PlainHashGrid, plain_mlp
from fieldforge.apps.fit.job import Plan
from fieldforge.apps.fit.recipe import adam
from fieldforge.apps.fit.shape.job import ShapeJob, fit_shape, step_of
from fieldforge.apps.mesh import extract
from fieldforge.apps.shapes.quality import evaluate
from fieldforge.apps.shapes.read import Mesh, read_shape
from fieldforge.apps.shapes.samples import RECIPES, draw
from fieldforge.apps.shapes.surface import Surface
from fieldforge.backends import use_backend
from fieldforge.fields.file import load_field

DATA = Path("../shared/data/meshes")
SHAPES = {
    "armadillo": "ingp_armadillo.obj",
    "bunny": "ingp_bunny.obj",
    "Nefertiti": "nefertiti_lowres.obj",
    "Lucy": "stanford_lucy.ply",
    "Spot": "spot.obj",
    "fandisk": "fandisk.obj",
    "fertility": "libigl_fertility.off",
    "rocker-arm": "rocker_arm.obj",
}
"""What a shape is called -> its file."""
PRESETS = ("balanced", "fast", "tiny")
COMPARED = ("armadillo", "fandisk")
"""Shapes that get more than `balanced`, and on which recipes are compared: a scanned one, one with sharp edges."""
QUICK = (
    "encoding.n_levels=4", "encoding.log2_hashmap_size=10", "fit.batch_size=256", "fit.pool_size=1024",
    "fit.n_steps=3",
)  # fmt: skip
SHOWN = ("volume_iou", "near_iou", "f_score_0.01", "f_score_0.005", "chamfer", "stray", "normal_consistency")


def run(folder: Path, data: Path | None, *, is_quick: bool) -> None:
    """Measure, print, and keep the rows unless `is_quick`.

    Args:
        folder: of the rows.
        data: folder that holds `SHAPES`; None is `DATA`.

    Raises:
        ValueError: it holds none of them.
    """
    shapes = {"ball": _ball()} if is_quick else _shapes(data or DATA)
    rows: list[Row] = []
    for name, mesh in shapes.items():
        for preset in PRESETS if name in COMPARED else PRESETS[:1]:
            rows.append(_quality(name, mesh, preset, QUICK if is_quick else ()))
    job = ShapeJob(next(iter(shapes.values())))
    with one_thread():
        for case, plan in (("instant-ngp's recipe", _instant_ngp()), ("balanced", Plan())):
            rows += _step(case, job, plan, is_quick=is_quick)
    for name, mesh in shapes.items():
        if is_quick or name in COMPARED:
            names = list(RECIPES)[: 1 if is_quick else None]
            rows += [_recipe(name, mesh, recipe, QUICK if is_quick else ()) for recipe in names]
    if not is_quick:
        say(f"rows: {save(folder, 'shape', rows)}")


def _shapes(data: Path) -> dict[str, Mesh]:
    found: dict[str, Mesh] = {}
    for name, file in SHAPES.items():
        if not (data / file).is_file():
            say(f"{name}: skipped, there is no {data / file}")
            continue
        shape = read_shape(data / file)
        assert isinstance(shape, Mesh)
        found[name] = shape
    if not found:
        raise ValueError(f"data: {data} holds none of {', '.join(SHAPES.values())}; give their folder, --data FOLDER")
    return found


def _quality(name: str, mesh: Mesh, preset: str, overrides: tuple[str, ...]) -> Row:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "x.field"
        start = time.perf_counter()
        result = fit_shape(mesh, output=path, preset=preset, overrides=overrides, progress="quiet")
        whole = time.perf_counter() - start
        field: Any = load_field(path)[0]
    extracted = extract(field, resolution=16 if overrides else 256)
    found = evaluate(field, Surface.of(mesh), extracted, n=500 if overrides else 2**18)
    figures = {key: found[key] for key in SHOWN} | {
        "seconds": result.seconds, "whole_seconds": whole, "steps": result.state.step, "bytes": result.n_bytes or 0,
        "distance_error_near": found["distance_error_near"], "open_edges": extracted.n_open_edges,
    }  # fmt: skip
    say(
        f"{name:11} {preset:9} IoU {found['volume_iou']:.5f}  near {found['near_iou']:.4f}  F at 1 % "
        f"{found['f_score_0.01']:.5f}  at 0.5 % {found['f_score_0.005']:.5f}  Chamfer {found['chamfer']:.2e}  stray "
        f"{found['stray']:.4f}  {result.seconds:6.1f} s of {whole:.1f} s  {result.n_bytes or 0:>10,} bytes"
    )
    sizes = {"faces": len(mesh.faces), "config": result.config}
    rate = result.state.step * result.config["fit"]["batch_size"] / result.seconds
    return Row("shape", f"quality {name}", preset, sizes, result.seconds, 0.0, rate, quality=figures)


def _recipe(name: str, mesh: Mesh, recipe: str, overrides: tuple[str, ...]) -> Row:
    result = fit_shape(mesh, overrides=(*overrides, f"fit.recipe={recipe}"), progress="quiet")
    surface = Surface.of(mesh)
    extracted = extract(result.field, resolution=16 if overrides else 256)
    found = evaluate(result.field, surface, extracted, n=500 if overrides else 2**18)
    kept = (*SHOWN, "distance_error_near", "distance_error_far")
    say(
        f"{name:11} {recipe:12} IoU {found['volume_iou']:.5f}  near {found['near_iou']:.4f}  distance error near "
        f"{found['distance_error_near']:.2e}  far {found['distance_error_far']:.2e}  stray {found['stray']:.4f}"
    )
    sizes = {"steps": result.state.step, "batch_size": result.config["fit"]["batch_size"]}
    figures = {key: found[key] for key in kept} | {"seconds": result.seconds}
    return Row("shape", f"recipe {name}", recipe, sizes, result.seconds, 0.0, 0.0, quality=figures)


def _instant_ngp() -> Plan:
    """The network, loss and rate of instant-ngp's configs/sdf/hashgrid.json; its batch; its averages are left out."""
    return Plan(
        config={
            "encoding": {
                "otype": "HashGrid", "n_levels": 16, "n_features_per_level": 2, "log2_hashmap_size": 19,
                "base_resolution": 16, "per_level_scale": 1.38191288,
            },
            "network": {"otype": "MLP", "n_neurons": 64, "n_hidden_layers": 2, "activation": "ReLU"},
            "optimizer": adam(1e-4, beta2=0.99, epsilon=1e-15),
        },
        overrides=["fit.batch_size=65536", "fit.recipe=instant-ngp"],
    )  # fmt: skip


def _step(case: str, job: ShapeJob, plan: Plan, *, is_quick: bool) -> list[Row]:
    """One training step of each candidate, in turns; every candidate reads the same samples from memory."""
    config, _ = job.run_config(plan)
    config["schedule"] = {"otype": "Constant"}
    if is_quick:
        config["encoding"] |= {"log2_hashmap_size": 10}
        config["fit"] |= {"batch_size": 256}
    batch_size, repeats = config["fit"]["batch_size"], 1 if is_quick else 7
    truth = job.truth
    n_slices = 1 if is_quick else max(4, 2**18 // batch_size)
    points, distance = draw(truth, RECIPES[config["fit"]["recipe"]], n_slices * batch_size, (0, 0))
    samples = torch.from_numpy(points), torch.from_numpy(distance)[:, None].contiguous()

    def slices(step: int) -> tuple[Tensor, Tensor]:
        first = step % n_slices * batch_size
        return samples[0][first : first + batch_size], samples[1][first : first + batch_size]

    candidates = {
        "plain PyTorch, Adam": _plain(config, slices, is_fused=False),
        "plain PyTorch, fused Adam": _plain(config, slices, is_fused=True),
        "ours, reference": _ours(config, job, slices, "reference"),
        "ours, cpu": _ours(config, job, slices, "cpu"),
    }
    seconds = take_turns({name: step for name, (step, _) in candidates.items()}, repeats=repeats)
    base = statistics.median(seconds["plain PyTorch, Adam"])
    random = np.random.default_rng(1)
    near = truth.sample_surface(500 if is_quick else 20_000, random)[0]
    near = np.clip(near + random.normal(0, 0.005, near.shape), 0, 1).astype(np.float32)
    exact = torch.from_numpy(truth.distance(near.astype(np.float64)))
    rows = []
    for name, times in seconds.items():
        median = statistics.median(times)
        with torch.no_grad():
            error = float((candidates[name][1](torch.from_numpy(near))[:, 0] - exact).abs().mean())
        case_of = f"step of {case}, batch {batch_size}"
        sizes = {"batch_size": batch_size, "encoding": config["encoding"], "network": config["network"]}
        rows.append(
            Row("shape", case_of, name, sizes, median, spread(times), batch_size / median,
                quality={"distance_error_near": error})
        )  # fmt: skip
        say(
            f"{case_of:42} {name:26} {1e3 * median:8.1f} ms  {batch_size / median / 1e6:7.3f} M samples/s "
            f"{base / median:6.2f} x   error {error:.1e} after {repeats + 1} steps"
        )
    return rows


Candidate = tuple[Callable[[], None], Callable[[Tensor], Tensor]]
"""A training step, and what it has learnt: (n, 3) of the unit cube -> (n, 1)."""


def _plain(config: dict[str, Any], draw_step: Callable[[int], tuple[Tensor, Tensor]], *, is_fused: bool) -> Candidate:
    torch.manual_seed(0)
    one, two, how = config["encoding"], config["network"], config["optimizer"]
    grid = PlainHashGrid(
        3, one["n_levels"], one["n_features_per_level"], one["log2_hashmap_size"], one["base_resolution"],
        one["per_level_scale"],
    )  # fmt: skip
    n_features = one["n_levels"] * one["n_features_per_level"]
    model = nn.Sequential(grid, plain_mlp(n_features, two["n_neurons"], two["n_hidden_layers"], 1))
    betas = (how.get("beta1", 0.9), how["beta2"])
    optimizer = torch.optim.Adam(
        model.parameters(), lr=how["learning_rate"], betas=betas, eps=how["epsilon"], fused=is_fused
    )
    n_done = 0

    def step() -> None:
        nonlocal n_done
        points, target = draw_step(n_done)
        optimizer.zero_grad()
        ((model(points) - target).abs() / (target.abs() + 0.01)).mean().backward()
        optimizer.step()
        n_done += 1

    return step, model


def _ours(
    config: dict[str, Any], job: ShapeJob, draw_step: Callable[[int], tuple[Tensor, Tensor]], backend: str
) -> Candidate:
    field = job.make_field(config, 0)
    with use_backend(backend):
        advance, _, _ = step_of(field, "sdf", config, draw_step)
    n_done = 0

    def step() -> None:
        nonlocal n_done
        with use_backend(backend):
            advance(n_done, 1.0)
        n_done += 1

    return step, lambda unit: field.network(field.encoding(unit))


def _ball() -> Mesh:
    import trimesh

    made = trimesh.creation.icosphere(2)
    return Mesh(np.asarray(made.vertices), np.asarray(made.faces))
