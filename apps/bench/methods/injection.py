"""Does an MLP that reads its inputs again at every layer (mi-MLP) fill in better what it was not shown?

Sparse pixels: a twentieth or a tenth of a picture's pixels is the training set, all others are held out; eight octaves
of sines and cosines, four or eight hidden layers. Arms: the plain MLP, one layer that reads the features again (NeRF's
skip), all of them (mi-MLP). Few views: four or eight photos of a scene; the preset `mimlp` with half its width, and the
same two networks without injection.

In both all arms have about the same number of parameters, so those that read more are narrower, and the same steps; the
rate of each is the best of three on another picture, or on other photos of the scene.
"""

from __future__ import annotations

import bisect
import copy
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fieldforge.apps.bench.harness import Row, folder_of, markdown, say
from fieldforge.apps.bench.methods.small import shrunk
from fieldforge.apps.bench.scene import SCENES, SMALL, ball
from fieldforge.apps.compare.size import parameters_of
from fieldforge.apps.fit.job import Plan
from fieldforge.apps.fit.loop import PlainStep, settle
from fieldforge.apps.fit.optimizers.base import Parameters
from fieldforge.apps.fit.recipe import Config, adam
from fieldforge.apps.fit.scene.job import SceneJob
from fieldforge.apps.images import read_image
from fieldforge.apps.scenes import Scene, read_scene
from fieldforge.fields.networks.mlp import MLP
from fieldforge.registry import build

PICTURES = {"astronaut": "skimage/astronaut.png", "chelsea": "skimage/chelsea.png", "kodim20": "kodak/kodim20.png"}
TUNED_ON = "skimage/coffee.png"
SIDE, WIDTH, N_OCTAVES = 128, 64, 8
SHARES, DEPTHS = (0.05, 0.1), (4, 8)
RATES = (3e-4, 1e-3, 3e-3)
SEED = 0
ARMS = {"plain": "none", "one skip": "mid", "every layer": "all"}
N_STEPS = 500

VIEWS = (4, 8)
SCENE_ARMS = {"plain": "none", "every layer": "all"}
SCENE_RATES = (5e-4, 1e-3, 2e-3)
SCENE_STEPS = 500
SCENE_SIZES = ("fit.batch_size=2048", "fit.samples_across=64", "fit.occupancy=32")
SCENE_WIDTH = 64
FIRST, OTHERS = 0, 1
"""Which photos: every so-many-th from the first, to be measured; from another, to tune rates."""


def measure(part: str, data: Path | None, *, is_quick: bool) -> Iterator[list[Row]]:
    """Pictures, then scenes."""
    n_steps = 2 if is_quick else N_STEPS
    if is_quick:
        pixels = torch.rand(12, 16, 3, generator=torch.Generator().manual_seed(0))
        yield pixel_rows("noise", pixels, {(arm, 4): RATES[0] for arm in ARMS}, 0.1, 4, n_steps)
        yield view_rows("ball", ball(side=8), 4, {arm: SCENE_RATES[0] for arm in SCENE_ARMS}, 1)
        return
    folder = folder_of(data)
    rates = tuned(shrunk(read_image(folder / "images" / TUNED_ON), SIDE), n_steps)
    for name, path in PICTURES.items():
        pixels = shrunk(read_image(folder / "images" / path), SIDE)
        for share in SHARES:
            for depth in DEPTHS:
                yield pixel_rows(name, pixels, rates, share, depth, n_steps)
    scene = read_scene(folder / "scenes" / SCENES[SMALL])
    found = tuned_on_views(scene, max(VIEWS))
    for n_views in VIEWS:
        yield view_rows("lego", scene, n_views, found, SCENE_STEPS)


