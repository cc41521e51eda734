"""What can be compared: for each signal, the methods by the names that people call them.

A method is a preset of the signal, sections of a run file over it, and the key that makes it larger or smaller. To add
one: a line in the table of its signal.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fieldforge.apps.fit.job import Plan
from fieldforge.checks import expect_choice

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
        along: keys that are turned with it.
        fill: finer keys, each with its largest value, that take what the steps of `size` leave of the parameters.
        tune: what is chosen by the signal before training, see `Plan`.
    """

    preset: str
    sections: Sections = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    size: str = "network.n_neurons"
    sizes: tuple[int, int] = (4, 2048)
    along: tuple[str, ...] = ()
    fill: tuple[tuple[str, int], ...] = ()
    tune: str = "none"

    def plan(self, *, steps: int | None = None) -> Plan:
        """What is asked of a fit by this method."""
        return Plan(
            preset=self.preset, config=self.sections, overrides=self.overrides, steps=steps, tune=self.tune
        )  # fmt: skip


TABLE = ("encoding.log2_hashmap_size", (4, 24))
_WIDER = (("network.n_neurons", 1024), ("rgb_network.n_neurons", 1024))
_MORE_LINES = (("encoding.n_components", 4096), ("rgb_encoding.n_components", 4096))
_MORE_LEVELS = (("encoding.n_levels", 24), ("encoding.base_resolution", 2**20), *_WIDER)
"""Tables grow by doubling: more of them, between the same coarsest and finest level, then a finer coarsest one."""
_LARGE: Sections = {"n_neurons": 256, "n_hidden_layers": 4, "has_bias": True}


def _network(otype: str = "MLP", **keys: Any) -> Sections:
    return {"network": {"otype": otype, **keys}}


def _grid(preset: str = "balanced", sections: Sections | None = None) -> Method:
    return Method(preset, sections or {}, size=TABLE[0], sizes=TABLE[1], fill=_MORE_LEVELS)


def _named(*presets: str) -> dict[str, Method]:
    """Networks of coordinates that are presets themselves."""
    return {preset: Method(preset) for preset in presets}


