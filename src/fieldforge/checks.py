"""Errors at the public door: what was given, what would do.

Each function returns the value it was given, so that a constructor reads as a list of facts::

    self.n_levels = expect_int("n_levels", n_levels, 1, 64)

A message starts with the parameter's name; `fieldforge.registry.build` puts the path of the enclosing
section in front of it (``encoding.n_levels: expected an integer from 1 to 64, got 0``).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Tensor


def expect_points(x: Tensor, n_dims: int, *, name: str = "x", owner: object = None) -> Tensor:
    """Require floating-point coordinates whose last axis has `n_dims` entries.

    Args:
        x: (*batch, n_dims) real tensor; any batch shape, also empty.
        n_dims: how many coordinates a point has.
        name: what the caller calls `x`.
        owner: the object the points are for; its class is named in the message.

    Raises:
        TypeError: `x` is not a floating-point tensor.
        ValueError: the last axis has another size.
    """
    whose = f" for {type(owner).__name__}(n_input_dims={n_dims})" if owner is not None else ""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected a torch tensor of coordinates{whose}, got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"{name}: expected floating-point coordinates{whose}, got {x.dtype}; use {name}.float()")
    if x.ndim == 0 or x.shape[-1] != n_dims:
        raise ValueError(f"{name}: expected (..., {n_dims}) coordinates{whose}, got {tuple(x.shape)}")
    return x


def expect_int(name: str, value: int, low: int, high: int | None = None) -> int:
    """Require an integer in [low, high]; `high` None is no upper limit."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: expected an integer, got {value!r}")
    if value < low or (high is not None and value > high):
        span = f"from {low} to {high}" if high is not None else f"of at least {low}"
        raise ValueError(f"{name}: expected an integer {span}, got {value}")
    return value


def expect_float(
    name: str, value: float, low: float = -math.inf, high: float = math.inf, *, open_low: bool = False
) -> float:
    """Require a finite number in [low, high], or in (low, high] when `open_low`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    if not math.isfinite(value) or value < low or value > high or (open_low and value == low):
        above = f"above {low:g}" if open_low else f"of at least {low:g}"
        span = "" if low == -math.inf else f" {above}"
        span += "" if high == math.inf else f"{' and' if span else ''} at most {high:g}"
        raise ValueError(f"{name}: expected a finite number{span}, got {value}")
    return float(value)


def expect_bool(name: str, value: bool) -> bool:
    """Require true or false."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected true or false, got {value!r}")
    return value


Choice = TypeVar("Choice", bound=str)


def expect_choice(name: str, value: str, choices: Iterable[Choice]) -> Choice:
    """Require one of a few names, in any case of letters; returns the canonical spelling."""
    choices = list(choices)
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")
    for choice in choices:
        if choice.lower() == value.lower():
            return choice
    raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {value!r}{did_you_mean(value, choices)}")


def expect_only(name: str, value: object, supported: object, why: str) -> None:
    """Refuse by name a key of another system's vocabulary that is not implemented here."""
    if value != supported:
        raise ValueError(f"{name}: only {supported!r} is implemented, got {value!r}; {why}")


def with_article(noun: str) -> str:
    """A name with its article, as it sounds where the name begins with letters that are said one by one.

    Example:
        >>> with_article("image"), with_article("shape"), with_article("SDFField")
        ('an image', 'a shape', 'an SDFField')
    """
    vowels = "AEFHILMNORSX" if noun[:2].isupper() else "AEIOUaeiou"
    return f"{'an' if noun[0] in vowels else 'a'} {noun}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """'; did you mean X?' when something known is spelt much like `word`, else ''.

    Example:
        >>> did_you_mean("n_level", ["n_levels", "base_resolution"])
        '; did you mean n_levels?'
    """
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), list(by_lower), n=1, cutoff=0.6)
    return f"; did you mean {by_lower[close[0]]}?" if close else ""


def expect_generator(generator: torch.Generator | None) -> torch.Generator | None:
    """Require None (torch's global generator) or a torch.Generator."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator: expected a torch.Generator or None, got {generator!r}")
    return generator
