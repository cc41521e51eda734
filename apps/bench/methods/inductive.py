"""IGA on the three backbones of its paper, beside the plain gradient at its own rate and at IGA's.

IGA only damps residuals, so it stands larger rates, and its paper trains it with larger ones: the control is the plain
gradient with IGA's rate. Rates of both sides come from another picture, in a third of the steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fieldforge.apps.bench.harness import Row, markdown, say
from fieldforge.apps.bench.methods.small import TUNED_ON, best_rate, configuration, curve, picture, pictures, rounded
from fieldforge.apps.fit.image.job import ImageJob
from fieldforge.apps.fit.recipe import Config, adam

PICTURES = ("skimage/astronaut.png",)
SIDE, PATCH = 128, 8
N_STEPS, TUNING_STEPS = 300, 100
PLACE: Config = {"otype": "Identity", "scale": 2.0, "offset": -1.0}
BACKBONES: dict[str, tuple[Config, Config | str, int]] = {
    "ReLU": (PLACE, "ReLU", 25),
    "PE": ({"otype": "Frequency", "n_frequencies": 6}, "ReLU", 20),
    "SIREN": (PLACE, {"otype": "Sine", "omega": 30.0}, 20),
}
"""Name -> encoding, activation, and the number of IGA's eigenvalue, as released."""
RATES = {
    "ReLU": {"plain": (1e-3, 2e-3, 5e-3, 1e-2), "IGA": (2e-3, 5e-3, 1e-2)},
    "PE": {"plain": (1e-3, 2e-3, 5e-3, 1e-2), "IGA": (2e-3, 5e-3, 1e-2)},
    "SIREN": {"plain": (5e-4, 1e-3, 2e-3, 5e-3), "IGA": (1e-3, 2e-3, 5e-3)},
}
RELEASED = {"ReLU": (1e-3, 5e-3), "PE": (1e-3, 5e-3), "SIREN": (1e-3, 1e-3)}
"""Rates of the plain gradient and of IGA."""


def measure(part: str, data: Path | None, *, is_quick: bool) -> Iterator[list[Row]]:
    """The rates on another picture, then a case for each backbone and picture."""
    n_steps, n_tuning = (2, 1) if is_quick else (N_STEPS, TUNING_STEPS)
    tuning = ImageJob(picture(data, TUNED_ON, SIDE, is_quick=is_quick))
    for backbone in BACKBONES:
        rates = {
            side: best_rate(_config(tuning, backbone, n_tuning, is_iga=side == "IGA"), rates[: 1 if is_quick else None],
                            lambda config: curve(tuning, config)[-1].psnr)
            for side, rates in RATES[backbone].items()
        }  # fmt: skip
        say(f"iga   {backbone:6} rates: {rates}")
        for name, one in pictures(data, PICTURES, SIDE, is_quick=is_quick):
            yield _rows(name, ImageJob(one), backbone, n_steps, rates)


def table(part: str, rows: Sequence[dict[str, Any]]) -> str:
    """PSNR and CPU time of each arm."""
    cells = [
        [row["case"].removeprefix("iga: "), row["candidate"], f"{row['sizes']['rate']:g}",
         f"{row['quality']['psnr']:.2f} dB", f"{row['quality']['best']:.2f} dB", f"{row['quality']['seconds']:.1f} s"]
        for row in rows
    ]  # fmt: skip
    return markdown(["network, picture", "gradient", "rate", "PSNR", "best on the way", "CPU"], cells)


def _config(job: ImageJob, backbone: str, n_steps: int, *, is_iga: bool, representative: str = "argmax") -> Config:
    encoding, activation, end = BACKBONES[backbone]
    network = {"n_neurons": 64, "n_hidden_layers": 3, "activation": activation}
    config = configuration(job, "siren", n_steps, encoding=encoding, network=network, schedule={"otype": "Constant"})
    config["fit"]["batch_size"] = job.picture.width * job.picture.height
    if is_iga:
        end = min(end, (job.picture.width // PATCH) ** 2 - 1)
        config["gradient_transform"] = {"otype": "IGA", "end": end, "patch": PATCH, "representative": representative}
    return config


def _rows(
    name: str, job: ImageJob, backbone: str, n_steps: int, rates: dict[str, tuple[float, dict[str, float]]]
) -> list[Row]:
    plain, larger = rates["plain"][0], rates["IGA"][0]
    arms = {"plain": (plain, False), "plain, IGA's rate": (larger, False), "IGA": (larger, True)}
    published, of_iga = RELEASED[backbone]
    for called, rate, is_iga in (("plain, released rate", published, False), ("IGA, released rate", of_iga, True)):
        if (rate, is_iga) not in arms.values():
            arms[called] = rate, is_iga
    rows = []
    for called, (rate, is_iga) in arms.items():
        config = _config(job, backbone, n_steps, is_iga=is_iga) | {"optimizer": adam(rate)}
        looks = curve(job, config)
        end = looks[-1]
        said = {"psnr": end.psnr, "best": max(one.psnr for one in looks), "seconds": end.seconds}
        say(f"iga   {name:10} {backbone:6} {called:22} {rate:6g}  {said['psnr']:6.2f} dB (best {said['best']:6.2f}) "
            f"after {n_steps} steps, {end.seconds:6.2f} s of CPU")  # fmt: skip
        sizes = {"config": config, "side": job.picture.width, "n_steps": n_steps, "rate": rate,
                 "rates_tried": rates["IGA" if is_iga else "plain"][1], "curve": rounded(looks)}  # fmt: skip
        rows.append(Row("methods", f"iga: {backbone}, {name}", called, sizes, end.seconds, 0.0, 0.0, quality=said))
    return rows
