"""FreSh, INT and IGA on small pictures, each beside its controls.

    fresh   every candidate trained, and the one that spectra chose: does the choice match a sweep?
    auto    four families: what their first steps and what their spectra say, and how they end
    int     all pixels, random ones and the most wrong ones, in equal steps and about equal time
    iga     vanilla, vanilla with IGA's learning rate (the control), IGA

Networks are 64 units wide, so that all of it takes some minutes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fieldforge.apps.bench.harness import Row, folder_of, say
from fieldforge.apps.bench.methods import spectra_page
from fieldforge.apps.fit.image.job import ImageJob, fit
from fieldforge.apps.fit.image.job import measure as quality_of
from fieldforge.apps.fit.job import Plan, Training
from fieldforge.apps.fit.recipe import Config, adam
from fieldforge.apps.fit.tune.family import PILOT, pilot
from fieldforge.apps.fit.tune.fresh import tune
from fieldforge.apps.images import Picture, read_image
from fieldforge.fields.kinds.image import ImageField
from fieldforge.registry import build

PICTURES = ("skimage/astronaut.png", "skimage/camera.png", "kodak/kodim01.png")
SMALL = ("network.n_neurons=64", "network.n_hidden_layers=3", "fit.batch_size=4096", "fit.storage=float32")
FAMILIES = ("siren", "ffn", "finer", "balanced")
N_VALUES = 12


def measure(part: str, data: Path | None, *, is_quick: bool) -> Iterator[list[Row]]:
    """One part on each picture; IGA on the first alone, at half the side."""
    measured: dict[str, Callable[[Picture, str], list[Row]]] = {
        "fresh": _fresh,
        "auto": _auto,
        "int": _int,
        "iga": _iga,
    }
    side = 16 if is_quick else 64 if part == "iga" else 128
    for name in PICTURES[: 1 if is_quick or part == "iga" else None]:
        picture = _noise(side) if is_quick else square(read_image(folder_of(data) / "images" / name), side)
        yield measured[part](picture, "quick" if is_quick else Path(name).stem)


def table(part: str, rows: Sequence[dict[str, Any]]) -> str:
    """See `spectra_page`."""
    return spectra_page.TABLES[part](rows)


def square(picture: Picture, side: int) -> Picture:
    """The middle of a picture, made so many pixels a side."""
    shorter = min(picture.width, picture.height)
    x, y = (picture.width - shorter) // 2, (picture.height - shorter) // 2
    middle = Picture.from_array(np.ascontiguousarray(picture.pixels[y : y + shorter, x : x + shorter]))
    values = ImageJob(middle).slices(side)[0].values.clamp(0, 1)
    return Picture.from_array((values * 255).round().to(torch.uint8).numpy())


def _noise(side: int) -> Picture:
    return Picture.from_array(np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8))


def _steps(name: str, steps: int) -> int:
    return 2 if name == "quick" else steps


def _fresh(picture: Picture, name: str) -> list[Row]:
    """Every setting of three coordinate networks and of a grid, trained for 300 steps."""
    rows = []
    job, n_steps = ImageJob(picture), _steps(name, 300)
    for preset in FAMILIES:
        plan = _plan(preset, n_steps)
        config, _ = job.run_config(plan)
        for form in ("classic", "folded"):
            found = tune(job.make_field, config, job.slices, job.full_side, n_values=N_VALUES, form=form,
                         n_init=2 if name == "quick" else 10)  # fmt: skip
            if form == "classic":
                start = time.process_time()
                trained = {
                    value: fit(picture, config=found.setting.put(config, value), progress="quiet")
                    for value in found.setting.values
                }
                seconds = (time.process_time() - start) / len(trained)
                if any(one.state.stopped_by != "steps" for one in trained.values()):
                    raise InterruptedError("a fit was asked to stop, so there is nothing to compare")
            psnr = {value: one.psnr for value, one in trained.items()}
            best = max(psnr, key=lambda value: psnr[value])
            said = {
                "chosen": found.value, "psnr": psnr[found.value], "best": best, "psnr_best": psnr[best],
                "default": found.setting.present, "psnr_default": psnr[found.setting.present],
                "cost": found.choice.seconds / seconds, "rank": _rank(psnr, found),
            }  # fmt: skip
            told = "  ".join(
                f"{which} {said[which]:8.4g} {said[key]:6.2f} dB"
                for which, key in (("chosen", "psnr"), ("best", "psnr_best"), ("default", "psnr_default"))
            )
            say(f"fresh {name:10} {preset:8} {form:8} {told}  cost {said['cost']:.1%}  ranks {said['rank']:.2f}")
            sizes = {"side": found.side, "n_steps": n_steps, "config": config,
                     "sweep": {str(value): round(one, 3) for value, one in psnr.items()},
                     "distances": {str(value): round(d.mean, 4) for value, d in
                                   zip(found.setting.values, found.choice.distances, strict=True)}}  # fmt: skip
            rows.append(Row("methods", f"fresh: {name}", f"{preset}, {form}", sizes, seconds, 0.0, 0.0, quality=said))
    return rows


def _plan(preset: str, steps: int, **keywords: Any) -> Plan:
    overrides = SMALL if preset != "balanced" else SMALL[2:]
    return Plan(preset=preset, steps=steps, overrides=overrides, progress="quiet", **keywords)


def _rank(psnr: Mapping[float, float], found: Any) -> float:
    """Spearman's correlation of nearness and PSNR over the candidates."""
    far = np.argsort(np.argsort([-one.mean for one in found.choice.distances]))
    good = np.argsort(np.argsort([psnr[value] for value in found.setting.values]))
    return float(np.corrcoef(far, good)[0, 1])


