"""What the header of a field file remembers of its training; the file may be a stranger's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


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
