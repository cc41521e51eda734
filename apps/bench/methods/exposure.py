"""Does what opens by place (SAPE) or changes by place (CAM) pay, on a small picture.

SAPE: a quarter of the pixels, at random, is the training set; frequencies of four standard deviations. The arms are one
network, one seed, one set of frequencies; "plain" has every block open from the start. What is judged is the spread of
the held-out PSNR over the deviations. As the authors draw them, the length of a frequency is half normal and its
direction uniform; the cells of the mask are as many pixels large as theirs, the tolerance is theirs, and all blocks
have had their turn after half of the steps. Rates come from another picture, for each arm, after half of the steps.

sape_scaled: the same with deviations of as many cycles for each pixel as the claim's have in pictures of 512 pixels.

CAM: every second pixel each way is the training set; random frequencies of one deviation. Arms of equal numbers of
parameters: the plain network, with each layer's features normalised, with grids and no norm, with both.

Deviations are the papers': of coordinates from -1 to 1 for SAPE, from 0 to 1 for CAM.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fieldforge.apps.bench.harness import Row, markdown, say
from fieldforge.apps.bench.methods.small import TUNED_ON, picture, pictures
from fieldforge.apps.fit.image.job import step_of
from fieldforge.apps.fit.recipe import Config, adam
from fieldforge.apps.images import Picture
from fieldforge.encodings.random_fourier import RandomFourier
from fieldforge.encodings.sape import SAPE
from fieldforge.fields.kinds.image import ImageField
from fieldforge.fields.modulation import CAM
from fieldforge.registry import build

PICTURES = {
    "sape": ("skimage/astronaut.png", "skimage/camera.png"),
    "sape_scaled": ("skimage/astronaut.png",),
    "cam": ("skimage/astronaut.png",),
}
SIDE = 128
N_STEPS = {"sape": 512, "sape_scaled": 512, "cam": 500}
N_FREQUENCIES = 128
DEVIATIONS = {"sape": (5.0, 10.0, 20.0, 40.0), "sape_scaled": (1.25, 2.5, 5.0, 10.0), "cam": (10.0,)}
"""Of the claim, for pictures of 512 pixels a side; and as many cycles for each pixel of 128."""
TUNED_AT = {"sape": 20.0, "sape_scaled": 5.0, "cam": 10.0}
"""The deviation of the authors' pictures, which rates are tuned at."""
CELL = 4
"""Pixels along a cell of the mask: 128 cells for 512 pixels."""
SAPE_NETWORK = {"otype": "MLP", "n_neurons": 128, "n_hidden_layers": 3, "has_bias": True}
CAM_NETWORK = {"otype": "MLP", "n_neurons": 64, "n_hidden_layers": 3, "has_bias": True, "output_activation": "Sigmoid"}
GRIDS = {"otype": "CAM", "resolution": 16}
MODULATIONS: dict[str, dict[str, Any] | None] = {
    "FFN": None,
    "FFN, norm": GRIDS | {"learning_rate_factor": 0.0},  # scales of 1 and shifts of 0 that stay
    "FFN, CAM without norm": GRIDS | {"norm": "none"},
    "FFN, CAM": GRIDS,
}
SAPE_ARMS = ("plain", "SAPE", "SAPE, one level")
RATES = (1e-3, 2e-3, 5e-3)
SEED = 0


