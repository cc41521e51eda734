"""Which setting of a configuration sets the frequencies that its untrained field has, and what it may be.

FreSh tunes the first omega of SIREN (20 candidates), sigma of Gaussian Fourier features (20) and the bias scale of
FINER (31 pairs with omega). Its candidates are not published: ours are geometric. Omega stands around the bias too,
sin(omega (W x + b)), SIREN's own form; the released code multiplies x alone unless told to boost the bias.

A grid is refused. What an untrained table says has the spectrum of noise at all of its levels, however little training
it takes to fill the fine ones: the coarsest grid comes nearest to a photo, and is the worst when trained
(`data/studies/methods.md`). ``--encoding auto`` compares families by short trainings.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fieldforge.apps.fit.recipe import Config
from fieldforge.encodings.grid import Grid
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
        *sections, last = self.key.split(".")
        here: Any = changed
        for section in sections:
            if isinstance(here[section], str):
                here[section] = {"otype": here[section]}
            here = here[section]
        here[last] = value
        return changed


def setting_of(config: Config, n_values: int = 20, n_samples: int | None = None) -> Setting:
    """The setting that FreSh would choose in a configuration.

    Args:
        config: with encoding and network.
        n_values: candidates, besides what stands there.
        n_samples: of a signal of one axis, whose frequencies reach up to half of them; None: of pictures, to 20 cycles
            of sigma or an omega of 300.

    Raises:
        ConfigError: the configuration has none, or a grid.

    Example:
        >>> found = setting_of({"encoding": {"otype": "RandomFourier", "sigma": 10.0}, "network": {"otype": "MLP"}}, 4)
        >>> found.key, found.values
        ('encoding.sigma', (0.25, 1.07722, 4.64159, 10.0, 20.0))
    """
    encoding, network = _table(config["encoding"]), _table(config["network"])
    entry = find("encoding", encoding["otype"])
    otype = entry.name
    if otype == "RandomFourier":
        present = float(encoding.get("sigma", find("encoding", otype).options()["sigma"].default))
        high = 20.0 if n_samples is None else max(20.0, n_samples / 4)
        return _setting("encoding.sigma", "sigma", 0.25, high, n_values, present, 128)
    if isinstance(entry.factory, type) and issubclass(entry.factory, Grid):
        raise ConfigError(
            f"tune: untrained tables of {otype} say nothing of what they can hold, so spectra cannot choose their "
            "resolutions; keep the preset's, or let --encoding auto compare families in short trainings"
        )
    activation = _table(network.get("activation", "ReLU"))
    name = find("activation", activation["otype"]).name
    options = find("activation", name).options()
    if name in SINES:
        omega = activation.get("first_omega") or activation.get("omega", options["omega"].default)
        high = 300.0 if n_samples is None else max(300.0, math.pi * n_samples / 2)  # omega / pi cycles in [-1, 1]
        return _setting("network.activation.first_omega", "first omega", 5.0, high, n_values, float(omega), 64)
    if name == "FINER":
        scale = activation.get("first_bias_scale")
        if scale is None:  # PyTorch's law for a layer of two or three inputs, U(±1/√n)
            scale = round(1 / math.sqrt(config.get("n_input_dims", 2)), 6)
        return _setting("network.activation.first_bias_scale", "first bias scale", 0.1, 20.0, n_values, scale, 128)
    raise ConfigError(
        f"tune: {otype} and {network['otype']} of {name} have no setting that fresh knows; it chooses the first omega "
        "of Sine and SPDER, first_bias_scale of FINER, and sigma of RandomFourier"
    )


def _setting(key: str, name: str, low: float, high: float, n_values: int, present: float, n_bins: int) -> Setting:
    values = {float(f"{value:.6g}") for value in np.geomspace(low, high, n_values)} | {present}
    return Setting(key, name, tuple(sorted(values)), present, n_bins)


def _table(part: Any) -> Mapping[str, Any]:
    return part if isinstance(part, Mapping) else {"otype": part}
