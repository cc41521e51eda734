"""FreSh on small pictures: does what spectra choose match a sweep, and what does ``--encoding auto`` choose by?

    fresh   every candidate trained, and the one that spectra chose; and why a grid is not chosen so
    auto    four families: what short trainings and what their spectra say, and how they end

Networks are 64 units wide, so that all of it takes some minutes. Learning rates come from another picture, with the
settings of the presets. A choice is made as ``--tune fresh`` makes it, with as much of the training's time as it may
take there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fieldforge.apps.bench.harness import Row, say
from fieldforge.apps.bench.methods import spectra_page
from fieldforge.apps.bench.methods.small import TUNED_ON, best_rate, configuration, picture, pictures
from fieldforge.apps.fit.image.job import ImageJob, fit
from fieldforge.apps.fit.recipe import Config
from fieldforge.apps.fit.tune.choose import choose_by_spectrum
from fieldforge.apps.fit.tune.family import FEWEST, PILOT, pilot
from fieldforge.apps.fit.tune.fresh import BINS, Tuned, tune
from fieldforge.apps.fit.tune.settings import setting_of

PICTURES = (
    "skimage/astronaut.png", "skimage/camera.png", "skimage/chelsea.png", "kodak/kodim04.png", "kodak/kodim07.png",
    "kodak/kodim20.png",
)  # fmt: skip
SIDE = 128
N_STEPS = 600
N_VALUES = 11
"""Candidates besides the preset's."""
FAMILIES = ("siren", "finer", "ffn")
RATES = {"siren": (1e-3, 2e-3, 4e-3), "finer": (1e-3, 2e-3, 4e-3), "ffn": (2e-3, 5e-3, 1e-2)}
CHOICES = (("classic", "classic", False), ("folded", "folded", False), ("all bins", "classic", True))
"""Name, form of the spectra, and whether as many bins count as the paper's, whatever the size of the picture."""
FINEST = (32.0, 64.0, 128.0, 512 / 3, 256.0)
"""Of a grid; the preset's is 4/3 of the side."""
N_GRIDS, N_AUTO = 2, 3
"""Pictures of these parts."""


def measure(part: str, data: Path | None, *, is_quick: bool) -> Iterator[list[Row]]:
    """The rates on another picture, then a case for each picture."""
    n_steps = 3 if is_quick else N_STEPS
    tuning = ImageJob(picture(data, TUNED_ON, SIDE, is_quick=is_quick))

    def figure(config: Config) -> float:
        return _psnr(tuning, config)

    rates = {
        family: best_rate(
            _config(tuning, family, n_steps), tried[: 1 if is_quick else None], lambda c: _psnr(tuning, c)
        )
        for family, tried in RATES.items()
    }
    say(f"{part} rates: {rates}")
    n_pictures = {"fresh": len(PICTURES), "auto": N_AUTO}[part]
    for number, (name, one) in enumerate(pictures(data, PICTURES[:n_pictures], SIDE, is_quick=is_quick)):
        job = ImageJob(one)
        if part == "auto":
            yield _auto(name, job, n_steps, rates)
            continue
        yield [row for family in FAMILIES for row in _fresh(name, job, family, n_steps, rates[family])]
        if number < N_GRIDS:
            yield _grids(name, job, n_steps)


def table(part: str, rows: Sequence[dict[str, Any]]) -> str:
    """See `spectra_page`."""
    return spectra_page.TABLES[part](rows)


Rate = tuple[float, dict[str, float]]
"""The rate that was best, and the figure of each."""


def _config(job: ImageJob, family: str, n_steps: int, rate: float | None = None) -> Config:
    if family == "grid":
        return configuration(job, "balanced", n_steps, fit={"batch_size": 4096})
    layers = {"n_neurons": 64, "n_hidden_layers": 3}
    config = configuration(job, family, n_steps, fit={"batch_size": 4096}, network=layers)
    if family == "ffn":
        config["encoding"]["n_features"] = 32  # as many features as neurons: the paper's
    if rate is not None:
        config["optimizer"]["learning_rate"] = rate
    return config


def _psnr(job: ImageJob, config: Config) -> float:
    result = fit(job.picture, config=config, progress="quiet")
    if result.state.stopped_by != "steps":
        raise InterruptedError("a fit was asked to stop, so there is nothing to compare")
    return result.psnr


