"""A picture in memory: pixels as they were stored, and what the numbers mean."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, overload

import numpy as np
import torch
from torch import Tensor

ColorSpace = Literal["srgb", "linear"]

_CODE_OF_ONE = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535, np.dtype(np.float32): 1}
_STRIP = 2**22  # values looked at in one go, so that a check of a large picture takes little memory


class ImageError(ValueError):
    """A picture cannot be read, written or used; the message names it, says what was found and the way out."""


@dataclass(frozen=True, eq=False)
class Picture:
    """Pixels in the type they were stored in.

    Args:
        pixels: (height, width, n_channels) uint8, uint16 or float32, contiguous, row 0 at the top; channels are grey,
            grey and alpha, RGB, or RGBA with straight alpha.
        color_space: what the colour values are coded in: "srgb" or "linear" (light). Alpha is never coded.
        has_alpha: whether the last channel is opacity.
        source: the file's path, or a name.
        sha256: hexadecimal digest of the file; None for arrays.
        notes: sentences about what was left out or changed while reading ("only the first of its pages is read").
    """

    pixels: np.ndarray
    color_space: ColorSpace
    has_alpha: bool
    source: str
    sha256: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def height(self) -> int:
        """Number of rows."""
        return self.pixels.shape[0]

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.pixels.shape[1]

    @property
    def n_channels(self) -> int:
        """1 (grey), 2 (grey and alpha), 3 (RGB) or 4 (RGBA)."""
        return self.pixels.shape[2]

    @property
    def one(self) -> int:
        """The stored number that stands for 1: 255, 65535 or 1."""
        return _CODE_OF_ONE[self.pixels.dtype]

    @cached_property
    def peak(self) -> float:
        """The value that counts as full signal in PSNR: 1 for sRGB, the largest value for linear light (never 0)."""
        if self.color_space == "srgb":
            return 1.0
        return float(self.pixels.max()) if self.pixels.max() > 0 else 1.0

    @overload
    def values(self, index: Tensor) -> Tensor: ...
    @overload
    def values(self, index: np.ndarray) -> np.ndarray: ...
    def values(self, index: Tensor | np.ndarray) -> Tensor | np.ndarray:
        """Channel values of chosen pixels; the rest of the picture is left in its storage type.

        Args:
            index: (*batch) integers, row * width + column; negative ones count from the end.

        Returns:
            (*batch, n_channels) float32: uint8 / 255, uint16 / 65535, floats as they are. NumPy for a NumPy index;
            for a torch index a tensor on the index's device.

        Raises:
            IndexError: a pixel outside the picture.

        Example:
            >>> Picture.from_array(np.array([[0, 51], [255, 102]], np.uint8)).values(np.array([1, 2]))
            array([[0.2],
                   [1. ]], dtype=float32)
        """
        if isinstance(index, Tensor):
            return torch.from_numpy(self.values(index.detach().cpu().numpy())).to(index.device)
        return self._scaled(self.pixels.reshape(-1, self.n_channels)[index])

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows start <= y < stop as (stop - start, width, n_channels) float32, scaled like `values`."""
        return self._scaled(self.pixels[start:stop])

    def _scaled(self, stored: np.ndarray) -> np.ndarray:
        return np.true_divide(stored, np.float32(self.one), dtype=np.float32)

    @classmethod
    def from_array(cls, array: Any, *, color_space: ColorSpace = "srgb", name: str = "array") -> Picture:
        """A picture of numbers that are in memory already.

        Args:
            array: (height, width) or (height, width, n_channels) with 1 to 4 channels: a NumPy array or torch tensor of
                uint8, uint16, or finite floats (kept as float32; 0 is black and 1 white, other values are allowed), or
                a Pillow image. uint8, uint16 and float32 arrays are shared, not copied.
            color_space: what the values are coded in. Arrays are taken for "srgb", as most arrays of photos are; say
                "linear" for light.
            name: what messages call it.

        Raises:
            ImageError: another type, shape or dtype; a side of 0 pixels; values that are not finite.

        Two channels are grey and alpha, four are RGB and alpha.

        Example:
            >>> Picture.from_array(torch.rand(4, 6, 3)).pixels.shape
            (4, 6, 3)
        """
        if color_space not in ("srgb", "linear"):
            raise ImageError(f"color_space: expected 'srgb' or 'linear', got {color_space!r}")
        pixels = as_pixels(array, name)
        expect_finite(pixels, name)
        notes: tuple[str, ...] = ()
        if pixels.dtype == np.float32 and (pixels.min() < 0 or pixels.max() > 1):
            notes = (f"values range from {pixels.min():g} to {pixels.max():g}, where 0 is black and 1 white",)
        return cls(np.ascontiguousarray(pixels), color_space, pixels.shape[2] in (2, 4), name, None, notes)


def as_pixels(array: Any, name: str) -> np.ndarray:
    """(height, width, n_channels) uint8, uint16 or float32 view or copy of an array, tensor or Pillow image.

    Raises:
        ImageError: it is none of these, or has another shape or dtype.
    """
    if isinstance(array, Tensor):
        array = array.detach().cpu()
        array = (array.float() if array.dtype == torch.bfloat16 else array).numpy()
    elif type(array).__module__.partition(".")[0] == "PIL":
        from fieldforge.apps.images.raster import pixels_of

        array = pixels_of(array)
    if not isinstance(array, np.ndarray):
        raise ImageError(f"{name}: expected a NumPy array, torch tensor or Pillow image, got {type(array).__name__}")
    if array.dtype == bool:
        raise ImageError(f"{name}: a mask of booleans is not a picture; use {name}.astype('uint8') * 255")
    if np.issubdtype(array.dtype, np.floating):
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite and is refused as such
            array = array.astype(np.float32, copy=False)
    if array.dtype not in _CODE_OF_ONE:
        raise ImageError(
            f"{name}: expected uint8, uint16 or floating-point values, got {array.dtype}; "
            "convert it, so that the value of white is plain (255, 65535 or 1.0)"
        )
    pixels = array[..., None] if array.ndim == 2 else array
    if pixels.ndim != 3 or not 1 <= pixels.shape[2] <= 4:
        hint = ""
        if pixels.ndim == 3 and pixels.shape[0] <= 4:
            hint = "; channels come last: use .permute(1, 2, 0) or np.moveaxis(array, 0, -1)"
        raise ImageError(
            f"{name}: expected (height, width) or (height, width, 1 to 4 channels), got {tuple(array.shape)}{hint}"
        )
    if 0 in pixels.shape:
        raise ImageError(f"{name}: a picture needs at least one pixel, got {pixels.shape[1]}x{pixels.shape[0]}")
    return pixels


def expect_finite(pixels: np.ndarray, name: str) -> None:
    """Refuse NaN and infinities: how many, and where the first is."""
    if pixels.dtype != np.float32:
        return
    height, width, n_channels = pixels.shape
    n_rows = max(1, _STRIP // (width * n_channels))
    n_bad, first = 0, ""
    for top in range(0, height, n_rows):
        strip = pixels[top : top + n_rows]
        is_bad = ~np.isfinite(strip)
        if is_bad.any():
            y, x, channel = (int(i) for i in np.unravel_index(int(is_bad.argmax()), is_bad.shape))
            first = first or f"{strip[y, x, channel]} at row {top + y}, column {x}, channel {channel}"
            n_bad += int(is_bad.sum())
    if n_bad:
        raise ImageError(
            f"{name}: {n_bad} of {pixels.size} values are not finite, the first is {first}; replace them "
            "(np.nan_to_num) before fitting"
        )
