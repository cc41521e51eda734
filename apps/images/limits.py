"""How large a decoded picture may be, decided from the header before any memory is taken."""

from __future__ import annotations

import contextlib
import logging
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MAX_PIXELS = 2**30
MAX_EXPANSION = 1100  # deflate's best is 1032 to 1 (zlib technical details); nothing honest packs pictures tighter
SMALL = 64 * 2**20  # bytes that any file may decode to


class Refusal(Exception):
    """A decoder's sentence about a file; `read_image` puts the path in front and raises it as ImageError."""


@dataclass(frozen=True)
class Budget:
    """What a file of `file_bytes` may become."""

    file_bytes: int
    max_pixels: int = MAX_PIXELS

    def expect(self, width: int, height: int, bytes_per_pixel: int) -> None:
        """Refuse a size from a header: no pixels, more than `max_pixels`, or more bytes than the file could hold."""
        if width < 1 or height < 1:
            raise Refusal(f"the header says {width}x{height}; a picture needs at least one pixel")
        if width * height > self.max_pixels:
            raise Refusal(
                f"has {width}x{height} = {width * height:,} pixels, more than max_pixels={self.max_pixels:,}; "
                "scale it down or raise max_pixels"
            )
        n_bytes, allowed = width * height * bytes_per_pixel, max(SMALL, MAX_EXPANSION * self.file_bytes)
        if n_bytes > allowed:
            raise Refusal(
                f"the header says {width}x{height} pixels, {n_bytes >> 20:,} MiB when decoded, out of a file of "
                f"{self.file_bytes:,} bytes; that is a damaged file or a decompression bomb"
            )


_lock = threading.Lock()
_n_quiet = 0
_undo: list[Any] = []


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep third-party decoders from warning and logging; may be entered by several threads at once.

    What they would have said reaches the caller as an ImageError, or did not matter.
    """
    global _n_quiet
    import cv2

    with _lock:
        if _n_quiet == 0:
            catch = warnings.catch_warnings()
            catch.__enter__()
            warnings.simplefilter("ignore")
            level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
            tiff_log = logging.getLogger("tifffile")
            _undo[:] = [catch, level, tiff_log.disabled]
            tiff_log.disabled = True
        _n_quiet += 1
    try:
        yield
    finally:
        with _lock:
            _n_quiet -= 1
            if _n_quiet == 0:
                catch, level, was_disabled = _undo
                logging.getLogger("tifffile").disabled = was_disabled
                cv2.utils.logging.setLogLevel(level)
                catch.__exit__(None, None, None)