def table(part: str, rows: Sequence[dict[str, Any]]) -> str:
    """Held-out PSNR of each arm, and the gain of every layer."""
    cells: list[list[str]] = []
    for case in dict.fromkeys(row["case"] for row in rows):
        found = {row["candidate"]: row for row in rows if row["case"] == case}
        values = {arm: row["quality"]["psnr"] for arm, row in found.items()}
        shown = [f"{values[arm]:.2f} dB" if arm in values else "" for arm in ARMS]
        gain = values["every layer"] - max(value for arm, value in values.items() if arm != "every layer")
        rates = ", ".join(f"{row['sizes']['rate']:g}" for row in found.values())
        parameters = f"{min(row['sizes']['parameters'] for row in found.values()):,}"
        cells.append([case.removeprefix("injection: "), *shown, f"{gain:+.2f} dB", rates, parameters])
    headings = ["shown", *ARMS, "every layer against the better other", "rates",
                "parameters"]  # fmt: skip
    return markdown(headings, cells)


def pixel_rows(
    name: str, pixels: Tensor, rates: dict[tuple[str, int], float], share: float, depth: int, n_steps: int
) -> list[Row]:
    """All arms on one picture, from one share of its pixels."""
    rows = []
    for arm, injection in ARMS.items():
        start, rate = time.process_time(), rates[arm, depth]
        psnr, n_parameters = sparse(pixels, share, depth, injection, rate, n_steps)
        seconds = time.process_time() - start
        sizes = {"share": share, "depth": depth, "rate": rate, "steps": n_steps, "parameters": n_parameters}
        case = f"injection: {name}, {share:.0%} of pixels, {depth} layers"
        rows.append(Row("methods", case, arm, sizes, seconds, 0.0, n_steps / seconds, quality={"psnr": round(psnr, 4)}))
        say(f"{case:46} {arm:12} {psnr:6.2f} dB  rate {rate:g}  {n_parameters:,} parameters, {seconds:.0f} s")
    return rows


def tuned(pixels: Tensor, n_steps: int) -> dict[tuple[str, int], float]:
    """The best rate of each arm and depth on another picture, from a tenth of its pixels."""
    found = {}
    for depth in DEPTHS:
        for arm, injection in ARMS.items():
            quality = {rate: sparse(pixels, 0.1, depth, injection, rate, n_steps)[0] for rate in RATES}
            found[arm, depth] = max(quality, key=lambda rate: quality[rate] if math.isfinite(quality[rate]) else -1e9)
    return found


