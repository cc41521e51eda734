"""Write clouds of points."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fieldforge.fields.container import replacing


def write_cloud(path: Path, points: np.ndarray, normals: np.ndarray, colors: np.ndarray) -> None:
    """A binary PLY file; the file that was there is replaced in one step.

    Args:
        path: where to.
        points, normals: (n, 3).
        colors: (n, 3) uint8 sRGB.

    Raises:
        OSError: the file system refused.
    """
    names = [("float", "x y z nx ny nz", "<f4"), ("uchar", "red green blue", "u1")]
    rows = np.empty(len(points), np.dtype([(name, code) for _, some, code in names for name in some.split()]))
    for columns, some in ((points, "x y z"), (normals, "nx ny nz"), (colors, "red green blue")):
        for axis, name in enumerate(some.split()):
            rows[name] = columns[:, axis]
    properties = "".join(f"property {kind} {name}\n" for kind, some, _ in names for name in some.split())
    head = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(points)}\n{properties}end_header\n"
    with replacing(path) as file:
        file.write(head.encode())
        file.write(rows.tobytes())
