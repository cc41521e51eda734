"""Write a picture file, at once or from strips of rows; the file appears whole or not at all."""

from __future__ import annotations

import io
import os
import secrets
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol

import numpy as np

from fieldforge.apps.images.color import linear_to_srgb, srgb_to_linear
from fieldforge.apps.images.exr import write_exr
from fieldforge.apps.images.limits import quiet
from fieldforge.apps.images.picture import ColorSpace, ImageError, Picture, as_pixels, expect_finite
from fieldforge.apps.images.png import PngRows
from fieldforge.apps.images.radiance import write_radiance
from fieldforge.apps.images.tiff import TiffRows

_FORMATS = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WebP", ".tif": "TIFF", ".tiff": "TIFF", ".exr": "EXR",
    ".hdr": "HDR",
}  # fmt: skip
_BITS = {"PNG": (8, 16), "JPEG": (8,), "WebP": (8,), "TIFF": (8, 16, 32), "EXR": (32,), "HDR": (32,)}
_DTYPES: dict[int, np.dtype] = {8: np.dtype(np.uint8), 16: np.dtype(np.uint16), 32: np.dtype(np.float32)}
_CHANNELS = {"JPEG": (1, 3), "HDR": (1, 3), "WebP": (1, 3, 4)}
_MAX_SIDE = {"PNG": 2**31 - 1, "JPEG": 65500, "WebP": 16383, "TIFF": 2**31 - 1, "EXR": 2**31 - 1, "HDR": 2**20}
_STRIP_VALUES = 2**20


class _Encoder(Protocol):
    def write(self, rows: np.ndarray) -> None: ...
    def finish(self) -> None: ...


def write_image(
    path: str | os.PathLike[str],
    array: Any,
    *,
    color_space: ColorSpace | None = None,
    bits: int | None = None,
    quality: int = 95,
) -> None:
    """Write a picture; the suffix names the format: .png, .jpg, .jpeg, .webp, .tif, .tiff, .exr or .hdr.

    Args:
        path: the file, replaced in one step when the new one is complete.
        array: (height, width[, n_channels]) uint8, uint16 or float array or tensor, or a `Picture`.
        color_space: what the values are coded in, "srgb" if it is not said. PNG, JPEG, WebP and integer TIFF store
            sRGB; EXR, HDR and 32-bit TIFF store linear light; the values are converted, alpha is not.
        bits: per channel. PNG 8 or 16; TIFF 8, 16, or 32 (float); by default as the array (floats: 8, in TIFF 32).
        quality: of JPEG and WebP, 1 to 100; WebP at 100 is lossless.

    Raises:
        ImageError: an unknown suffix, a number of channels or size that the format lacks, values that are not finite,
            or a place that cannot be written to.

    Floats are clipped to [0, 1] and rounded to the nearest code where the format stores integers.
    """
    if isinstance(array, Picture):
        color_space = color_space or array.color_space
        array = array.pixels
    pixels = as_pixels(array, "array")
    format = _format(path)
    if bits is None:
        bits = 32 if pixels.dtype == np.float32 else 8 * pixels.dtype.itemsize
        bits = max((b for b in _BITS[format] if b <= bits), default=min(_BITS[format]))
        bits = 8 if format == "PNG" and pixels.dtype == np.float32 else bits
    height, width, n_channels = pixels.shape
    with ImageWriter(
        path, width=width, height=height, n_channels=n_channels, bits=bits, color_space=color_space, quality=quality
    ) as writer:
        writer.write(pixels)


