"""Named starting points for `fit scene`, each a complete run configuration made from the size of the photos."""

from __future__ import annotations

import math
from collections.abc import Callable

from fieldforge.apps.fit.recipe import Config, adam
from fieldforge.checks import expect_choice


def preset(name: str, longest: int) -> Config:
    """The run configuration of a named preset for photos whose longest side has so many pixels.

    Sections: encoding, network, dir_encoding, rgb_network, sampler, loss, ray_losses, optimizer, schedule and fit.

    Raises:
        ValueError: no such preset.
    """
    return {"sampler": {"otype": "Occupancy"}, "ray_losses": {}} | PRESETS[expect_choice("preset", name, PRESETS)](
        longest
    )


def _grid(longest: int, *, n_steps: int, log2_size: int, n_neurons: int) -> Config:
    """instant-ngp's field with half its levels and narrow networks: tables stay in a processor's cache.

    Twice the pixels a side take tables of twice the size, a finest level of twice the resolution and twice the steps.
    """
    octave = min(2, max(0, round(math.log2(longest / 100))))
    finest = 512 * 2**octave
    return {
        "encoding": {
            "otype": "HashGrid",
            "n_levels": 8,
            "n_features_per_level": 2,
            "log2_hashmap_size": log2_size + octave,
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
            "n_steps": n_steps * 2**octave,
            "batch_size": 2**14,  # many small steps: at 2**16 equal time ended 0.6 dB lower on Lego at 100 pixels
            "storage": "float16",
            "samples_across": 512 + 256 * octave,
            "occupancy": 64 if octave == 0 else 96,
            "update_every": 16 if octave == 0 else 32,  # a look at 96³ cells costs as much as a dozen steps
        },
    }


def _proposal(longest: int) -> Config:
    """The same field where proposal networks send it (nerfacto), and weights that are drawn together."""
    return _grid(longest, n_steps=4000, log2_size=16, n_neurons=32) | {
        "sampler": {"otype": "Proposal"},
        "ray_losses": {"distortion": 0.002},
    }


def _vanilla(longest: int) -> Config:
    """The original method (Mildenhall et al. 2020): a coarse and a fine network, 64 and 64 + 128 samples."""
    return _vanilla_occupied(longest) | {
        "sampler": {"otype": "Hierarchical"},
        "loss": {"otype": "L2"},
    }


def _vanilla_occupied(longest: int) -> Config:
    """The original network on occupied samples alone; coordinates in [0, 1]."""
    network = {"otype": "MLP", "n_neurons": 256, "n_hidden_layers": 8, "activation": "ReLU", "has_bias": True}
    return _grid(longest, n_steps=4000, log2_size=16, n_neurons=32) | {
        "encoding": {"otype": "Frequency", "n_frequencies": 10},
        "network": network,
        "dir_encoding": {"otype": "Frequency", "n_frequencies": 4},
        "rgb_network": network | {"n_neurons": 128, "n_hidden_layers": 1, "output_activation": "Sigmoid"},
        "optimizer": adam(5e-4),
        "schedule": {"otype": "Exponential", "final_factor": 0.1},
    }


PRESETS: dict[str, Callable[[int], Config]] = {
    "fast": lambda longest: _grid(longest, n_steps=1000, log2_size=16, n_neurons=32),
    "balanced": lambda longest: _grid(longest, n_steps=4000, log2_size=16, n_neurons=32),
    "best": lambda longest: _grid(longest, n_steps=12000, log2_size=18, n_neurons=64),
    "proposal": _proposal,
    "vanilla": _vanilla,
    "vanilla-occupied": _vanilla_occupied,
}
"""Name -> configuration for photos of that size."""
