"""TIFF 6.0 and BigTIFF: 8 and 16-bit, half, float and double; strips and tiles; none, deflate, LZW, PackBits.

tifffile reads the directory; the pixel data is unpacked here strip by strip, because tifffile needs a package of its
own for LZW and predictors. LZW and PackBits are undone by OpenCV's libtiff: each strip is handed over as a plain grey
TIFF of its bytes, with a directory written here.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from fieldforge.apps.images.limits import Budget, Refusal
from fieldforge.apps.images.raster import upright

_NONE, _LZW, _DEFLATE, _PACKBITS, _OLD_DEFLATE = 1, 5, 8, 32773, 32946
_STRIP_BYTES = 2**20
_DAMAGED = "the TIFF directory is damaged or cut short; get the file again"


@dataclass(frozen=True)
class Page:
    """The directory entries that matter, checked against each other."""

    width: int
    height: int
    n_channels: int
    dtype: np.dtype
    compression: int
    predictor: int
    photometric: int
    is_planar: bool
    block: tuple[int, int]
    """(height, width) of a strip or tile."""
    offsets: tuple[int, ...]
    counts: tuple[int, ...]


def read_tiff(file: BinaryIO, budget: Budget) -> tuple[np.ndarray, bool, list[str]]:
    """(height, width, n_channels) uint8, uint16 or float32, upright; whether the last channel is alpha; notes."""
    import tifffile

    with tifffile.TiffFile(file) as tiff:
        first: Any = tiff.pages[0]
        page = _page(first, tiff.byteorder, budget)
        extra = [int(kind) for kind in first.extrasamples]
        orientation = first.tags[274].value if 274 in first.tags else 1
        colormap = first.colormap
        notes = ["only the first of its pages is read"] if _has_more(tiff) else []
    pixels = _decoded(file, page)
    if page.dtype.itemsize == 8:
        notes.append("64-bit values are kept as 32-bit")
    if page.photometric == 3:
        pixels = _coloured(pixels, colormap)
    if page.photometric == 0:
        pixels = np.iinfo(pixels.dtype).max - pixels
    if 1 in extra:
        notes.append("colours are premultiplied by alpha and taken as they are")
    has_alpha = page.n_channels in (2, 4) and bool(extra) and extra[-1] in (1, 2)
    return upright(pixels, int(orientation) if str(orientation).isdigit() else 1), has_alpha, notes


def _has_more(tiff: Any) -> bool:
    try:
        return tiff.pages[1] is not None
    except Exception:  # there is none, or a damaged one, which matters as little
        return False


def _page(first: Any, byteorder: Any, budget: Budget) -> Page:
    width, height, n_channels = int(first.imagewidth), int(first.imagelength), int(first.samplesperpixel)
    if not 1 <= n_channels <= 4 or int(first.imagedepth) != 1:
        raise Refusal(f"has {n_channels} channels and {first.imagedepth} layers a pixel; 1 to 4 channels are read")
    bits, kind = first.bitspersample, int(first.sampleformat or 1)
    names = {(8, 1): "u1", (16, 1): "u2", (16, 3): "f2", (32, 3): "f4", (64, 3): "f8"}
    if (bits, kind) not in names:
        what = {1: "unsigned", 2: "signed", 3: "floating-point"}.get(kind, "complex or undefined")
        raise Refusal(f"holds {what} values of {bits} bits; 8 and 16-bit unsigned and floats are read; convert it")
    dtype = np.dtype(names[bits, kind]).newbyteorder(byteorder)
    photometric = int(first.photometric)
    if photometric not in (0, 1, 2, 3) or (photometric == 0 and dtype.kind == "f"):
        raise Refusal(f"holds colours as {_name(first.photometric)}; grey, RGB and palettes are read; save it as RGB")
    if photometric == 3 and (n_channels != 1 or dtype.kind != "u" or first.colormap is None):
        raise Refusal(_DAMAGED)
    compression, predictor = int(first.compression), int(first.predictor)
    if compression not in (_NONE, _LZW, _DEFLATE, _PACKBITS, _OLD_DEFLATE) or int(first.fillorder) != 1:
        raise Refusal(
            f"is compressed with {_name(first.compression)}; none, LZW, deflate and PackBits are read; save it as LZW"
        )
    if predictor not in (1, 2, 3) or (predictor == 3) > (dtype.kind == "f"):
        raise Refusal(f"has predictor {predictor}, which is not read for {dtype.name}; save it without")
    budget.expect(width, height, n_channels * max(dtype.itemsize, 3 if photometric == 3 else 1))
    block = (int(first.tilelength), int(first.tilewidth)) if first.is_tiled else (int(first.rowsperstrip), width)
    block = (block[0] if first.is_tiled else min(block[0], height), block[1])
    is_planar = n_channels > 1 and int(first.planarconfig) == 2
    if min(block) < 1 or block[0] * block[1] * n_channels * dtype.itemsize > max(2**26, 2 * width * height * 16):
        raise Refusal(_DAMAGED)
    n_blocks = -(-height // block[0]) * -(-width // block[1]) * (n_channels if is_planar else 1)
    offsets, counts = tuple(map(int, first.dataoffsets)), tuple(map(int, first.databytecounts))
    if min(len(offsets), len(counts)) < n_blocks:
        raise Refusal(_DAMAGED)
    return Page(
        width, height, n_channels, dtype, compression, predictor, photometric, is_planar, block, offsets, counts
    )


def _name(code: Any) -> str:
    return getattr(code, "name", None) or f"number {code}"


def _decoded(file: BinaryIO, page: Page) -> np.ndarray:
    """(height, width, n_channels) in native byte order; double becomes float."""
    stored = np.dtype(np.float32) if page.dtype.kind == "f" else page.dtype.newbyteorder("=")
    pixels = np.empty((page.height, page.width, page.n_channels), stored)
    places = [
        (plane, top, left)
        for plane in range(page.n_channels if page.is_planar else 1)
        for top in range(0, page.height, page.block[0])
        for left in range(0, page.width, page.block[1])
    ]
    is_tiled = page.block[1] != page.width
    n_channels = 1 if page.is_planar else page.n_channels
    for (plane, top, left), offset, count in zip(places, page.offsets, page.counts, strict=False):
        n_rows = page.block[0] if is_tiled else min(page.block[0], page.height - top)
        n_bytes = n_rows * page.block[1] * n_channels * page.dtype.itemsize
        file.seek(offset)
        code = _unpacked(file.read(count), page.compression, n_rows, n_bytes)
        block = _unpredicted(code, (n_rows, page.block[1], n_channels), page.dtype, page.predictor)
        target = pixels[top : top + n_rows, left : left + page.block[1]]
        target[..., plane : plane + n_channels] = block[: target.shape[0], : target.shape[1]]
    return pixels


def _unpacked(data: bytes, compression: int, n_rows: int, n_bytes: int) -> bytes:
    if compression in (_DEFLATE, _OLD_DEFLATE):
        try:
            data = zlib.decompressobj().decompress(data, n_bytes)
        except zlib.error as error:
            raise Refusal(f"the TIFF data is damaged ({error}); get the file again") from None
    elif compression in (_LZW, _PACKBITS):
        import cv2

        plain = strip_file(n_rows, n_bytes // n_rows, data, compression)
        code = cv2.imdecode(np.frombuffer(plain, np.uint8), cv2.IMREAD_UNCHANGED)
        data = b"" if code is None or code.dtype != np.uint8 else code.tobytes()
    if len(data) < n_bytes:
        raise Refusal("the TIFF data is damaged or cut short; get the file again")
    return data[:n_bytes]


def _unpredicted(code: bytes, shape: tuple[int, int, int], dtype: np.dtype, predictor: int) -> np.ndarray:
    """Undo horizontal differencing (TIFF 6.0, section 14) or its floating-point form (TIFF Technical Note 3)."""
    if predictor == 2:
        integers = np.frombuffer(code, np.dtype(f"u{dtype.itemsize}").newbyteorder(dtype.byteorder)).reshape(shape)
        native = integers.dtype.newbyteorder("=")
        return np.cumsum(integers, axis=1, dtype=native).view(dtype.newbyteorder("="))
    if predictor == 3:  # bytes of a row: all highest ones, then all second ones, ...; differenced across pixels
        n_rows, width, n_channels = shape
        rows = np.frombuffer(code, np.uint8).reshape(n_rows, -1, n_channels)
        planes = np.cumsum(rows, axis=1, dtype=np.uint8).reshape(n_rows, dtype.itemsize, width * n_channels)
        return planes.swapaxes(1, 2).copy().view(dtype.newbyteorder(">")).reshape(shape)
    return np.frombuffer(code, dtype).reshape(shape)


def _coloured(index: np.ndarray, colormap: np.ndarray) -> np.ndarray:
    """RGB uint8 of a palette's 16-bit colours."""
    colors = (np.asarray(colormap).reshape(3, -1).T >> 8).astype(np.uint8)
    if index.max() >= len(colors):
        raise Refusal(f"has a palette of {len(colors)} colours, but asks for colour {index.max()}; it is damaged")
    return colors[index[..., 0]]


