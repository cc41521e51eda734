"""``fieldforge bench scene``: how good a fit of posed photos is and how long it takes, and against plain PyTorch.

Parts, each of which can be run alone (``--only race``), in one file of rows:

- race: CPU seconds to 25 dB on Lego at 100 pixels, and rays a second at that stage in training and in rendering,
  against a plain-PyTorch hash-grid NeRF with dense samples (`scene_race.py`, `plain_nerf.py`);
- marching: a trained field seen through its occupancy grid, and densely: samples, decibels, seconds;
- a scene by name: `balanced` at seed 0, measured on all held-out views, and how good it was on the way.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fieldforge.apps.bench.harness import Row, one_thread, save, say, spread, take_turns
from fieldforge.apps.bench.scene_race import Tuning, race
from fieldforge.apps.fit.loop import Progress
from fieldforge.apps.fit.progress import Silent
from fieldforge.apps.fit.scene.job import SceneFit, SceneJob, fit_scene
from fieldforge.apps.metrics import psnr
from fieldforge.apps.render.pictures import photo_of
from fieldforge.apps.render.radiance import Eye, eye_of
from fieldforge.apps.scenes import Scene
from fieldforge.apps.scenes.photos import Photos
from fieldforge.apps.scenes.scene import Bounds, View
from fieldforge.checks import expect_choice
from fieldforge.fields.file import load_field
from fieldforge.fields.kinds.scene import SceneField
from fieldforge.kernels import cpu_door
from fieldforge.renderers.cameras import Cameras
from fieldforge.renderers.cameras.paths import orbit
from fieldforge.renderers.occupancy import OccupancyGrid
from fieldforge.renderers.volume import Seen, render

DATA = Path("../shared/data/scenes")
SMALL = "lego_tiny100"
"""The scene of the race and of marching."""
SCENES = {
    SMALL: "lego_tiny100.npz",
    "lego": "lego",
    "render_materials": "render_materials",
    "fern": "fern",
    "fox": "fox",
}
"""What a scene is called -> its file or folder."""
PARTS = ("race", "marching", *SCENES)
MOMENTS = {"60 s": 60, "5 min": 300, "20 min": 1200}
"""When a fit is looked at on the way, in seconds."""
QUICK = (
    "encoding.n_levels=4", "encoding.log2_hashmap_size=10", "fit.batch_size=1024", "fit.occupancy=16",
    "fit.samples_across=64", "fit.update_every=8",
)  # fmt: skip


def run(folder: Path, data: Path | None, *, is_quick: bool, only: Sequence[str] = ()) -> None:
    """Measure, print, and keep the rows of each part when it is done, unless `is_quick`.

    Args:
        folder: of the rows.
        data: folder that holds `SCENES`; None is `DATA`.
        only: some of `PARTS`; none is all.

    Raises:
        ValueError: no such part, or the folder holds none of the scenes that are asked for.
    """
    parts = [expect_choice("only", part, PARTS) for part in only] or list(PARTS[: 3 if is_quick else None])
    data = data or DATA
    n_done = 0
    for part in parts:
        if is_quick:
            found = _part(part, ball(), QUICK)
        else:
            source = data / SCENES.get(part, SCENES[SMALL])
            if not source.exists():
                say(f"{part}: skipped, there is no {source}")
                continue
            found = _part(part, source, ())
            save(folder, "scene", found)
        n_done += 1
    if not n_done:
        raise ValueError(f"data: {data} holds none of {', '.join(SCENES.values())}; give their folder, --data FOLDER")
    if not is_quick:
        say(f"rows: {folder / 'scene.jsonl'}")


def _part(part: str, source: Path | Scene, overrides: tuple[str, ...]) -> list[Row]:
    if part == "race":
        with one_thread():
            quick = {"target": 6.0, "tuning": Tuning(64, 16)}
            return race(SceneJob(source), overrides=overrides, **(quick if overrides else {"target": 25.0}))
    if part == "marching":
        return _marching(source, overrides)
    return [_quality(part, source, overrides)]


# ---- how good, and when


@dataclass
class _Clock(Silent):
    """Notes when which step was done."""

    steps: list[int] = field(default_factory=lambda: [0])
    seconds: list[float] = field(default_factory=lambda: [0.0])

    def __call__(self, progress: Progress) -> None:
        if progress.message:
            return
        self.steps.append(progress.state.step)
        self.seconds.append(progress.state.seconds)

    def at(self, step: float) -> float:
        """Seconds of training after so many steps."""
        return float(np.interp(step, self.steps, self.seconds))


def on_the_way(result: SceneFit, seconds_at: Sequence[tuple[float, float]]) -> dict[str, float | None]:
    """Decibels over some held-out pixels by `MOMENTS`: of the last look before each; nothing after the fit's end.

    Args:
        result: of a fit.
        seconds_at: (seconds, decibels) of each look, in order.
    """
    found: dict[str, float | None] = {}
    for name, moment in MOMENTS.items():
        before = [quality for seconds, quality in seconds_at if seconds <= moment]
        found[f"psnr after {name}"] = before[-1] if before and moment < result.seconds else None
    return found


def _quality(name: str, source: Path | Scene, overrides: tuple[str, ...]) -> Row:
    clock = _Clock()
    with tempfile.TemporaryDirectory() as scratch:
        start, cpu = time.perf_counter(), time.process_time()
        steps = 20 if overrides else None
        result = fit_scene(
            source, output=Path(scratch) / "x.field", overrides=overrides, steps=steps, progress=clock
        )  # fmt: skip
        whole, cpu = time.perf_counter() - start, time.process_time() - cpu
    looks = [
        (clock.at(row["step"]), row["held_out_psnr"]) for row in result.state.history if "held_out_psnr" in row
    ]  # fmt: skip
    figures = result.summary() | on_the_way(result, looks) | {"whole_seconds": whole, "cpu_seconds": cpu}
    sizes = {
        "views": len(result.scene.of("train")), "held_out": len(result.scene.of("test")),
        "size": result.scene.photos.sizes[0].tolist(), "config": result.config,
        "looks": [[round(seconds, 1), round(quality, 2)] for seconds, quality in looks],
    }  # fmt: skip
    way = ", ".join(f"{value:.2f} {key.removeprefix('psnr ')}" for key, value in figures.items()
                    if key.startswith("psnr after") and value is not None)  # fmt: skip
    say(
        f"{name:16} balanced  {result.psnr:6.2f} dB  SSIM {result.ssim:.4f}  {result.state.step} steps in "
        f"{result.seconds:7.1f} s of {whole:.1f} s  {result.n_bytes or 0:>10,} bytes  {way}"
    )
    kept = {key: value for key, value in figures.items() if isinstance(value, (int, float))}
    return Row("scene", f"quality {name}", "balanced", sizes, result.seconds, 0.0, 0.0, quality=kept)


# ---- through the occupancy grid, and densely


def _marching(source: Path | Scene, overrides: tuple[str, ...]) -> list[Row]:
    """Rows of a view of either kind, and of one with four times the pixels a side."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "x.field"
        result = fit_scene(
            source, output=path, overrides=overrides, steps=20 if overrides else None, progress="quiet"
        )  # fmt: skip
        fitted, metadata = load_field(path)
        assert isinstance(fitted, SceneField)
        sparse = eye_of(fitted, metadata)
        assert isinstance(sparse, Eye), sparse
    everywhere = OccupancyGrid(sparse.field.low, sparse.field.high, 4)
    dense = Eye(sparse.field, everywhere, step=sparse.step, background=sparse.background, early_stop=0.0)
    closed = partial(_closed, sparse, everywhere)
    eyes: dict[str, Callable[[Tensor, Tensor], Seen]] = {
        "dense": dense, "dense, closed cells empty": closed, "occupancy": sparse
    }  # fmt: skip
    rows: list[Row] = []
    with one_thread():
        found = {name: _held_out(result.scene, eye, sparse.background) for name, eye in eyes.items()}
        n_dense, like = found["dense"]["n_marched"], found["dense, closed cells empty"]["color"].clamp(0, 1)
        for name, one in found.items():
            figures = {
                "psnr": one["psnr"], "marched": one["n_marched"] / n_dense, "evaluated": one["n_evaluated"] / n_dense,
                "psnr_to_closed": min(120.0, psnr(one["color"].clamp(0, 1), like, 1.0)),
            }  # fmt: skip
            sizes = {"rays": one["n_rays"], "step": sparse.step}
            case = "marching of the held-out views"
            rate = one["n_rays"] / one["seconds"]
            rows.append(Row("scene", case, name, sizes, one["seconds"], 0.0, rate, quality=figures))
            say(
                f"{case:32} {name:26} {figures['psnr']:.3f} dB  {100 * figures['marched']:5.1f} % marched  "
                f"{100 * figures['evaluated']:5.1f} % evaluated  {one['seconds']:.2f} s"
            )
    rows += _large_view(result.scene, sparse, 3)
    return rows


