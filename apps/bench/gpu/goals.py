"""How many seconds of training a goal takes: a large picture to 35 dB, Lego at 400 pixels to 33 dB; and its pictures.

What is timed is training alone, with its draws; looking at the quality, every so many steps, is not. Kernels are
compiled and tuned before, on a field that is thrown away.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fieldforge import backends
from fieldforge.apps.bench.gpu.clock import Clock
from fieldforge.apps.bench.scene import ball
from fieldforge.apps.fit.image.job import ImageJob, step_of
from fieldforge.apps.fit.job import Plan
from fieldforge.apps.fit.loop import Step
from fieldforge.apps.fit.on_device import GraphedStep, Lagging
from fieldforge.apps.fit.options import FitOptions
from fieldforge.apps.fit.recipe import Config
from fieldforge.apps.fit.samplers import PixelDraw
from fieldforge.apps.fit.scene.job import SceneJob
from fieldforge.apps.images import Picture, read_image
from fieldforge.apps.render.pictures import photo_of
from fieldforge.apps.render.radiance import SceneEye
from fieldforge.apps.scenes import Scene, read_scene
from fieldforge.backends import made_by
from fieldforge.devices import move
from fieldforge.fields.kinds.image import ImageField
from fieldforge.registry import build

PICTURE_GOAL, SCENE_GOAL = 35.0, 33.0
"""Decibels: over all pixels of the picture; mean over all held-out views of the scene."""
N_WARM = 20
"""Steps of the field that is thrown away."""


@dataclass(frozen=True)
class GoalSizes:
    """How large the work is; the first are for measuring, the others for a try."""

    height: int = 3072
    width: int = 4640
    picture_batch: int = 2**18
    picture_steps: int = 4000
    log2_hashmap_size: int = 19
    n_levels: int = 16
    scene_batch: int = 2**18
    scene_steps: int = 4000
    samples_across: int = 768
    occupancy: int = 128
    every: int = 50
    is_small: bool = False


SMALL = GoalSizes(48, 64, 2**8, 12, 8, 2, 2**8, 6, 24, 8, 4, True)


@dataclass
class Raced:
    """What became of a fit.

    Args:
        seconds, n_steps: of training, until the goal or the end.
        quality: decibels at the end, over all that was to be reached.
        has_reached: whether they are the goal's.
        figures: what else was measured.
        notes: what should be said aloud.
    """

    seconds: float
    n_steps: int
    quality: float
    has_reached: bool
    figures: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def race(
    advance: Step,
    schedule: Callable[[int, int], float],
    near: Callable[[], float],
    exact: Callable[[], float],
    goal: float,
    clock: Clock,
    *,
    n_steps: int,
    every: int,
    limit: float,
) -> Raced:
    """Train until `exact` is `goal`, asked where `near`, over some samples, is; at most `n_steps` and `limit` seconds.

    Raises:
        ArithmeticError: a loss was not finite.
    """
    seconds, step, peak = 0.0, 0, 0
    quality = -math.inf
    clock.wait()
    while step < n_steps and seconds < limit:
        start = time.perf_counter()
        for _ in range(min(every, n_steps - step)):
            loss, _ = advance(step, schedule(step, n_steps))
            if not math.isfinite(loss):
                raise ArithmeticError(f"the loss was {loss} about step {step}")
            step += 1
        peak = max(peak, clock.wait())
        seconds += time.perf_counter() - start
        is_last = step >= n_steps or seconds >= limit
        if near() >= goal or is_last:
            quality = exact()
            if quality >= goal:
                break
    return Raced(seconds, step, quality, quality >= goal, {"peak_bytes": float(peak)})


def makers(operation: str) -> Iterator[tuple[str, str, list[Any] | str]]:
    """Who trains: a name, in which precision, and the contexts under which they do or why they cannot.

    Ours in both; guests in half precision, as tinycudann's networks know no other.
    """
    others = ("grid", "field", "march", "composite", "segmented_scan", "accumulate")
    for maker in backends.makers(operation, "cuda") or [""]:
        why = backends.why_missing(operation, "cuda", maker) if maker else None
        for precision in ("float16",) if maker else ("float32", "float16"):
            yield f"{maker or 'fieldforge'}, {precision}", precision, why or [made_by(one, maker) for one in others]


# ---- a picture


def landscape(height: int, width: int, seed: int = 0) -> Picture:
    """A picture that code makes, with the statistics of photos: discs of all sizes before one another, shaded by noise
    whose amplitude falls with its frequency (Lee, Mumford and Huang 2001; Field 1987); the same everywhere."""
    random = np.random.Generator(np.random.PCG64(seed))
    pixels = np.full((height, width, 3), 128, np.float32)
    least, most = min(16.0, 0.1 * height), 0.35 * height
    for _ in range(1 + height * width // 3000):
        radius = 1 / math.sqrt(random.uniform(most**-2, least**-2))
        y, x = random.uniform(-0.1, 1.1) * height, random.uniform(-0.1, 1.1) * width
        color = random.uniform(40, 215, 3)
        top, left = max(0, int(y - radius)), max(0, int(x - radius))
        part = pixels[top : max(0, int(y + radius) + 2), left : max(0, int(x + radius) + 2)]
        if part.size:
            rows, columns = np.ogrid[top : top + part.shape[0], left : left + part.shape[1]]
            part[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = color
    shade = np.zeros((height, width), np.float32)
    for octave in range(1, 10):
        lattice = torch.from_numpy(random.normal(size=(1, 1, 2**octave + 1, 2**octave + 1)).astype(np.float32))
        with torch.device("cpu"):
            shade += 30 * 2.0**-octave * interpolate(lattice, (height, width), mode="bilinear").numpy()[0, 0]
    pixels = np.clip(pixels + shade[..., None], 0, 255)
    return Picture.from_array(pixels.astype(np.uint8), name=f"landscape {width}x{height}")


def picture_of(data: Path | None, sizes: GoalSizes) -> Picture:
    """The photo that --data names, or the first of ``photo.*`` in that folder; else `landscape`."""
    if data is not None and not sizes.is_small:
        for path in [data] if data.is_file() else sorted(data.glob("photo.*")):
            return read_image(path)
    return landscape(sizes.height, sizes.width)


def picture_config(sizes: GoalSizes, picture: Picture, precision: str) -> Config:
    """instant-ngp's field of pictures; its finest level has half the pixels of the longer side."""
    growth = (max(picture.width, picture.height) / 2 / 16) ** (1 / (sizes.n_levels - 1))
    return {
        "encoding": {"otype": "HashGrid", "n_levels": sizes.n_levels, "log2_hashmap_size": sizes.log2_hashmap_size,
                     "base_resolution": 16, "per_level_scale": round(max(1.0, growth), 6)},
        "network": {"otype": "MLP", "n_neurons": 64, "n_hidden_layers": 2},
        "loss": {"otype": "L2"},
        "optimizer": {"otype": "Adam", "learning_rate": 1e-2, "beta2": 0.99, "epsilon": 1e-15},
        "schedule": {"otype": "ConstantThenLinear", "decay_start": 0.25, "final_factor": 0.03},
        "fit": {"n_steps": sizes.picture_steps, "batch_size": sizes.picture_batch, "precision": precision},
    }  # fmt: skip


