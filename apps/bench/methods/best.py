"""The preset `best` of pictures beside every single published method of `compare`, after equal CPU seconds.

An arm is what `fieldforge compare` calls by that name; `hashgrid` is instant-ngp's grid for pictures, not our preset,
with our batches and schedule, as its own batch of 2^18 leaves few steps. `densegrid, large` has as many lattice points
along a side as the longest side has pixels, and `best, two layers` is our preset as it was before this was measured.
The factor on each learning rate, ours among them, is the best of three on another picture of a quarter of the pixels,
in less time. One seed; PSNR, SSIM and bytes are those of the stored field; "between" is the PSNR at places between the
pixels, against interpolated colours.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fieldforge.apps.bench.equal_time import Timed, fit_for
from fieldforge.apps.bench.harness import Row, folder_of, markdown, say
from fieldforge.apps.bench.methods.small import shrunk
from fieldforge.apps.compare.methods import IMAGE, Method
from fieldforge.apps.compare.size import parameters_of, with_rate
from fieldforge.apps.fit.image.job import ImageJob
from fieldforge.apps.fit.job import Plan
from fieldforge.apps.fit.loop import NonFiniteError
from fieldforge.apps.fit.options import FitOptions
from fieldforge.apps.fit.recipe import Config
from fieldforge.apps.fit.samplers import PixelDraw
from fieldforge.apps.images import Picture, read_image
from fieldforge.apps.metrics import psnr as psnr_of

PHOTOS = ("kodak/kodim01.png", "kodak/kodim07.png", "kodak/kodim14.png")
OTHER = "skimage/coffee.png"
"""What learning rates are tuned on, at half its sides; `best` was chosen on kodim20 and a part of kodim22."""
FACTORS = (1 / 3, 1.0, 3.0)
SECONDS, TUNING_SECONDS, LONGER = 6.0, 2.0, 20.0
LONGER_OF = 1
"""Photos on which `best` and the first two of the others go on for `LONGER`."""
OURS = ("best", "balanced")
BEFORE = ("network.n_hidden_layers=2", "fit.jitter=0.25")

INSTANT_NGP: Config = {
    "encoding": {
        "otype": "HashGrid", "n_levels": 16, "n_features_per_level": 2, "log2_hashmap_size": 24, "base_resolution": 16,
    },
    "network": {"otype": "MLP", "n_neurons": 64, "n_hidden_layers": 2, "activation": "ReLU"},
}  # fmt: skip


def arms_of(job: ImageJob) -> dict[str, Method]:
    """Name -> method, ours first."""
    longest = max(job.picture.width, job.picture.height)
    growth = round((longest / 2 / 16) ** (1 / 15), 6)  # the finest level is half the longest side
    plain = ("fit.jitter=0", "fit.storage=float16")
    published = {name: method for name, method in IMAGE.items() if method.tune == "none"}
    hashgrid = INSTANT_NGP | {"encoding": INSTANT_NGP["encoding"] | {"per_level_scale": growth}}
    dense = IMAGE["densegrid"]
    return {
        **{name: Method(name) for name in OURS},
        "best, two layers": Method("best", overrides=BEFORE),
        **published,
        "hashgrid": Method("balanced", hashgrid, plain),
        "densegrid, large": dataclasses.replace(dense, overrides=(*plain, f"encoding.base_resolution={longest}")),
    }


def measure(part: str, data: Path | None, *, is_quick: bool) -> Iterator[list[Row]]:
    """Rows of the tuning, of each photo, and of the first of them on the first photo for longer."""
    if is_quick:
        job = ImageJob(Picture.from_array(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)))
        yield [_row("noise", job, "best", arms_of(job)["best"], 1.0, 0.02)]
        return
    images = folder_of(data) / "images"
    pixels = shrunk(read_image(images / OTHER), 300)
    other = ImageJob(Picture.from_array((255 * pixels).round().to(torch.uint8).numpy()))
    factors, rows = dict[str, float](), list[Row]()
    for name, method in arms_of(other).items():
        tried = [_row(f"tuned on {Path(OTHER).stem}", other, name, method, factor, TUNING_SECONDS)
                 for factor in FACTORS]  # fmt: skip
        rows += tried
        factors[name] = max(tried, key=_psnr).sizes["factor"]
    yield rows
    for number, photo in enumerate(PHOTOS):
        job, rows = ImageJob(images / photo), []
        arms = arms_of(job)
        for name, method in arms.items():
            rows.append(_row(Path(photo).stem, job, name, method, factors[name], SECONDS))
        yield rows
        if number < LONGER_OF:
            ours = {name for name in arms if name.startswith(OURS)}
            others = sorted((row for row in rows if row.candidate not in ours), key=_psnr, reverse=True)
            leaders = ["best", *[row.candidate for row in others[:2]]]
            case = f"{Path(photo).stem}, longer"
            yield [_row(case, job, name, arms[name], factors[name], LONGER) for name in leaders]


def _psnr(row: Row) -> float:
    assert row.quality is not None
    return row.quality["psnr"]


def _row(picture: str, job: ImageJob, name: str, method: Method, factor: float, seconds: float) -> Row:
    plan = method.plan()
    config = with_rate(job.run_config(plan)[0], factor)
    sizes: dict[str, Any] = {"factor": round(factor, 4), "budget": seconds, "parameters": parameters_of(job, config)}
    with tempfile.TemporaryDirectory() as scratch:
        plan = Plan(preset=method.preset, config=config, output=Path(scratch) / "x.field")
        try:
            timed = fit_for(job, plan, seconds)
        except NonFiniteError as error:
            say(f"{picture:18} {name:16} x {factor:.2g}: {error}")
            return Row("methods", f"best: {picture}", name, sizes, 0.0, 0.0, 0.0, quality={"psnr": 0.0})
    return _said(picture, name, sizes, timed, job.picture)


def _said(picture: str, name: str, sizes: dict[str, Any], timed: Timed, truth: Picture) -> Row:
    fit, batch_size = timed.fit, timed.fit.config["fit"]["batch_size"]
    figures = {key: value for key, value in fit.summary().items() if isinstance(value, (int, float))}
    points, between = PixelDraw(truth, FitOptions(batch_size=2**14, jitter=1.0), seed=1)(0)
    with torch.no_grad():
        figures["between"] = psnr_of(fit.field.color(points).clamp(0, 1), between, truth.peak)
    say(f"{picture:18} {name:16} x {sizes['factor']:<5.2g} {fit.figure('psnr'):6.2f} dB, {timed.seconds:5.1f} s, "
        f"{fit.state.step:6} steps of {batch_size}, {fit.n_bytes or 0:>9,} bytes")  # fmt: skip
    sizes |= {"steps": fit.state.step, "batch_size": batch_size, "training_step": fit.training_step.split(",")[0]}
    return Row("methods", f"best: {picture}", name, sizes, timed.seconds, 0.0, batch_size / timed.pace, quality=figures)


def table(part: str, rows: Sequence[dict[str, Any]]) -> str:
    """PSNR of each picture and mean SSIM, best first; then the longer look."""
    rows = [row | {"case": row["case"].removeprefix("best: ")} for row in rows]
    pictures = [case for case in dict.fromkeys(row["case"] for row in rows) if "tuned" not in case]
    short = [case for case in pictures if "longer" not in case]
    lines = []
    for cases in (short, [case for case in pictures if "longer" in case]):
        of_name: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            if row["case"] in cases:
                of_name.setdefault(row["candidate"], []).append(row)
        if not of_name:
            continue
        budget = next(iter(of_name.values()))[0]["sizes"]["budget"]
        headings = [f"after {budget:g} s", *(case.removesuffix(", longer") for case in cases), "between", "SSIM",
                    "steps", "trained by", "learning rate", "parameters", "file"]  # fmt: skip
        psnr = {name: [row["quality"]["psnr"] for row in found] for name, found in of_name.items()}
        cells = []
        for name in sorted(of_name, key=lambda name: -statistics.mean(psnr[name])):
            found, sizes = of_name[name], of_name[name][0]["sizes"]
            rate = "" if sizes["factor"] == 1 else f"x {sizes['factor']:.2g}"
            cells.append(
                [f"**{name}**" if name == "best" else name, *(f"{value:.2f} dB" for value in psnr[name]),
                 f"{statistics.mean(row['quality'].get('between', 0.0) for row in found):.2f} dB",
                 f"{statistics.mean(row['quality'].get('ssim', 0.0) for row in found):.3f}",
                 f"{sizes.get('steps', 0):,}", sizes.get("training_step", ""), rate, f"{sizes['parameters']:,}",
                 f"{statistics.mean(row['quality'].get('bytes', 0) for row in found) / 1e3:,.0f} KB"]
            )  # fmt: skip
        lines += [markdown(headings, cells), ""]
    return "\n".join(lines[:-1])
