"""PNG (W3C Recommendation, third edition): 16-bit reading, and writing row by row.

8-bit files go through Pillow, which reads 16-bit colour as 8-bit without a word. Those go through OpenCV, which gets
only the chunks that make the picture, checked here; libpng would print what it thinks of the others.
"""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO

import numpy as np

from fieldforge.apps.images.limits import Budget, Refusal
from fieldforge.apps.images.raster import upright

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOR_TYPE = {1: 0, 2: 4, 3: 2, 4: 6}  # channels -> IHDR colour type: grey, grey and alpha, RGB, RGBA
_N_CHANNELS = {color_type: n for n, color_type in _COLOR_TYPE.items()}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_STRIP_BYTES = 2**20


def bit_depth(file: BinaryIO) -> int:
    """Bits per sample from the header: 1, 2, 4, 8 or 16."""
    header = file.read(25)
    file.seek(0)
    if len(header) < 25 or header[12:16] != b"IHDR":
        raise Refusal("the PNG header is damaged or cut short; get the file again")
    return header[24]


def read_png16(file: BinaryIO, budget: Budget) -> np.ndarray:
    """(height, width, n_channels) uint16, upright; a transparent colour (tRNS) becomes an alpha channel."""
    import cv2

    file.seek(len(SIGNATURE))
    chunks = _chunks(file)
    width, height, _, color_type, _, _, interlace = struct.unpack(">IIBBBBB", chunks[b"IHDR"][:13])
    if color_type not in _N_CHANNELS or interlace > 1:
        raise Refusal(f"the PNG header asks for colour type {color_type}, which 16 bits do not have; it is damaged")
    n_channels = _N_CHANNELS[color_type]
    budget.expect(width, height, 2 * max(n_channels, 4 if n_channels == 2 else 0))
    passes = _ADAM7 if interlace else ((0, 0, 1, 1),)
    sides = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in passes]
    _expect_inflates(chunks[b"IDAT"], sum(h * (1 + 2 * n_channels * w) for w, h in sides if w > 0))
    canonical = SIGNATURE + b"".join(_chunk(name, chunks[name]) for name in (b"IHDR", b"IDAT", b"IEND"))
    pixels = cv2.imdecode(np.frombuffer(canonical, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16 or pixels.shape[:2] != (height, width):
        raise Refusal("the PNG data is damaged; get the file again")
    pixels = _as_rgb(pixels.reshape(height, width, -1), n_channels)
    key = chunks.get(b"tRNS", b"")
    if n_channels in (1, 3) and len(key) == 2 * n_channels:
        is_opaque = (pixels != np.frombuffer(key, ">u2")).any(-1, keepdims=True)
        pixels = np.concatenate([pixels, is_opaque.astype(np.uint16) * 65535], -1)
    return upright(pixels, _orientation(chunks.get(b"eXIf", b"")))


def _chunks(file: BinaryIO) -> dict[bytes, bytes]:
    """The chunks that matter, checked; IDAT is joined."""
    wanted = (b"IHDR", b"IDAT", b"IEND", b"tRNS", b"eXIf")
    found: dict[bytes, list[bytes]] = {}
    while b"IEND" not in found:
        header = file.read(8)
        length, name = int.from_bytes(header[:4], "big"), header[4:]
        if name in wanted:
            data = file.read(length)
            if len(data) == length and zlib.crc32(data, zlib.crc32(name)) == int.from_bytes(file.read(4), "big"):
                found.setdefault(name, []).append(data)
                continue
            raise Refusal(f"the PNG chunk {name.decode()} is damaged or cut short; get the file again")
        if len(header) < 8:
            raise Refusal("the PNG file is cut short; get it again")
        file.seek(length + 4, 1)
    if len(found.get(b"IHDR", ())) != 1 or len(found[b"IHDR"][0]) != 13 or b"IDAT" not in found:
        raise Refusal("the PNG file has no header or no pixel data; get it again")
    return {name: b"".join(parts) if name == b"IDAT" else parts[0] for name, parts in found.items()}


def _expect_inflates(data: bytes, n_bytes: int) -> None:
    """Require deflated data of at least `n_bytes`, without keeping them."""
    inflate, view, left = zlib.decompressobj(), memoryview(data), n_bytes
    try:
        for start in range(0, len(view), 65536):
            piece = inflate.decompress(view[start : start + 65536], 2**24)
            left -= len(piece)
            while inflate.unconsumed_tail and left > 0:
                left -= len(inflate.decompress(inflate.unconsumed_tail, 2**24))
            if left <= 0:
                return
    except zlib.error as error:
        raise Refusal(f"the PNG data is damaged ({error}); get the file again") from None
    if left > len(inflate.flush()):
        raise Refusal("the PNG data is cut short; get the file again")


def _as_rgb(pixels: np.ndarray, n_channels: int) -> np.ndarray:
    """OpenCV's BGR(A), and BGRA for grey with alpha, in the file's order."""
    if n_channels == 2 and pixels.shape[2] == 4:
        return pixels[..., [0, 3]]
    for top in range(0, len(pixels), 64):  # strips: no second picture in memory
        if n_channels >= 3:
            pixels[top : top + 64, :, :3] = pixels[top : top + 64, :, 2::-1].copy()
    return pixels


def _orientation(exif: bytes) -> object:
    from PIL import Image

    tags = Image.Exif()
    try:
        tags.load(exif)
        return tags.get(0x0112, 1)
    except Exception:  # damaged camera data is no reason to refuse a good picture
        return 1


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(name)))


