"""Named starting points for `fit shape`, each a complete run configuration.

`preset("balanced", "sdf")` returns the tables a run file holds (`--print-config` writes them).
"""

from __future__ import annotations

from collections.abc import Callable

from fieldforge.apps.fit.recipe import Config, adam
from fieldforge.checks import expect_choice

KINDS = {"sdf": "SDFField", "occupancy": "OccupancyField", "udf": "UDFField"}
"""What is fitted -> the otype of the field."""


def preset(name: str, kind: str, *, is_cloud: bool = False) -> Config:
    """The run configuration of a named preset: encoding, network, loss, optimizer, schedule and fit.

    Args:
        name: one of `PRESETS`, or of `SURFACE_PRESETS` for signed distances of clouds.
        kind: one of `KINDS`.
        is_cloud: points are fitted, not a mesh: distances to them take longer to make and are used more often.

    Raises:
        ValueError: no such preset, or no such kind.
    """
    kind = expect_choice("kind", kind, KINDS)
    known = PRESETS | SURFACE_PRESETS if is_cloud and kind == "sdf" else PRESETS
    name = expect_choice("preset", name, known)
    config = known[name]()
    if is_cloud and name not in SURFACE_PRESETS:
        config["fit"]["n_passes"] = 8
    if kind == "occupancy":
        config["loss"] = {"otype": "BinaryCrossEntropy"}
    return config


def _grid(
    *, n_steps: int, log2_size: int, finest: int, n_levels: int, storage: str = "float16", n_passes: int = 6
) -> Config:
    """Many levels and one narrow hidden layer of 16.

    Wider networks, or a second layer, ended equal training at a lower IoU.
    """
    return {
        "encoding": {
            "otype": "HashGrid",
            "n_levels": n_levels,
            "n_features_per_level": 2,
            "log2_hashmap_size": log2_size,
            "base_resolution": 16,
            "per_level_scale": round((finest / 16) ** (1 / (n_levels - 1)), 6),
        },
        "network": {"otype": "MLP", "n_neurons": 16, "n_hidden_layers": 1, "activation": "ReLU"},
        "loss": {"otype": "MAPE"},  # |error| / (|distance| + 0.01): the surface counts, the far field is kept
        "optimizer": adam(1e-2, beta2=0.99, epsilon=1e-15),
        "schedule": {"otype": "ConstantThenLinear"},
        "fit": {
            "n_steps": n_steps, "batch_size": 2**14, "storage": storage, "recipe": "layers", "n_passes": n_passes
        },
    }  # fmt: skip


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


def _kilonerf() -> Config:
    """A cube as a grid of small networks (after KiloNeRF; Reiser et al. 2021)."""
    return _grid(n_steps=2000, log2_size=12, finest=64, n_levels=2) | {
        "partition": {"otype": "UniformGrid", "resolution": 8},
        "encoding": {"otype": "Frequency", "n_frequencies": 4},
        "network": {"otype": "MLP", "n_neurons": 32, "n_hidden_layers": 2, "activation": "ReLU", "has_bias": True},
        "optimizer": adam(2e-3, beta2=0.99, epsilon=1e-15),
    }


PRESETS: dict[str, Callable[[], Config]] = {
    "fast": lambda: _grid(n_steps=400, log2_size=16, finest=256, n_levels=8),
    "balanced": lambda: _grid(n_steps=2400, log2_size=18, finest=512, n_levels=10),
    "best": lambda: _grid(n_steps=6000, log2_size=19, finest=512, n_levels=10, n_passes=4),
    # under 64 KB: 57 000 numbers of 8 bits
    "tiny": lambda: _grid(n_steps=1600, log2_size=12, finest=128, n_levels=7, storage="int8"),
    "siren": _coordinates({"otype": "Sine", "omega": 30.0}, rate=1e-4),
    "finer": _coordinates("FINER", rate=1e-4),
    "kilonerf": _kilonerf,
}
"""Name -> configuration."""


def _surface(config: Config, *, depth: int, width: int, n_steps: int, batch_size: int, rate: float) -> Config:
    """A network of coordinates in [-1, 1]³ that learns from points alone, from a sphere on."""
    return {
        "encoding": {"otype": "Identity", "scale": 2.0, "offset": -1.0},
        "network": {"otype": "MLP", "n_neurons": width, "n_hidden_layers": depth, "has_bias": True} | config["network"],
        "loss": config["loss"],
        "optimizer": adam(rate),
        "schedule": {"otype": "Cosine"},
        "fit": {
            "n_steps": n_steps, "batch_size": batch_size, "storage": "float16", "sphere": 0.35,
            "recipe": config["recipe"],
        },
    }  # fmt: skip


SURFACE_PRESETS: dict[str, Callable[[], Config]] = {
    "siren": lambda: _surface(
        {"network": {"activation": {"otype": "Sine", "omega": 30.0}}, "loss": {"otype": "SIREN"}, "recipe": "siren"},
        depth=3, width=128, n_steps=1500, batch_size=2800, rate=5e-4,
    ),
    "igr": lambda: _surface(
        {
            "network": {"activation": {"otype": "Softplus", "beta": 100.0}, "input_injection": "mid"},
            "loss": {"otype": "IGR"}, "recipe": "igr",
        },
        depth=4, width=128, n_steps=1500, batch_size=2720, rate=2e-3,
    ),
}  # fmt: skip
"""Of clouds: the networks and losses of the papers, smaller and for fewer steps, so that a fit takes a minute.

SIREN has four matrices of 256 and 10 000 steps of 2800 points at 1e-4, IGR nine of 512, skip at the fourth, at 5e-3.
"""
