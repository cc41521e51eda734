"""Equal numbers of parameters: a method made as large as a number of parameters allows."""

from __future__ import annotations

import copy
from collections.abc import Mapping
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
    """The configuration with the largest size that has no more than so many parameters (2 % more are let pass).

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
    while low < high:
        middle = (low + high + 1) // 2
        try:
            fits = parameters_of(job, resized(config, method, middle)) <= MAX_OVER * n_parameters
        except ValueError:  # larger than the method can be
            fits = False
        low, high = (middle, high) if fits else (low, middle - 1)
    return resized(config, method, low)


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
