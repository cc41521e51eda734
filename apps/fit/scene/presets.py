"""Named starting points for `fit scene`, each a complete run configuration made from the size of the photos."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from fieldforge.apps.fit.recipe import Config, adam
from fieldforge.checks import expect_choice


class Seen(NamedTuple):
    """What a preset is made for: the longest side of the photos in pixels, whether they show an object alone, before
    nothing (with alpha), and the sides of its box."""

    longest: int
    is_object: bool = False
    sides: tuple[float, float, float] = (1.0, 1.0, 1.0)

    @property
    def octave(self) -> int:
        """How often 100 pixels are doubled, at most twice."""
        return min(2, max(0, round(math.log2(self.longest / 100))))


def preset(name: str, seen: Seen) -> Config:
    """The run configuration of a named preset.

    Sections: encoding, network, dir_encoding, rgb_network, sampler, ray_losses, loss, optimizer, schedule and fit.

    Raises:
        ValueError: no such preset.
    """
    return {"sampler": {"otype": "Occupancy"}, "ray_losses": {}} | PRESETS[expect_choice("preset", name, PRESETS)](seen)


def _grid(seen: Seen, *, n_steps: int, log2_size: int, n_neurons: int) -> Config:
    """instant-ngp's field with half its levels and narrow networks: tables stay in a processor's cache.

    Twice the pixels a side take tables of twice the size and a finest level of twice the resolution; of surroundings,
    where rays are few and long, 1024 is enough. Large photos of an object afford twice the neurons, one more doubling
    of the tables and finer samples.
    """
    octave, is_large_object = seen.octave, seen.is_object and seen.octave > 0
    finest = 512 * 2**octave if seen.is_object else min(1024, 512 * 2**octave)
    n_neurons *= 1 + is_large_object
    return {
        "encoding": {
            "otype": "HashGrid",
            "n_levels": 8,
            "n_features_per_level": 2,
            "log2_hashmap_size": log2_size + octave + is_large_object,
            "base_resolution": 16,
            "per_level_scale": round((finest / 16) ** (1 / 7), 6),
        },
        "network": {"otype": "MLP", "n_neurons": n_neurons, "n_hidden_layers": 1, "activation": "ReLU"},
        "dir_encoding": {"otype": "SphericalHarmonics", "degree": 4},
        "rgb_network": {
            "otype": "MLP",
            "n_neurons": n_neurons,
            "n_hidden_layers": 2,
            "activation": "ReLU",
            "output_activation": "Sigmoid",
        },
        "loss": {"otype": "Huber", "delta": 0.1},
        "optimizer": adam(1e-2, beta2=0.99, epsilon=1e-15),
        "schedule": {"otype": "ConstantThenLinear", "decay_start": 0.4, "final_factor": 0.03},
        "fit": {
            "n_steps": n_steps * (1 + octave),
            "batch_size": 2**14,  # many small steps: at 2**16 equal time ended 0.6 dB lower on Lego at 100 pixels
            "storage": "float16",
            "samples_across": 512 if is_large_object else 256,
            "coarse_start": 0.25 if octave else 0.0,  # a hundred pixels are seen with long samples anyway
            "occupancy": 64 if octave == 0 else 96,
            "update_every": 16 if octave == 0 else 32,  # a look at 96³ cells costs as much as a dozen steps
        },
    }


def _proposal(seen: Seen) -> Config:
    """The same field where proposal networks send it (nerfacto), and weights that are drawn together."""
    return _grid(seen, n_steps=4000, log2_size=16, n_neurons=32) | {
        "sampler": {"otype": "Proposal"},
        "ray_losses": {"distortion": 0.002},
    }


def with_time(config: Config) -> Config:
    """A configuration for photos that have times: a hash grid gets coarse levels that read the time."""
    encoding = config["encoding"]
    if encoding["otype"] != "HashGrid":
        return config
    return config | {"encoding": encoding | {"otype": "TimeGrid"}}


def _vanilla(seen: Seen) -> Config:
    """The original method (Mildenhall et al. 2020): a coarse and a fine network, 64 and 64 + 128 samples."""
    occupied = _vanilla_occupied(seen)
    return occupied | {
        "sampler": {"otype": "Hierarchical"},
        "loss": {"otype": "L2"},
        "optimizer": adam(5e-4),
        "fit": occupied["fit"] | {"n_steps": occupied["fit"]["n_steps"] // 3, "batch_size": 2**14},
    }


def _vanilla_occupied(seen: Seen) -> Config:
    """The original network on occupied samples alone; coordinates in [0, 1]. A sample is dear, so steps are small and
    many, their rate twice the original, and looks at the cells rare: one costs as much as thirty steps."""
    network = {"otype": "MLP", "n_neurons": 256, "n_hidden_layers": 8, "activation": "ReLU", "has_bias": True}
    ground = _grid(seen, n_steps=12000, log2_size=16, n_neurons=32)
    return ground | {
        "encoding": {"otype": "Frequency", "n_frequencies": 10},
        "network": network,
        "dir_encoding": {"otype": "Frequency", "n_frequencies": 4},
        "rgb_network": network | {"n_neurons": 128, "n_hidden_layers": 1, "output_activation": "Sigmoid"},
        "optimizer": adam(1e-3, beta2=0.99),
        "schedule": {"otype": "Exponential", "final_factor": 0.1},
        "fit": ground["fit"] | {"batch_size": 2**10, "update_every": 128},
    }


def _tables(n_steps: int, rate: float, matrix_rate: float) -> Config:
    """What fits of tables that colour a place by themselves share: two rates, and steps in PyTorch."""
    return {
        "dir_encoding": {"otype": "SphericalHarmonics", "degree": 3},
        "loss": {"otype": "L2"},
        "optimizer": adam(matrix_rate, beta2=0.99, epsilon=1e-15)
        | {"non_matrix_learning_rate_factor": rate / matrix_rate},
        "schedule": {"otype": "Exponential", "final_factor": 0.1},
        "fit": {
            "n_steps": n_steps,
            "batch_size": 2**13,
            "storage": "float16",
            "samples_across": 192,
            "occupancy": 64,
            "update_every": 16,
        },
    }


def _shaded(n_basis: int) -> Config:
    """TensoRF's colours: a matrix, two layers, and sines of what the matrix gives; half as wide."""
    network = {"otype": "MLP", "n_neurons": 64, "n_hidden_layers": 2, "has_bias": True, "output_activation": "Sigmoid"}
    return {"otype": "Basis", "n_basis": n_basis, "n_direct": 9, "n_frequencies": 2, "nested": network}


