"""What a fit is made of: the run configuration in its layers, and the size of the file that comes of it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fieldforge.apps.fit.config import apply_overrides, read_run, validate
from fieldforge.apps.fit.options import Options
from fieldforge.checks import did_you_mean
from fieldforge.fields.kinds.base import Field
from fieldforge.fields.storage import stored_bytes
from fieldforge.registry import ConfigError

Config = dict[str, Any]

SECTIONS = ("encoding", "network", "loss", "optimizer", "schedule", "fit")
"""What a run file holds."""

ONLY_OF = {
    "selection": "looks at all samples of a picture or a sound and learns from some until it looks again, so it "
    "is of image and audio fits alone: a film has too many pixels to be asked between two steps, what is learnt of a "
    "shape or a scene is drawn anew for every step, and fields of a collection share their steps",
    "gradient_transform": "weighs all residuals of a picture at once, so it is of image fits alone",
    "dir_encoding": "is of the directions of rays, so it is of scene fits alone",
    "rgb_encoding": "is of the colours along rays, so it is of scene fits alone",
    "rgb_network": "is of the colours along rays, so it is of scene fits alone",
    "sampler": "says where along a ray a field is asked, so it is of scene fits alone",
    "ray_losses": "are of samples along rays, so they are of scene fits alone",
    "radiance": "says how densities come about, so it is of scene fits alone",
}
"""Why other fits have no such section."""


def adam(rate: float, beta2: float = 0.999, epsilon: float = 1e-8, l2_reg: float = 0.0) -> Config:
    """The table of an Adam that the fused step knows."""
    return {
        "otype": "Adam",
        "learning_rate": rate,
        "beta2": beta2,
        "epsilon": epsilon,
        "l2_reg": l2_reg,
        "skip_zero_grad_non_matrix_params": False,  # skipping brought no decibels and forgoes the fused update
    }


def layered(
    ground: Config,
    config: Path | Mapping[str, Any] | None,
    overrides: Sequence[str],
    steps: int | None,
    options: type[Options],
    *,
    sections: Sequence[str] = SECTIONS,
    fill: Callable[[Config], list[str]] = lambda given: [],
) -> tuple[Config, list[str]]:
    """A configuration laid over another, then single keys, then the number of steps; all of it checked.

    Args:
        ground: the tables of a preset.
        config: run file, or tables, whose sections replace those of the ground.
        overrides: "encoding.n_levels=12", ...
        steps: instead of fit.n_steps.
        options: what checks the section ``fit``.
        sections: what the run file may hold.
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
    for section in sorted(resolved.keys() - set(sections)):
        if section in ONLY_OF:
            raise ConfigError(f"{section}: {ONLY_OF[section]}; this fit reads {', '.join(sections)}")
        raise ConfigError(
            f"{section}: such a fit has no such section{did_you_mean(section, sections)}; known: {', '.join(sections)}"
        )
    if steps is not None:
        resolved["fit"] = {**resolved["fit"], "n_steps": steps}
    resolved, more = validate(resolved, extra=("fit",))
    resolved["fit"] = options.of(resolved["fit"]).config()
    return resolved, [*notices, *more]


_HEADER_BYTES = 8192
"""What the header of a field file takes at most beside the parameters: configuration, figures, thinned history."""


def bytes_of(skeleton: Field, config: Config) -> float:
    """An upper bound on the size of the file of a field."""
    return stored_bytes(skeleton, config["fit"]["storage"]) + _HEADER_BYTES


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