def _networks(ground: str, *, sigma: float, n_frequencies: int, cells: int = 64) -> dict[str, Method]:
    """Networks over the preset of a network of coordinates, with Fourier features of a standard deviation (cycles over
    the whole signal) or with octaves; SAPE's lattice has so many cells along a side, CAM's
    grids half as many.
    """
    rate = ("optimizer.learning_rate=1e-3",)
    relu = _network(activation="ReLU", **_LARGE)
    identity = {"encoding": {"otype": "Identity", "scale": 2.0, "offset": -1.0}}
    octaves = {"encoding": {"otype": "Frequency", "n_frequencies": n_frequencies}}
    fourier = {"otype": "RandomFourier", "n_features": 256}
    waves = {"encoding": {**fourier, "sigma": sigma}}
    opened = {"encoding": {"otype": "SAPE", "nested": {**fourier, "sigma": 2 * sigma}, "resolution": cells}}
    grids = {"otype": "CAM", "resolution": cells // 2}
    blocks = _network("ResidualMLP", n_neurons=384, n_inner=64, n_blocks=3, norm="layer")
    return {
        "relu": Method(ground, {**identity, **relu}, rate),
        "pe": Method(ground, {**octaves, **relu}, rate),
        "ffn": Method(ground, {**waves, **relu}, rate),
        "sape": Method(ground, {**opened, **relu}, rate),
        "cam": Method(ground, {**waves, **_network(activation="ReLU", modulation=grids, **_LARGE)}, rate),
        "pins": Method(ground, {**octaves, **_network("PINs")}, rate),
        "fan": Method(ground, {**waves, **_network("FAN", n_neurons=256)}, rate),
        "kan": Method(
            ground, {**identity, **_network("KAN", n_neurons=16)}, ("optimizer.learning_rate=1e-2",), sizes=(1, 512)
        ),
        "hourglass": Method(ground, {**waves, **blocks}, rate, sizes=(4, 4096)),
    }


def _activations(ground: str, *, layers: int) -> dict[str, Method]:
    """Activations where they are no presets, with the rates of those of pictures."""
    large = {**_LARGE, "n_hidden_layers": layers}
    return {
        "finer": Method(ground, _network(activation="FINER", **large)),
        "spder": Method(ground, _network(activation="SPDER", **large)),
        "gauss": Method(
            ground,
            _network(activation={"otype": "Gaussian", "scale": 10.0}, **large),
            ("optimizer.learning_rate=2e-3",),
        ),
        "wire": Method(
            ground,
            _network(activation="WIRE", **{**large, "n_hidden_layers": layers - 1}),
            ("optimizer.learning_rate=5e-3",),
        ),
    }


def _tables(*, lattice: int, pref: bool = True) -> dict[str, Method]:
    """Tables of features in the place of the preset's."""
    dense = {"otype": "DenseGrid", "n_levels": 1, "base_resolution": lattice, "n_features_per_level": 4}
    found = {
        "hashgrid": _grid(),
        "densegrid": Method(
            "balanced", {"encoding": dense}, size="encoding.base_resolution", sizes=(2, 2**20), fill=_WIDER
        ),
        "rbf": _grid(sections=_network("RBF", n_neurons=64)),
    }  # fmt: skip
    if pref:
        phasors = {"otype": "PREF", "resolution": lattice, "n_features": 4}
        found["pref"] = Method(
            "balanced", {"encoding": phasors}, size="encoding.resolution", sizes=(2, 2048), fill=_WIDER
        )
    return found


def _lattice(name: str, **keys: Any) -> Method:
    """A factorised grid over the preset of grids."""
    return Method(
        "balanced", {"encoding": {"otype": name, **keys}}, size="encoding.resolution", sizes=(8, 1024), fill=_WIDER
    )


def _time_grid(sections: Sections | None = None) -> Method:
    """Tables of places, and of places and times."""
    size, along = "encoding.log2_time_hashmap_size", ("encoding.log2_hashmap_size",)
    return Method("balanced", sections or {}, size=size, sizes=TABLE[1], along=along, fill=_WIDER)


def _lines(resolution: int) -> Method:
    """Products of lines, of which there may be more and more."""
    encoding = {"otype": "TensorCP", "resolution": resolution, "n_components": 32}
    return Method("balanced", {"encoding": encoding}, size="encoding.n_components", sizes=(1, 4096), fill=_WIDER)


def _colored(preset: str, key: str = "resolution", largest: int = 1024) -> Method:
    """A radiance field of two grids, one of them for colours."""
    fill = (*(_MORE_LINES if preset == "tensorf-cp" else ()), *_WIDER)
    return Method(preset, size=f"encoding.{key}", sizes=(4, largest), along=(f"rgb_encoding.{key}",), fill=fill)


_FACTORISED: dict[str, Method] = {
    "kplanes": _lattice("KPlanes", resolution=64, n_features=8),
    "triplane": _lattice("TriPlane", resolution=128, n_features=8),
    "tensorf": _lattice("TensorVM", resolution=128, n_components=8),
    "tensorf-cp": _lines(256),
}
"""Of three coordinates."""


def _centers(n_dims: int, grid: Sections, **keys: Any) -> Method:
    """Centres that follow the signal beside a small grid; `--params` counts what is trained, not places and shapes."""
    place = {"n_dims_to_encode": n_dims, "dims_to_encode_begin": 0}
    nested = [{"otype": "NeuRBF", **keys, **place}, {"otype": "HashGrid", **grid, **place}]
    network = _network(n_neurons=64, n_hidden_layers=2, activation="ReLU", has_bias=True)
    sections = {"encoding": {"otype": "Composite", "nested": nested}, **network}
    return Method("balanced", sections, size="encoding.nested[0].n_centers", sizes=(8, 2**20))


_TWO_LEVELS: Sections = {"n_levels": 2, "log2_hashmap_size": 12, "base_resolution": 16, "per_level_scale": 4.0}
_COARSE: Sections = {"n_levels": 8, "n_features_per_level": 1, "log2_hashmap_size": 12, "per_level_scale": 1.4}

_CENTERS_IN_SPACE = _centers(
    3, _COARSE, n_centers=2048, n_neighbors=8, n_features=16, low_frequency=1.0, high_frequency=8.0
)  # fmt: skip

IMAGE: dict[str, Method] = {
    **_named("siren", "spder", "finer", "wire", "gauss"),
    **_networks("siren", sigma=10.0, n_frequencies=8),
    **_tables(lattice=128),
    "neurbf": _centers(2, _TWO_LEVELS, n_centers=2048),
    "tensorf-cp": _lines(512),
    "auto": Method("balanced", tune="auto"),
}

SOUND: dict[str, Method] = {
    **_named("siren", "spder", "finer"),
    **_networks("siren", sigma=1000.0, n_frequencies=14),
    **_tables(lattice=4096, pref=False),
    "neurbf": _centers(1, {**_TWO_LEVELS, "base_resolution": 256}, n_centers=2048),
    "cam": Method("cam"),
}

VIDEO: dict[str, Method] = {
    **_activations("siren", layers=4),
    **_named("siren", "spder"),
    **_networks("siren", sigma=6.0, n_frequencies=6, cells=32),
    "cam": Method("cam"),
    **_tables(lattice=32),
    **_FACTORISED,
    "neurbf": _CENTERS_IN_SPACE,
    "kplanes": Method("kplanes", size="encoding.resolution", sizes=(2, 1024), fill=_WIDER),
    "hashgrid": _time_grid(),
    "rbf": _time_grid(_network("RBF", n_neurons=64)),
}  # fmt: skip

SHAPE: dict[str, Method] = {
    **_activations("siren", layers=4),
    **_named("siren", "finer"),
    **_networks("siren", sigma=3.0, n_frequencies=5, cells=32),
    **_tables(lattice=64),
    **_FACTORISED,
    "neurbf": _CENTERS_IN_SPACE,
    "auto": Method("balanced", tune="auto"),
}

_RAW = {"encoding": {"otype": "Identity", "scale": 2.0, "offset": -1.0}}
_NERF = "vanilla-occupied"
SCENE: dict[str, Method] = {
    "hashgrid": _grid(),
    "tensorf": _colored("tensorf"),
    "tensorf-cp": _colored("tensorf-cp"),
    "kplanes": Method("kplanes", size="encoding.resolution", sizes=(2, 1024), fill=_WIDER),
    "triplane": _lattice("TriPlane", resolution=128, n_features=8),
    "pref": _colored("pref"),
    "densegrid": _colored("densegrid", "base_resolution", 512),
    "rbf": _grid(sections=_network("RBF", n_neurons=64)),
    "vanilla": Method(_NERF),
    "mimlp": Method("mimlp"),
    "siren": Method(_NERF, {**_RAW, **_network(activation={"otype": "Sine", "omega": 30.0}, **_LARGE)}),
    **{
        name: dataclasses.replace(method, sections={**_RAW, **method.sections})
        for name, method in _activations(_NERF, layers=4).items()
    },
    **_networks(_NERF, sigma=3.0, n_frequencies=10, cells=32),
}
del SCENE["sape"]  # see `WHY_NOT`

METHODS: dict[str, dict[str, Method]] = {
    "image": IMAGE, "audio": SOUND, "video": VIDEO, "shape": SHAPE, "scene": SCENE,
}  # fmt: skip
"""Signal -> name -> method."""

_THREE = "its planes or lines need three coordinates"
_RADIANCE = "it is two networks of a radiance field"
FAMILIES = {"siren": "siren", "ffn": "ffn", "finer": "finer", "grid": "hashgrid"}
"""What `auto` may choose -> the method that says which key makes it larger."""

_WIDE = "its bumps are as wide as details of pictures; siren, spder and finer have a setting for sounds"
_CHOICE = "it chooses among presets of pictures and shapes; name methods to be compared instead"
WHY_NOT: dict[str, dict[str, str]] = {
    "image": {
        "tensorf": _THREE, "kplanes": _THREE, "vanilla": _RADIANCE, "mimlp": _RADIANCE,
        "triplane": "of two coordinates there is one plane, which is densegrid",
    },
    "audio": {
        "pref": "its phasors are of two or three coordinates, and a sound has one", "wire": _WIDE, "gauss": _WIDE,
        "tensorf": _THREE, "tensorf-cp": _THREE, "kplanes": _THREE, "triplane": _THREE, "vanilla": _RADIANCE,
        "mimlp": _RADIANCE, "auto": _CHOICE,
    },
    "video": {"vanilla": _RADIANCE, "mimlp": _RADIANCE, "auto": _CHOICE},
    "shape": {"vanilla": _RADIANCE, "mimlp": _RADIANCE},
    "scene": {
        "sape": "it opens by the errors at places, and photos of a scene tell those along rays", "auto": _CHOICE,
        "neurbf": "its centres go where the signal has detail, and photos do not say where that is in space",
    },
}  # fmt: skip
"""Signal -> name of a method that others have -> the reason why it has none."""


def expect_methods(signal: str, names: Iterable[str]) -> dict[str, Method]:
    """Methods of a signal by name, each once.

    Raises:
        ValueError: there is none of that name, or not for such a signal, with the reason.

    Example:
        >>> list(expect_methods("audio", ["siren"]))
        ['siren']
    """
    found = {}
    for name in names:
        why = WHY_NOT[signal].get(name)
        if why is not None:
            raise ValueError(f"methods: {name} is not for {signal}: {why}; there are {', '.join(METHODS[signal])}")
        found[name] = METHODS[signal][expect_choice("methods", name, METHODS[signal])]
    return found
