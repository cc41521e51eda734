"""Does what opens by place (SAPE) or changes by place (CAM) pay, on a small picture.

SAPE: a quarter of the pixels, at random, is the training set; frequencies of four standard deviations. The arms are one
field, one seed, one set of frequencies; "plain" has every block open from the start. What is judged is the spread of
the held-out PSNR over the deviations.

CAM: every second pixel each way is the training set; random frequencies of one deviation. Arms of equal numbers of
parameters: the plain network, with each layer's features normalised, with grids and no norm, with both.

Deviations are the papers': of coordinates from -1 to 1 for SAPE, from 0 to 1 for CAM. SAPE's authors draw the length of
a frequency from a half normal law; here frequencies are normal in the plane.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fieldforge.apps.bench.harness import Row, markdown, say
from fieldforge.apps.fit.image.job import step_of
from fieldforge.apps.images import Picture, read_image
from fieldforge.encodings.sape import SAPE
from fieldforge.fields.kinds.image import ImageField
from fieldforge.fields.modulation import CAM
from fieldforge.registry import build

FOLDER = Path("data/images")
PHOTOS = ("astronaut.png",)
SIDE = 128
N_STEPS = 300
N_FREQUENCIES = 128
DEVIATIONS = (5.0, 10.0, 20.0, 40.0)
CAM_DEVIATION = 10.0
NETWORK = {"otype": "MLP", "n_neurons": 64, "n_hidden_layers": 3, "has_bias": True}
GRIDS = {"otype": "CAM", "resolution": 16}
MODULATIONS: dict[str, dict[str, Any] | None] = {
    "FFN": None,
    "FFN, norm": GRIDS | {"learning_rate_factor": 0.0},  # scales of 1 and shifts of 0 that stay
    "FFN, CAM without norm": GRIDS | {"norm": "none"},
    "FFN, CAM": GRIDS,
}
SEED = 0


def measure(part: str, data: Path | None, *, is_quick: bool) -> Iterator[list[Row]]:
    """SAPE or CAM on each picture of `PHOTOS`."""
    for name in PHOTOS:
        pixels = _noise() if is_quick else shrunk(read_image(FOLDER / name), SIDE)
        case, n_steps = f"{part}: {Path(name).stem}", 2 if is_quick else N_STEPS
        if part == "sape":
            yield sape_rows(case, pixels, DEVIATIONS[: 1 if is_quick else None], n_steps)
        else:
            yield cam_rows(case, pixels, n_steps)


def table(part: str, rows: Sequence[dict[str, Any]]) -> str:
    """Held-out PSNR by deviation and its spread for SAPE; trained and held out for CAM."""
    if part == "cam":
        return markdown(
            ["picture", "network", "parameters", "trained pixels", "held out"],
            [[row["case"].removeprefix("cam: "), row["candidate"], f"{row['sizes']['parameters']:,}",
              f"{row['quality']['psnr']:.2f} dB", f"{row['quality']['held_out_psnr']:.2f} dB"] for row in rows],
        )  # fmt: skip
    deviations = list(dict.fromkeys(row["sizes"]["deviation"] for row in rows))
    cells = []
    for case, arm in dict.fromkeys((row["case"], row["candidate"]) for row in rows):
        found = [row["quality"]["held_out_psnr"] for row in rows if (row["case"], row["candidate"]) == (case, arm)]
        spread = f"{max(found) - min(found):.2f} dB"
        cells.append([case.removeprefix("sape: "), arm, *(f"{value:.2f} dB" for value in found), spread])
    return markdown(["picture", "features", *(f"std {deviation:g}" for deviation in deviations), "spread"], cells)


def sape_rows(case: str, pixels: Tensor, deviations: tuple[float, ...], n_steps: int) -> list[Row]:
    """Plain, by place and by one level, at each standard deviation."""
    order = torch.randperm(pixels.shape[0] * pixels.shape[1], generator=torch.Generator().manual_seed(SEED))
    is_train = torch.zeros(len(order), dtype=torch.bool)
    is_train[order[: len(order) // 4]] = True
    rows = []
    for deviation in deviations:
        for arm in ("plain", "SAPE", "SAPE, one level"):
            nested = {"otype": "RandomFourier", "n_features": N_FREQUENCIES, "sigma": 2 * deviation}
            encoding = {"otype": "SAPE", "nested": nested, "scope": "Global" if "one" in arm else "Spatial"}
            field = _field(encoding, NETWORK, pixels)
            assert isinstance(field.encoding, SAPE)
            if arm == "plain":
                field.encoding.level.fill_(N_FREQUENCIES)
            sizes = {"deviation": deviation, "arm": "SAPE"}
            rows.append(_row(case, arm, field, pixels, is_train, n_steps, sizes))
    return rows


def cam_rows(case: str, pixels: Tensor, n_steps: int) -> list[Row]:
    """The four arms, each as wide as the parameters of the last allow."""
    rows_of, columns_of = (torch.arange(n) % 2 == 0 for n in pixels.shape[:2])
    is_train = (rows_of[:, None] & columns_of).flatten()
    encoding = {"otype": "RandomFourier", "n_features": N_FREQUENCIES, "sigma": CAM_DEVIATION}
    wanted = n_trained(_field(encoding, NETWORK | {"modulation": GRIDS}, pixels))
    rows = []
    for arm, modulation in MODULATIONS.items():
        network = NETWORK | {"modulation": modulation, "output_activation": "Sigmoid"}
        widths = range(32, 160)
        network["n_neurons"] = min(widths, key=lambda width: abs(_count(encoding, network, width, pixels) - wanted))
        field = _field(encoding, network, pixels)
        sizes = {"n_neurons": network["n_neurons"], "arm": "CAM"}
        rows.append(_row(case, arm, field, pixels, is_train, n_steps, sizes))
    return rows


def n_trained(field: ImageField) -> int:
    """Parameters that move."""
    modulation = getattr(field.network, "modulation", None)
    n_all = sum(parameter.numel() for parameter in field.parameters())
    if isinstance(modulation, CAM) and modulation.learning_rate_factor == 0.0:
        return n_all - modulation.table.numel()
    return n_all


def shrunk(picture: Picture, side: int) -> Tensor:
    """(height, width, channels) from 0 to 1, the longest side so many pixels, each the mean of its part."""
    height, width, n_channels = picture.pixels.shape
    pixels = picture.values(torch.arange(height * width)).view(1, height, width, n_channels).movedim(-1, 1)
    factor = side / max(height, width)
    size = round(height * factor), round(width * factor)
    small: Tensor = torch.nn.functional.interpolate(pixels, size=size, mode="area")
    return small[0].movedim(0, -1).contiguous()


def _field(encoding: dict[str, Any], network: dict[str, Any], pixels: Tensor) -> ImageField:
    height, width, n_channels = pixels.shape
    described: dict[str, Any] = {"otype": "ImageField", "encoding": encoding, "network": network}
    described |= {"width": width, "height": height, "n_channels": n_channels}
    made: ImageField = build("field", described, generator=torch.Generator().manual_seed(SEED))
    return made


def _count(encoding: dict[str, Any], network: dict[str, Any], width: int, pixels: Tensor) -> int:
    with torch.device("meta"):
        return n_trained(_field(encoding, network | {"n_neurons": width}, pixels))


def _row(
    case: str, arm: str, field: ImageField, pixels: Tensor, is_train: Tensor, n_steps: int, sizes: dict[str, Any]
) -> Row:
    """One fit on all training pixels a step, at a tenth of the rate after half and a hundredth after three quarters."""
    height, width, n_channels = pixels.shape
    index = torch.arange(height * width)
    places = torch.stack([index % width, index // width], -1) + 0.5
    values = pixels.view(-1, n_channels)
    batch = places[is_train], values[is_train]
    config = {
        "optimizer": {"otype": "Adam", "learning_rate": 3e-3, "l2_reg": 0.0},
        "loss": {"otype": "L2"},
        "fit": {"n_steps": n_steps},
    }
    draw: Callable[[int], tuple[Tensor, Tensor]] = lambda step: batch  # noqa: E731
    advance = step_of(field, config, draw).advance
    start = time.process_time()
    for step in range(n_steps):
        advance(step, 0.1 ** ((2 * step >= n_steps) + (4 * step >= 3 * n_steps)))
    seconds = time.process_time() - start
    with torch.no_grad():
        error = (field.color(places).clamp(0, 1) - values).square().mean(-1)
    figures = {
        "psnr": -10 * math.log10(float(error[is_train].mean())),
        "held_out_psnr": -10 * math.log10(float(error[~is_train].mean())),
    }
    sizes = sizes | {"pixels": height * width, "steps": n_steps, "parameters": n_trained(field)}
    told = sizes.get("deviation", sizes["parameters"])
    say(f"{case:10} {arm:22} {told:>8g}  held out {figures['held_out_psnr']:6.2f} dB, trained "
        f"{figures['psnr']:6.2f} dB, {seconds:6.1f} s")  # fmt: skip
    rate = n_steps * int(is_train.sum()) / seconds
    return Row("methods", case, arm, sizes, seconds, 0.0, rate, quality=figures)


def _noise() -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).random((12, 16, 3)).astype(np.float32))
