"""A picture of a hundred megapixels as many small networks, and as one hash grid, after equal CPU time.

    for arm, figures in hundred_megapixels(mirrored(data), seconds): ...

The picture is Natural Earth's shaded relief, 10800 x 5400, and below it its mirror image, as far as a hundred
megapixels go. To a field, which knows places, that is as new as anything else.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fieldforge.apps.bench.equal_time import fit_for
from fieldforge.apps.fit.image.job import ImageJob
from fieldforge.apps.fit.job import Plan
from fieldforge.apps.images import Picture, read_image

PICTURE = "images/big/shadedrelief_10800x5400.jpg"
N_PIXELS = 100_000_000
PRESETS = {"small networks": "kilonerf", "hash grid": "balanced"}


def hundred_megapixels(picture: Picture, seconds: float) -> Iterator[tuple[str, dict[str, float]]]:
    """What the networks and the grid came to, each when it is there; PSNR is of all pixels, of the file as it is read.

    Args:
        picture: of any size.
        seconds: CPU time of one thread, of training.
    """
    with tempfile.TemporaryDirectory() as folder:
        for arm, preset in PRESETS.items():
            timed = fit_for(ImageJob(picture), Plan(preset=preset, output=Path(folder) / "picture.field"), seconds)
            figures = {
                "steps": timed.fit.state.step,
                "bytes": timed.fit.n_bytes or 0,
                "psnr": timed.fit.figure("psnr"),
                "training_seconds": round(timed.seconds, 2),
            }
            yield arm, figures


def mirrored(data: Path, n_pixels: int = N_PIXELS) -> Picture:
    """The relief of a folder and its mirror image below.

    Raises:
        ImageError: it cannot be read.
    """
    relief = read_image(data / PICTURE).pixels
    rows = n_pixels // relief.shape[1]
    return Picture.from_array(np.concatenate([relief, relief[::-1][: rows - len(relief)]]))
