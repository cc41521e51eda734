"""Write frames to an MP4 file (H.264) as they come."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import TracebackType

import numpy as np

MAX_VIDEO_SIDE = 4096
"""Of an H.264 picture that players show (level 5.2), in pixels."""


class VideoError(RuntimeError):
    """A video cannot be written; the message says why and what would do."""


class VideoWriter:
    """H.264 in an MP4; a file that is not finished is removed.

    Args:
        path: ends in .mp4.
        width, height: even numbers of pixels.
        frames_per_second: of the file.

    Raises:
        VideoError: PyAV is not installed, or the size is odd.
    """

    def __init__(self, path: Path, *, width: int, height: int, frames_per_second: float = 30) -> None:
        try:
            import av
        except ImportError as error:
            raise VideoError(f"{path}: videos need PyAV; pip install 'fieldforge[video]' brings it") from error
        if width % 2 or height % 2:
            raise VideoError(f"{path}: H.264 wants an even width and height, got {width}x{height}")
        self.path = path
        self._part = path.with_name(f".{path.name}.part")
        self._av = av
        self._file = av.open(str(self._part), "w", format="mp4")
        self._stream = self._file.add_stream("libx264", rate=Fraction(frames_per_second).limit_denominator(1001))
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        self._stream.options = {"crf": "18"}

    def write(self, frame: np.ndarray) -> None:
        """One frame, (height, width, 3) uint8."""
        for packet in self._stream.encode(self._av.VideoFrame.from_ndarray(frame, format="rgb24")):
            self._file.mux(packet)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            for packet in self._stream.encode():
                self._file.mux(packet)
        self._file.close()
        if kind is None:
            self._part.replace(self.path)
        else:
            self._part.unlink(missing_ok=True)