class ImageWriter:
    """Writes a picture from strips of rows, top to bottom; PNG and TIFF in bounded memory, others gather the rows.

    Args:
        path: as `write_image`.
        width, height, n_channels: of the whole picture.
        bits: per channel; None is the format's smallest.
        color_space: what the rows are coded in, as `write_image`.
        quality: of JPEG and WebP.

    A context manager: the file takes its place when the block ends, if all rows came and nothing was raised.

    Example:
        >>> with ImageWriter(tmp_path / "ramp.png", width=256, height=4, n_channels=1) as writer:  # doctest: +SKIP
        ...     for _ in range(4):
        ...         writer.write(np.linspace(0, 1, 256).reshape(1, 256, 1))
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        width: int,
        height: int,
        n_channels: int,
        bits: int | None = None,
        color_space: ColorSpace | None = None,
        quality: int = 95,
    ) -> None:
        self.path = Path(path)
        self.format = _format(path)
        self.width, self.height, self.n_channels = width, height, n_channels
        self.bits = min(_BITS[self.format]) if bits is None or len(_BITS[self.format]) == 1 else bits
        self.color_space = color_space or "srgb"
        self.quality = quality
        self._check()
        self._target = Path(os.path.realpath(self.path))  # a link keeps pointing where it points
        self._temporary = self._target.with_name(f".{self._target.name[:100]}.{secrets.token_hex(4)}.tmp")
        self._n_rows = 0
        self._file: BinaryIO | None = None
        self._encoder: _Encoder | None = None

    def _check(self) -> None:
        longest, channels = _MAX_SIDE[self.format], _CHANNELS.get(self.format, (1, 2, 3, 4))
        if not (1 <= self.width <= longest and 1 <= self.height <= longest):
            raise ImageError(
                f"{self.path}: {self.format} holds 1x1 to {longest}x{longest} pixels, not {self.width}x{self.height}"
            )
        if self.n_channels not in channels:
            raise ImageError(
                f"{self.path}: {self.format} holds {' or '.join(map(str, channels))} channels, not {self.n_channels}; "
                "lay the picture over a background, or write .png or .exr"
            )
        if self.bits not in _BITS[self.format]:
            raise ImageError(
                f"{self.path}: {self.format} holds {' or '.join(map(str, _BITS[self.format]))} bits, not {self.bits}"
            )
        if not 1 <= self.quality <= 100:
            raise ImageError(f"quality: expected 1 to 100, got {self.quality}")
        if self.color_space not in ("srgb", "linear"):
            raise ImageError(f"color_space: expected 'srgb' or 'linear', got {self.color_space!r}")

    def __enter__(self) -> ImageWriter:
        if self._target.exists() and not self._target.is_file():
            raise ImageError(f"{self.path}: is a folder or a device, not a file; choose another name")
        try:
            self._file = open(self._temporary, "xb")
        except OSError as error:
            raise self._cannot(error) from None
        size = (self._file, self.height, self.width, self.n_channels, _DTYPES[self.bits])
        try:
            if self.format == "PNG":
                self._encoder = PngRows(*size)
            elif self.format == "TIFF":
                self._encoder = TiffRows(*size)
            else:
                self._encoder = _Gathered(*size, self.format, self.quality, self._temporary)
        except BaseException as error:
            self._discard()
            raise self._cannot(error) if isinstance(error, OSError) else error from None
        return self

    def write(self, rows: Any) -> None:
        """Add rows below those written so far.

        Args:
            rows: (n_rows, width[, n_channels]) uint8, uint16 or float array or tensor.

        Raises:
            ImageError: another shape, more rows than the picture has, or values that are not finite.
        """
        assert self._encoder is not None
        pixels = as_pixels(rows, "rows")
        if pixels.shape[1:] != (self.width, self.n_channels) or self._n_rows + len(pixels) > self.height:
            raise ImageError(
                f"rows: expected at most {self.height - self._n_rows} more rows of {self.width} pixels and "
                f"{self.n_channels} channels, got {pixels.shape}"
            )
        n_at_once = max(1, _STRIP_VALUES // (self.width * self.n_channels))
        for top in range(0, len(pixels), n_at_once):
            strip = pixels[top : top + n_at_once]
            expect_finite(strip, "rows")
            stored = _stored(strip, _DTYPES[self.bits], self.color_space)
            try:
                self._encoder.write(stored)
            except OSError as error:
                raise self._cannot(error) from None
        self._n_rows += len(pixels)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._file is not None
        assert self._encoder is not None
        try:
            if kind is None:
                if self._n_rows < self.height:
                    raise ImageError(f"{self.path}: only {self._n_rows} of {self.height} rows were written")
                self._encoder.finish()
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
                os.replace(self._temporary, self._target)
        except OSError as failure:
            raise self._cannot(failure) from None
        finally:
            self._discard()

    def _discard(self) -> None:
        if self._file is not None:
            try:
                self._file.close()
            except OSError:  # a full disk says so again; it was reported
                pass
        self._temporary.unlink(missing_ok=True)

    def _cannot(self, error: OSError) -> ImageError:
        return ImageError(f"{self.path}: cannot be written: {error.strerror or error}; choose another place")


class _Gathered:
    """Keeps all rows and encodes them at the end: JPEG, WebP, EXR and HDR."""

    def __init__(
        self, file: BinaryIO, height: int, width: int, n_channels: int, dtype: np.dtype,
        format: str, quality: int, path: Path,
    ) -> None:  # fmt: skip
        self._file, self._format, self._quality, self._path = file, format, quality, path
        self._pixels = np.empty((height, width, n_channels), dtype)
        self._n_rows = 0

    def write(self, rows: np.ndarray) -> None:
        self._pixels[self._n_rows : self._n_rows + len(rows)] = rows
        self._n_rows += len(rows)

    def finish(self) -> None:
        with quiet():
            if self._format == "EXR":
                try:
                    write_exr(self._path, self._pixels)
                except RuntimeError as error:  # OpenEXR's word for a full disk
                    raise OSError(str(error)) from None
            elif self._format == "HDR":
                self._file.write(write_radiance(self._pixels))
            else:
                self._file.write(self._pillow())

    def _pillow(self) -> bytes:
        from PIL import Image

        image = Image.fromarray(self._pixels[..., 0] if self._pixels.shape[2] == 1 else self._pixels)
        buffer = io.BytesIO()
        if self._format == "JPEG":
            image.save(buffer, "JPEG", quality=self._quality, subsampling=0 if self._quality >= 90 else 2)
        else:
            image.save(buffer, "WEBP", quality=self._quality, lossless=self._quality == 100, exact=True)
        return buffer.getvalue()


def _stored(pixels: np.ndarray, dtype: np.dtype, color_space: ColorSpace) -> np.ndarray:
    """Values as the file keeps them: sRGB codes for integers, linear light for floats; alpha is only scaled."""
    if pixels.dtype == dtype and (dtype == np.float32) == (color_space == "linear"):
        return pixels
    white = 1 if pixels.dtype == np.float32 else np.iinfo(pixels.dtype).max
    values = np.true_divide(pixels, white, dtype=np.float64)
    n_colors = pixels.shape[2] - (pixels.shape[2] in (2, 4))
    if dtype == np.float32 and color_space == "srgb":
        values[..., :n_colors] = srgb_to_linear(values[..., :n_colors])
    elif dtype != np.float32 and color_space == "linear":
        values[..., :n_colors] = linear_to_srgb(values[..., :n_colors])
    if dtype == np.float32:
        return values.astype(dtype)
    return np.rint(values.clip(0, 1) * np.iinfo(dtype).max).astype(dtype)


def _format(path: str | os.PathLike[str]) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in _FORMATS:
        raise ImageError(f"{os.fspath(path)}: writes {', '.join(_FORMATS)}, not {suffix or 'a name without suffix'!r}")
    return _FORMATS[suffix]
