"""Named starting points for `fit video`, each a complete run configuration made from the size of the film."""

from __future__ import annotations

import math
from collections.abc import Callable

from fieldforge.apps.fit.recipe import Config, adam
from fieldforge.checks import expect_choice


def preset(name: str, width: int, height: int, n_frames: int) -> Config:
    """The run configuration of a named preset for a film of n frames of width x height pixels.

    Raises:
        ValueError: no such preset.
    """
    return PRESETS[expect_choice("preset", name, PRESETS)](width, height, n_frames)


Make = Callable[[int, int, int], Config]


def _grid(*, seconds_share: float, log2_size: int, n_steps: int, storage: str = "int8") -> Make:
    """Levels of the place alone and levels of place and time in one table: much of a film stands still."""

    def make(width: int, height: int, n_frames: int) -> Config:
        longest = max(width, height)
        return {
            "encoding": {
                "otype": "TimeGrid",
                "n_space_dims": 2,
                **_levels("", 6, longest),
                "log2_hashmap_size": min(log2_size, 17),
                "n_features_per_level": 2,
                **_levels("time_", 8, longest / 2),
                "time_resolution": max(2, round(seconds_share * n_frames)),
                "log2_time_hashmap_size": log2_size,
            },
            "network": {"otype": "MLP", "n_neurons": 64, "n_hidden_layers": 2, "activation": "ReLU"},
            "loss": {"otype": "L2"},
            "optimizer": adam(1e-2, beta2=0.99, epsilon=1e-15, l2_reg=1e-6),
            "schedule": {"otype": "ConstantThenLinear"},
            "fit": {"n_steps": n_steps, "batch_size": 16384, "storage": storage},
        }

    return make


def _levels(prefix: str, n_levels: int, finest: float) -> Config:
    """A few lattice points to `finest` along a side."""
    base = 8
    growth = (max(2.0 * base, finest) / base) ** (1 / (n_levels - 1))
    return {
        f"n_{prefix}levels": n_levels,
        f"{prefix}base_resolution": base,
        f"{prefix}per_level_scale": round(growth, 6),
    }


def _planes(width: int, height: int, n_frames: int) -> Config:
    config = _grid(seconds_share=0.5, log2_size=16, n_steps=600)(width, height, n_frames)
    resolution = max(16, round(math.sqrt(width * height) / 4))
    config["encoding"] = {"otype": "KPlanes", "resolution": resolution, "n_features": 16, "multiscale": [1, 2, 4]}
    return config


def _coordinates(activation: Config, *, rate: float) -> Make:
    """A plain network of (x, y, t) in [-1, 1]^3, in many small steps: with batches of 8192 a fourfold rate was 1.1 dB
    better after 5 CPU seconds, with 2048 this one is the better of the two."""

    def make(width: int, height: int, n_frames: int) -> Config:
        return {
            "encoding": {"otype": "Identity", "scale": 2.0, "offset": -1.0},
            "network": {"otype": "MLP", "n_neurons": 256, "n_hidden_layers": 4, "activation": activation,
                        "has_bias": True},
            "loss": {"otype": "L2"},
            "optimizer": adam(rate),
            "schedule": {"otype": "Cosine"},
            "fit": {"n_steps": 8000, "batch_size": 2048, "storage": "float16"},
        }  # fmt: skip

    return make


def _modulated(width: int, height: int, n_frames: int) -> Config:
    """SIREN whose hidden layers are scaled and shifted, each channel by itself, by grids over time (CAM): a point for
    each frame, up to the 60 of the paper's films. Without CAM's norm, which sines do without."""
    config = _coordinates({"otype": "Sine", "omega": 30.0}, rate=4e-4)(width, height, n_frames)
    config["network"]["modulation"] = {
        "otype": "CAM", "resolution": min(60, max(2, n_frames)), "dims": [2], "per_channel": True, "norm": "none",
    }  # fmt: skip
    return config


PRESETS: dict[str, Make] = {
    "fast": _grid(seconds_share=0.5, log2_size=16, n_steps=1000),
    "balanced": _grid(seconds_share=0.5, log2_size=18, n_steps=4000),
    "best": _grid(seconds_share=1.0, log2_size=20, n_steps=16000, storage="float16"),
    "kplanes": _planes,
    "siren": _coordinates({"otype": "Sine", "omega": 30.0}, rate=2e-4),
    "spder": _coordinates({"otype": "SPDER", "omega": 30.0}, rate=2e-4),
    "cam": _modulated,
}
"""Name -> configuration of a film of (width, height, n_frames)."""
