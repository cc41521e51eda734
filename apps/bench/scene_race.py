"""Two trainers of one scene, ours and a plain one, to the same quality on the same held-out pixels; then rays a second.

Both train the same field (the preset's), in the same process, on one thread. Ours is trained from the start several
times, in between the plain one goes on: what else the machine does meets both. The CPU time of training steps counts;
looking how good they are does not.
"""

from __future__ import annotations

import math
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fieldforge.apps.bench.harness import Row, say, spread, take_turns
from fieldforge.apps.bench.plain_nerf import PlainNerf
from fieldforge.apps.fit.job import Plan
from fieldforge.apps.fit.recipe import Config
from fieldforge.apps.fit.scene.job import SceneJob
from fieldforge.apps.render.pictures import photo_of
from fieldforge.apps.render.radiance import SceneEye
from fieldforge.registry import build
from fieldforge.renderers.cameras import Cameras

PLAIN, OURS = "plain PyTorch, fused Adam", "ours, cpu"


@dataclass(frozen=True)
class Tuning:
    """Of the plain trainer; the defaults are those that brought it to 25 dB on Lego at 100 pixels first.

    Args:
        n_rays: a step.
        n_samples: of each ray within the box.
    """

    n_rays: int = 128
    n_samples: int = 48


class Trainer(ABC):
    """A field in training.

    Attributes:
        seconds: CPU time of all steps.
        n_steps, n_rays: done so far.
    """

    def __init__(self) -> None:
        self.seconds, self.n_steps, self.n_rays = 0.0, 0, 0

    def step(self) -> None:
        """One more step."""
        start = time.process_time()
        n_rays = self.move()
        self.seconds += time.process_time() - start
        self.n_steps += 1
        self.n_rays += n_rays

    @abstractmethod
    def move(self) -> int:
        """What a step does; how many rays it had."""

    @abstractmethod
    def color(self, origins: Tensor, directions: Tensor) -> Tensor:
        """(n, 3) of rays, without gradients."""


class Ours(Trainer):
    """The steps of ``fit scene``.

    Args:
        job, config: of the fit; it is closed with `stack`.
    """

    def __init__(self, job: SceneJob, config: Config, stack: ExitStack) -> None:
        super().__init__()
        self.field = job.make_field(config, 0)
        self.advance = stack.enter_context(job.training(self.field, config, 0, ())).advance
        assert job.step is not None
        self.inside = job.step
        self.schedule = build("schedule", config["schedule"], path="schedule")
        self.most = config["fit"]["n_steps"]
        self.eye: SceneEye | None = None

    def move(self) -> int:
        self.eye = None
        self.advance(self.n_steps, self.schedule(self.n_steps, self.most))
        return self.inside.n_rays

    def color(self, origins: Tensor, directions: Tensor) -> Tensor:
        if self.eye is None:
            self.eye = self.inside.eye(self.field)
        return self.eye(origins, directions).color


