"""Do radial functions whose centres follow the picture hold more than a hash grid of equal size (NeuRBF)?

Small pictures, every pixel drawn alike, the same network behind all arms: a hash grid of eight levels; centres placed
by the picture beside a grid of two levels; the same with centres on a regular lattice, to tell what the placement is
worth. Sizes count every number that a file has to hold, so also where centres are and their shapes. The rate of each
arm is the best of three on another picture.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from fieldforge.apps.bench.harness import Row, folder_of, markdown, say
from fieldforge.apps.bench.methods.small import shrunk
from fieldforge.apps.fit.image.job import ImageJob
from fieldforge.apps.fit.job import Plan
from fieldforge.apps.fit.recipe import Config
from fieldforge.apps.images import Picture, read_image

PICTURES = {"astronaut": "skimage/astronaut.png", "chelsea": "skimage/chelsea.png", "kodim20": "kodak/kodim20.png"}
TUNED_ON = "skimage/coffee.png"
SIDE, N_STEPS, BATCH = 128, 300, 2048
RATES = (5e-3, 1e-2, 2e-2)
PLACE = {"n_dims_to_encode": 2, "dims_to_encode_begin": 0}
LEVELS = {"otype": "HashGrid", "n_features_per_level": 2, "base_resolution": 16}
SMALL = LEVELS | {"n_levels": 2, "log2_hashmap_size": 10, "per_level_scale": 1.9} | PLACE
NETWORK = {"otype": "MLP", "n_neurons": 64, "n_hidden_layers": 2, "activation": "ReLU", "has_bias": True}


def _centres(placement: str, n: int) -> Config:
    own = {"otype": "NeuRBF", "n_centers": n, "placement": placement, "resolution": SIDE}
    return {"otype": "Composite", "nested": [own | PLACE, SMALL]}


ARMS: dict[str, Config] = {
    "hash grid": LEVELS | {"n_levels": 8, "log2_hashmap_size": 11, "per_level_scale": 1.4},
    "centres by the picture": _centres("Signal", 529),
    "centres on a lattice": _centres("Even", 529),
}


def measure(part: str, data: Path | None, *, is_quick: bool) -> Iterator[list[Row]]:
    """All arms on each picture."""
    if is_quick:
        noise = torch.rand(16, 16, 3, generator=torch.Generator().manual_seed(0))
        yield rows_of("noise", noise, dict.fromkeys(ARMS, RATES[0]), 2)
        return
    folder = folder_of(data) / "images"
    other = shrunk(read_image(folder / TUNED_ON), SIDE)
    rates = {}
    for arm, encoding in ARMS.items():
        quality = {rate: fitted(other, encoding, rate, N_STEPS)["psnr"] for rate in RATES}
        rates[arm] = max(quality, key=lambda rate: quality[rate])
    for name, path in PICTURES.items():
        yield rows_of(name, shrunk(read_image(folder / path), SIDE), rates, N_STEPS)


def table(part: str, rows: Sequence[dict[str, Any]]) -> str:
    """PSNR of each arm on each picture, with numbers, rate and time."""
    cells = [
        [row["case"].removeprefix("neurbf: "), row["candidate"], f"{row['sizes']['numbers']:,}",
         f"{row['sizes']['rate']:g}", f"{row['quality']['psnr']:.2f} dB", f"{row['seconds']:.1f} s"]
        for row in rows
    ]  # fmt: skip
    headings = ["picture", "encoding", "numbers in all", "rate", f"PSNR after {N_STEPS} steps", "CPU time"]
    return markdown(headings, cells)


def rows_of(name: str, pixels: torch.Tensor, rates: dict[str, float], n_steps: int) -> list[Row]:
    """All arms on one picture."""
    rows = []
    for arm, encoding in ARMS.items():
        found = fitted(pixels, encoding, rates[arm], n_steps)
        sizes = {"numbers": int(found["numbers"]), "rate": rates[arm], "steps": n_steps, "batch_size": BATCH}
        case, psnr, seconds = f"neurbf: {name}", found["psnr"], found["seconds"]
        pace = BATCH * n_steps / seconds
        rows.append(Row("methods", case, arm, sizes, seconds, 0.0, pace, quality={"psnr": round(psnr, 4)}))
        say(f"{case:18} {arm:24} {psnr:6.2f} dB  rate {rates[arm]:g}  {sizes['numbers']:,} numbers, {seconds:.1f} s")
    return rows


def fitted(pixels: torch.Tensor, encoding: Config, rate: float, n_steps: int) -> dict[str, float]:
    """PSNR over all pixels, CPU seconds with placing and measuring, and how many numbers the field has."""
    overrides = [f"optimizer.learning_rate={rate}", "fit.jitter=0.0", "fit.storage=float32"]
    plan = Plan(
        preset="balanced", config={"encoding": encoding, "network": NETWORK},
        overrides=[*overrides, f"fit.batch_size={BATCH}"], steps=n_steps, progress="quiet",
    )  # fmt: skip
    start = time.process_time()
    result = ImageJob(Picture.from_array(pixels.numpy())).run(plan)
    seconds = time.process_time() - start
    numbers = sum(tensor.numel() for tensor in result.field.state_dict().values())
    return {"psnr": result.psnr if math.isfinite(result.psnr) else -1e9, "numbers": numbers, "seconds": seconds}