@torch.no_grad()
def _closed(eye: Eye, everywhere: OccupancyGrid, origins: Tensor, directions: Tensor) -> Seen:
    """Every sample of the box, with nothing in the cells that training closed, where no ray looked again."""

    def radiance(points: Tensor, along: Tensor) -> tuple[Tensor, Tensor]:
        density, color = eye.field.radiance(points, along)
        return torch.where(eye.grid.occupied(points), density, 0.0), color

    return render(
        origins, directions, radiance, everywhere, step=eye.step, background=eye.background, early_stop=0.0
    )  # fmt: skip


def _held_out(scene: Scene, eye: Callable[[Tensor, Tensor], Seen], background: Tensor) -> dict[str, Any]:
    """Colours of all held-out pixels, mean decibels of the views, and what it took."""
    cameras = scene.cameras.to(torch.float32)
    colors, qualities, n_marched, n_evaluated, seconds = [], [], 0, 0, 0.0
    for view in scene.of("test").tolist():
        origins, directions = (rays.contiguous() for rays in cameras.picture_rays(view))
        start = time.process_time()
        parts = _see(eye, origins, directions)
        seconds += time.process_time() - start
        colors.append(torch.cat([part.color for part in parts]))
        photo = photo_of(scene, view, background).reshape(-1, 3)
        qualities.append(psnr(colors[-1].clamp(0, 1), photo, 1.0))
        n_marched += sum(part.n_marched for part in parts)
        n_evaluated += sum(part.n_evaluated for part in parts)
    color = torch.cat(colors)
    return {
        "color": color, "psnr": float(np.mean(qualities)), "n_rays": len(color), "n_marched": n_marched,
        "n_evaluated": n_evaluated, "seconds": seconds,
    }  # fmt: skip