def _auto(picture: Picture, name: str) -> list[Row]:
    """Families with their settings tuned: distance, figure after the pilot, figure at the end."""
    job, n_steps, rows = ImageJob(picture), _steps(name, 300), []
    for preset in FAMILIES:
        config, _ = job.run_config(_plan(preset, n_steps))
        found = tune(job.make_field, config, job.slices, job.full_side, n_bins=64, n_init=2 if name == "quick" else 10)
        if preset != "balanced":
            config = found.config
        n_pilot = max(1, round(PILOT * n_steps))
        after = pilot(job, config, 0, max(n_pilot, min(20, n_steps)))
        end = fit(picture, config=config, progress="quiet")
        said = {"distance": found.distance, "psnr_pilot": after, "psnr": end.psnr}
        say(f"auto  {name:10} {preset:8} distance {found.distance:6.3f}  pilot {after:6.2f} dB  end {end.psnr:6.2f} dB")
        rows.append(Row("methods", f"auto: {name}", preset, {"config": config}, end.seconds, 0.0, 0.0, quality=said))
    return rows


def _int(picture: Picture, name: str) -> list[Row]:
    """Curves of arms that learn from all pixels, random ones and the most wrong ones."""
    job, n_steps = ImageJob(picture), _steps(name, 400)
    n_pixels = picture.width * picture.height
    base, _ = job.run_config(_plan("siren", n_steps))
    base["optimizer"] = adam(1e-3)
    base["fit"]["batch_size"] = n_pixels
    longer = round(1.5 * n_steps)
    arms: dict[str, tuple[int, dict[str, Any] | None]] = {
        "all pixels": (n_steps, None),
        "random": (n_steps, {"otype": "INT", "mode": "random"}),
        "INT": (n_steps, {"otype": "INT"}),
        "INT, dense": (n_steps, {"otype": "INT", "refresh": "dense"}),
        "random, 1.5 x steps": (longer, {"otype": "INT", "mode": "random"}),
        "INT, 1.5 x steps": (longer, {"otype": "INT"}),
    }
    curves = {}
    for arm, (steps, selection) in arms.items():
        config = base | {"fit": base["fit"] | {"n_steps": steps}} | ({"selection": selection} if selection else {})
        curves[arm] = _curve(job, config, steps)
    level = float(np.floor(min(max(psnr for _, _, psnr in curve) for curve in curves.values())))
    rows = []
    for arm, curve in curves.items():
        reached = next(((step, seconds) for step, seconds, psnr in curve if psnr >= level), (-1, float("nan")))
        end = curve[-1]
        said = {"psnr": end[2], "steps": end[0], "seconds": end[1], "level": level, "seconds_to_level": reached[1]}
        say(f"int   {name:10} {arm:20} {end[2]:6.2f} dB in {end[0]} steps, {end[1]:6.2f} s of CPU; "
            f"{level:.0f} dB after {reached[1]:6.2f} s")  # fmt: skip
        sizes = {
            "config": base,
            "arm": arms[arm][1] or {},
            "curve": [[s, round(t, 3), round(p, 3)] for s, t, p in curve],
        }
        rows.append(Row("methods", f"int: {name}", arm, sizes, end[1], 0.0, 0.0, quality=said))
    return rows