def strip_file(height: int, width: int, data: bytes, compression: int) -> bytes:
    """A TIFF file of one strip of packed 8-bit grey."""
    tags = {256: width, 257: height, 258: 8, 259: compression, 262: 1, 277: 1, 278: height}
    return b"II+\0\x08\0\0\0" + struct.pack("<Q", 16 + len(data)) + data + _directory(tags, [16], [len(data)], 0, True)


def _directory(tags: dict[int, Any], offsets: list[int], counts: list[int], at: int, is_big: bool) -> bytes:
    """An image file directory that will stand at byte `at`, followed by the values that do not fit into it."""
    entry, count_code, value_code = ("<HHQ", "<Q", "Q") if is_big else ("<HHI", "<H", "I")
    room = struct.calcsize(value_code)
    tags = dict(sorted((tags | {273: offsets, 279: counts}).items()))
    outside_at = at + struct.calcsize(count_code) + len(tags) * (4 + 2 * room) + room
    entries, outside = [], b""
    for tag, value in tags.items():
        values = value if isinstance(value, list) else [value]
        is_long = tag in (256, 257, 273, 278, 279)
        packed = struct.pack(f"<{len(values)}{value_code if is_long else 'H'}", *values)
        if len(packed) > room:
            packed, outside = struct.pack("<" + value_code, outside_at + len(outside)), outside + packed
        kind = (16 if is_big else 4) if is_long else 3  # LONG8, LONG, SHORT
        entries.append(struct.pack(entry, tag, kind, len(values)) + packed.ljust(room, b"\0"))
    return struct.pack(count_code, len(tags)) + b"".join(entries) + bytes(room) + outside


