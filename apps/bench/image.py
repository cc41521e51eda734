"""``fieldforge bench image``: one training step of an image fit against the step a PyTorch user would write.

Same picture, same grid, same network, same batch; the plain side is measured with torch's default Adam and with its
fused one. After the timed steps each candidate's picture is measured, so that no candidate is fast by doing less.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fieldforge.apps.bench.harness import Row, one_thread, save, say, spread, take_turns
from fieldforge.apps.bench.peers import PlainHashGrid, plain_mlp
from fieldforge.apps.fit.image.job import ImageJob, step_of
from fieldforge.apps.fit.image.presets import preset
from fieldforge.apps.fit.options import FitOptions
from fieldforge.apps.fit.samplers import PixelDraw
from fieldforge.apps.images import Picture, read_image
from fieldforge.backends import use_backend

PHOTO = Path("data/images/astronaut.png")


def run(folder: Path, *, is_quick: bool) -> None:
    """Measure, print, and keep the rows unless `is_quick`."""
    picture = noise(64) if is_quick else read_image(PHOTO)
    batch_sizes = (256,) if is_quick else (8192, 65536)
    rows: list[Row] = []
    with one_thread():
        for batch_size in batch_sizes:
            repeats = 2 if is_quick else max(10, 40 * 8192 // batch_size)
            rows += _case(picture, batch_size, repeats)
    if not is_quick:
        say(f"rows: {save(folder, 'image', rows)}")


def _case(picture: Picture, batch_size: int, repeats: int) -> list[Row]:
    height, width, _ = picture.pixels.shape
    config = preset("balanced", width, height)
    config["fit"] |= {"batch_size": batch_size, "jitter": 0.0, "n_steps": repeats + 1}
    config["schedule"] = {"otype": "Constant"}
    candidates: dict[str, _Candidate] = {
        "plain PyTorch, Adam": _Plain(config, picture, is_fused=False),
        "plain PyTorch, fused Adam": _Plain(config, picture, is_fused=True),
        "ours, reference": _Ours(config, picture, "reference"),
        "ours, cpu": _Ours(config, picture, "cpu"),
    }
    seconds = take_turns({name: one.step for name, one in candidates.items()}, repeats=repeats)
    base = statistics.median(seconds["plain PyTorch, Adam"])
    rows = []
    for name, times in seconds.items():
        median, quality = statistics.median(times), candidates[name].psnr()
        case = f"image step, batch {batch_size}"
        sizes = {"batch_size": batch_size, "encoding": config["encoding"], "network": config["network"]}
        rows.append(
            Row("image", case, name, sizes, median, spread(times), batch_size / median, quality={"psnr": quality})
        )
        say(
            f"{case:26} {name:26} {1e3 * median:8.1f} ms  {batch_size / median / 1e6:7.3f} M pixels/s "
            f"{base / median:6.2f} x   {quality:.2f} dB after {repeats + 1} steps"
        )
    return rows


class _Candidate:
    """A training step and the quality it leads to."""

    step: Callable[[], None]
    predict: Callable[[Tensor], Tensor]
    """(n, 2) pixel coordinates -> (n, 3)."""

    def __init__(self, config: dict[str, Any], picture: Picture) -> None:
        self.picture = picture
        self.draw = PixelDraw(picture, FitOptions.of(config["fit"]), seed=0)
        self.n_done = 0

    def psnr(self) -> float:
        """Over all pixels."""
        index = torch.arange(self.picture.width * self.picture.height)
        points = torch.stack([index % self.picture.width, index // self.picture.width], -1) + 0.5
        with torch.no_grad():
            colors = torch.cat([self.predict(some) for some in points.split(2**15)]).clamp(0, 1)
        return -10 * math.log10(float(((colors - self.picture.values(index)) ** 2).mean()))


class _Plain(_Candidate):
    def __init__(self, config: dict[str, Any], picture: Picture, *, is_fused: bool) -> None:
        super().__init__(config, picture)
        torch.manual_seed(0)
        one, two = config["encoding"], config["network"]
        grid = PlainHashGrid(
            2, one["n_levels"], one["n_features_per_level"], one["log2_hashmap_size"], one["base_resolution"],
            one["per_level_scale"],
        )  # fmt: skip
        n_features = one["n_levels"] * one["n_features_per_level"]
        model = nn.Sequential(grid, plain_mlp(n_features, two["n_neurons"], two["n_hidden_layers"], 3))
        rate = config["optimizer"]["learning_rate"]
        optimizer = torch.optim.Adam(model.parameters(), lr=rate, betas=(0.9, 0.99), eps=1e-15, fused=is_fused)
        height, width, _ = picture.pixels.shape
        size = torch.tensor([width, height], dtype=torch.float32)

        def step() -> None:
            points, target = self.draw(self.n_done)
            optimizer.zero_grad()
            nn.functional.mse_loss(model(points / size), target).backward()
            optimizer.step()
            self.n_done += 1

        self.step, self.predict = step, lambda points: model(points / size)


class _Ours(_Candidate):
    def __init__(self, config: dict[str, Any], picture: Picture, backend: str) -> None:
        super().__init__(config, picture)
        field = ImageJob(picture).make_field(config, seed=0)
        with use_backend(backend):
            advance, _, _ = step_of(field, config, self.draw)

        def step() -> None:
            with use_backend(backend):
                advance(self.n_done, 1.0)
            self.n_done += 1

        self.step, self.predict = step, field.color


def noise(side: int) -> Picture:
    return Picture.from_array(np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8))