def measure(part: str, data: Path | None, *, is_quick: bool) -> Iterator[list[Row]]:
    """SAPE or CAM: the rates on another picture, then a case for each picture."""
    n_steps = 2 if is_quick else N_STEPS[part]
    arms: Sequence[str] = list(MODULATIONS) if part == "cam" else SAPE_ARMS
    run = _cam if part == "cam" else _sape
    tuning = picture(data, TUNED_ON, SIDE, is_quick=is_quick)
    rates = {}
    for arm in arms:
        tried = {
            rate: run(tuning, arm, rate, max(1, n_steps // 2), TUNED_AT[part])[1]["held_out_psnr"]
            for rate in RATES[: 1 if is_quick else None]
        }
        rates[arm] = max(tried, key=lambda rate: tried[rate])
        say(f"{part:5} {arm:22} rate {rates[arm]:g} of {', '.join(f'{r:g} ({p:.2f} dB)' for r, p in tried.items())}")
    deviations = DEVIATIONS[part][: 1 if is_quick else None]
    for name, one in pictures(data, PICTURES[part], SIDE, is_quick=is_quick):
        rows = []
        for deviation in deviations:
            for arm in arms:
                sizes, figures, seconds = run(one, arm, rates[arm], n_steps, deviation)
                say(
                    f"{part:5} {name:10} {arm:22} std {deviation:4g}, {sizes['parameters']:,} parameters: held out "
                    f"{figures['held_out_psnr']:6.2f} dB, trained {figures['psnr']:6.2f} dB, {seconds:6.1f} s"
                )
                rate = n_steps * sizes["n_trained_pixels"] / seconds
                rows.append(Row("methods", f"{part}: {name}", arm, sizes, seconds, 0.0, rate, quality=figures))
        yield rows


def table(part: str, rows: Sequence[dict[str, Any]]) -> str:
    """Held-out PSNR by deviation and its spread for SAPE; trained and held out for CAM."""
    if part == "cam":
        return markdown(
            ["picture", "network", "parameters", "rate", "trained pixels", "held out", "CPU"],
            [[row["case"].removeprefix("cam: "), row["candidate"], f"{row['sizes']['parameters']:,}",
              f"{row['sizes']['rate']:g}", f"{row['quality']['psnr']:.2f} dB",
              f"{row['quality']['held_out_psnr']:.2f} dB", f"{row['seconds']:.1f} s"] for row in rows],
        )  # fmt: skip
    deviations = list(dict.fromkeys(row["sizes"]["deviation"] for row in rows))
    cells = []
    for case, arm in dict.fromkeys((row["case"], row["candidate"]) for row in rows):
        of_arm = [row for row in rows if (row["case"], row["candidate"]) == (case, arm)]
        found = [row["quality"]["held_out_psnr"] for row in of_arm]
        cells.append([case.removeprefix(f"{part}: "), arm, f"{of_arm[0]['sizes']['rate']:g}",
                      *(f"{value:.2f} dB" for value in found), f"{max(found) - min(found):.2f} dB"])  # fmt: skip
    return markdown(["picture", "features", "rate", *(f"std {one:g}" for one in deviations), "spread"], cells)


Found = tuple[dict[str, Any], dict[str, float], float]
"""Sizes, figures, CPU seconds."""


def _sape(of: Picture, arm: str, rate: float, n_steps: int, deviation: float) -> Found:
    """Plain, by place, or by one level, at a standard deviation; a quarter of the pixels is trained."""
    n_pixels = of.width * of.height
    is_train = torch.zeros(n_pixels, dtype=torch.bool)
    is_train[torch.randperm(n_pixels, generator=torch.Generator().manual_seed(SEED))[: n_pixels // 4]] = True
    nested = {"otype": "RandomFourier", "n_features": N_FREQUENCIES, "sigma": 2 * deviation}
    encoding = {"otype": "SAPE", "nested": nested, "resolution": max(3, of.width // CELL),
                "scope": "Global" if arm == "SAPE, one level" else "Spatial"}  # fmt: skip
    field = _field(encoding, SAPE_NETWORK, of)
    assert isinstance(field.encoding, SAPE)
    frequencies = field.encoding.encoding
    assert isinstance(frequencies, RandomFourier)
    half_normal = torch.randn(N_FREQUENCIES, 1, generator=torch.Generator().manual_seed(SEED)) * 2 * deviation
    frequencies.frequencies.copy_(torch.nn.functional.normalize(frequencies.frequencies, dim=-1) * half_normal)
    if arm == "plain":
        field.encoding.level.fill_(N_FREQUENCIES)
    return _fitted(field, of, is_train, rate, n_steps, {"deviation": deviation})


def _cam(of: Picture, arm: str, rate: float, n_steps: int, deviation: float) -> Found:
    """An arm as wide as the parameters of the last allow; every second pixel each way is trained."""
    rows, columns = (torch.arange(n) % 2 == 0 for n in (of.height, of.width))
    encoding = {"otype": "RandomFourier", "n_features": N_FREQUENCIES, "sigma": deviation}

    def count(network: Config) -> int:
        with torch.device("meta"):
            return n_trained(_field(encoding, network, of))

    wanted = count(CAM_NETWORK | {"modulation": GRIDS})
    network = CAM_NETWORK | {"modulation": MODULATIONS[arm]}
    width = min(range(32, 160), key=lambda n: abs(count(network | {"n_neurons": n}) - wanted))
    field = _field(encoding, network | {"n_neurons": width}, of)
    return _fitted(field, of, (rows[:, None] & columns).flatten(), rate, n_steps, {"n_neurons": width})


def n_trained(field: ImageField) -> int:
    """Parameters that move."""
    modulation = getattr(field.network, "modulation", None)
    n_all = sum(parameter.numel() for parameter in field.parameters())
    if isinstance(modulation, CAM) and modulation.learning_rate_factor == 0.0:
        return n_all - modulation.table.numel()
    return n_all


def _field(encoding: dict[str, Any], network: dict[str, Any], of: Picture) -> ImageField:
    height, width, n_channels = of.pixels.shape
    described: dict[str, Any] = {"otype": "ImageField", "encoding": encoding, "network": network}
    described |= {"width": width, "height": height, "n_channels": n_channels}
    made: ImageField = build("field", described, generator=torch.Generator().manual_seed(SEED))
    return made


def _fitted(
    field: ImageField, of: Picture, is_train: Tensor, rate: float, n_steps: int, sizes: dict[str, Any]
) -> Found:
    """One fit on all training pixels a step, at a constant rate."""
    index = torch.arange(of.width * of.height)
    places, values = torch.stack([index % of.width, index // of.width], -1) + 0.5, of.values(index)
    batch = places[is_train], values[is_train]
    config = {"optimizer": adam(rate), "loss": {"otype": "L2"}, "fit": {"n_steps": n_steps}}
    draw: Callable[[int], tuple[Tensor, Tensor]] = lambda step: batch  # noqa: E731
    advance = step_of(field, config, draw).advance
    start = time.process_time()
    for step in range(n_steps):
        advance(step, 1.0)
    seconds = time.process_time() - start
    with torch.no_grad():
        error = (field.color(places).clamp(0, 1) - values).square().mean(-1)
    figures = {
        "psnr": -10 * math.log10(float(error[is_train].mean())),
        "held_out_psnr": -10 * math.log10(float(error[~is_train].mean())),
    }
    sizes = sizes | {"side": of.width, "n_steps": n_steps, "rate": rate, "n_trained_pixels": len(batch[0])}
    return sizes | {"parameters": n_trained(field)}, figures, seconds
