"""A student whose file is no larger than asked for: turned down step by step, without allocating it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from fieldforge.apps.convert.students import Turn
from fieldforge.apps.fit.config import apply_overrides
from fieldforge.apps.fit.recipe import Config


def fitting(
    config: Config, turns: Sequence[Turn], n_bytes: Callable[[Config], float], max_bytes: int
) -> tuple[Config, list[str]]:
    """The configuration, or the largest smaller one whose file fits; and what was turned to what.

    The first turn goes down as far as it must; only where its least is not enough does the next begin.

    Args:
        config: a complete one.
        turns: of the student.
        n_bytes: an upper bound on the size of a configuration's file; smaller values have smaller files.
        max_bytes: the most wanted.

    Raises:
        ValueError: the smallest is larger; says how large it is.
    """
    said = list[str]()
    for turn in turns:
        if n_bytes(config) <= max_bytes:
            break
        keys = [key for key in turn.keys if _value(config, key) is not None]
        most = max((_value(config, key) or 0) for key in keys) if keys else 0
        low, high = turn.least // turn.multiple, (most - 1) // turn.multiple
        if not keys or high < low:
            continue
        smallest = _turned(config, keys, low * turn.multiple)
        if n_bytes(smallest) > max_bytes:
            config = smallest
            said.append(f"{', '.join(keys)}={low * turn.multiple}")
            continue
        while low < high:
            middle = (low + high + 1) // 2
            fits = n_bytes(_turned(config, keys, middle * turn.multiple)) <= max_bytes
            low, high = (middle, high) if fits else (low, middle - 1)
        config = _turned(config, keys, low * turn.multiple)
        said.append(f"{', '.join(keys)}={low * turn.multiple}")
    least = n_bytes(config)
    if least > max_bytes:
        raise ValueError(
            f"max_bytes: {max_bytes:,} bytes are too few: the smallest such file takes {math.ceil(least):,}; "
            "--set fit.storage=int8, or another student, may do"
        )
    return config, said


def _turned(config: Config, keys: Sequence[str], value: int) -> Config:
    """With keys no larger than a value."""
    return apply_overrides(config, [f"{key}={min(value, _value(config, key) or value)}" for key in keys])


def _value(config: Any, key: str) -> int | None:
    for name in key.split("."):
        config = config.get(name) if isinstance(config, dict) else None
    return config if isinstance(config, int) and not isinstance(config, bool) else None
