"""WAV files: integers of 8, 16, 24 and 32 bits and floats of 32 and 64, read and written.

Python's `wave` reads no floats, and both it and SciPy trust the sizes of a header. Here every size is held against the
length of the file before anything is read.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fieldforge.apps.media import MediaError
from fieldforge.apps.sounds.clip import expect_channels, expect_rate
from fieldforge.fields.container import replacing

BITS = (16, 24, 32)
"""Of files that are written; 32 are floats."""
_INTEGERS, _FLOATS, _EXTENSIBLE = 1, 3, 0xFFFE
_MOST_CHUNKS = 4096


class OtherCodec(Exception):
    """A WAV file whose samples are compressed; PyAV may know how."""


@dataclass(frozen=True)
class WavHeader:
    """Where the samples are, and what they are.

    Args:
        sample_rate, n_channels: as they stand.
        n_bytes: of one sample of one channel, 1 to 4, or 8.
        is_float: or integers.
        data_start: position in the file.
        n_samples: that the file holds, per channel.
        note: what the header says otherwise; or ''.
    """

    sample_rate: int
    n_channels: int
    n_bytes: int
    is_float: bool
    data_start: int
    n_samples: int
    note: str


def read_header(file: BinaryIO, name: str) -> WavHeader:
    """The header of a file that begins with RIFF....WAVE.

    Raises:
        MediaError: it is damaged.
        OtherCodec: its samples are neither plain integers nor floats.
    """
    end = os.fstat(file.fileno()).st_size
    file.seek(12)
    shape: tuple[int, int, int, bool] | None = None
    for _ in range(_MOST_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            break
        kind, size = head[:4], int.from_bytes(head[4:], "little")
        start = file.tell()
        if kind == b"fmt ":
            shape = _format(file.read(min(size, 40, end - start)), name)
        elif kind == b"data":
            if shape is None:
                raise MediaError(f"{name}: the WAV file is damaged: samples before their format")
            rate, n_channels, n_bytes, is_float = shape
            there, note = min(size, end - start), ""
            if size > there or (size == 0 and end > start):  # written to a pipe, or cut short
                there = end - start
                note = f"the header promises {size:,} bytes of samples, and {there:,} are there: those were read"
            return WavHeader(rate, n_channels, n_bytes, is_float, start, there // (n_bytes * n_channels), note)
        file.seek(start + size + size % 2)
    raise MediaError(f"{name}: the WAV file holds no samples (no data chunk); get it again")


def _format(chunk: bytes, name: str) -> tuple[int, int, int, bool]:
    """(sample_rate, n_channels, n_bytes, is_float) of a format chunk."""
    if len(chunk) < 16:
        raise MediaError(f"{name}: the WAV file is damaged: a format of {len(chunk)} bytes; get it again")
    tag, n_channels, rate, _, n_bytes_all, bits = struct.unpack("<HHIIHH", chunk[:16])
    if tag == _EXTENSIBLE:
        tag = struct.unpack("<H", chunk[24:26])[0] if len(chunk) >= 26 else 0
    if tag not in (_INTEGERS, _FLOATS):
        raise OtherCodec(f"{name}: samples of codec {tag:#06x}")
    expect_rate(name, rate)
    expect_channels(name, n_channels)
    n_bytes = -(-bits // 8)
    if n_bytes not in ((4, 8) if tag == _FLOATS else (1, 2, 3, 4)) or n_bytes_all != n_bytes * n_channels:
        raise MediaError(
            f"{name}: the WAV file is damaged: {n_channels} channels of {bits} bits in blocks of {n_bytes_all} bytes"
        )
    return rate, n_channels, n_bytes, tag == _FLOATS


def read_samples(file: BinaryIO, header: WavHeader, first: int, last: int) -> np.ndarray:
    """Samples first <= i < last as (last - first, n_channels) float32; integers over their largest."""
    n_bytes = header.n_bytes
    block = n_bytes * header.n_channels
    file.seek(header.data_start + first * block)
    raw = file.read((last - first) * block)
    values: np.ndarray
    if header.is_float:
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused by the clip
            values = np.frombuffer(raw, f"<f{n_bytes}").astype(np.float32)
    elif n_bytes == 1:
        values = (np.frombuffer(raw, np.uint8).astype(np.float32) - 128) / 128
    elif n_bytes == 3:
        wide = np.zeros((len(raw) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(raw, np.uint8).reshape(-1, 3)
        values = (wide.view("<i4")[:, 0] >> 8).astype(np.float32) / np.float32(2**23)
    else:
        values = np.frombuffer(raw, f"<i{n_bytes}").astype(np.float32) / np.float32(2 ** (8 * n_bytes - 1))
    return np.ascontiguousarray(values.reshape(-1, header.n_channels))


def write_wav(path: str | os.PathLike[str], samples: np.ndarray, sample_rate: int, *, bits: int = 16) -> int:
    """Write a WAV file; the file that was there is replaced in one step.

    Args:
        path: where to.
        samples: (n_samples, n_channels) floats, 1 is full scale.
        sample_rate: samples a second.
        bits: 16 or 24, integers, beyond full scale clipped; 32, floats as they are.

    Returns:
        How many values were clipped.

    Raises:
        ValueError: other `bits`, no (n_samples, n_channels), or more than a WAV file holds (4 GiB).
        OSError: the file system refused.
    """
    if bits not in BITS:
        raise ValueError(f"bits: expected one of {', '.join(map(str, BITS))}, got {bits}")
    if samples.ndim != 2:
        raise ValueError(f"samples: expected (n_samples, n_channels), got {samples.shape}")
    expect_rate(str(path), sample_rate)
    block = samples.shape[1] * bits // 8
    n_data = len(samples) * block
    if n_data > 2**32 - 64 or sample_rate * block >= 2**32:
        raise ValueError(f"{path}: {n_data:,} bytes of samples at {sample_rate} Hz are more than a WAV file can say")
    n_clipped = 0
    if bits == 32:
        data = samples.astype("<f4").tobytes()
    else:
        n_clipped = int((np.abs(samples) > 1).sum())
        largest = 2 ** (bits - 1)
        codes = np.clip(np.round(samples.astype(np.float64) * largest), -largest, largest - 1).astype("<i4")
        data = codes.reshape(-1, 1).view(np.uint8)[:, : bits // 8].tobytes()
    chunk = struct.pack(
        "<HHIIHH", _FLOATS if bits == 32 else _INTEGERS, samples.shape[1], sample_rate, sample_rate * block, block, bits
    )
    if bits == 32:  # formats other than integers say so twice (RIFF, Multimedia Data Standards Update of 1994)
        chunk += struct.pack("<H", 0)
    parts = [b"WAVEfmt ", struct.pack("<I", len(chunk)), chunk]
    if bits == 32:
        parts += [b"fact", struct.pack("<II", 4, len(samples))]
    parts += [b"data", struct.pack("<I", n_data), data, b"\0" * (n_data % 2)]
    with replacing(Path(path)) as file:
        file.write(b"RIFF" + struct.pack("<I", sum(map(len, parts))))
        for part in parts:
            file.write(part)
    return n_clipped
