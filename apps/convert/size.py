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


def _turned(config: Config, keys: Sequence[str], most: int) -> Config:
    """With keys no larger than a value; of several numbers in a key, the largest, and the others in proportion."""
    overrides = list[str]()
    for key in keys:
        value = _at(config, key)
        if isinstance(value, list):
            factor = min(1.0, most / max(value))
            overrides.append(f"{key}={[max(1, round(one * factor)) for one in value]}")
        else:
            overrides.append(f"{key}={min(most, value)}")
    return apply_overrides(config, overrides)


def _value(config: Config, key: str) -> int | None:
    found = _at(config, key)
    numbers = found if isinstance(found, list) else [found]
    is_whole = all(isinstance(one, int) and not isinstance(one, bool) for one in numbers)
    return max(numbers) if numbers and is_whole else None


def _at(config: Any, key: str) -> Any:
    for name in key.split("."):
        config = config.get(name) if isinstance(config, dict) else None
    return config