def _curve(job: ImageJob, config: Config, n_steps: int) -> list[tuple[int, float, float]]:
    """(steps, CPU seconds in steps, PSNR of all pixels) now and then."""
    field: ImageField = job.make_field(config, 0)
    schedule = build("schedule", config["schedule"], path="schedule")
    found, seconds, every = [], 0.0, max(1, n_steps // 40)
    with job.training(field, config, 0, ()) as training:
        assert isinstance(training, Training)
        for step in range(n_steps):
            start = time.process_time()
            training.advance(step, schedule(step, n_steps))
            seconds += time.process_time() - start
            if (step + 1) % every == 0 or step + 1 == n_steps:
                with torch.no_grad():
                    found.append((step + 1, seconds, quality_of(job.picture, field)[0]))
    return found


def _iga(picture: Picture, name: str) -> list[Row]:
    """Three backbones of the paper, vanilla at two learning rates and IGA with the larger."""
    job, n_steps, rows = ImageJob(picture), _steps(name, 300), []
    sine: Config = {"otype": "Sine", "omega": 30.0}
    backbones: dict[str, tuple[Config, Any, int, float, float]] = {
        "ReLU": ({"otype": "Identity", "scale": 2.0, "offset": -1.0}, "ReLU", 25, 1e-3, 5e-3),
        "PE": ({"otype": "Frequency", "n_frequencies": 6}, "ReLU", 20, 1e-3, 5e-3),
        "SIREN": ({"otype": "Identity", "scale": 2.0, "offset": -1.0}, sine, 20, 1e-3, 1e-3),
    }
    for backbone, (encoding, activation, end, rate, larger) in backbones.items():
        base, _ = job.run_config(_plan("siren", n_steps))
        base["encoding"], base["schedule"] = encoding, {"otype": "Constant"}
        base["network"] |= {"activation": activation}
        base["fit"]["batch_size"] = picture.width * picture.height
        end = min(end, (picture.width // 8) ** 2 - 1)
        arms: dict[str, tuple[float, Config | None]] = {
            "vanilla": (rate, None),
            "vanilla, rate of IGA": (larger, None),
            "IGA": (larger, {"otype": "IGA", "end": end, "patch": 8}),
            "IGA, patch sums": (larger, {"otype": "IGA", "end": end, "patch": 8, "representative": "patch_sum"}),
        }
        for arm, (arm_rate, transform) in arms.items():
            if arm == "IGA, patch sums" and backbone != "ReLU":
                continue  # 64 gradients for each patch
            config = base | {"optimizer": adam(arm_rate)} | ({"gradient_transform": transform} if transform else {})
            curve = _curve(job, config, n_steps)
            said = {"psnr": curve[-1][2], "best": max(psnr for _, _, psnr in curve), "seconds": curve[-1][1]}
            say(f"iga   {name:10} {backbone:6} {arm:22} {said['psnr']:6.2f} dB (best {said['best']:6.2f}) after "
                f"{n_steps} steps, {said['seconds']:6.2f} s of CPU")  # fmt: skip
            sizes = {"config": config, "side": picture.width, "n_steps": n_steps}
            rows.append(Row("methods", f"iga: {backbone}", arm, sizes, said["seconds"], 0.0, 0.0, quality=said))
    return rows
