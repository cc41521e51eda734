"""Files that a scene names: where they are, how large their pictures are, and their JSON, read with suspicion."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fieldforge.apps.images import ImageError, linear_to_srgb, read_image
from fieldforge.apps.images.limits import quiet
from fieldforge.apps.scenes.scene import SceneError

MAX_TEXT_BYTES = 256 * 2**20
SUFFIXES = (".png", ".jpg", ".jpeg", ".JPG", ".JPEG", ".PNG", ".webp", ".tif", ".tiff", ".exr")


def read_bytes(path: Path, limit: int = MAX_TEXT_BYTES) -> bytes:
    """The whole file.

    Raises:
        SceneError: it cannot be read, or is longer than the limit.
    """
    try:
        if not path.is_file():
            raise SceneError(f"{path}: there is no such file")
        n_bytes = path.stat().st_size
        if n_bytes > limit:
            raise SceneError(f"{path}: has {n_bytes / 1e6:.0f} MB, and {limit / 1e6:.0f} MB is the most that is read")
        return path.read_bytes()
    except OSError as error:
        raise SceneError(f"{path}: {error.strerror or error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        SceneError: it cannot be read, is not JSON, or is not an object.
    """
    try:
        found = json.loads(read_bytes(path).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        if isinstance(error, SceneError):
            raise
        raise SceneError(f"{path}: is not JSON ({' '.join(str(error).split())[:120]})") from error
    if not isinstance(found, dict):
        raise SceneError(f"{path}: expected a JSON object {{...}}, got {type(found).__name__}")
    return found


def number(place: str, value: Any, *, low: float = -math.inf, open_low: bool = False) -> float:
    """A finite JSON number of at least `low` (above it when `open_low`); `place` names it in the SceneError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise SceneError(f"{place}: expected a number, got {short(value)}")
    try:
        value = float(value)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value) or value < low or (open_low and value == low):
        above = "" if low == -math.inf else f" {'above' if open_low else 'of at least'} {low:g}"
        raise SceneError(f"{place}: expected a finite number{above}, got {value:g}")
    return value


def matrix(place: str, value: Any) -> np.ndarray:
    """(4, 4) float64 of a JSON 4x4 or 3x4 matrix; whether it is a pose is asked later."""
    try:
        rows = [[number(place, entry) for entry in row] for row in value]
    except TypeError:
        raise SceneError(f"{place}: expected 4 rows of 4 numbers, got {short(value)}") from None
    if [len(row) for row in rows] not in ([4] * 4, [4] * 3):
        raise SceneError(f"{place}: expected 4 rows of 4 numbers, got rows of {[len(row) for row in rows][:6]}")
    return np.array([*rows[:3], [0.0, 0.0, 0.0, 1.0]])


def short(value: Any) -> str:
    """A value as messages show it."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def inside(folder: Path, name: Any, place: str) -> Path:
    """The path of a file that a scene names, below the scene's folder (links that lie there may point anywhere).

    Raises:
        SceneError: not text, or a name that leads out of the folder.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise SceneError(f"{place}: expected the name of a file, got {short(name)}")
    flat = os.path.normpath(name.replace("\\", "/"))
    if os.path.isabs(flat) or flat.split("/")[0] == ".." or flat[1:2] == ":":
        raise SceneError(f"{place}: {short(name)} leads out of {folder}; photos are read from the scene's folder only")
    return folder / flat


def find_photo(path: Path) -> Path | None:
    """The file itself, or with a suffix of a picture (NeRF-synthetic leaves it out); None where there is none."""
    if path.is_file():
        return path
    return next((found for end in SUFFIXES if (found := path.with_name(path.name + end)).is_file()), None)


@dataclass(frozen=True)
class Header:
    """What a picture file says of itself: upright size, whether there is alpha, whether EXIF turns it."""

    width: int
    height: int
    has_alpha: bool
    is_turned: bool


def read_header(path: Path) -> Header:
    """Size and kind of a photo, without decoding it where that can be had.

    Raises:
        SceneError: not a picture.
    """
    from PIL import Image

    try:
        with quiet(), Image.open(path) as picture:
            if picture.format in ("PNG", "JPEG", "WEBP"):
                # Of a PNG, getexif() would decode all of it in search of a chunk behind the pixels.
                has_exif = picture.format != "PNG" or "exif" in picture.info
                orientation = picture.getexif().get(0x0112, 1) if has_exif else 1
                width, height = picture.size if orientation not in (5, 6, 7, 8) else picture.size[::-1]
                has_alpha = picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info
                return Header(width, height, has_alpha, orientation not in (0, 1))
    except Exception:  # Pillow does not know the kind, or says of damage what read_image says better
        pass
    try:
        whole = read_image(path)
    except ImageError as error:
        raise SceneError(str(error)) from error
    return Header(whole.width, whole.height, whole.has_alpha, False)


def read_photo(path: Path, n_channels: int, downscale: int = 1) -> np.ndarray:
    """(height // downscale, width // downscale, n_channels) uint8 sRGB; see `shrink`.

    Args:
        path: of the photo.
        n_channels: 3 drops alpha, 4 adds an opaque one.
        downscale: side of the blocks of pixels that become one.

    Raises:
        SceneError: it cannot be read.
    """
    try:
        picture = read_image(path)
    except ImageError as error:
        raise SceneError(str(error)) from error
    pixels = picture.pixels
    if pixels.dtype != np.uint8:
        values = picture.rows(0, picture.height).clip(0, 1)
        n_colors = picture.n_channels - picture.has_alpha
        if picture.color_space == "linear":
            values[..., :n_colors] = np.asarray(linear_to_srgb(values[..., :n_colors]))
        pixels = np.rint(values * 255).astype(np.uint8)
    alpha = pixels[..., -1:] if picture.has_alpha else np.full_like(pixels[..., :1], 255)
    color = pixels[..., : pixels.shape[2] - picture.has_alpha]
    color = np.broadcast_to(color, (*color.shape[:2], 3)) if color.shape[2] == 1 else color
    whole = np.concatenate([color, alpha], -1) if n_channels == 4 else np.ascontiguousarray(color)
    return shrink(whole, downscale)


def read_mask(path: Path, width: int, height: int, downscale: int, hides: bool) -> np.ndarray:
    """(height // downscale, width // downscale, 1) uint8, 255 for pixels that count.

    Args:
        path: of a picture; 0 stands for pixels that do not count, or, where it hides, for those that do.
        width, height: of the photo, which the mask has to have too.
        downscale: a block counts when all its pixels do.
        hides: whether other values than 0 hide.

    Raises:
        SceneError: it cannot be read, or is of another size.
    """
    try:
        picture = read_image(path)
    except ImageError as error:
        raise SceneError(str(error)) from error
    if (picture.width, picture.height) != (width, height):
        raise SceneError(
            f"{path}: this mask has {picture.width}x{picture.height} pixels, and its photo has {width}x{height}"
        )
    n_colors = picture.n_channels - picture.has_alpha
    counts = (picture.pixels[..., :n_colors] > 0).any(-1) != hides
    height, width = height // downscale, width // downscale
    blocks = counts[: height * downscale, : width * downscale].reshape(height, downscale, width, downscale)
    return np.asarray(blocks.all((1, 3)), dtype=np.uint8)[..., None] * 255


def shrink(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Blocks of factor x factor pixels averaged; what is left at the right and below is cut off.

    With alpha, colours count by their alpha, so that what lies under transparent pixels does not bleed in.
    """
    if factor == 1:
        return pixels
    height, width = pixels.shape[0] // factor, pixels.shape[1] // factor
    shrunk = np.empty((height, width, pixels.shape[2]), np.uint8)
    strip = max(1, 2**20 // (width * factor * factor))  # rows at a time: a large photo as float32 would take 4 times
    for top in range(0, height, strip):
        rows = pixels[top * factor : min(top + strip, height) * factor, : width * factor].astype(np.float32)
        blocks = rows.reshape(-1, factor, width, factor, rows.shape[2])
        if rows.shape[2] == 4:
            alpha = blocks[..., 3:]
            total = alpha.sum((1, 3))
            color = np.where(total > 0, (blocks[..., :3] * alpha).sum((1, 3)) / np.maximum(total, 1), 0)
            means = np.concatenate([color, total / factor**2], -1)
        else:
            means = blocks.mean((1, 3))
        shrunk[top : top + strip] = np.rint(means)
    return shrunk