class PngRows:
    """Writes a PNG from top to bottom, holding about a megabyte.

    Args:
        file: open for binary writing.
        height, width, n_channels: of the picture.
        dtype: uint8 or uint16.

    Each row takes the one of the five filters that leaves the smallest sum of absolute differences (PNG 12.7).
    """

    def __init__(self, file: BinaryIO, height: int, width: int, n_channels: int, dtype: np.dtype) -> None:
        self._file = file
        self._step = n_channels * dtype.itemsize
        self._above = np.zeros(width * self._step, np.uint8)
        self._deflate = zlib.compressobj(6)
        header = struct.pack(">IIBBBBB", width, height, 8 * dtype.itemsize, _COLOR_TYPE[n_channels], 0, 0, 0)
        file.write(SIGNATURE + _chunk(b"IHDR", header))

    def write(self, rows: np.ndarray) -> None:
        """Add (n_rows, width, n_channels) pixels of the dtype."""
        n_at_once = max(1, _STRIP_BYTES // len(self._above))
        for top in range(0, len(rows), n_at_once):
            stored = rows[top : top + n_at_once]
            code = stored.astype(stored.dtype.newbyteorder(">")).view(np.uint8).reshape(len(stored), -1)
            self._send(self._deflate.compress(self._filtered(code).tobytes()))

    def finish(self) -> None:
        """Write the end."""
        self._send(self._deflate.flush())
        self._file.write(_chunk(b"IEND", b""))

    def _send(self, data: bytes) -> None:
        if data:
            self._file.write(_chunk(b"IDAT", data))

    def _filtered(self, code: np.ndarray) -> np.ndarray:
        up = np.concatenate([self._above[None], code[:-1]])
        left, corner = np.zeros_like(code), np.zeros_like(code)
        left[:, self._step :], corner[:, self._step :] = code[:, : -self._step], up[:, : -self._step]
        a, b, c = (x.astype(np.int16) for x in (left, up, corner))
        p = a + b - c
        pa, pb, pc = abs(p - a), abs(p - b), abs(p - c)
        paeth = np.where((pa <= pb) & (pa <= pc), left, np.where(pb <= pc, up, corner))
        mean = ((a + b) >> 1).astype(np.uint8)
        best = np.empty((len(code), 1 + code.shape[1]), np.uint8)
        least = np.full(len(code), np.iinfo(np.int64).max)
        for kind, guess in enumerate((np.zeros_like(code), left, up, mean, paeth)):
            difference = code - guess
            cost = np.minimum(difference, -difference).sum(1, dtype=np.int64)  # bytes count as signed
            wins = cost < least
            best[wins, 0], best[wins, 1:] = kind, difference[wins]
            least = np.minimum(least, cost)
        self._above = code[-1].copy()
        return best
