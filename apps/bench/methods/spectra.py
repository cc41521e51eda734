"""FreSh on small pictures: does what spectra choose match a sweep, and what does ``--encoding auto`` choose by?

    fresh   every candidate trained, and the one that spectra chose
    auto    four families: what their first steps and what their spectra say, and how they end

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
from fieldforge.apps.fit.job import Plan
from fieldforge.apps.fit.tune.family import PILOT, pilot
from fieldforge.apps.fit.tune.fresh import tune
from fieldforge.apps.images import Picture, read_image

PICTURES = ("skimage/astronaut.png", "skimage/camera.png", "kodak/kodim01.png")
SMALL = ("network.n_neurons=64", "network.n_hidden_layers=3", "fit.batch_size=4096", "fit.storage=float32")
FAMILIES = ("siren", "ffn", "finer", "balanced")
N_VALUES = 12


def measure(part: str, data: Path | None, *, is_quick: bool) -> Iterator[list[Row]]:
    """One part on each picture; IGA on the first alone, at half the side."""
    measured: dict[str, Callable[[Picture, str], list[Row]]] = {
        "fresh": _fresh,
        "auto": _auto,
    }
    side = 16 if is_quick else 128
    for name in PICTURES[: 1 if is_quick else None]:
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
