"""Which setting of a configuration sets the frequencies that its untrained field has, and what it may be.

FreSh tunes the first omega of SIREN (20 candidates), sigma of Gaussian Fourier features (20) and the bias scale of
FINER (31 pairs with omega). Its candidates are not published: ours are geometric. The finest resolution of a grid is
our addition. Omega stands around the bias too, sin(omega (W x + b)), SIREN's own form; the released code multiplies x
alone unless told to boost the bias.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fieldforge.apps.fit.recipe import Config
from fieldforge.registry import ConfigError, find

SINES = ("Sine", "SPDER")
"""Activations with a first omega."""


@dataclass(frozen=True)
class Setting:
    """One key of a configuration, and the values it may take.

    Args:
        key: its path.
        name: for people.
        values: candidates, ascending; what stands in the configuration is among them.
        present: what stands there.
        n_bins: frequencies that count (FreSh: 64 for SIREN, 128 for all others).
    """

    key: str
    name: str
    values: tuple[float, ...]
    present: float
    n_bins: int

    def put(self, config: Config, value: float) -> Config:
        """A copy of the configuration with another value."""
        changed: Config = copy.deepcopy(config)
        if self.key == "encoding.per_level_scale":
            encoding = changed["encoding"]
            encoding["per_level_scale"] = _growth(encoding, value)
            return changed
        *sections, last = self.key.split(".")
        here: Any = changed
        for section in sections:
            if isinstance(here[section], str):
                here[section] = {"otype": here[section]}
            here = here[section]
        here[last] = value
        return changed


def setting_of(config: Config, n_values: int = 20, side: int = 512) -> Setting:
    """The setting that FreSh would choose in a configuration.

    Args:
        config: with encoding and network.
        n_values: candidates, besides what stands there.
        side: samples along an axis of the signal, for the resolution of grids.

    Raises:
        ConfigError: the configuration has none.

    Example:
        >>> found = setting_of({"encoding": {"otype": "RandomFourier", "sigma": 10.0}, "network": {"otype": "MLP"}}, 4)
        >>> found.key, found.values
        ('encoding.sigma', (0.25, 1.07722, 4.64159, 10.0, 20.0))
    """
    encoding, network = _table(config["encoding"]), _table(config["network"])
    otype = find("encoding", encoding["otype"]).name
    if otype == "RandomFourier":
        present = float(encoding.get("sigma", find("encoding", otype).options()["sigma"].default))
        return _setting("encoding.sigma", "sigma", 0.25, 20.0, n_values, present, 128)
    if otype in ("Grid", "HashGrid", "DenseGrid", "TiledGrid") and encoding.get("n_levels", 16) > 1:
        return _finest(encoding, otype, n_values, side)
    activation = _table(network.get("activation", "ReLU"))
    name = find("activation", activation["otype"]).name
    options = find("activation", name).options()
    if name in SINES:
        omega = activation.get("first_omega") or activation.get("omega", options["omega"].default)
        return _setting("network.activation.first_omega", "first omega", 5.0, 300.0, n_values, float(omega), 64)
    if name == "FINER":
        scale = activation.get("first_bias_scale")
        if scale is None:  # PyTorch's law for a layer of two or three inputs, U(±1/√n)
            scale = round(1 / math.sqrt(config.get("n_input_dims", 2)), 6)
        return _setting("network.activation.first_bias_scale", "first bias scale", 0.1, 20.0, n_values, scale, 128)
    raise ConfigError(
        f"tune: {otype} and {network['otype']} of {name} have no setting that fresh knows; it chooses the first omega "
        "of Sine and SPDER, first_bias_scale of FINER, sigma of RandomFourier, and the finest resolution of grids"
    )


def _setting(
    key: str, name: str, low: float, high: float, n_values: int, present: float, n_bins: int, digits: int = 6
) -> Setting:
    values = {float(f"{value:.{digits}g}") for value in np.geomspace(low, high, n_values)} | {present}
    return Setting(key, name, tuple(sorted(values)), present, n_bins)


def _finest(encoding: Mapping[str, Any], otype: str, n_values: int, side: int) -> Setting:
    known = find("encoding", otype).options()
    base = encoding.get("base_resolution", known["base_resolution"].default)
    growth, n_levels = encoding.get("per_level_scale"), encoding.get("n_levels", known["n_levels"].default)
    growth = (256 / base) ** (1 / (n_levels - 1)) if growth is None and otype == "DenseGrid" else growth or 2.0
    present = float(f"{base * growth ** (n_levels - 1):.6g}")
    return _setting(
        "encoding.per_level_scale", "finest resolution", 2.0 * base, max(4.0 * base, 2.0 * side), n_values, present, 128
    )


def _growth(encoding: Mapping[str, Any], finest: float) -> float:
    known = find("encoding", encoding["otype"]).options()
    base = encoding.get("base_resolution", known["base_resolution"].default)
    n_levels = encoding.get("n_levels", known["n_levels"].default)
    return float(round((finest / base) ** (1 / (n_levels - 1)), 6))


def _table(part: Any) -> Mapping[str, Any]:
    return part if isinstance(part, Mapping) else {"otype": part}
