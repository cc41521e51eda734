"""What the header of a field file remembers of its training; the file may be a stranger's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fieldforge.renderers.cameras.axes import from_quaternion, to_quaternion

N_CAMERAS = 32
"""Of so many cameras a file remembers where they stand: some two kilobytes."""
_LARGEST = 1e12


def remembered(metadata: Mapping[str, Any], place: str, otherwise: float, *, least: float, most: float) -> float:
    """A number of a file's header, "run.fit.early_stop" say; another where it is not there, or no such number.

    Example:
        >>> remembered({"signal": {"width": 400}}, "signal.width", 100, least=1, most=1000)
        400.0
    """
    value: Any = metadata
    for key in place.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most
    return float(value) if is_number else float(otherwise)


def remember_cameras(poses: np.ndarray) -> list[list[float]]:
    """What a header keeps of (n, 3, 4) poses: of `N_CAMERAS` at most, evenly picked, place and unit quaternion.

    Example:
        >>> remember_cameras(np.eye(4)[None, :3])
        [[0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]]
    """
    picked = poses[np.arange(min(N_CAMERAS, len(poses))) * len(poses) // min(N_CAMERAS, len(poses))]
    rows = np.concatenate([picked[:, :, 3], to_quaternion(picked[:, :, :3])], 1)
    return [[float(f"{number:.6g}") + 0.0 for number in row] for row in rows.tolist()]


def remembered_cameras(metadata: Mapping[str, Any]) -> np.ndarray | None:
    """(n, 3, 4) poses of a header; None where it has none, or nothing that could be poses."""
    signal = metadata.get("signal")
    rows = signal.get("cameras") if isinstance(signal, Mapping) else None
    if not isinstance(rows, list) or not 1 <= len(rows) <= N_CAMERAS:
        return None
    for row in rows:
        if not isinstance(row, list) or len(row) != 7:
            return None
        if not all(isinstance(n, (int, float)) and not isinstance(n, bool) and abs(n) <= _LARGEST for n in row):
            return None
        if not 0.99 < math.hypot(*row[3:]) < 1.01:
            return None
    numbers = np.array(rows, np.float64)
    return np.concatenate([from_quaternion(numbers[:, 3:]), numbers[:, :3, None]], 2)


def remembered_up(metadata: Mapping[str, Any]) -> np.ndarray:
    """(3,) what was up for the cameras; z where the header does not say."""
    signal = metadata.get("signal")
    found = signal.get("up") if isinstance(signal, Mapping) else None
    if isinstance(found, list) and len(found) == 3:
        numbers = [n for n in found if isinstance(n, (int, float)) and not isinstance(n, bool) and abs(n) <= 1e3]
        if len(numbers) == 3 and math.hypot(*numbers) > 1e-3:
            return np.array(numbers, np.float64)
    return np.array([0.0, 0.0, 1.0])