def fit_picture(
    picture: Picture, sizes: GoalSizes, precision: str, clock: Clock, limit: float, goal: float = PICTURE_GOAL
) -> Raced:
    """Seconds to the goal, by whoever is preferred."""
    with torch.device("cpu"):
        job = ImageJob(picture)
        config, _ = job.run_config(Plan(config=picture_config(sizes, picture, precision)))
    advance, fitted = _picture_step(job, config)
    schedule = build("schedule", config["schedule"], path="schedule")
    for step in range(N_WARM):
        advance(step, schedule(step, sizes.picture_steps))
    near, exact = _picture_quality(picture, fitted)
    near()
    advance, fitted = _picture_step(job, config)
    near, exact = _picture_quality(picture, fitted)
    found = race(
        advance, schedule, near, exact, goal, clock, n_steps=sizes.picture_steps, every=sizes.every, limit=limit
    )
    if isinstance(advance, Lagging) and isinstance(advance.inner, GraphedStep):
        found.figures["is_recorded"] = float(not advance.inner.why_not)
        if advance.inner.why_not:
            found.notes.append(f"its steps are not a CUDA graph: {advance.inner.why_not}")
    return found


def _picture_step(job: ImageJob, config: Config) -> tuple[Step, ImageField]:
    device = torch.empty(0).device
    with torch.device("cpu"):
        made = job.make_field(config, 0)
    fitted = move(made, device)
    return step_of(fitted, config, PixelDraw(job.picture, FitOptions.of(config["fit"]), 0)).advance, fitted


