"""Points of LAS files, as laser scanners and surveys keep them (ASPRS LAS 1.0 to 1.4, point formats 0 to 10).

    points = read_las(data, "scan.las")     # (n, 3) float64

Only places are read; LAS has no normals. The compressed form, LAZ, is refused by name.
"""

from __future__ import annotations

import struct

import numpy as np

LEAST_RECORD = (20, 28, 26, 34, 57, 63, 30, 36, 38, 59, 67)
"""Bytes of a point record by format, from the specification; files may append bytes of their own."""


def is_las(data: bytes) -> bool:
    """Whether bytes begin as a LAS or LAZ file does."""
    return data[:4] == b"LASF"


def read_las(data: bytes) -> np.ndarray:
    """(n, 3) float64: x = X scale + offset for each axis, X the 32-bit integers of the records.

    The header is compared with the file before memory is taken.

    Raises:
        ValueError: it is compressed, of an unknown version or format, cut short, or not sane.
    """
    if len(data) < 227:
        raise ValueError(f"a LAS header has 227 bytes, and there are {len(data)}; it is cut short")
    major, minor = data[24], data[25]
    header_size, first = struct.unpack_from("<HI", data, 94)
    point_format, record, n = struct.unpack_from("<BHI", data, 104)
    if (major, minor) not in ((1, 0), (1, 1), (1, 2), (1, 3), (1, 4)):
        raise ValueError(f"LAS version {major}.{minor} is not known; 1.0 to 1.4 are read")
    if point_format & 0xC0:
        raise ValueError("is compressed (LAZ); save it uncompressed, as LAS")
    if point_format >= len(LEAST_RECORD):
        raise ValueError(f"point format {point_format} is not known; 0 to {len(LEAST_RECORD) - 1} are read")
    if record < LEAST_RECORD[point_format]:
        raise ValueError(
            f"point format {point_format} takes {LEAST_RECORD[point_format]} bytes a point, the header says {record}"
        )
    if (major, minor) == (1, 4):
        if len(data) < 375:
            raise ValueError(f"a LAS 1.4 header has 375 bytes, and there are {len(data)}; it is cut short")
        n = max(n, struct.unpack_from("<Q", data, 247)[0])
    if first < header_size or first > len(data) or n * record > len(data) - first:
        raise ValueError(
            f"the header announces {n:,} points of {record} bytes at byte {first:,}, "
            f"and there are {len(data):,} bytes; it is cut short"
        )
    scale, offset = struct.unpack_from("<3d", data, 131), struct.unpack_from("<3d", data, 155)
    if not np.isfinite([*scale, *offset]).all() or not all(scale):
        raise ValueError(f"scale {scale} and offset {offset} are no finite numbers with a scale above 0")
    rows = np.ndarray((n, 3), "<i4", data, first, (record, 4))
    with np.errstate(over="ignore"):
        found: np.ndarray = rows * np.array(scale) + np.array(offset)
    return found