class Plain(Trainer):
    """What a PyTorch user would write: all rays in memory, dense samples, `torch.optim.Adam(fused=True)`.

    The rate stays where ours begins: it is far from the end of any schedule when it gets to the quality asked for.
    """

    def __init__(self, job: SceneJob, config: Config, tuning: Tuning) -> None:
        super().__init__()
        torch.manual_seed(0)
        low, high = job.scene.bounds.box
        middle, half = (low + high) / 2, (high - low).max() / 2
        self.model = PlainNerf(config, (middle - half).tolist(), (middle + half).tolist())
        self.tuning = tuning
        how = config["optimizer"]
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=how["learning_rate"], betas=(0.9, how["beta2"]), eps=how["epsilon"], fused=True
        )
        self.background = background_of(job)
        self.rays = rays_of(job, job.train)

    def move(self) -> int:
        origins, directions, target = self.rays
        some = torch.randint(len(origins), (self.tuning.n_rays,))
        self.optimizer.zero_grad()
        color = self.model.render(origins[some], directions[some], self.background, self.tuning.n_samples)
        nn.functional.huber_loss(color, target[some], delta=0.1).backward()
        self.optimizer.step()
        return len(some)

    @torch.no_grad()
    def color(self, origins: Tensor, directions: Tensor) -> Tensor:
        self.model.eval()
        n_rays_at_once = max(1, 2**14 // self.tuning.n_samples)  # larger parts leave the processor's cache: slower
        parts = [
            self.model.render(*some, self.background, self.tuning.n_samples)
            for some in zip(origins.split(n_rays_at_once), directions.split(n_rays_at_once), strict=True)
        ]
        self.model.train()
        return torch.cat(parts)


def background_of(job: SceneJob) -> Tensor:
    """(3,) behind photos with alpha white, else black."""
    return torch.full((3,), float(job.scene.has_alpha))


def rays_of(job: SceneJob, views: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Origins, directions and colours (n, 3) of all pixels of some views."""
    cameras, background = job.scene.cameras.to(torch.float32), background_of(job)
    rays = [cameras.picture_rays(view) for view in views.tolist()]
    photos = [photo_of(job.scene, view, background).reshape(-1, 3) for view in views.tolist()]
    return torch.cat([one for one, _ in rays]), torch.cat([one for _, one in rays]), torch.cat(photos)


def psnr(trainer: Trainer, rays: tuple[Tensor, Tensor, Tensor]) -> float:
    """Decibels over rays."""
    found = trainer.color(rays[0].contiguous(), rays[1].contiguous()).clamp(0, 1)
    return -10 * math.log10(float(((found - rays[2]) ** 2).mean()))


def reach(
    trainer: Trainer, rays: tuple[Tensor, Tensor, Tensor], target: float, *, every: int, most: int
) -> Iterator[None]:
    """Train until that many decibels are reached, looking every so many steps; pauses after each look.

    Raises:
        RuntimeError: not reached in `most` steps.
    """
    quality = -math.inf
    while quality < target:
        if trainer.n_steps >= most:
            raise RuntimeError(f"{type(trainer).__name__}: {quality:.2f} dB after {most} steps, {target:g} expected")
        for _ in range(every):
            trainer.step()
        quality = psnr(trainer, rays)
        yield


def race(job: SceneJob, *, target: float, overrides: tuple[str, ...] = (), tuning: Tuning | None = None) -> list[Row]:
    """Rows of the time to a quality, of training at that stage, and of rendering."""
    tuning = tuning or Tuning()
    config, _ = job.run_config(Plan(overrides=overrides))
    every = rays_of(job, job.test)
    some = torch.randperm(len(every[0]), generator=torch.Generator().manual_seed(0))[:4096]
    looked_at = every[0][some], every[1][some], every[2][some]
    turns: list[Ours] = []
    with ExitStack() as stack:
        plain = Plain(job, config, tuning)
        rest = reach(plain, looked_at, target, every=20, most=20_000)
        is_there = False
        while not is_there or len(turns) < 3:
            turns.append(Ours(job, config, stack))
            for _ in reach(turns[-1], looked_at, target, every=10, most=config["fit"]["n_steps"]):
                pass
            until = plain.seconds + 4 * turns[-1].seconds
            while not is_there and plain.seconds < until:
                is_there = next(rest, "there") == "there"
        times = {PLAIN: [plain.seconds], OURS: [one.seconds for one in turns]}
        trainers: dict[str, Trainer] = {PLAIN: plain, OURS: turns[-1]}
        rows = _race_rows(f"to {target:g} dB", trainers, times, every, _sizes(config, tuning))
        rows += _training(f"training at {target:g} dB", trainers, config, tuning)
        for scale in (1, 4):
            rows += _rendering(job, trainers, scale, _sizes(config, tuning))
    return rows


def _sizes(config: Config, tuning: Tuning) -> dict[str, Any]:
    return {"config": config, "plain_rays": tuning.n_rays, "plain_samples": tuning.n_samples}


def _race_rows(
    case: str,
    trainers: dict[str, Trainer],
    times: dict[str, list[float]],
    every: tuple[Tensor, Tensor, Tensor],
    sizes: dict[str, Any],
) -> list[Row]:
    median = {name: statistics.median(some) for name, some in times.items()}
    rows = []
    for name, trainer in trainers.items():
        figures = {"psnr": psnr(trainer, every), "steps": trainer.n_steps, "turns": len(times[name])}
        rate = trainer.n_rays / trainer.seconds
        rows.append(Row("scene", case, name, sizes, median[name], spread(times[name]), rate, quality=figures))
        say(
            f"{case:24} {name:26} {median[name]:8.2f} s  {rate:9.0f} rays/s  {median[PLAIN] / median[name]:6.1f} x   "
            f"{figures['psnr']:.2f} dB over all held-out pixels, {trainer.n_steps} steps"
        )
    return rows


def _training(case: str, trainers: dict[str, Trainer], config: Config, tuning: Tuning) -> list[Row]:
    """Rays a second from where the trainers stand; a turn of ours is as many steps as have one look at occupancy."""
    steps = {PLAIN: 2, OURS: int(config["fit"]["update_every"])}
    n_rays: dict[str, list[int]] = {name: [] for name in trainers}

    def turn(name: str) -> None:
        before = trainers[name].n_rays
        for _ in range(steps[name]):
            trainers[name].step()
        n_rays[name].append(trainers[name].n_rays - before)

    times = take_turns({PLAIN: lambda: turn(PLAIN), OURS: lambda: turn(OURS)}, repeats=5)
    rows = []
    for name, some in times.items():
        rates = [n / seconds for n, seconds in zip(n_rays[name][1:], some, strict=True)]
        a_step = statistics.median(some) / steps[name]
        found = Row("scene", case, name, _sizes(config, tuning), a_step, spread(some), statistics.median(rates))
        rows.append(found)
        say(
            f"{case:24} {name:26} {1e3 * a_step:8.1f} ms a step  {found.rate:9.0f} rays/s  "
            f"{found.rate / rows[0].rate:6.1f} x"
        )
    return rows


def _rendering(job: SceneJob, trainers: dict[str, Trainer], scale: int, sizes: dict[str, Any]) -> list[Row]:
    """A held-out view, and the same with more pixels."""
    cameras, view = job.scene.cameras.to(torch.float32), int(job.test[0])
    one = Cameras(
        cameras.poses[view : view + 1], scale * cameras.intrinsics[view : view + 1],
        scale * cameras.sizes[view : view + 1],
    )  # fmt: skip
    width, height = one.sizes[0].tolist()
    origins, directions = (rays.contiguous() for rays in one.picture_rays(0))
    case = f"rendering {width}x{height}"
    times = take_turns(
        {name: partial(trainer.color, origins, directions) for name, trainer in trainers.items()},
        repeats=3 if scale == 1 else 1,
    )  # fmt: skip
    median = {name: statistics.median(some) for name, some in times.items()}
    rows = []
    for name, seconds in median.items():
        rate = width * height / seconds
        rows.append(Row("scene", case, name, sizes, seconds, spread(times[name]), rate))
        say(f"{case:24} {name:26} {seconds:8.3f} s  {rate:9.0f} rays/s  {median[PLAIN] / seconds:6.1f} x")
    return rows