def _see(eye: Callable[[Tensor, Tensor], Seen], origins: Tensor, directions: Tensor) -> list[Seen]:
    return [eye(*some) for some in zip(origins.split(2**12), directions.split(2**12), strict=True)]


def _large_view(scene: Scene, eye: Eye, repeats: int) -> list[Row]:
    """Seconds of a held-out camera's view with four times the pixels a side: CPU time of one thread, and as it is."""
    cameras, view = scene.cameras.to(torch.float32).select(scene.of("test")[:1]), 0
    large = Cameras(cameras.poses, 4 * cameras.intrinsics, 4 * cameras.sizes)
    width, height = large.sizes[view].tolist()
    look = partial(_see, eye, *(rays.contiguous() for rays in large.picture_rays(view)))
    with one_thread():
        times = take_turns({"view": look}, repeats=repeats)["view"]
    start = time.perf_counter()
    look()
    wall = time.perf_counter() - start
    seconds = float(np.median(times))
    case = f"a view of {width}x{height}"
    say(f"{case:32} occupancy  {seconds:.2f} s on one thread, {wall:.2f} s on {cpu_door.n_threads()}")
    figures = {"wall_seconds": wall, "threads": cpu_door.n_threads()}
    rate = width * height / seconds
    return [Row("scene", case, "occupancy", {"step": eye.step}, seconds, spread(times), rate, quality=figures)]


# ---- a scene for quick runs


def ball(side: int = 16) -> Scene:
    """Photos from a circle around a ball that shows its normals; the last one is held out."""
    cameras = orbit(
        torch.zeros(3), distance=3.0, up=torch.tensor([0.0, 0.0, 1.0]), elevation=20.0, n_frames=9, width=side,
        height=side, focal=1.2 * side,
    )  # fmt: skip
    pictures = []
    for view in range(len(cameras)):
        origins, directions = cameras.picture_rays(view)
        nearest = -(origins * directions).sum(-1, keepdim=True)
        under = 0.5 - (origins + nearest * directions).square().sum(-1, keepdim=True)
        place = origins + (nearest - under.clamp(min=0).sqrt()) * directions
        color = torch.where(under > 0, 0.5 + place / math.sqrt(2), 0.0).clamp(0, 1)
        pictures.append((255 * color).round().to(torch.uint8).view(side, side, 3).numpy())
    views = tuple(View(str(i), None, "test" if i == len(cameras) - 1 else "train") for i in range(len(cameras)))
    box = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    bounds = Bounds(box, 1.0, 5.0, True, "made for a quick run")
    return Scene("ball", "arrays", cameras.to(torch.float64), views, Photos.from_array(np.stack(pictures)), bounds)
