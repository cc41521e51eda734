"""Snapshots and parameter vectors as other programs write them, made here from their documentation; and what they mean.

None of these files was written by instant-ngp or tiny-cuda-nn. `write` is MessagePack by its spec.md, `nerf_snapshot`
the table of instant-ngp's testbed.cu, and the functions below read the flat vector number by number in float64.
Imports nothing of fieldforge.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from reference.encodings import spherical_harmonics
from reference.grid import grid_point, level_sizes


def pack(value: Any) -> bytes:
    """One value in MessagePack."""
    if value is None or isinstance(value, bool):
        return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[value]
    if isinstance(value, int):
        return bytes([value]) if 0 <= value < 128 else struct.pack(">Bq", 0xD3, value)
    if isinstance(value, float):
        return struct.pack(">Bd", 0xCB, value)
    if isinstance(value, bytes):
        return struct.pack(">BI", 0xC6, len(value)) + value
    if isinstance(value, str):
        text = value.encode()
        return (bytes([0xA0 | len(text)]) if len(text) < 32 else struct.pack(">BH", 0xDA, len(text))) + text
    if isinstance(value, (list, tuple)):
        head = bytes([0x90 | len(value)]) if len(value) < 16 else struct.pack(">BH", 0xDC, len(value))
        return head + b"".join(pack(one) for one in value)
    assert isinstance(value, dict)
    head = bytes([0x80 | len(value)]) if len(value) < 16 else struct.pack(">BH", 0xDE, len(value))
    return head + b"".join(pack(key) + pack(one) for key, one in value.items())


def write(path: Path, value: Any, *, compression: str = "") -> Path:
    """A file of one value, as it is, or as zlib or gzip."""
    data = pack(value)
    path.write_bytes({"": data, "zlib": zlib.compress(data), "gzip": gzip.compress(data)}[compression])
    return path


GRID = {"otype": "HashGrid", "n_levels": 2, "n_features_per_level": 2, "log2_hashmap_size": 6, "base_resolution": 4,
        "per_level_scale": 2.0}  # fmt: skip


def random_vector(n: int, seed: int = 0, scale: float = 0.3) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=n) * scale).astype(np.float16)


def snapshot_of(config: dict[str, Any], mode: str, vector: np.ndarray, **more: Any) -> dict[str, Any]:
    """The tables of a snapshot: a network's configuration, and what `save_snapshot` puts beside it."""
    name = {2: "__half", 4: "float"}[vector.dtype.itemsize]
    table = {"version": 1, "mode": mode, "n_params": vector.size, "params_type": name,
             "params_binary": vector.tobytes(), "training_step": 1000, "loss": 0.01}  # fmt: skip
    return config | {"snapshot": table | more}


def network(width: int, n_hidden: int, otype: str = "FullyFusedMLP") -> dict[str, Any]:
    return {"otype": otype, "activation": "ReLU", "output_activation": "None", "n_neurons": width,
            "n_hidden_layers": n_hidden}  # fmt: skip


NERF = {
    "encoding": GRID,
    "network": network(16, 1),
    "dir_encoding": {"otype": "Composite", "nested": [
        {"otype": "SphericalHarmonics", "degree": 3, "n_dims_to_encode": 3}, {"otype": "Identity", "degree": 3}]},
    "rgb_network": network(16, 1),
}  # fmt: skip
"""Nine harmonics in sixteen features: seven of the padded ones read 1, and are a bias."""
N_DENSITY, N_COLOR = 16 * 16 + 16 * 16, 16 * 32 + 16 * 16
N_GRID = 2 * sum(level_sizes("Hash", 3, 2, 6, 4, 2.0))
N_NERF = N_DENSITY + N_COLOR + N_GRID


def nerf_snapshot(vector: np.ndarray, density_grid: np.ndarray, **more: Any) -> dict[str, Any]:
    """A scene of one cascade: `density_grid` (n, n, n) of optical thickness by x, y, z."""
    n = density_grid.shape[0]
    ordered = np.zeros(n**3, np.float16)
    for x in range(n):
        for y in range(n):
            for z in range(n):
                place = sum(
                    ((c >> bit & 1) << (3 * bit + axis)) for axis, c in enumerate((x, y, z)) for bit in range(9)
                )
                ordered[place] = density_grid[x, y, z]
    dataset = {
        "n_images": 1, "scale": 0.33, "offset": [0.5, 0.5, 0.5], "aabb_scale": 1, "from_mitsuba": False,
        "is_hdr": False, "paths": ["a.png"],
        "metadata": [{"resolution": [40, 30], "focal_length": [50.0, 50.0], "principal_point": [0.5, 0.5]}],
        "xforms": [{"start": [[1.0, 0.0, 0.0, 0.5], [0.0, 0.0, 1.0, -1.0], [0.0, -1.0, 0.0, 0.5]]}],
    }  # fmt: skip
    return snapshot_of(
        NERF, "nerf", vector, density_grid_size=n, density_grid_binary=ordered.tobytes(),
        nerf={"aabb_scale": 1, "dataset": dataset}, background_color=[0.2, 0.4, 0.6, 1.0], up_dir=[0.0, 0.0, 1.0],
        **more,
    )  # fmt: skip


def mlp(vector: np.ndarray, x: Sequence[float], shapes: Sequence[tuple[int, int]]) -> np.ndarray:
    """ReLU between row-major matrices that stand one after the other."""
    begin, h = 0, np.array(x, np.float64)
    for index, (n_out, n_in) in enumerate(shapes):
        h = vector[begin : begin + n_out * n_in].astype(np.float64).reshape(n_out, n_in) @ h
        h = np.maximum(h, 0) if index + 1 < len(shapes) else h
        begin += n_out * n_in
    return h


def nerf_at(vector: np.ndarray, place: np.ndarray, direction: np.ndarray) -> tuple[float, np.ndarray]:
    """Density per unit length and colour of a place in the unit cube, from the flat vector of `NERF`."""
    table = vector[N_DENSITY + N_COLOR :].astype(np.float64).reshape(-1, 2)
    features, _, _ = grid_point(
        place.tolist(), table.tolist(), kind="Hash", n_levels=2, log2_hashmap_size=6, base_resolution=4,
        per_level_scale=2.0, interpolation="Linear", is_float32=False,
    )  # fmt: skip
    geometry = mlp(vector, [*features, *[0.0] * 12], [(16, 16), (16, 16)])
    code = spherical_harmonics(direction.tolist(), 3)
    raw = mlp(vector[N_DENSITY:], [*geometry, *code, *[1.0] * 7], [(16, 32), (16, 16)])[:3]
    return math.exp(geometry[0]), 1 / (1 + np.exp(-raw))