def _fresh(name: str, job: ImageJob, family: str, n_steps: int, rate: Rate) -> list[Row]:
    """Every setting of a family trained, and what is chosen by each of `CHOICES`."""
    config = _config(job, family, n_steps, rate[0])
    found: dict[str, tuple[Tuned, float]] = {}
    for called, form, has_all_bins in CHOICES:
        n_bins = setting_of(config).n_bins if has_all_bins else None
        start = time.process_time()
        one = tune(job.make_field, config, job.slices, job.full_side, n_values=N_VALUES, form=form, n_bins=n_bins)
        found[called] = one, time.process_time() - start
    setting = found["classic"][0].setting
    start = time.process_time()
    psnr = {value: _psnr(job, setting.put(config, value)) for value in setting.values}
    seconds = (time.process_time() - start) / len(psnr)
    best = max(psnr, key=lambda value: psnr[value])
    rows = []
    for called, (tuned, taken) in found.items():
        said = {
            "chosen": tuned.value, "psnr": psnr[tuned.value], "best": best, "psnr_best": psnr[best],
            "default": setting.present, "psnr_default": psnr[setting.present], "cost": taken / seconds,
            "rank": _rank(psnr, tuned),
        }  # fmt: skip
        told = "  ".join(
            f"{which} {said[which]:8.4g} {said[key]:6.2f} dB"
            for which, key in (("chosen", "psnr"), ("best", "psnr_best"), ("default", "psnr_default"))
        )
        say(f"fresh {name:10} {family:8} {called:8} {told}  cost {said['cost']:.1%}  ranks {said['rank']:.2f}")
        sizes = {"side": tuned.side, "n_bins": tuned.n_bins, "n_passes": tuned.choice.n_passes, "n_steps": n_steps,
                 "config": config, "rates_tried": rate[1],
                 "sweep": {f"{value:g}": round(one, 3) for value, one in psnr.items()},
                 "distances": {f"{value:g}": round(d.mean, 4) for value, d in
                               zip(setting.values, tuned.choice.distances, strict=True)}}  # fmt: skip
        rows.append(Row("methods", f"fresh: {name}", f"{family}, {called}", sizes, seconds, 0.0, 0.0, quality=said))
    return rows


def _rank(psnr: Mapping[float, float], found: Tuned) -> float:
    """Spearman's correlation of nearness and PSNR over the candidates."""
    far = np.argsort(np.argsort([-one.mean for one in found.choice.distances]))
    good = np.argsort(np.argsort([psnr[value] for value in found.setting.values]))
    return float(np.corrcoef(far, good)[0, 1])


def _grids(name: str, job: ImageJob, n_steps: int) -> list[Row]:
    """Hash grids by their finest level: how near the untrained ones come, and how the trained ones end."""
    config = _config(job, "grid", n_steps)
    encoding = config["encoding"]

    def at(finest: float) -> Config:
        scale = (finest / encoding["base_resolution"]) ** (1 / (encoding["n_levels"] - 1))
        return config | {"encoding": encoding | {"per_level_scale": scale}}

    slices = job.slices(SIDE)
    choice = choose_by_spectrum(
        lambda finest, seed: job.make_field(at(finest), seed), FINEST, slices, n_init=3,
        n_bins=max(1, len(slices[0].values) // BINS),
    )  # fmt: skip
    rows = []
    for finest, distance in zip(FINEST, choice.distances, strict=True):
        start = time.process_time()
        said = {"distance": distance.mean, "psnr": _psnr(job, at(finest))}
        seconds = time.process_time() - start
        say(f"fresh {name:10} grid to {finest:4.0f}: {distance.mean:6.2f} bins, {said['psnr']:6.2f} dB")
        sizes = {"config": at(finest), "n_steps": n_steps}
        rows.append(Row("methods", f"fresh: {name}, grid", f"to {finest:.0f}", sizes, seconds, 0.0, 0.0, quality=said))
    return rows


def _auto(name: str, job: ImageJob, n_steps: int, rates: Mapping[str, Rate]) -> list[Row]:
    """Families with their settings tuned: distance, figure after the pilot, figure at the end."""
    rows = []
    for family in (*FAMILIES, "grid"):
        config, distance = _config(job, family, n_steps, rates[family][0] if family in rates else None), None
        if family != "grid":
            found = tune(job.make_field, config, job.slices, job.full_side)
            config, distance = found.config, found.distance
        after = pilot(job, config, 0, max(FEWEST, round(PILOT * n_steps)))
        start = time.process_time()
        said = {"psnr_pilot": after, "psnr": _psnr(job, config)} | ({} if distance is None else {"distance": distance})
        seconds = time.process_time() - start
        say(f"auto  {name:10} {family:8} pilot {after:6.2f} dB  end {said['psnr']:6.2f} dB  {distance or 0:6.2f} bins")
        rows.append(Row("methods", f"auto: {name}", family, {"config": config}, seconds, 0.0, 0.0, quality=said))
    return rows
