"""A picture of a hundred megapixels as many small networks, and as one hash grid, after equal CPU time.

    for row in hundred_megapixels(data, seconds): ...

The picture is Natural Earth's shaded relief, 10800 x 5400, and below it its mirror image, as far as a hundred
megapixels go. To a field, which knows places, that is as new as anything else.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fieldforge.apps.bench.equal_time import fit_for
from fieldforge.apps.bench.harness import Row, say
from fieldforge.apps.fit.image.job import ImageJob
from fieldforge.apps.fit.job import Plan
from fieldforge.apps.images import Picture, read_image

PICTURE = "images/big/shadedrelief_10800x5400.jpg"
N_PIXELS = 100_000_000
PRESETS = {"small networks": "kilonerf", "hash grid": "balanced"}


def hundred_megapixels(picture: Picture, seconds: float) -> Iterator[Row]:
    """A row each of the networks and of the grid, when it is there; PSNR is of all pixels, of the file as it is read.

    Args:
        picture: of any size.
        seconds: CPU time of one thread, of training.
    """
    with tempfile.TemporaryDirectory() as folder:
        for arm, preset in PRESETS.items():
            timed = fit_for(ImageJob(picture), Plan(preset=preset, output=Path(folder) / "picture.field"), seconds)
            fit = timed.fit
            figures = {
                "steps": fit.state.step,
                "bytes": fit.n_bytes or 0,
                "psnr": fit.figure("psnr"),
                "training_seconds": round(timed.seconds, 2),
            }
            said = "  ".join(f"{key} {value:.4g}" for key, value in figures.items())
            say(f"{'picture':18} {arm:24} {seconds:6.0f} s  {said}")
            sizes = {"budget": seconds, "width": picture.width, "height": picture.height}
            rate = fit.state.step / max(timed.seconds, 1e-9)
            yield Row("convert", f"picture: {arm}", arm, sizes, seconds, 0.0, rate, figures)


def mirrored(data: Path, n_pixels: int = N_PIXELS) -> Picture:
    """The relief of a folder and its mirror image below.

    Raises:
        ImageError: it cannot be read.
    """
    relief = read_image(data / PICTURE).pixels
    rows = n_pixels // relief.shape[1]
    return Picture.from_array(np.concatenate([relief, relief[::-1][: rows - len(relief)]]))
