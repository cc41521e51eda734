"""Equal numbers of parameters: a method made as large as a number of parameters allows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch

from fieldforge.apps.compare.methods import Method
from fieldforge.apps.fit.config import apply_overrides
from fieldforge.apps.fit.recipe import Config
from fieldforge.fields.kinds.base import Field

MAX_OVER = 1.02
"""A method may have so many times the parameters asked for; sizes are whole numbers."""


class Maker(Protocol):
    """What makes fields of configurations: a job, for one."""

    def make_field(self, config: Config, seed: int) -> Field: ...


def parameters_of(job: Maker, config: Config) -> int:
    """Trainable numbers of the field of a configuration, without allocating them."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in job.make_field(config, 0).parameters())


def sized(job: Maker, config: Config, method: Method, n_parameters: int) -> Config:
    """The configuration with the largest size that has no more than so many parameters (2 % more are let pass), and
    what is then left given to the method's finer keys, one after another.

    Raises:
        ValueError: even the smallest size has more.
    """
    low, high = method.sizes
    if parameters_of(job, resized(config, method, low)) > MAX_OVER * n_parameters:
        least = parameters_of(job, resized(config, method, low))
        raise ValueError(
            f"params: {method.size}={low} is the smallest there is and has {least:,} parameters, more than "
            f"{n_parameters:,}; ask for more, or leave the method out"
        )
    found = resized(config, method, _largest(job, lambda size: resized(config, method, size), low, high, n_parameters))
    for key, most in method.fill:
        found = _filled(job, found, key, most, n_parameters)
    return found


def _filled(job: Maker, config: Config, key: str, most: int, n_parameters: int) -> Config:
    """The configuration with one key raised as far as the number of parameters allows."""
    section, name = key.split(".")
    now = config.get(section, {}).get(name)
    if now is None or now >= most or parameters_of(job, config) >= n_parameters:
        return config
    return _turned(config, key, _largest(job, lambda value: _turned(config, key, value), now, most, n_parameters))


def _largest(job: Maker, of: Callable[[int], Config], low: int, high: int, n_parameters: int) -> int:
    """The largest number from low to high whose configuration has not too many parameters; low has not."""
    while low < high:
        middle = (low + high + 1) // 2
        try:
            fits = parameters_of(job, of(middle)) <= MAX_OVER * n_parameters
        except ValueError:  # larger than the method can be
            fits = False
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def _turned(config: Config, key: str, value: int) -> Config:
    """The configuration with one key at a value; the finest level of a grid stays where it is.

    Raises:
        ValueError: such a grid's coarsest level would be finer than its finest.
    """
    changed = apply_overrides(config, [f"{key}={value}"])
    section, name = key.split(".")
    if name in ("n_levels", "base_resolution"):
        grid, before = changed[section], config[section]
        finest = before["base_resolution"] * before["per_level_scale"] ** (before["n_levels"] - 1)
        if grid["base_resolution"] > finest:
            raise ValueError(f"{key}: {value} is finer than the finest level, {finest:g}")
        grid["per_level_scale"] = round((finest / grid["base_resolution"]) ** (1 / max(1, grid["n_levels"] - 1)), 6)
    return changed


def with_rate(config: Config, factor: float) -> Config:
    """The configuration with its learning rates multiplied."""
    changed = copy.deepcopy(config)
    _multiply(changed["optimizer"], factor)
    return changed


def _multiply(table: Any, factor: float) -> None:
    if isinstance(table, Mapping):
        for key, value in table.items():
            if key == "learning_rate":
                table[key] = float(f"{value * factor:.6g}")  # type: ignore[index]
            else:
                _multiply(value, factor)
    elif isinstance(table, list):
        for value in table:
            _multiply(value, factor)


def resized(config: Config, method: Method, size: int) -> Config:
    """The configuration with the keys of its method at a size."""
    return apply_overrides(config, [f"{key}={size}" for key in (method.size, *method.along)])
