"""Named starting points for `fit shape`, each a complete run configuration.

`preset("balanced", "sdf")` returns the tables a run file holds (`--print-config` writes them).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fieldforge.apps.fit.presets import adam
from fieldforge.checks import expect_choice

Config = dict[str, Any]

KINDS = {"sdf": "SDFField", "occupancy": "OccupancyField", "udf": "UDFField"}
"""What is fitted -> the otype of the field."""


def preset(name: str, kind: str) -> Config:
    """The run configuration of a named preset: encoding, network, loss, optimizer, schedule and fit.

    Raises:
        ValueError: no such preset, or no such kind.
    """
    name, kind = expect_choice("preset", name, PRESETS), expect_choice("kind", kind, KINDS)
    config = PRESETS[name]()
    if kind == "occupancy":
        config["loss"] = {"otype": "BinaryCrossEntropy"}
    return config


def _grid(
    *, n_steps: int, n_levels: int, log2_size: int, finest: int, batch_size: int = 2**14, storage: str = "float16"
) -> Config:
    return {
        "encoding": {
            "otype": "HashGrid",
            "n_levels": n_levels,
            "n_features_per_level": 2,
            "log2_hashmap_size": log2_size,
            "base_resolution": 16,
            "per_level_scale": round((finest / 16) ** (1 / (n_levels - 1)), 6),
        },
        "network": {"otype": "MLP", "n_neurons": 64, "n_hidden_layers": 2, "activation": "ReLU"},
        "loss": {"otype": "L1"},
        "optimizer": adam(1e-2, beta2=0.99, epsilon=1e-15),
        "schedule": {"otype": "ConstantThenLinear"},
        "fit": {"n_steps": n_steps, "batch_size": batch_size, "storage": storage, "recipe": "layers"},
    }


def _coordinates(activation: str | Config, *, rate: float) -> Callable[[], Config]:
    """A plain network of coordinates in [-1, 1]³ (SIREN and kin)."""

    def make() -> Config:
        return {
            "encoding": {"otype": "Identity", "scale": 2.0, "offset": -1.0},
            "network": {
                "otype": "MLP",
                "n_neurons": 256,
                "n_hidden_layers": 4,
                "activation": activation,
                "has_bias": True,
            },
            "loss": {"otype": "L1"},
            "optimizer": adam(rate),
            "schedule": {"otype": "Cosine"},
            "fit": {"n_steps": 1000, "batch_size": 2**13, "storage": "float16", "recipe": "layers"},
        }

    return make


def _tiny() -> Config:
    """Under 64 KB: 58 000 numbers of 8 bits."""
    config = _grid(n_steps=1000, n_levels=6, log2_size=13, finest=128, storage="int8")
    config["network"] |= {"n_neurons": 32}
    config["encoding"] |= {"log2_hashmap_size": 12}
    return config


PRESETS: dict[str, Callable[[], Config]] = {
    "fast": lambda: _grid(n_steps=300, n_levels=8, log2_size=17, finest=512),
    "balanced": lambda: _grid(n_steps=1000, n_levels=8, log2_size=18, finest=512),
    "best": lambda: _grid(n_steps=3000, n_levels=12, log2_size=19, finest=1024),
    "tiny": _tiny,
    "siren": _coordinates({"otype": "Sine", "omega": 30.0}, rate=1e-4),
    "finer": _coordinates("FINER", rate=1e-4),
}
"""Name -> configuration."""