EMPTY: Config = {"n_geometry": 1, "density_activation": "softplus", "density_shift": -10.0, "density_scale": 75.0}
"""TensoRF's density: next to nothing at first; 25 a unit of length of a box with sides of 3."""


def _side(longest: int) -> int:
    """Entries along an axis of a plane: about as many as pixels along the photo, 128 or 256."""
    return 128 * 2 ** min(1, max(0, round(math.log2(longest / 200))))


def _tensorf(seen: Seen) -> Config:
    """TensoRF-VM (Chen et al. 2022) with half its components, and its lattice of the end from the start."""
    side = _side(seen.longest)
    return _tables(6000, 2e-2, 1e-3) | {
        "encoding": {"otype": "TensorVM", "resolution": side, "n_components": 8},
        "network": {"otype": "Sum"},
        "rgb_encoding": {"otype": "TensorVM", "resolution": side, "n_components": 24},
        "rgb_network": _shaded(27),
        "radiance": EMPTY,
        "regularizers": [{"otype": "L1", "weight": 8e-5}],
    }


def _tensorf_cp(seen: Seen) -> Config:
    """TensoRF-CP (Chen et al. 2022) with half its components."""
    side = 2 * _side(seen.longest)
    return _tables(8000, 2e-2, 1e-3) | {
        "encoding": {"otype": "TensorCP", "resolution": side, "n_components": 48},
        "network": {"otype": "Sum"},
        "rgb_encoding": {"otype": "TensorCP", "resolution": side, "n_components": 144},
        "rgb_network": _shaded(27),
        "radiance": EMPTY,
        "regularizers": [{"otype": "L1", "weight": 1e-5}],
    }


