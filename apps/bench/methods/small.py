"""What parts on small pictures share: squares of photos, configurations of small networks, curves against CPU time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fieldforge.apps.bench.harness import folder_of
from fieldforge.apps.fit.image.job import ImageJob
from fieldforge.apps.fit.image.job import measure as quality_of
from fieldforge.apps.fit.job import Plan, Training
from fieldforge.apps.fit.recipe import Config, adam
from fieldforge.apps.images import Picture, read_image
from fieldforge.registry import build

TUNED_ON = "skimage/coffee.png"
"""Learning rates come from this picture, which none of the parts measures."""


class Look(NamedTuple):
    """How a fit does at a moment."""

    step: int
    seconds: float
    """CPU seconds of the steps so far."""
    psnr: float
    """Of all pixels."""


def picture(data: Path | None, name: str, side: int, *, is_quick: bool) -> Picture:
    """The middle of a photo, made so many pixels a side; noise where it should be quick."""
    if is_quick:
        return Picture.from_array(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8))
    return square(read_image(folder_of(data) / "images" / name), side)


def middle(photo: Picture) -> Picture:
    """The largest square in the middle of a photo."""
    shorter = min(photo.width, photo.height)
    x, y = (photo.width - shorter) // 2, (photo.height - shorter) // 2
    return Picture.from_array(np.ascontiguousarray(photo.pixels[y : y + shorter, x : x + shorter]))


def square(photo: Picture, side: int) -> Picture:
    """The middle of a photo, made so many pixels a side."""
    values = ImageJob(middle(photo)).slices(side)[0].values.clamp(0, 1)
    return Picture.from_array((values * 255).round().to(torch.uint8).numpy())


def shrunk(photo: Picture, side: int) -> Tensor:
    """(height, width, channels) from 0 to 1, the longest side so many pixels, each the mean of its part."""
    height, width, n_channels = photo.pixels.shape
    pixels = photo.values(torch.arange(height * width)).view(1, height, width, n_channels).movedim(-1, 1)
    factor = side / max(height, width)
    size = round(height * factor), round(width * factor)
    small: Tensor = torch.nn.functional.interpolate(pixels, size=size, mode="area")
    return small[0].movedim(0, -1).contiguous()


def pictures(data: Path | None, names: Sequence[str], side: int, *, is_quick: bool) -> Iterator[tuple[str, Picture]]:
    """(name, picture), of the first alone where it should be quick."""
    for name in names[: 1 if is_quick else None]:
        yield Path(name).stem, picture(data, name, side, is_quick=is_quick)


def configuration(job: ImageJob, preset: str, n_steps: int, **sections: Mapping[str, Any]) -> Config:
    """A preset with some keys of its sections changed, stored in float32."""
    config, _ = job.run_config(Plan(preset=preset, steps=n_steps))
    config["fit"]["storage"] = "float32"
    for name, changes in sections.items():
        config[name] = changes if "otype" in changes else config[name] | changes
    return config


def curve(job: ImageJob, config: Config, *, n_looks: int = 40) -> list[Look]:
    """A fit with seed 0, looked at now and then."""
    field = job.make_field(config, 0)
    schedule = build("schedule", config["schedule"], path="schedule")
    n_steps = config["fit"]["n_steps"]
    found, seconds, every = list[Look](), 0.0, max(1, n_steps // n_looks)
    with job.training(field, config, 0, ()) as training:
        assert isinstance(training, Training)
        for step in range(n_steps):
            start = time.process_time()
            training.advance(step, schedule(step, n_steps))
            seconds += time.process_time() - start
            if (step + 1) % every == 0 or step + 1 == n_steps:
                with torch.no_grad():
                    found.append(Look(step + 1, seconds, quality_of(job.picture, field)[0]))
    return found


def best_rate(
    config: Config, rates: Sequence[float], figure: Callable[[Config], float]
) -> tuple[float, dict[str, float]]:
    """The learning rate with the largest figure, and the figure of each."""
    found = {rate: figure(config | {"optimizer": adam(rate)}) for rate in rates}
    return max(found, key=lambda rate: found[rate]), {f"{rate:g}": round(one, 3) for rate, one in found.items()}


def rounded(looks: Sequence[Look]) -> list[list[float]]:
    """For a row."""
    return [[one.step, round(one.seconds, 3), round(one.psnr, 3)] for one in looks]
