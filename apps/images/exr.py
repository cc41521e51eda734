"""OpenEXR (openexr.com, "OpenEXR File Layout"): half and float pictures in linear light, not clipped.

The header is parsed here before OpenEXR sees the file, because OpenEXR takes the memory that a header asks for.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fieldforge.apps.images.limits import Budget, Refusal

_HEADER_BYTES = 2**20
_TILED, _LONG_NAMES, _DEEP, _MULTIPART = 0x200, 0x400, 0x800, 0x1000
_CHANNEL_SETS: tuple[tuple[str, ...], ...] = (("R", "G", "B", "A"), ("R", "G", "B"), ("Y", "A"), ("Y",))
_DAMAGED = "the EXR header is damaged or cut short; get the file again"


@dataclass(frozen=True)
class Part:
    """What a header says about one part."""

    channels: dict[str, int]
    """Name -> pixel type: 0 uint, 1 half, 2 float."""
    width: int
    height: int
    is_subsampled: bool
    is_cropped: bool


def read_exr(path: Path, file: BinaryIO, budget: Budget) -> tuple[np.ndarray, list[str]]:
    """(height, width, n_channels) float32 of the data window, and notes.

    Args:
        path: of the file.
        file: the same file, open.
        budget: what it may decode to; all parts and channels count.
    """
    import OpenEXR

    parts = parse_header(file.read(_HEADER_BYTES))
    for part in parts:
        budget.expect(part.width, part.height, 4 * len(part.channels) * len(parts))
    part = parts[0]
    names = _chosen(part)
    channels = OpenEXR.File(str(path), separate_channels=True, num_threads=0).parts[0].channels
    pixels = np.empty((part.height, part.width, len(names)), np.float32)
    for i, name in enumerate(names):
        plane = channels[name].pixels
        if plane.shape != pixels.shape[:2]:
            raise Refusal("the EXR data does not fit its header; get the file again")
        pixels[..., i] = plane
    notes = [f"only the first of {len(parts)} parts is read"] if len(parts) > 1 else []
    left_out = sorted(set(part.channels) - set(names))
    if left_out:
        notes.append(f"of its channels {', '.join(left_out)} are not read")
    if part.is_cropped:
        notes.append("the data window is read, which differs from the display window")
    return pixels, notes


def write_exr(path: Path, pixels: np.ndarray) -> None:
    """Write (height, width, 1 to 4) float32 linear light with ZIP compression, without loss."""
    import OpenEXR

    names = next(names for names in _CHANNEL_SETS if len(names) == pixels.shape[2])
    planes = {name: np.ascontiguousarray(pixels[..., i]) for i, name in enumerate(names)}
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    OpenEXR.File(header, planes).write(str(path))


def parse_header(data: bytes) -> list[Part]:
    """The parts that a file declares.

    Raises:
        Refusal: damaged, deep, or of a version or type that is not read.
    """
    version = int.from_bytes(data[4:8], "little")
    if version & 0xFF != 2 or version & ~(0xFF | _TILED | _LONG_NAMES | _DEEP | _MULTIPART):
        raise Refusal(f"is an EXR file of version {version & 0xFF} with flags {version >> 8:#x}; only 2 is read")
    if version & _DEEP:
        raise Refusal("is a deep EXR file (several samples a pixel); flatten it first")
    at, parts = 8, list[Part]()
    while True:
        attributes, at = _attributes(data, at)
        if not attributes and version & _MULTIPART:
            return parts
        parts.append(_part(attributes))
        if not version & _MULTIPART:
            return parts


def _attributes(data: bytes, at: int) -> tuple[dict[bytes, bytes], int]:
    found: dict[bytes, bytes] = {}
    while data[at : at + 1] != b"\0":
        name_end = data.find(b"\0", at, at + 256)
        type_end = data.find(b"\0", name_end + 1, name_end + 257)
        size = int.from_bytes(data[type_end + 1 : type_end + 5], "little", signed=True)
        start = type_end + 5
        if name_end < 0 or type_end < 0 or size < 0 or start + size > len(data):
            raise Refusal(_DAMAGED)
        name = data[at:name_end]
        if name in found:
            raise Refusal(_DAMAGED)
        found[name] = data[start : start + size]
        at = start + size
    return found, at + 1


def _part(attributes: dict[bytes, bytes]) -> Part:
    try:
        window = struct.unpack("<4i", attributes[b"dataWindow"])
        display = struct.unpack("<4i", attributes[b"displayWindow"])
        if b"tiles" in attributes:
            tile_width, tile_height, _ = struct.unpack("<IIB", attributes[b"tiles"])
            if tile_width * tile_height > 2**20:
                raise Refusal(f"has tiles of {tile_width}x{tile_height} pixels; save it with tiles of 64x64")
        channels: dict[str, int] = {}
        is_subsampled, listed, at = False, attributes[b"channels"], 0
        while listed[at : at + 1] != b"\0":
            end = listed.index(b"\0", at)
            kind, _, step_x, step_y = struct.unpack_from("<iIii", listed, end + 1)
            channels[listed[at:end].decode()] = kind
            is_subsampled |= (step_x, step_y) != (1, 1)
            at = end + 17
    except (KeyError, struct.error, ValueError):
        raise Refusal(_DAMAGED) from None
    if not channels:
        raise Refusal("has no channels")
    width, height = window[2] - window[0] + 1, window[3] - window[1] + 1
    return Part(channels, width, height, is_subsampled, window != display)


def _chosen(part: Part) -> tuple[str, ...]:
    """The channels that make the picture."""
    if part.is_subsampled:
        raise Refusal("has channels at a lower resolution than others (luminance and chroma); save it as RGB")
    names = next((names for names in _CHANNEL_SETS if set(names) <= set(part.channels)), tuple(part.channels))
    if names not in _CHANNEL_SETS and len(names) > 1:
        raise Refusal(f"has the channels {', '.join(names)[:200]}, but neither R, G, B nor Y; save a copy with R, G, B")
    if any(part.channels[name] not in (1, 2) for name in names):
        raise Refusal("has channels of integers (object numbers, perhaps), not of half or float; save colour as half")
    return names