def _k_planes(seen: Seen) -> Config:
    """K-planes of a scene that stands still, with its networks ("hybrid"; Fridovich-Keil et al. 2023), half as wide."""
    network = {"otype": "MLP", "n_neurons": 64, "n_hidden_layers": 1}
    return _tables(4000, 1e-2, 1e-2) | {
        "encoding": {
            "otype": "KPlanes",
            "resolution": 32,
            "n_features": 16,
            "multiscale": [1, 2, _side(seen.longest) // 32],
        },
        "network": network,
        "rgb_network": network | {"n_hidden_layers": 2, "output_activation": "Sigmoid"},
        "regularizers": [{"otype": "TotalVariation", "weight": 1e-4}],
    }


def _pref(seen: Seen) -> Config:
    """PREF (Huang et al. 2022) as in its scenes: one frequency on the short axis, Parseval's penalty on the density."""
    side = _side(seen.longest)
    phasors = {"otype": "PREF", "resolution": side, "parts": "Complex", "initial": "Zero"}
    return _tables(4000, 2e-2, 1e-3) | {
        "encoding": phasors | {"n_features": 8},
        "network": {"otype": "MLP", "n_neurons": 64, "n_hidden_layers": 1, "has_bias": True},
        "rgb_encoding": phasors | {"n_features": 16},
        "rgb_network": _shaded(36),
        "radiance": EMPTY,
        # the authors begin with 10 for a fifteenth of a run; in one of a few hundred steps nothing came through that
        "regularizers": [{"otype": "Parseval", "weight": 1e-3}],
    }


def _dense_grid(seen: Seen) -> Config:
    """A lattice of densities and of harmonics and no network, as Plenoxels (Fridovich-Keil et al. 2022) and the
    "tensors" of PVD (Fang et al. 2023), whose density is the exponential too. Four of 32 features, and one, are spare:
    tables have 1, 2, 4 or 8 columns."""
    lattice = {"otype": "DenseGrid", "base_resolution": 64 if seen.longest <= 200 else 96, "per_level_scale": 1.0}
    return _tables(4000, 5e-2, 1e-3) | {
        "encoding": lattice | {"n_levels": 1, "n_features_per_level": 1},
        "network": {"otype": "Sum"},
        "rgb_encoding": lattice | {"n_levels": 4, "n_features_per_level": 8},
        "rgb_network": {"otype": "DotProduct", "n_basis": 9},
        "radiance": {"n_geometry": 1},
        "regularizers": [{"otype": "TotalVariation", "weight": 1e-4}],
    }


def _mi_mlp(seen: Seen) -> Config:
    """mi-MLP's two networks that read their inputs again at every layer (Zhu et al. 2024), half as wide and deep; the
    one for colour knows the density alone of the other."""
    network = {
        "otype": "MLP", "n_neurons": 128, "n_hidden_layers": 4, "has_bias": True, "input_injection": "all",
    }  # fmt: skip
    place = {"otype": "Frequency", "n_frequencies": 10}
    common = _tables(8000, 5e-4, 5e-4)
    return common | {
        "encoding": place,
        "network": network,
        "dir_encoding": {"otype": "Frequency", "n_frequencies": 4},
        "rgb_encoding": place,
        "rgb_network": network | {"n_hidden_layers": 2, "output_activation": "Sigmoid"},
        "radiance": {"n_geometry": 1},
        "fit": common["fit"] | {"batch_size": 2**12, "samples_across": 128},
    }


KILO_CELLS = (8, 12, 16)
"""Cells of KiloNeRF along the longest side of a box, for each octave of `Seen`: the authors have 16 in all of their
scenes, whose photos have 800 pixels a side. At 100 pixels 8 learn almost as much from an eighth of the numbers."""


def _kilonerf(seen: Seen) -> Config:
    """KiloNeRF's cells and networks (Reiser et al. 2021): 32 wide, and about 1/100 of the work of the large one.

    Trained from photos alone, which the paper's ablation shows to leave artefacts in empty space; its networks learn
    from another field first (`fieldforge convert --to kilonerf`). Octaves begin at half a cell, and the colour network
    reads the density too. The authors learn at 1e-3 for a million steps; in few, five times that comes further, and a
    step costs so much for the networks themselves that it should have many samples.
    """
    network = {"otype": "MLP", "n_neurons": 32, "n_hidden_layers": 2, "activation": "ReLU", "has_bias": True}
    longest = max(seen.sides)
    common = _tables(4000, 5e-3, 5e-3)
    return common | {
        "partition": {
            "otype": "UniformGrid",
            "resolution": [max(1, round(KILO_CELLS[seen.octave] * side / longest)) for side in seen.sides],
        },
        "encoding": {"otype": "Frequency", "n_frequencies": 10},
        "network": network,
        "dir_encoding": {"otype": "Frequency", "n_frequencies": 4},
        "rgb_network": network | {"n_hidden_layers": 1, "output_activation": "Sigmoid"},
        "radiance": {"n_geometry": 33},
        "regularizers": [{"otype": "ViewBranchNorm", "weight": 1e-6}],
        "fit": common["fit"]
        | {"batch_size": 2**15, "samples_across": 256, "occupancy": 64 if seen.octave == 0 else 96},
    }


PRESETS: dict[str, Callable[[Seen], Config]] = {
    "fast": lambda seen: _grid(seen, n_steps=1000, log2_size=16, n_neurons=32),
    "balanced": lambda seen: _grid(seen, n_steps=4000, log2_size=16, n_neurons=32),
    "best": lambda seen: _grid(seen, n_steps=12000, log2_size=18, n_neurons=64),
    "proposal": _proposal,
    "vanilla": _vanilla,
    "tensorf": _tensorf,
    "tensorf-cp": _tensorf_cp,
    "kplanes": _k_planes,
    "pref": _pref,
    "densegrid": _dense_grid,
    "mimlp": _mi_mlp,
    "vanilla-occupied": _vanilla_occupied,
    "kilonerf": _kilonerf,
}
"""Name -> its configuration."""
