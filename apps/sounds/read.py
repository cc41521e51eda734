"""Read a sound, or a part of it."""

from __future__ import annotations

import math
import os
from io import BufferedReader
from pathlib import Path

import numpy as np

from fieldforge.apps.media import MediaError, digest_of, opened, plain_file
from fieldforge.apps.sounds.clip import Clip, expect_channels, expect_length, expect_rate
from fieldforge.apps.sounds.wav import OtherCodec, read_header, read_samples
from fieldforge.fields.kinds.audio import MAX_SAMPLES


def read_sound(path: str | os.PathLike[str], *, start: float = 0.0, stop: float | None = None) -> Clip:
    """Read a sound as it is stored: its own rate and channels.

    Args:
        path: a WAV file, whatever its suffix says; OGG, FLAC, MP3, M4A or AIFF where PyAV is installed.
        start: seconds to leave out at the beginning.
        stop: second at which to end; None is the end.

    Raises:
        MediaError: the file is missing, not a sound, damaged, longer than a field holds, or has samples that are not
            finite; or the part is empty.
    """
    path = Path(path)
    if not (math.isfinite(start) and start >= 0):
        raise MediaError(f"start: expected seconds from the beginning, got {start}")
    if stop is not None and not start < stop < math.inf:
        raise MediaError(f"stop: expected seconds after the start at {start:g}, got {stop}")
    with plain_file(path) as file:
        digest = digest_of(file)
        try:
            is_wav = (head := file.read(12))[:4] == b"RIFF" and head[8:] == b"WAVE"
            samples, rate, notes = (_of_wav if is_wav else _of_media)(path, file, start, stop)
        except OtherCodec:
            samples, rate, notes = _of_media(path, file, start, stop)
    return Clip(samples, rate, str(path), digest, start, tuple(notes))


Read = tuple[np.ndarray, int, list[str]]


def _of_wav(path: Path, file: BufferedReader, start: float, stop: float | None) -> Read:
    header = read_header(file, str(path))
    first = min(round(start * header.sample_rate), header.n_samples)
    last = header.n_samples if stop is None else min(round(stop * header.sample_rate), header.n_samples)
    _expect_part(path, last - first, start, header.n_samples, header.sample_rate)
    expect_length(str(path), last - first, header.sample_rate)
    return read_samples(file, header, first, last), header.sample_rate, [header.note] if header.note else []


def _of_media(path: Path, file: BufferedReader, start: float, stop: float | None) -> Read:
    pieces: list[np.ndarray] = []
    with opened(path, file, "audio") as (container, stream):
        import av

        rate, n_channels = int(stream.rate or 0), int(stream.channels or 0)
        expect_rate(str(path), rate)
        expect_channels(str(path), n_channels)
        first = round(start * rate)
        most = first + MAX_SAMPLES + 1 if stop is None else min(round(stop * rate), first + MAX_SAMPLES + 1)
        resampler = av.AudioResampler(format="fltp", layout=stream.layout.name, rate=rate)
        at = 0
        for frame in container.decode(stream):
            for piece in resampler.resample(frame):
                values = piece.to_ndarray()[:, max(0, first - at) : max(0, most - at)]
                if values.shape[1]:
                    pieces.append(values.T)
                at += piece.samples
            if at >= most:
                break
    samples = np.concatenate(pieces) if pieces else np.empty((0, n_channels), np.float32)
    _expect_part(path, len(samples), start, at, rate)
    expect_length(str(path), len(samples), rate)
    return np.ascontiguousarray(samples, np.float32), rate, []


def _expect_part(path: Path, n_samples: int, start: float, n_all: int, rate: int) -> None:
    if n_samples < 1 and start > 0:
        raise MediaError(f"{path}: begins at {start:g} s beyond its end: it is {n_all / rate:.3f} s long")