class TiffRows:
    """Writes a deflated TIFF from top to bottom, holding about a megabyte; BigTIFF where it could pass 4 GB.

    Args:
        file: open for binary writing.
        height, width, n_channels: of the picture.
        dtype: uint8, uint16 or float32.
    """

    def __init__(self, file: BinaryIO, height: int, width: int, n_channels: int, dtype: np.dtype) -> None:
        self._file, self._dtype = file, dtype
        row_bytes = width * n_channels * dtype.itemsize
        self._rows_a_strip = max(1, _STRIP_BYTES // row_bytes)
        self._is_big = height * row_bytes * 1.01 > 0xF0000000
        self._waiting = np.empty((0, width, n_channels), dtype)
        self._offsets: list[int] = []
        self._counts: list[int] = []
        self._tags = {
            256: width, 257: height, 258: [8 * dtype.itemsize] * n_channels, 259: _DEFLATE,
            262: 2 if n_channels >= 3 else 1, 277: n_channels, 278: self._rows_a_strip, 284: 1,
            317: 1 if dtype.kind == "f" else 2, 339: [3 if dtype.kind == "f" else 1] * n_channels,
        }  # fmt: skip
        if n_channels in (2, 4):
            self._tags[338] = 2  # straight alpha
        file.write(b"II+\0\x08\0\0\0" + bytes(8) if self._is_big else b"II*\0" + bytes(4))

    def write(self, rows: np.ndarray) -> None:
        """Add (n_rows, width, n_channels) pixels of the dtype."""
        for top in range(0, len(rows), self._rows_a_strip):
            self._waiting = np.concatenate([self._waiting, rows[top : top + self._rows_a_strip]])
            while len(self._waiting) >= self._rows_a_strip:
                self._strip(self._waiting[: self._rows_a_strip])
                self._waiting = self._waiting[self._rows_a_strip :]

    def finish(self) -> None:
        """Write what waits and the directory."""
        if len(self._waiting):
            self._strip(self._waiting)
        at = self._file.tell()
        self._file.write(_directory(self._tags, self._offsets, self._counts, at, self._is_big))
        self._file.seek(8 if self._is_big else 4)
        self._file.write(struct.pack("<Q" if self._is_big else "<I", at))

    def _strip(self, rows: np.ndarray) -> None:
        if self._dtype.kind == "u":
            rows = np.concatenate([rows[:, :1], rows[:, 1:] - rows[:, :-1]], 1)  # wraps around, as predictor 2 does
        data = zlib.compress(rows.astype(self._dtype.newbyteorder("<")).tobytes(), 6)
        self._offsets.append(self._file.tell())
        self._counts.append(len(data))
        self._file.write(data)
