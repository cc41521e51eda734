"""Read a picture file, known by its content."""

from __future__ import annotations

import hashlib
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fieldforge.apps.images.exr import read_exr
from fieldforge.apps.images.limits import MAX_PIXELS, Budget, Refusal, quiet
from fieldforge.apps.images.picture import ColorSpace, ImageError, Picture, expect_finite
from fieldforge.apps.images.png import bit_depth, read_png16
from fieldforge.apps.images.radiance import read_radiance
from fieldforge.apps.images.raster import read_raster
from fieldforge.apps.images.tiff import read_tiff

_BEGINNINGS = {
    b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG", b"II*\0": "TIFF", b"MM\0*": "TIFF", b"II+\0": "TIFF",
    b"MM\0+": "TIFF", b"v/1\x01": "EXR", b"#?": "HDR", b"GIF87a": "GIF", b"GIF89a": "GIF", b"BM": "BMP",
}  # fmt: skip
_STRANGERS = {
    b"%PDF": "a PDF document", b"<svg": "an SVG drawing", b"<?xml": "XML, perhaps an SVG drawing", b"8BPS": "Photoshop",
    b"\x93NUMPY": "a NumPy array: use np.load and Picture.from_array", b"PK\x03\x04": "a ZIP archive",
    b"\x00\x00\x00\x0cjP": "JPEG 2000", b"qoif": "QOI", b"P6": "PPM", b"P5": "PGM", b"PF": "PFM",
    b"glTF": "a glTF scene",
}  # fmt: skip


def read_image(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> Picture:
    """Read a picture as it is stored.

    Args:
        path: a PNG, JPEG, WebP, TIFF, OpenEXR, Radiance HDR, GIF or BMP file, whatever its suffix says.
        max_pixels: larger pictures are refused.

    Returns:
        Picture: uint8 or uint16 in "srgb" (an embedded colour profile is not applied), or float32 in "linear" for
        OpenEXR, Radiance HDR and float TIFF. Turned upright by its EXIF orientation. Palettes become RGB. Of several
        frames, pages or parts the first, and `Picture.notes` says so.

    Raises:
        ImageError: the file is missing, not a picture, damaged, of a kind that is not read, too large, would decode to
            more than 64 MiB and 1100 times its own size, or holds NaN or infinity.
    """
    name = os.fspath(path)
    if isinstance(name, bytes):
        name = os.fsdecode(name)
    if "://" in name:
        raise ImageError(f"{name}: is an address, and nothing is downloaded here; download it and give the file")
    try:
        with _opened(name) as file, quiet():
            budget = Budget(os.fstat(file.fileno()).st_size, max_pixels)
            pixels, color_space, has_alpha, notes = _decoded(file, Path(name), budget)
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except Refusal as refusal:
        raise ImageError(f"{name}: {refusal}") from None
    expect_finite(pixels, name)
    return Picture(pixels, color_space, has_alpha, name, digest, tuple(notes))


def _opened(name: str) -> BufferedReader:
    """The file, if it is one."""
    try:
        mode = os.stat(name).st_mode
        if stat.S_ISDIR(mode):
            raise Refusal("is a folder; give one picture file")
        if not stat.S_ISREG(mode):  # opening a pipe would wait for ever
            raise Refusal("is not a regular file; save the picture to a file first")
        return open(name, "rb")
    except FileNotFoundError:
        raise Refusal("there is no such file; check the path") from None
    except PermissionError:
        raise Refusal("may not be read by this user; change its permissions (chmod +r)") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise Refusal(f"cannot be opened: {getattr(error, 'strerror', None) or error}; check the path") from None


def _kind(file: BinaryIO) -> str:
    start = file.read(32)
    file.seek(0)
    if not start:
        raise Refusal("is empty (0 bytes); get the file again")
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WebP"
    for beginning, kind in _BEGINNINGS.items():
        if start.startswith(beginning):
            return kind
    what = next((what for beginning, what in _STRANGERS.items() if start.startswith(beginning)), None)
    if start[4:8] == b"ftyp":
        what = "AVIF or HEIC" if start[8:12] in (b"avif", b"heic", b"heix", b"mif1") else "a video"
    raise Refusal(
        f"is not a picture that is read here ({what or f'it begins with {start[:8]!r}'}); "
        "PNG, JPEG, WebP, TIFF, EXR, HDR, GIF and BMP are"
    )


def _decoded(file: BinaryIO, path: Path, budget: Budget) -> tuple[np.ndarray, ColorSpace, bool, list[str]]:
    """Pixels, colour space, whether there is alpha, notes."""
    kind = _kind(file)
    notes: list[str] = []
    try:
        if kind == "EXR":
            pixels, notes = read_exr(path, file, budget)
        elif kind == "HDR":
            pixels = read_radiance(file, budget)
        elif kind == "TIFF":
            pixels, has_alpha, notes = read_tiff(file, budget)
            return pixels, "linear" if pixels.dtype == np.float32 else "srgb", has_alpha, notes
        elif kind == "PNG" and bit_depth(file) == 16:
            pixels = read_png16(file, budget)
        else:
            pixels, notes = read_raster(file, kind, budget)
    except (Refusal, MemoryError):
        raise
    except Exception as error:  # third-party decoders raise all kinds of things about damaged files
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise Refusal(f"the {kind} file is damaged or cut short ({reason}); get it again") from error
    return pixels, "linear" if pixels.dtype == np.float32 else "srgb", pixels.shape[2] in (2, 4), notes