def sparse(pixels: Tensor, share: float, depth: int, injection: str, rate: float, n_steps: int) -> tuple[float, int]:
    """Held-out PSNR after full-batch steps on a share of the pixels, the rate going down along a cosine; and the
    number of parameters."""
    height, width, n_channels = pixels.shape
    generator = torch.Generator().manual_seed(SEED)
    order = torch.randperm(height * width, generator=generator)
    some, rest = order.split([round(share * len(order)), len(order) - round(share * len(order))])
    x = torch.stack([(order % width + 0.5) / width, (order // width + 0.5) / height], -1)
    features: Tensor = build("encoding", {"otype": "Frequency", "n_frequencies": N_OCTAVES}, n_input_dims=2)(x)
    values = pixels.reshape(-1, n_channels)
    network = sized(features.shape[1], n_channels, depth, injection, generator)
    batch = features[: len(some)], values[some]
    optimizer = build("optimizer", adam(rate), parameters=Parameters.of(network, [network]))
    step = PlainStep(query=network, draw=lambda number: batch, loss=build("loss", "L2"), optimizer=optimizer)
    for number in range(n_steps):
        step(number, 0.5 * (1 + math.cos(math.pi * number / n_steps)))
    with torch.no_grad():
        error = (network(features[len(some) :]).clamp(0, 1) - values[rest]).square().mean()
    return -10 * math.log10(float(error)), sum(one.numel() for one in network.parameters())


def sized(n_in: int, n_out: int, depth: int, injection: Any, generator: torch.Generator) -> MLP:
    """A network of as many parameters as the plain one of `WIDTH` neurons."""

    def make(width: int, injection: Any) -> MLP:
        return MLP(
            n_in, n_out, n_neurons=width, n_hidden_layers=depth, has_bias=True, input_injection=injection,
            output_activation="Sigmoid", generator=generator,
        )  # fmt: skip

    def count(width: int, injection: Any) -> int:
        with torch.device("meta"):
            return sum(one.numel() for one in make(width, injection).parameters())

    wanted = count(WIDTH, "none")
    return make(min(range(8, 2 * WIDTH), key=lambda width: abs(count(width, injection) - wanted)), injection)


def view_rows(name: str, scene: Scene, n_views: int, rates: dict[str, float], n_steps: int) -> list[Row]:
    """Both networks on some photos of a scene."""
    rows = []
    job = SceneJob(of_views(scene, n_views, FIRST))
    for arm in SCENE_ARMS:
        config = scene_config(job, arm)
        start = time.process_time()
        psnr = from_views(job, config, rates[arm], n_steps)
        seconds = time.process_time() - start
        n_parameters = parameters_of(job, config)
        sizes = {"views": n_views, "rate": rates[arm], "steps": n_steps, "parameters": n_parameters}
        case = f"injection: {name}, {n_views} views"
        rows.append(Row("methods", case, arm, sizes, seconds, 0.0, n_steps / seconds, quality={"psnr": round(psnr, 4)}))
        say(f"{case:46} {arm:12} {psnr:6.2f} dB  rate {rates[arm]:g}  {n_parameters:,} parameters, {seconds:.0f} s")
    return rows


def tuned_on_views(scene: Scene, n_views: int) -> dict[str, float]:
    """The best rate of each arm on other photos, after half the steps."""
    job = SceneJob(of_views(scene, n_views, OTHERS))
    found = {}
    for arm in SCENE_ARMS:
        config = scene_config(job, arm)
        quality = {rate: from_views(job, config, rate, SCENE_STEPS // 2) for rate in SCENE_RATES}
        found[arm] = max(quality, key=lambda rate: quality[rate])
    return found


def of_views(scene: Scene, n_views: int, first: int) -> Scene:
    """The scene with so many photos for training, at equal distances in their order; held out are those that were."""
    train = scene.of("train").tolist()
    step = max(1, len(train) // n_views)
    kept = set(train[first % step :: step][:n_views])
    views = tuple(
        replace(view, split="val") if view.split == "train" and i not in kept else view
        for i, view in enumerate(scene.views)
    )
    return replace(scene, views=views)


def scene_config(job: SceneJob, arm: str) -> Config:
    """The preset `mimlp`, smaller, or the same without injection and wider."""
    both = ("network", "rgb_network")
    ground, _ = job.run_config(Plan(preset="mimlp", overrides=SCENE_SIZES))

    def at(width: int, injection: str) -> Config:
        config = copy.deepcopy(ground)
        for key in both:
            config[key] |= {"n_neurons": width, "input_injection": injection}
        return config

    wanted = parameters_of(job, at(SCENE_WIDTH, "all"))
    if arm == "every layer":
        return at(SCENE_WIDTH, "all")
    widths = range(SCENE_WIDTH, 2 * SCENE_WIDTH)
    first_over = bisect.bisect_left(widths, wanted, key=lambda width: parameters_of(job, at(width, "none")))
    return at(widths[first_over], "none")


def from_views(job: SceneJob, config: Config, rate: float, n_steps: int) -> float:
    """PSNR over pixels of the held-out views."""
    config = copy.deepcopy(config)
    config["optimizer"]["learning_rate"] = rate
    config["fit"]["n_steps"] = n_steps
    fitted, schedule = job.make_field(config, 0), build("schedule", config["schedule"])
    with job.training(fitted, config, 0, ()) as training:
        for step in range(n_steps):
            training.advance(step, schedule(step, n_steps))
        settle(training.optimizer)
    return job.quality(fitted.requires_grad_(False), math.inf)
