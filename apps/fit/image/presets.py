"""Named starting points for `fit image`, each a complete run configuration made from the size of the picture.

`preset("balanced", width, height, ...)` returns the same tables a run file holds, so whatever a preset does can be
written down, changed and run again (``fieldforge fit image photo.jpg --print-config > run.toml``).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from fieldforge.apps.fit.recipe import Config, adam
from fieldforge.checks import expect_choice


def preset(name: str, width: int, height: int, color_space: str = "srgb") -> Config:
    """The run configuration of a named preset for a picture of width x height pixels.

    Sections: encoding, network, loss, optimizer, schedule and fit (n_steps, batch_size, storage).

    Raises:
        ValueError: no such preset.
    """
    name = expect_choice("preset", name, PRESETS)
    config = PRESETS[name](width, height)
    if color_space == "linear":
        # Light has no upper end: errors count relative to what is there. RelativeL2 lets bright parts drift, L2 lets
        # dark ones (--set loss.otype=RelativeL2 or L2).
        config["loss"] = {"otype": "RelativeL1"}
    return config


def _grid(
    width: int,
    height: int,
    *,
    epochs: float,
    entries: float,
    n_levels: int = 8,
    n_hidden_layers: int = 2,
    storage: str = "int8",
    jitter: float = 0.25,
) -> Config:
    """A hash grid that outresolves the pixels: tables of `entries` per pixel, every pixel drawn `epochs` times.

    The finest resolution is 4/3 of the longest side; at half the side (instant-ngp's rule) the astronaut ends 5 dB
    lower (--set encoding.per_level_scale=1.486). Storing 8 bits instead of 16 halves the file and costs it 0.2 dB
    (--set fit.storage=float16); drawing a quarter between the pixels costs 2 dB (--set fit.jitter=0).
    """
    n_pixels, longest = width * height, max(width, height)
    batch_size = 8192 if n_pixels >= 2**15 else 2048
    return {
        "encoding": _levels(
            n_levels=n_levels,
            log2_size=min(22, math.floor(math.log2(max(2**10, entries * n_pixels)))),
            finest=4 * longest / 3,
        ),
        "network": {"otype": "MLP", "n_neurons": 64, "n_hidden_layers": n_hidden_layers, "activation": "ReLU"},
        "loss": {"otype": "L2"},
        "optimizer": adam(1e-2, beta2=0.99, epsilon=1e-15, l2_reg=1e-6),
        "schedule": {"otype": "ConstantThenLinear"},
        "fit": {
            "n_steps": max(400, math.ceil(epochs * n_pixels / batch_size)),
            "batch_size": batch_size,
            "storage": storage,
            "jitter": jitter,
        },
    }


def _levels(*, n_levels: int, log2_size: int, finest: float) -> Config:
    base = 16 if finest >= 64 else 4
    growth = (max(2.0 * base, finest) / base) ** (1 / (n_levels - 1))
    return {
        "otype": "HashGrid",
        "n_levels": n_levels,
        "n_features_per_level": 2,
        "log2_hashmap_size": log2_size,
        "base_resolution": base,
        "per_level_scale": round(growth, 6),
    }


def _best(width: int, height: int) -> Config:
    """Where tables are large one hidden layer reads them better than two, at the pixels and between them; so fewer
    samples between the pixels do (`bench methods --only best`)."""
    return _grid(
        width, height, epochs=60, entries=1.0, n_levels=12, n_hidden_layers=1, storage="float16", jitter=0.1
    )  # fmt: skip


def _tiny(width: int, height: int) -> Config:
    """About 80 KB whatever the size of the picture: 78 000 parameters in 8 bits, fitted as far as they go."""
    config = _grid(width, height, epochs=1, entries=1)
    config["encoding"] = _levels(n_levels=8, log2_size=13, finest=max(width, height) / 2)
    config["fit"] |= {"n_steps": 2000, "jitter": 0.0}  # too few parameters to be wild between the pixels
    return config


def _coordinates(activation: str | Config, *, rate: float, n_hidden_layers: int = 4) -> Callable[[int, int], Config]:
    """A plain network of coordinates in [-1, 1]^2 (SIREN and kin)."""

    def make(width: int, height: int) -> Config:
        return {
            "encoding": {"otype": "Identity", "scale": 2.0, "offset": -1.0},
            "network": {
                "otype": "MLP",
                "n_neurons": 256,
                "n_hidden_layers": n_hidden_layers,  # the first layer and three hidden ones in SIREN's count
                "activation": activation,
                "has_bias": True,
            },
            "loss": {"otype": "L2"},
            "optimizer": adam(rate),
            "schedule": {"otype": "Cosine"},
            "fit": {"n_steps": 1000, "batch_size": 8192, "storage": "float16"},
        }

    return make


def _fourier(width: int, height: int) -> Config:
    config = _coordinates("ReLU", rate=1e-3)(width, height)
    config["encoding"] = {"otype": "RandomFourier", "n_features": 256, "sigma": 10.0}
    return config


CELL = 32
"""Pixels along a side of a cell that has a network of its own, of pictures of up to 16 million pixels."""
MOST_CELLS = 2**14
"""Larger pictures have larger cells: parameters and moments of so many networks take 360 MB, a file 60."""


def _kilonerf(width: int, height: int) -> Config:
    """A picture as a grid of small networks (after KiloNeRF; Reiser et al. 2021), cells of some 32 x 32 pixels.

    A step moves every network, so one of many cells has at least 16 pixels for each. Detail ends at a period of eight
    pixels, give or take a third: a larger cell has more frequencies.
    """
    n_pixels = width * height
    cell = max(CELL, math.sqrt(n_pixels / MOST_CELLS))
    n_x, n_y = (max(1, round(side / cell)) for side in (width, height))
    batch_size = max(min(2**16, max(2**13, n_pixels // 16)), 16 * n_x * n_y)
    return {
        "partition": {"otype": "UniformGrid", "resolution": [n_x, n_y]},
        "encoding": {"otype": "Frequency", "n_frequencies": round(2 + math.log2(cell / 8))},
        "network": {"otype": "MLP", "n_neurons": 32, "n_hidden_layers": 2, "activation": "ReLU", "has_bias": True},
        "loss": {"otype": "L2"},
        "optimizer": adam(2e-2, beta2=0.99, epsilon=1e-15),
        "schedule": {"otype": "ConstantThenLinear"},
        "fit": {
            "n_steps": max(400, math.ceil(40 * n_pixels / batch_size)),
            "batch_size": batch_size,
            "storage": "float16",
        },
    }


PRESETS: dict[str, Callable[[int, int], Config]] = {
    "fast": lambda width, height: _grid(width, height, epochs=8, entries=0.5),
    "balanced": lambda width, height: _grid(width, height, epochs=26, entries=0.5),
    "best": _best,
    "tiny": _tiny,
    "siren": _coordinates({"otype": "Sine", "omega": 30.0}, rate=5e-4),
    "finer": _coordinates("FINER", rate=5e-4),
    "spder": _coordinates("SPDER", rate=5e-4),
    # With the usual scale of 30 the astronaut stops at 23.5 dB for learning rates of 1e-3 and 5e-3; 10 gives 28.1 dB.
    "gauss": _coordinates({"otype": "Gaussian", "scale": 10.0}, rate=2e-3),
    # The authors' depth; with one layer more the astronaut stands at 10.5 instead of 17.8 dB after 250 steps.
    "wire": _coordinates("WIRE", rate=5e-3, n_hidden_layers=3),
    "ffn": _fourier,
    "kilonerf": _kilonerf,
}
"""Name -> configuration of a (width, height) picture."""
