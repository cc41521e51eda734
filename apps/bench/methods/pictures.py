"""Losses of whole pictures after some hundred steps: SPDER's claim, and the figures that go round for the cameraman.

Grey pictures of 256 pixels a side, values from -1 to 1, all pixels in every step, Adam at a constant rate, float32:
the scripts' own settings. Errors are those of the trained field in float32, not clipped; as in SPDER's script the
lowest so far counts, here of looks at every 25 steps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fieldforge.apps.bench.harness import Row, folder_of, markdown, say
from fieldforge.apps.bench.methods.small import TUNED_ON, middle
from fieldforge.apps.fit.image.job import ImageJob, step_of
from fieldforge.apps.fit.job import Plan
from fieldforge.apps.fit.recipe import Config, adam
from fieldforge.apps.images import Picture, read_image
from fieldforge.fields.kinds.image import ImageField

SIDE, TUNING_SIDE = 256, 128
AT = (25, 100, 500)
"""Steps that are looked at."""
TUNING_STEPS = 100
RATES = {"SPDER": (1e-4, 2e-4, 5e-4), "SIREN": (1e-4, 2e-4, 5e-4, 1e-3), "ReLU, PE": (3e-4, 1e-3, 3e-3)}
PHOTOS = {
    "skimage/astronaut.png": SIDE,
    "kodak/kodim04.png": TUNING_SIDE,
    "kodak/kodim07.png": TUNING_SIDE,
    "kodak/kodim17.png": TUNING_SIDE,
}
"""Picture -> pixels a side; 256 take ten minutes of a core for each arm."""
PUBLISHED_RATE = 1e-4
RAW: Config = {"otype": "Identity", "scale": 2.0, "offset": -1.0}
OCTAVES: Config = {"otype": "Frequency", "n_frequencies": 8}
SINE: Config = {"otype": "Sine", "omega": 30.0}
GAUSSIAN: Config = {"otype": "RandomFourier", "n_features": 256, "sigma": 10.0}
LAYERS: Config = {"otype": "MLP", "n_neurons": 256, "has_bias": True}
CAMERAMAN: dict[str, tuple[Config, Config, float, float]] = {
    "SIREN": (RAW, LAYERS | {"n_hidden_layers": 4, "activation": SINE}, 1e-4, 36.8),
    "FFN": (GAUSSIAN, LAYERS | {"n_hidden_layers": 3, "activation": "ReLU"}, 1e-4, 38.4),
    "SIREN, one layer more": (RAW, LAYERS | {"n_hidden_layers": 5, "activation": SINE}, 1e-4, 36.8),
    "FFN, its own rate": (GAUSSIAN, LAYERS | {"n_hidden_layers": 3, "activation": "ReLU"}, 1e-3, 38.4),
}
"""Arm -> encoding, network, rate, the figure that goes round (dB)."""


def measure(part: str, data: Path | None, *, is_quick: bool) -> Iterator[list[Row]]:
    """Each row when it is there."""
    at = (1, 2) if is_quick else AT

    def picture(name: str, side: int) -> Picture:
        return _grey(None if is_quick else folder_of(data) / "images" / name, side)

    if part == "cameraman":
        for called, (encoding, network, rate, figure) in CAMERAMAN.items():
            camera = picture("skimage/camera.png", SIDE)
            yield [_row("cameraman: camera", called, camera, encoding, network, rate, at, figure=figure)]
        return
    rates = {arm: RATES[arm][0] if is_quick else _tuned(folder_of(data), arm) for arm in RATES}
    for name, side in list(PHOTOS.items())[: 1 if is_quick else None]:
        case = f"spder: {Path(name).stem}, {side} px"
        for arm, rate in rates.items():
            yield [_row(case, arm, picture(name, side), *_spder_arm(arm), rate, at)]
    for arm in ("SPDER", "SIREN"):
        if rates[arm] != PUBLISHED_RATE:
            yield [_row(case, f"{arm}, rate of the paper", picture(name, side), *_spder_arm(arm), PUBLISHED_RATE, at)]


def table(part: str, rows: Sequence[dict[str, Any]]) -> str:
    """Of SPDER: losses and their ratios to SIREN's. Of the cameraman: PSNR beside the figure."""
    if part == "cameraman":
        return markdown(
            ["network", "rate", "parameters", "PSNR after 500 steps", "the figure that goes round"],
            [[row["candidate"], f"{row['sizes']['rate']:g}", f"{row['sizes']['parameters']:,}",
              f"{row['quality']['psnr_500']:.2f} dB", f"{row['sizes']['figure']:.1f} dB"] for row in rows],
        )  # fmt: skip
    cells = []
    for row in rows:
        of_case = [other for other in rows if other["case"] == row["case"]]
        siren = next(other["quality"] for other in of_case if other["candidate"] == "SIREN")
        losses = [row["quality"][f"loss_{step}"] for step in AT]
        ratios = [siren[f"loss_{step}"] / loss for step, loss in zip(AT, losses, strict=True)]
        cells.append([row["case"].removeprefix("spder: "), row["candidate"], f"{row['sizes']['rate']:g}",
                      *(f"{loss:.2e} ({ratio:.2g} x)" for loss, ratio in zip(losses, ratios, strict=True)),
                      f"{row['quality']['psnr_500']:.1f} dB"])  # fmt: skip
    heads = [f"loss after {step} steps (SIREN's over it)" for step in AT]
    return markdown(["picture", "network", "rate", *heads, "PSNR"], cells)


