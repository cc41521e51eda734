"""``fieldforge view``: a picture, a sound or a field of one in the terminal, two pixels a character cell.

Needs no display; a terminal with 24-bit colour shows it best.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TextIO

import numpy as np

from fieldforge.apps.cli.words import UsageError
from fieldforge.apps.images import linear_to_srgb, read_image
from fieldforge.apps.render.audio import sample
from fieldforge.apps.render.film import Moment
from fieldforge.apps.render.image import render
from fieldforge.apps.sounds import read_sound
from fieldforge.checks import with_article
from fieldforge.fields.file import load_field
from fieldforge.fields.kinds.audio import AudioField
from fieldforge.fields.kinds.image import ImageField
from fieldforge.fields.kinds.video import VideoField

_HALF = 17
"""Dots above and below the middle of a waveform."""
_SOUNDS = (".wav", ".ogg", ".flac", ".mp3", ".m4a", ".aiff", ".aif")


def show_file(path: Path, *, width: int | None = None) -> int:
    """Show a field or a picture file; returns the exit code."""
    if path.suffix == ".field":
        field, _ = load_field(path)
        if isinstance(field, AudioField):
            return _listen(sample(field)[:, 0], field.duration, width)
        if isinstance(field, VideoField):
            moment = Moment(field, field.duration / 2)
            show(render(moment, scale=min(1.0, 400 / max(field.width, field.height))), width=width)
            return 0
        if not isinstance(field, ImageField):
            raise UsageError(f"{path}: is {with_article(field.otype)}, and only pictures, sounds and films are shown")
        image = render(field, scale=min(1.0, 400 / max(field.width, field.height)))
        color_space = field.color_space
    elif path.suffix.lower() in _SOUNDS:
        clip = read_sound(path)
        return _listen(clip.samples[:, 0], clip.duration, width)
    else:
        picture = read_image(path)
        every = max(1, max(picture.width, picture.height) // 400)
        small = picture.pixels[::every, ::every]
        image = small.astype(np.float32) / (1.0 if small.dtype == np.float32 else np.iinfo(small.dtype).max)
        color_space = picture.color_space
    if color_space == "linear":
        image = np.clip(image / max(1e-12, float(np.percentile(image, 99))), 0, 1)
        image[..., :3] = linear_to_srgb(image[..., :3])
    show(image, width=width)
    return 0


def _listen(samples: np.ndarray, seconds: float, width: int | None) -> int:
    """Print the waveform of (n_samples,) amplitudes, its peak to the edges, and how long it is."""
    columns = max(1, min(width or min(100, shutil.get_terminal_size().columns), len(samples)))
    starts = np.linspace(0, len(samples), columns, endpoint=False).astype(np.int64)
    peak = float(np.abs(samples).max()) or 1.0
    low, high = (np.round(_HALF * edge.reduceat(samples, starts) / peak) for edge in (np.minimum, np.maximum))
    # dots of braille: four rows to a line of text, both columns of a cell alike
    dots = np.arange(_HALF, -_HALF - 1, -1)[:, None]
    is_lit = (dots >= low) & (dots <= high)
    is_lit = np.concatenate([is_lit, np.zeros((-len(dots) % 4, columns), bool)])
    bits = np.array([0x01 | 0x08, 0x02 | 0x10, 0x04 | 0x20, 0x40 | 0x80])
    codes = (is_lit.reshape(-1, 4, columns) * bits[:, None]).sum(1)
    for line in codes.tolist():
        sys.stdout.write("".join(chr(0x2800 + code) for code in line) + "\n")
    sys.stdout.write(f"{seconds:.3f} s, peak {float(np.abs(samples).max()):.3f}\n")
    return 0


def show(image: np.ndarray, *, width: int | None = None, stream: TextIO | None = None) -> None:
    """Print an image with half blocks.

    Args:
        image: (height, width, 1 to 4) in [0, 1], sRGB; alpha is shown over black.
        width: character columns; by default those of the terminal, at most 100.
        stream: where to; standard output by default.
    """
    stream = stream or sys.stdout
    columns = width or min(100, shutil.get_terminal_size().columns)
    columns = max(1, min(columns, image.shape[1]))
    n_rows = max(2, round(image.shape[0] * columns / image.shape[1] / 2) * 2)
    small = _shrink(_rgb(image), n_rows, columns)
    pixels = np.round(small.clip(0, 1) * 255).astype(int)
    for upper, lower in zip(pixels[0::2], pixels[1::2], strict=True):
        pairs = zip(upper.tolist(), lower.tolist(), strict=True)
        cells = (f"\x1b[38;2;{_code(top)}m\x1b[48;2;{_code(bottom)}m▀" for top, bottom in pairs)
        stream.write("".join(cells) + "\x1b[0m\n")


def _code(color: list[int]) -> str:
    return ";".join(map(str, color))


def _rgb(image: np.ndarray) -> np.ndarray:
    n_channels = image.shape[2]
    color = image[..., :3] if n_channels >= 3 else np.repeat(image[..., :1], 3, axis=2)
    return color * image[..., -1:] if n_channels in (2, 4) else color


def _shrink(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Average the pixels that fall into each cell of a coarser raster (nearest pixel where it is finer)."""
    rows = np.linspace(0, image.shape[0], height + 1).astype(int)
    columns = np.linspace(0, image.shape[1], width + 1).astype(int)
    out = np.empty((height, width, 3))
    for i in range(height):
        strip = image[rows[i] : max(rows[i] + 1, rows[i + 1])].mean(0)
        for j in range(width):
            out[i, j] = strip[columns[j] : max(columns[j] + 1, columns[j + 1])].mean(0)
    return out
