"""INT: all pixels, random ones and the most wrong ones, in equal steps and in equal time.

A SIREN on small pictures, all selected pixels in every step, the rate cosine from its largest value to 0, as the
authors train. First each arm makes the same number of steps; then random and INT make as many as take the time of all
pixels, with schedules as much longer. What counts is the CPU time of steps (choosing included, looking not) to a level.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fieldforge.apps.bench.harness import Row, markdown, say
from fieldforge.apps.bench.methods.small import TUNED_ON, Look, best_rate, configuration, curve, picture, rounded
from fieldforge.apps.bench.methods.small import pictures as pictures_of
from fieldforge.apps.fit.image.job import ImageJob
from fieldforge.apps.fit.recipe import Config, adam

PICTURES = ("skimage/astronaut.png", "kodak/kodim07.png")
SIDE = 128
N_STEPS, TUNING_STEPS = 500, 250
N_NEURONS = 128
RATES = (1e-3, 2e-3, 4e-3)
LEVELS = (30.0, 35.0, 38.0)
"""Decibels; 35 is the claim's."""
ARMS: dict[str, Config | None] = {
    "all pixels": None,
    "random": {"otype": "INT", "mode": "random"},
    "INT": {"otype": "INT"},
    "INT, released intervals": {"otype": "INT", "interval": 10},
    "INT, dense": {"otype": "INT", "refresh": "dense"},
    "INT, a half random": {"otype": "INT", "mode": "mix", "random_share": 0.5},
}
IN_EQUAL_TIME = ("random", "INT", "INT, a half random")


def measure(part: str, data: Path | None, *, is_quick: bool) -> Iterator[list[Row]]:
    """The rates on another picture, then a case for each picture."""
    n_steps = 4 if is_quick else N_STEPS
    rates = _rates(ImageJob(picture(data, TUNED_ON, SIDE, is_quick=is_quick)), 2 if is_quick else TUNING_STEPS)
    for name, one in pictures_of(data, PICTURES, SIDE, is_quick=is_quick):
        yield _rows(name, ImageJob(one), n_steps, rates)


def table(part: str, rows: Sequence[dict[str, Any]]) -> str:
    """PSNR at the end, and the time to each level as a share of that of all pixels."""
    cells = []
    full = {row["case"]: row["quality"] for row in rows if row["candidate"] == "all pixels"}
    for row in rows:
        q, f = row["quality"], full[row["case"]]
        cells.append([row["case"].removeprefix("int: "), row["candidate"], f"{row['sizes']['n_steps']}",
                      f"{q['psnr']:.2f} dB", f"{q['seconds']:.1f} s"])  # fmt: skip
        for level in LEVELS:
            mine, its = q.get(f"seconds_to_{level:g}"), f.get(f"seconds_to_{level:g}")
            share = f", {mine / its:.2f}" if mine and its else ""
            cells[-1].append("never" if mine is None else f"{mine:.1f} s{share}")
    levels = [f"to {level:g} dB, of all" for level in LEVELS]
    return markdown(["picture", "pixels", "steps", "PSNR", "CPU", *levels], cells)


def _config(job: ImageJob, n_steps: int, rate: float, selection: Config | None) -> Config:
    config = configuration(job, "siren", n_steps, network={"n_neurons": N_NEURONS, "n_hidden_layers": 3})
    config["optimizer"] = adam(rate)
    config["fit"]["batch_size"] = job.picture.width * job.picture.height
    return config | ({"selection": selection} if selection else {})


def _rates(job: ImageJob, n_steps: int) -> dict[str, tuple[float, dict[str, float]]]:
    """The rate of each arm, after a shorter training; the other arms of INT take INT's."""
    found = {
        arm: best_rate(_config(job, n_steps, 1.0, ARMS[arm]), RATES, lambda config: curve(job, config)[-1].psnr)
        for arm in ("all pixels", "random", "INT")
    }
    say(f"int   rates: {found}")
    return found


def _rows(name: str, job: ImageJob, n_steps: int, rates: dict[str, tuple[float, dict[str, float]]]) -> list[Row]:
    def looks(arm: str, n: int) -> list[Look]:
        return curve(job, _config(job, n, rates.get(arm, rates["INT"])[0], ARMS[arm]), n_looks=100)

    curves = {arm: looks(arm, n_steps) for arm in ARMS}
    time_of_all = curves["all pixels"][-1].seconds
    for arm in IN_EQUAL_TIME:
        n = max(n_steps, round(n_steps * time_of_all / curves[arm][-1].seconds))
        curves[f"{arm}, equal time"] = looks(arm, n)
    rows = []
    for called, found in curves.items():
        arm, end = called.removesuffix(", equal time"), found[-1]
        said = {"psnr": end.psnr, "seconds": end.seconds}
        reached = {level: next((one.seconds for one in found if one.psnr >= level), None) for level in LEVELS}
        said |= {f"seconds_to_{level:g}": seconds for level, seconds in reached.items() if seconds is not None}
        told = "  ".join(f"{level:g} dB after {seconds or math.nan:6.2f} s" for level, seconds in reached.items())
        say(f"int   {name:10} {called:32} {end.step:5} steps {end.psnr:6.2f} dB {end.seconds:6.2f} s of CPU  {told}")
        rate, tried = rates.get(arm, rates["INT"])
        sizes = {"config": _config(job, end.step, rate, ARMS[arm]), "side": job.picture.width, "n_steps": end.step,
                 "rates_tried": tried, "curve": rounded(found)}  # fmt: skip
        rows.append(Row("methods", f"int: {name}", called, sizes, end.seconds, 0.0, 0.0, quality=said))
    return rows