def _picture_quality(picture: Picture, fitted: ImageField) -> tuple[Callable[[], float], Callable[[], float]]:
    """Decibels over 2^17 pixels, and over all; on the device."""
    device = torch.empty(0).device
    stored = torch.from_numpy(picture.pixels).to(device).view(-1, picture.n_channels)
    some = torch.randperm(len(stored), generator=torch.Generator("cpu").manual_seed(0), device="cpu")[: 2**17]

    @torch.no_grad()
    def error(index: Tensor) -> Tensor:
        places = torch.stack([index % picture.width, index // picture.width], -1) + 0.5
        target = stored[index].float() / picture.one
        return (fitted.color(places).float().clamp(0, 1) - target).square().sum(dtype=torch.float64)

    def psnr(parts: list[Tensor]) -> float:
        total = torch.stack([error(part) for part in parts]).sum()
        n = sum(map(len, parts)) * picture.n_channels
        return -10 * math.log10(max(float(total) / n, 1e-12))

    near = [some.to(device)]
    return lambda: psnr(near), lambda: psnr(list(torch.arange(len(stored)).split(2**20)))


# ---- a scene


def scene_of(data: Path | None, sizes: GoalSizes) -> tuple[Scene, str]:
    """Lego of --data, a folder that holds ``scenes/lego`` or ``lego`` or is it; else a ball that code makes. And what
    is to be said of that."""
    if data is not None and not sizes.is_small:
        for folder in (data / "scenes" / "lego", data / "lego", data):
            if (folder / "transforms_train.json").is_file():
                return read_scene(folder), ""
    side = 16 if sizes.is_small else 200
    return ball(side), f"no lego: --data names no folder with scenes/lego; a ball at {side}x{side} stands in"


def scene_overrides(sizes: GoalSizes, precision: str) -> tuple[str, ...]:
    """instant-ngp's field of scenes, and its batch of 2^18 samples."""
    growth = (512 * 4 / 16) ** (1 / max(1, sizes.n_levels - 1))
    return (
        f"encoding.n_levels={sizes.n_levels}", f"encoding.log2_hashmap_size={sizes.log2_hashmap_size}",
        f"encoding.per_level_scale={growth:.6f}", "network.n_neurons=64", "rgb_network.n_neurons=64",
        f"fit.batch_size={sizes.scene_batch}", f"fit.occupancy={sizes.occupancy}", "fit.update_every=16",
        f"fit.samples_across={sizes.samples_across}", "fit.coarse_start=0.1", f"fit.precision={precision}",
    )  # fmt: skip


def fit_scene(
    scene: Scene, sizes: GoalSizes, precision: str, clock: Clock, limit: float, goal: float = SCENE_GOAL
) -> Raced:
    """Seconds to the goal, and frames a second of what was fitted."""
    with torch.device("cpu"):
        job = SceneJob(scene)
        plan = Plan(overrides=scene_overrides(sizes, precision), steps=sizes.scene_steps)
        config, _ = job.run_config(plan)
        schedule = build("schedule", config["schedule"], path="schedule")
    device = torch.empty(0).device

    def run(limit: float, n_warm: int = 0) -> Raced:
        with torch.device("cpu"):
            made = job.make_field(config, 0)
        fitted = move(made, device)
        begun = time.perf_counter()
        with job.training(fitted, config, 0, ()) as training:
            clock.wait()
            set_up = time.perf_counter() - begun
            assert job.step is not None
            eye, n = job.step.eye(fitted), n_warm or sizes.scene_steps
            for step in range(n_warm):
                training.advance(step, schedule(step, sizes.scene_steps))
            if n_warm:
                return Raced(0.0, n, job._near(fitted), False)
            found = race(
                training.advance, schedule, lambda: _near(job, fitted), lambda: held_out(job, eye), goal, clock,
                n_steps=n, every=sizes.every, limit=limit,
            )  # fmt: skip
        found.figures |= {"set_up_seconds": set_up, "views": float(len(job.test)), **_frames(job, eye, clock)}
        return found

    run(limit, n_warm=min(N_WARM, sizes.scene_steps))
    return run(limit)


def _near(job: SceneJob, fitted: Any) -> float:
    with torch.no_grad():
        return job._near(fitted)


@torch.no_grad()
def held_out(job: SceneJob, eye: SceneEye) -> float:
    """Decibels, mean over all held-out views, of colours clamped to [0, 1]."""
    cameras = job.scene.cameras.to(torch.float32).to(eye.background.device)
    found = []
    for view in job.test.tolist():
        photo = photo_of(job.scene, view, eye.background).reshape(-1, 3)
        rays = cameras.picture_rays(view)
        parts = zip(*(column.contiguous().split(eye.n_rays_at_once) for column in rays), strict=True)
        color = torch.cat([eye(*part).color for part in parts]).clamp(0, 1)
        found.append(-10 * torch.log10((color - photo).square().mean().clamp(min=1e-12)))
    return float(torch.stack(found).mean())


@torch.no_grad()
def _frames(job: SceneJob, eye: SceneEye, clock: Clock) -> dict[str, float]:
    """Frames a second of a held-out view, rendered and turned into bytes on the device."""
    cameras = job.scene.cameras.to(torch.float32)
    cameras = cameras.select(job.test[:1]).to(eye.background.device)
    rays = [column.contiguous() for column in cameras.picture_rays(0)]
    n = eye.n_rays_at_once

    def look() -> Tensor:
        parts = [eye(*part).color for part in zip(*(column.split(n) for column in rays), strict=True)]
        return (255 * torch.cat(parts).clamp(0, 1)).round().to(torch.uint8)

    timing = clock.time(look, 10)
    return {"frames_per_second": 1 / timing.seconds}


def under(contexts: list[Any], work: Callable[[float], Raced], limit: float) -> Raced:
    """`work` inside of contexts, products of float32 in TensorFloat-32, as is usual in training."""
    with contextlib.ExitStack() as stack:
        stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
        torch.set_float32_matmul_precision("high")
        for one in contexts:
            stack.enter_context(one)
        return work(limit)
