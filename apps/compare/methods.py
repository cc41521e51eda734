"""What can be compared: for each signal, the methods by the names that people call them.

A method is a preset of the signal, sections of a run file over it, and the key that makes it larger or smaller. To add
one: a line in the table of its signal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fieldforge.apps.fit.job import Plan

Sections = Mapping[str, Any]


@dataclass(frozen=True)
class Method:
    """One way to represent a signal.

    Args:
        preset: of the signal's fit, the ground.
        sections: of a run file, over it.
        overrides: single keys over both, "network.n_neurons=128".
        size: the key that `--params` turns: a whole number, in which parameters only grow.
        sizes: its smallest and largest value.
        tune: what is chosen by the signal before training, see `Plan`.
    """

    preset: str
    sections: Sections = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    size: str = "network.n_neurons"
    sizes: tuple[int, int] = (4, 2048)
    tune: str = "none"

    def plan(self, *, steps: int | None = None) -> Plan:
        """What is asked of a fit by this method."""
        return Plan(
            preset=self.preset, config=self.sections, overrides=self.overrides, steps=steps, tune=self.tune
        )  # fmt: skip


TABLE = ("encoding.log2_hashmap_size", (4, 24))


def _grid(preset: str = "balanced") -> Method:
    return Method(preset, size=TABLE[0], sizes=TABLE[1])


def _network(otype: str = "MLP", **keys: Any) -> Sections:
    return {"network": {"otype": otype, **keys}}


_LARGE: Sections = {"n_neurons": 256, "n_hidden_layers": 4, "has_bias": True}

_FOURIER: Sections = {"otype": "RandomFourier", "n_features": 256}


def _centers(n_dims: int, grid: Sections, **keys: Any) -> Method:
    """Centres that follow the signal beside a small grid; `--params` counts what is trained, not places and shapes."""
    place = {"n_dims_to_encode": n_dims, "dims_to_encode_begin": 0}
    nested = [{"otype": "NeuRBF", **keys, **place}, {"otype": "HashGrid", **grid, **place}]
    network = _network(n_neurons=64, n_hidden_layers=2, activation="ReLU", has_bias=True)
    sections = {"encoding": {"otype": "Composite", "nested": nested}, **network}
    return Method("balanced", sections, size="encoding.nested[0].n_centers", sizes=(8, 2**20))


_TWO_LEVELS: Sections = {"n_levels": 2, "log2_hashmap_size": 12, "base_resolution": 16, "per_level_scale": 4.0}
_COARSE: Sections = {"n_levels": 8, "n_features_per_level": 1, "log2_hashmap_size": 12, "per_level_scale": 1.4}

IMAGE: dict[str, Method] = {
    "siren": Method("siren"),
    "spder": Method("spder"),
    "finer": Method("finer"),
    "wire": Method("wire"),
    "gauss": Method("gauss"),
    "relu": Method("siren", _network(activation="ReLU", **_LARGE), ("optimizer.learning_rate=1e-3",)),
    "pe": Method(
        "siren",
        {"encoding": {"otype": "Frequency", "n_frequencies": 8}, **_network(activation="ReLU", **_LARGE)},
        ("optimizer.learning_rate=1e-3",),
    ),
    "ffn": Method("ffn"),
    "hashgrid": _grid(),
    "densegrid": Method(
        "balanced",
        {"encoding": {"otype": "DenseGrid", "n_levels": 1, "base_resolution": 128, "n_features_per_level": 4}},
        size="encoding.base_resolution",
        sizes=(2, 4096),
    ),
    "pref": Method(
        "balanced",
        {"encoding": {"otype": "PREF", "resolution": 128, "n_features": 4}},
        size="encoding.resolution",
        sizes=(2, 2048),
    ),
    "sape": Method("ffn", {"encoding": {"otype": "SAPE", "nested": {**_FOURIER, "sigma": 20.0}, "resolution": 64}}),
    "cam": Method("ffn", overrides=("network.modulation.otype=CAM",)),
    "rbf": Method("balanced", _network("RBF", n_neurons=64), size=TABLE[0], sizes=TABLE[1]),
    "neurbf": _centers(2, _TWO_LEVELS, n_centers=2048),
    "pins": Method(
        "siren",
        {"encoding": {"otype": "Frequency", "n_frequencies": 8}, **_network("PINs")},
        ("optimizer.learning_rate=1e-3",),
    ),
    "fan": Method("ffn", _network("FAN", n_neurons=256)),
    "kan": Method("siren", _network("KAN", n_neurons=16), ("optimizer.learning_rate=1e-2",), sizes=(1, 512)),
    "hourglass": Method(
        "ffn",
        _network("ResidualMLP", n_neurons=384, n_inner=64, n_blocks=3, norm="layer"),
        sizes=(4, 4096),
    ),
    "auto": Method("balanced", tune="auto"),
}

SOUND: dict[str, Method] = {
    "hashgrid": _grid(),
    "siren": Method("siren"),
    "spder": Method("spder"),
    "finer": Method("finer"),
    "cam": Method("cam"),
}

SHAPE: dict[str, Method] = {
    "hashgrid": _grid(),
    "neurbf": _centers(3, _COARSE, n_centers=2048, n_neighbors=8, n_features=16, low_frequency=1.0, high_frequency=8.0),
    "siren": Method("siren"),
    "finer": Method("finer"),
}

SCENE: dict[str, Method] = {
    "hashgrid": _grid(),
    "tensorf": Method("tensorf", size="encoding.resolution", sizes=(8, 1024)),
    "kplanes": Method("kplanes", size="encoding.resolution", sizes=(8, 1024)),
    "pref": Method("pref", size="encoding.resolution", sizes=(8, 1024)),
}

METHODS: dict[str, dict[str, Method]] = {"image": IMAGE, "audio": SOUND, "shape": SHAPE, "scene": SCENE}
"""Signal -> name -> method."""