def losses(
    picture: Picture, encoding: Config, network: Config, rate: float, at: Sequence[int], seed: int = 0
) -> tuple[dict[int, float], float, int]:
    """Train on all pixels with a constant rate.

    Returns:
        The lowest mean squared error so far after each number of steps, for values in [-1, 1]; CPU seconds of the
        steps; the number of parameters.
    """
    job = ImageJob(picture)
    config, _ = job.run_config(Plan(preset="siren", steps=max(at)))
    config |= {"encoding": encoding, "network": network, "optimizer": adam(rate)}
    field: ImageField = job.make_field(config, seed)
    index = torch.arange(picture.width * picture.height)
    places = torch.stack([index % picture.width, index // picture.width], -1) + 0.5
    values = 2 * picture.values(index) - 1
    advance = step_of(field, config, lambda step: (places, values)).advance
    found, lowest, seconds = {}, math.inf, 0.0
    looks = {step for step in range(max(at) + 1) if step in at or (step % 25 == 0 and step)}
    for step in range(max(at)):
        start = time.process_time()
        advance(step, 1.0)
        seconds += time.process_time() - start
        if step + 1 in looks:
            lowest = min(lowest, _error(field, places, values))
        if step + 1 in at:
            found[step + 1] = lowest
    return found, seconds, sum(one.numel() for one in field.parameters())


def _error(field: ImageField, places: Tensor, values: Tensor) -> float:
    with torch.no_grad():
        parts = zip(places.split(2**14), values.split(2**14), strict=True)
        return sum(float((field.color(x) - y).double().square().sum()) for x, y in parts) / values.numel()


def _spder_arm(arm: str) -> tuple[Config, Config]:
    """Encoding and network: the input layer and five hidden ones of 256 units, each with its own initialisation."""
    activations: dict[str, str | Config] = {"SPDER": "SPDER", "SIREN": SINE, "ReLU, PE": "ReLU"}
    activation = activations[arm]
    return (OCTAVES if "PE" in arm else RAW), LAYERS | {"n_hidden_layers": 6, "activation": activation}


def _tuned(data: Path, arm: str) -> float:
    """The rate with the lowest loss on another picture, half as large."""
    picture = _grey(data / "images" / TUNED_ON, TUNING_SIDE)
    found = {rate: losses(picture, *_spder_arm(arm), rate, (TUNING_STEPS,))[0][TUNING_STEPS] for rate in RATES[arm]}
    rate = min(found, key=lambda rate: found[rate] if math.isfinite(found[rate]) else math.inf)
    say(f"{arm}: rate {rate:g} of {', '.join(f'{one:g} ({loss:.2e})' for one, loss in found.items())}")
    return rate


def _row(
    case: str, arm: str, picture: Picture, encoding: Config, network: Config, rate: float, at: Sequence[int],
    **sizes: float,
) -> Row:  # fmt: skip
    found, seconds, n_parameters = losses(picture, encoding, network, rate, at)
    psnr = -10 * math.log10(found[at[-1]] / 4)
    quality = {f"loss_{step}": loss for step, loss in found.items()} | {f"psnr_{at[-1]}": round(psnr, 3)}
    say(f"{case:20} {arm:24} rate {rate:g}  " + "  ".join(f"{step}: {loss:.3e}" for step, loss in found.items())
        + f"  {psnr:.2f} dB  {seconds:.0f} s")  # fmt: skip
    sizes |= {"rate": rate, "parameters": n_parameters, "pixels": picture.width * picture.height, "steps": at[-1]}
    return Row("methods", case, arm, sizes, seconds, 0.0, at[-1] * sizes["pixels"] / seconds, quality=quality)


def _grey(path: Path | None, side: int) -> Picture:
    """The middle of a picture, averaged down to so many pixels a side, its luminance; noise where there is no path."""
    if path is None:
        return Picture.from_array(np.random.default_rng(0).integers(0, 255, (16, 16, 1), np.uint8))
    square = middle(read_image(path))
    n_channels = square.pixels.shape[-1]
    pixels = square.values(torch.arange(square.width**2)).view(square.width, square.width, n_channels)
    grey = pixels[..., 0] if n_channels < 3 else pixels[..., :3] @ torch.tensor([0.299, 0.587, 0.114])
    small = torch.nn.functional.interpolate(grey[None, None], (side, side), mode="area")[0, 0]
    return Picture.from_array((small * 255).round().to(torch.uint8)[..., None].numpy())
