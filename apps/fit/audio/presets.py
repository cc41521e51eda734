"""Named starting points for `fit audio`, each a complete run configuration made from the length of the clip."""

from __future__ import annotations

import math
from collections.abc import Callable

from fieldforge.apps.fit.recipe import Config, adam
from fieldforge.checks import expect_choice


def preset(name: str, n_samples: int) -> Config:
    """The run configuration of a named preset for a clip of n samples.

    Raises:
        ValueError: no such preset.
    """
    return PRESETS[expect_choice("preset", name, PRESETS)](n_samples)


def _grid(n_samples: int, *, epochs: float, entries: float, storage: str = "int8") -> Config:
    """A hash grid of octaves, the finest with a lattice point for each sample, every sample drawn `epochs` times.

    Tables hold `entries` per sample. Octaves far below a hundredth of the samples only cost time: a sound has no slow
    part worth a table (a base of 64 points instead of n / 32 loses 2 dB on speech after 1000 steps). Storing 8 bits
    instead of 16 halves the file and costs 0.1 dB at 30 dB.
    """
    log2_size = min(22, math.floor(math.log2(max(2**10, entries * n_samples))))
    n_levels, base = 6, max(2, n_samples // 32)
    growth = max(2.0 * base, n_samples) ** (1 / (n_levels - 1)) / base ** (1 / (n_levels - 1))
    batch_size = 8192 if n_samples >= 2**15 else 2048
    return {
        "encoding": {
            "otype": "HashGrid",
            "n_levels": n_levels,
            "n_features_per_level": 2,
            "log2_hashmap_size": log2_size,
            "base_resolution": base,
            "per_level_scale": round(growth, 6),
        },
        "network": {"otype": "MLP", "n_neurons": 64, "n_hidden_layers": 2, "activation": "ReLU"},
        "loss": {"otype": "L2"},
        "optimizer": adam(1e-2, beta2=0.99, epsilon=1e-15, l2_reg=1e-6),
        "schedule": {"otype": "ConstantThenLinear"},
        "fit": {"n_steps": max(400, math.ceil(epochs * n_samples / batch_size)), "batch_size": batch_size,
                "storage": storage},
    }  # fmt: skip


def _coordinates(activation: Config, *, rate: float, n_hidden_layers: int = 4) -> Callable[[int], Config]:
    """A plain network of time in [-1, 1].

    Many small steps: after 5 CPU seconds on half a second of a trumpet SIREN stands at 9.0 dB with batches of 2048 and
    at 4.7 dB with 8192; at a fourfold learning rate at 8.6 and 5.1.
    """

    def make(n_samples: int) -> Config:
        return {
            "encoding": {"otype": "Identity", "scale": 2.0, "offset": -1.0},
            "network": {"otype": "MLP", "n_neurons": 256, "n_hidden_layers": n_hidden_layers,
                        "activation": activation, "has_bias": True},
            "loss": {"otype": "L2"},
            "optimizer": adam(rate),
            "schedule": {"otype": "Cosine"},
            "fit": {"n_steps": 4000, "batch_size": 2048, "storage": "float16"},
        }  # fmt: skip

    return make


def _modulated(n_samples: int) -> Config:
    """SIREN whose hidden layers are scaled and shifted by grids over time (CAM), a point for each 32 samples.

    Without CAM's norm, with which sines learn nothing here. In short fits it stands behind plain SIREN (3.5 and 9.0 dB
    on that trumpet), and so did the ReLU network of the paper behind octaves of time (below 0).
    """
    config = _coordinates({"otype": "Sine", "omega": 30.0, "first_omega": 3000.0}, rate=4e-4)(n_samples)
    resolution = min(2**16, max(2, n_samples // 32))
    config["network"]["modulation"] = {"otype": "CAM", "resolution": resolution, "norm": "none"}
    return config


PRESETS: dict[str, Callable[[int], Config]] = {
    "fast": lambda n: _grid(n, epochs=25, entries=0.125),
    "balanced": lambda n: _grid(n, epochs=80, entries=0.25),
    "best": lambda n: _grid(n, epochs=200, entries=0.5, storage="float16"),
    "siren": _coordinates({"otype": "Sine", "omega": 30.0, "first_omega": 3000.0}, rate=1e-4),
    "spder": _coordinates({"otype": "SPDER", "damping": "arctan", "omega": 30.0, "first_omega": 3000.0}, rate=5e-5),
    "finer": _coordinates({"otype": "FINER", "omega": 30.0, "first_omega": 3000.0}, rate=1e-4),
    "cam": _modulated,
}
"""Name -> configuration of a clip of n samples."""
