"""What Pillow decodes: 8-bit PNG, JPEG, WebP, GIF and BMP (the first frame), with palettes, CMYK and EXIF orientation.

Pillow's format classes are opened one by one and not through ``Image.open``, whose limit on pixels is a global
variable that warns at 89 and fails at 179 million; the limit here is `Budget`.
"""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np

from fieldforge.apps.images.limits import Budget, Refusal

_TILE_SIDE = 2048
_MODES = {
    "1": "L", "L": "L", "LA": "LA", "La": "LA", "P": "RGB", "PA": "RGBA", "RGB": "RGB", "RGBX": "RGB", "RGBA": "RGBA",
    "RGBa": "RGBA", "CMYK": "RGB", "YCbCr": "RGB", "LAB": "RGB", "HSV": "RGB",
}  # fmt: skip
"""Pillow mode of a file -> the mode its pixels are taken in."""


def read_raster(file: BinaryIO, kind: str, budget: Budget) -> tuple[np.ndarray, list[str]]:
    """(height, width, n_channels) uint8, upright, and notes.

    Args:
        file: at its beginning.
        kind: "PNG", "JPEG", "WebP", "GIF" or "BMP".
        budget: what it may decode to.
    """
    if kind == "WebP":
        _expect_webp_size(file.read(32), budget)
        file.seek(0)
    with _plugin(kind)(file) as image:
        target = _target_mode(image)
        width, height = image.size
        budget.expect(width, height, max(len(target), 3))
        notes = []
        if getattr(image, "n_frames", 1) > 1:
            notes.append(f"only the first of {image.n_frames} frames is read")
        if image.mode == "CMYK":
            notes.append("CMYK is converted to RGB without its colour profile")
        pixels = pixels_of(image)
        orientation = image.getexif().get(0x0112, 1)
    return upright(pixels, orientation), notes


def pixels_of(image: Any) -> np.ndarray:
    """(height, width, n_channels) uint8, or uint16 for 16-bit grey, of a Pillow image."""
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16, copy=False)[..., None]
    if image.mode == "F":
        return np.asarray(image)[..., None]
    target = _target_mode(image)
    width, height = image.size
    pixels = np.empty((height, width, len(target)), np.uint8)
    for top in range(0, height, _TILE_SIDE):  # in tiles: a conversion of the whole would take the memory twice
        for left in range(0, width, _TILE_SIDE):
            box = (left, top, min(left + _TILE_SIDE, width), min(top + _TILE_SIDE, height))
            tile = np.asarray(image.crop(box).convert(target))
            pixels[box[1] : box[3], box[0] : box[2]] = tile.reshape(*tile.shape[:2], -1)
    return pixels


def upright(pixels: np.ndarray, orientation: object) -> np.ndarray:
    """Turn pixels as the EXIF or TIFF tag 274 asks (1 to 8; anything else is taken for 1)."""
    turned = {
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.swapaxes(0, 1),
        6: lambda p: np.rot90(p, -1),
        7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
        8: lambda p: np.rot90(p, 1),
    }.get(orientation if isinstance(orientation, int) else 1, lambda p: p)
    return np.ascontiguousarray(turned(pixels))


def _target_mode(image: Any) -> str:
    if image.mode not in _MODES:
        raise Refusal(f"holds pixels of Pillow's mode {image.mode!r}, which is not read; save it as RGB")
    target = _MODES[image.mode]
    if "transparency" in image.info and image.mode in ("1", "L", "P", "RGB"):
        return {"L": "LA", "RGB": "RGBA"}[target]
    return target


def _plugin(kind: str) -> Any:
    from PIL import BmpImagePlugin, GifImagePlugin, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

    return {
        "PNG": PngImagePlugin.PngImageFile,
        "JPEG": JpegImagePlugin.JpegImageFile,
        "WebP": WebPImagePlugin.WebPImageFile,
        "GIF": GifImagePlugin.GifImageFile,
        "BMP": BmpImagePlugin.BmpImageFile,
    }[kind]


def _expect_webp_size(header: bytes, budget: Budget) -> None:
    """Check the canvas before Pillow opens the file, which already allocates it (RFC 9649, sections 2.5 to 2.7)."""
    chunk = header[12:16]
    if chunk == b"VP8X" and len(header) >= 30:
        width = 1 + int.from_bytes(header[24:27], "little")
        height = 1 + int.from_bytes(header[27:30], "little")
    elif chunk == b"VP8L" and len(header) >= 25:
        bits = int.from_bytes(header[21:25], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif chunk == b"VP8 " and len(header) >= 30:
        width = int.from_bytes(header[26:28], "little") & 0x3FFF
        height = int.from_bytes(header[28:30], "little") & 0x3FFF
    else:
        raise Refusal("the WebP header is damaged or cut short; get the file again")
    budget.expect(width, height, 12)  # libwebp's two canvases, Pillow's image and its copy
