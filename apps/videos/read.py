"""Read a film, or some of its frames, at its size or a smaller one."""

from __future__ import annotations

import os
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import numpy as np

from fieldforge.apps.media import MAX_FRAME_PIXELS, MediaError, digest_of, opened, plain_file
from fieldforge.apps.videos.film import Film

MAX_BYTES = 8 * 2**30
"""Of all frames, decoded."""
MAX_FRAMES = 2**20
"""However small they are."""


def read_film(
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    downscale: int = 1,
    frames: tuple[int, int | None] = (0, None),
    max_bytes: int = MAX_BYTES,
) -> Film:
    """Read a film as RGB frames of 8 bits.

    Args:
        path: MP4, MOV, MKV, WebM, AVI or GIF, whatever its suffix says. Needs PyAV.
        size: (width, height) to scale to; or
        downscale: that many pixels of a side become one; what is left over at the right and bottom edge is squeezed in.
        frames: the first, and the one after the last or None, counted from 0.
        max_bytes: more is refused.

    Raises:
        MediaError: PyAV is not installed; the file is missing, not a film, or damaged; there are no such frames, or
            more than `max_bytes` of them.
    """
    path = Path(path)
    first, last = frames
    if first < 0 or (last is not None and last <= first):
        raise MediaError(f"frames: expected first before last, got {first}:{last}")
    with plain_file(path) as file:
        digest = digest_of(file)
        with opened(path, file, "video") as (container, stream), tempfile.TemporaryFile(prefix="fieldforge-") as store:
            read, number = _Frames(path, store, size, downscale, max_bytes), -1
            for number, frame in enumerate(container.decode(stream)):
                if last is not None and number >= last:
                    break
                if number >= first:
                    read.add(frame)
            if not read.n:
                raise MediaError(
                    f"{path}: has {number + 1} frames, and none from {first} on; --frames counts from 0"
                    if number >= 0
                    else f"{path}: its video stream holds no frames; get it again"
                )
            pace = stream.average_rate or stream.guessed_rate or stream.base_rate
            frames_per_second, notes = read.pace(pace)
            return Film(read.mapped(), frames_per_second, str(path), digest, first, (*read.notes, *notes))


class _Frames:
    """Frames that are decoded one after another into a file without a name, `store`."""

    def __init__(
        self, path: Path, store: IO[bytes], size: tuple[int, int] | None, downscale: int, max_bytes: int
    ) -> None:
        self.path, self.file, self.size, self.downscale, self.max_bytes = path, store, size, downscale, max_bytes
        self.n, self.first_size = 0, (0, 0)
        self.times: list[float | None] = []
        self.notes: list[str] = []
        self._changes = False

    def add(self, frame: Any) -> None:
        """One more."""
        if not self.n:
            self.first_size = (frame.width, frame.height)
            self.size = self.size or self._downscaled()
            self._expect_size()
            if turned := getattr(frame, "rotation", 0):
                self.notes.append(f"the file asks to be shown turned by {turned} degrees: frames are taken as stored")
        elif (frame.width, frame.height) != self.first_size and not self._changes:
            self._changes = True
            self.notes.append(
                f"frames change their size, from {self.first_size[0]}x{self.first_size[1]} to "
                f"{frame.width}x{frame.height} at the {self.n + 1}th read: all are scaled to one"
            )
        assert self.size is not None
        width, height = self.size
        if self.n >= MAX_FRAMES:
            raise MediaError(f"{self.path}: more than {MAX_FRAMES:,} frames; take fewer with --frames A:B")
        if (self.n + 1) * 3 * width * height > self.max_bytes:
            raise MediaError(
                f"{self.path}: more than {self.n} frames of {width}x{height} are over {self.max_bytes / 2**30:.3g} GiB "
                "when decoded; take fewer with --frames A:B, or smaller ones with --downscale or --size"
            )
        is_scaled = (frame.width, frame.height) != self.size
        pixels = frame.reformat(width, height, "rgb24", interpolation="AREA" if is_scaled else None).to_ndarray()
        self.file.write(np.ascontiguousarray(pixels).tobytes())
        self.times.append(frame.time)
        self.n += 1

    def pace(self, stated: Fraction | None) -> tuple[float, list[str]]:
        """Frames a second, and what to say of it."""
        times = [time for time in self.times if time is not None]
        if len(times) == self.n > 1 and (span := times[-1] - times[0]) > 0:
            mean = (self.n - 1) / span
            even = times[0] + np.arange(self.n) / mean
            late = float(np.abs(np.asarray(times) - even).max()) * mean
            if late > 0.5:
                note = f"frames come at uneven times, up to {late:.1f} frames off: they are taken as even"
                return round(mean, 6), [note]
            if stated is not None and abs(float(stated) - mean) < 1e-3 * mean:
                mean = float(stated)  # timestamps are rounded
            return round(mean, 6), []
        if stated:
            return float(stated), []
        return 25.0, ["the file does not say how fast it runs: 25 frames a second are assumed"]

    def mapped(self) -> np.ndarray:
        """(n, height, width, 3) uint8, read from the file as it is needed."""
        assert self.size is not None
        self.file.flush()
        # the map outlives the file, which is closed after this
        return np.memmap(self.file, np.uint8, "r", shape=(self.n, self.size[1], self.size[0], 3))

    def _downscaled(self) -> tuple[int, int]:
        width, height = self.first_size
        return max(1, width // self.downscale), max(1, height // self.downscale)

    def _expect_size(self) -> None:
        assert self.size is not None
        width, height = self.size
        if min(width, height) < 2 or width * height > MAX_FRAME_PIXELS:
            raise MediaError(f"{self.path}: frames of {width}x{height} pixels; a side has at least 2, a frame at most "
                             f"{MAX_FRAME_PIXELS:,}; --size or --downscale change that")  # fmt: skip
