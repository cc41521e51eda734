"""``fieldforge bench presets``: every preset on a few photos: PSNR, SSIM, seconds, bytes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from fieldforge.apps.bench.harness import Row, save, say
from fieldforge.apps.fit.image.job import fit
from fieldforge.apps.images import Picture, read_image

PHOTOS = (
    "skimage/astronaut.png",
    "skimage/coffee.png",
    "kodak/kodim01.png",
    "kodak/kodim07.png",
    "kodak/kodim20.png",
)
SHOWN = ("fast", "balanced", "best", "tiny", "siren", "ffn")


def run(folder: Path, data: Path | None, *, is_quick: bool) -> None:
    """Fit, print, and keep the rows unless `is_quick`.

    Args:
        folder: of the rows.
        data: folder that holds `PHOTOS`.

    Raises:
        ValueError: no folder given.
    """
    if data is None and not is_quick:
        raise ValueError(f"data: give the folder that holds {PHOTOS[0]} and the others, --data FOLDER")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in PHOTOS[: 1 if is_quick else None]:
            picture = _noise() if is_quick or data is None else read_image(data / name)
            for preset in SHOWN[: 1 if is_quick else None]:
                result = fit(
                    picture,
                    preset=preset,
                    output=Path(scratch) / "x.field",
                    steps=3 if is_quick else None,
                    progress="quiet",
                )
                figures = {key: value for key, value in result.summary().items() if isinstance(value, (int, float))}
                n_pixels = picture.pixels.shape[0] * picture.pixels.shape[1]
                rate = result.state.step * result.config["fit"]["batch_size"] / result.seconds
                sizes = {"pixels": n_pixels, "config": result.config}
                rows.append(Row("presets", Path(name).stem, preset, sizes, result.seconds, 0.0, rate, quality=figures))
                say(
                    f"{Path(name).stem:12} {preset:10} {result.psnr:6.2f} dB  SSIM {result.ssim or 0:.4f}  "
                    f"{result.seconds:7.1f} s  {result.n_bytes or 0:>10,} bytes"
                )
    if not is_quick:
        say(f"rows: {save(folder, 'presets', rows)}")


def _noise() -> Picture:
    return Picture.from_array(np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8))
