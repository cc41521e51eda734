"""What an image fit is made of: the run configuration, the field it describes, the size of the file that comes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fieldforge.apps.fit.config import apply_overrides, read_run, validate
from fieldforge.apps.fit.options import FitOptions, Options
from fieldforge.apps.fit.presets import preset as preset_config
from fieldforge.apps.images import Picture
from fieldforge.checks import did_you_mean
from fieldforge.fields.kinds.base import Field
from fieldforge.fields.kinds.image import ImageField
from fieldforge.registry import ConfigError, build

Config = dict[str, Any]

SECTIONS = ("encoding", "network", "loss", "optimizer", "schedule", "fit")
"""What the run file of an image fit holds."""


def run_config(
    picture: Picture,
    *,
    preset: str = "balanced",
    config: Path | Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    steps: int | None = None,
    max_bytes: int | None = None,
) -> tuple[Config, list[str]]:
    """The complete configuration of a run, and notices about what was filled in or left out.

    The preset is the ground; sections of `config` replace its sections; `overrides` ("encoding.n_levels=12") change
    single keys; `steps` and `max_bytes` come last.

    Raises:
        ConfigError, ValueError: unknown preset, key or value; or `max_bytes` below what such a field can shrink to.
    """
    height, width, _ = picture.pixels.shape
    ground = preset_config(preset, width, height, picture.color_space)

    def fill(given: Config) -> list[str]:
        return _fill_growth(given, width, height)

    resolved, notices = layered(ground, config, overrides, steps, FitOptions, fill=fill)
    if max_bytes is not None:
        shrink(resolved, lambda: stored_bytes(resolved, picture), max_bytes)
    return resolved, notices


def layered(
    ground: Config,
    config: Path | Mapping[str, Any] | None,
    overrides: Sequence[str],
    steps: int | None,
    options: type[Options],
    *,
    fill: Callable[[Config], list[str]] = lambda given: [],
) -> tuple[Config, list[str]]:
    """A configuration laid over another, then single keys, then the number of steps; all of it checked.

    Args:
        ground: the tables of a preset.
        config: run file, or tables, whose sections replace those of the ground.
        overrides: "encoding.n_levels=12", ...
        steps: instead of fit.n_steps.
        options: what checks the section ``fit``.
        fill: completes the tables of a JSON file in place; returns notices.

    Raises:
        ConfigError, ValueError: unknown section, key or value.
    """
    resolved, notices = dict(ground), list[str]()
    if isinstance(config, Mapping):
        resolved |= copy.deepcopy(dict(config))
    elif config is not None:
        given, notices = read_run(config, extra=("fit",))
        if config.suffix.lower() == ".json":
            notices += fill(given)
        resolved |= given
    resolved = apply_overrides(resolved, overrides)
    for section in resolved.keys() - SECTIONS:
        raise ConfigError(
            f"{section}: such a fit has no such section{did_you_mean(section, SECTIONS)}; known: {', '.join(SECTIONS)}"
        )
    if steps is not None:
        resolved["fit"] = {**resolved["fit"], "n_steps": steps}
    resolved, more = validate(resolved, extra=("fit",))
    resolved["fit"] = options.of(resolved["fit"]).config()
    return resolved, [*notices, *more]


def _fill_growth(config: Config, width: int, height: int) -> list[str]:
    """instant-ngp leaves per_level_scale out and sets it by the picture: the finest level is half the longest side."""
    encoding = config.get("encoding", {})
    if "grid" not in str(encoding.get("otype", "")).lower() or "per_level_scale" in encoding:
        return []
    levels, base = encoding.get("n_levels", 16), encoding.get("base_resolution", 16)
    if not (isinstance(levels, int) and isinstance(base, int) and levels > 1 and base > 0):
        return []
    finest = max(width, height) / 2
    encoding["per_level_scale"] = round(max(1.0, math.exp(math.log(finest / base) / (levels - 1))), 6)
    return [f"encoding.per_level_scale: {encoding['per_level_scale']} (instant-ngp's rule: finest level {finest:g})"]


def make_field(config: Config, picture: Picture, seed: int) -> ImageField:
    """The untrained field of a configuration: same seed, same parameters."""
    height, width, n_channels = picture.pixels.shape
    described = {"otype": "ImageField", "encoding": config["encoding"], "network": config["network"]}
    described |= {"width": width, "height": height, "n_channels": n_channels, "color_space": picture.color_space}
    if picture.color_space == "linear":  # light has any size; what the network gives should be about 1
        described["output_scale"] = [_magnitude(picture)] * n_channels
    made: ImageField = build("field", described, generator=torch.Generator().manual_seed(seed))
    return made


def _magnitude(picture: Picture) -> float:
    """The root of the mean square of a picture's values, to six digits; 1 for a black one."""
    strips = (picture.rows(top, min(picture.height, top + 256)) for top in range(0, picture.height, 256))
    total = sum(float(np.square(strip, dtype=np.float64).sum()) for strip in strips)
    return float(f"{math.sqrt(total / picture.pixels.size):.6g}") or 1.0


_HEADER_BYTES = 8192
"""What the header of a field file takes at most beside the parameters: configuration, figures, thinned history."""
_BYTES_A_NUMBER = {"float64": 8.0, "float32": 4.0, "float16": 2.0, "bfloat16": 2.0, "int8": 1 + 4 / 256}


def stored_bytes(config: Config, picture: Picture) -> float:
    """An upper bound on the size of the file a configuration makes, without allocating its parameters."""
    with torch.device("meta"):
        return bytes_of(make_field(config, picture, 0), config)


def bytes_of(skeleton: Field, config: Config) -> float:
    """An upper bound on the size of the file of a field."""
    n_numbers = sum(tensor.numel() for tensor in skeleton.state_dict().values())
    return n_numbers * _BYTES_A_NUMBER[config["fit"]["storage"]] + _HEADER_BYTES


def shrink(config: Config, size: Callable[[], float], max_bytes: int) -> None:
    """Make the field smaller, in place, until its file fits: grid tables first, then the width of the network.

    Args:
        config: the run configuration.
        size: bytes of the file that `config` makes now.
        max_bytes: the most wanted.

    Raises:
        ValueError: it cannot be made that small.
    """
    while size() > max_bytes:
        encoding, network = config["encoding"], config["network"]
        if encoding.get("log2_hashmap_size", 0) > 8:
            encoding["log2_hashmap_size"] -= 1
        elif network.get("n_neurons", 0) > 16:
            network["n_neurons"] = max(16, network["n_neurons"] * 3 // 4)
        else:
            raise ValueError(
                f"max_bytes: {max_bytes:,} bytes are too few for {encoding['otype']} and {network['otype']}: the "
                f"smallest such file takes {math.ceil(size()):,}; --preset tiny or "
                "--set fit.storage=int8 may do"
            )
