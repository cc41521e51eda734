"""Named starting points for `fit collection`, each a complete run configuration.

Networks are small on purpose: the weights are data that something else is to learn from, and a field with many more
parameters than its item has pixels hardly moves from where it began (Erkoç et al. 2023; our own measurements).
"""

from __future__ import annotations

from collections.abc import Callable

from fieldforge.apps.fit.recipe import Config, adam
from fieldforge.checks import expect_choice

KINDS = {"image": "ImageField", "occupancy": "OccupancyField", "sdf": "SDFField"}
"""What is fitted -> the otype of the field."""

LOSSES = {"image": "L2", "occupancy": "BinaryCrossEntropy", "sdf": "L1"}


def preset(name: str | None, kind: str) -> Config:
    """The run configuration of a named preset: encoding, network, loss, optimizer, schedule and fit.

    None is siren for pictures and relu for shapes, which brings them to a higher IoU in less time.

    Raises:
        ValueError: no such preset, or no such kind.
    """
    kind = expect_choice("kind", kind, KINDS)
    name = expect_choice("preset", name or ("siren" if kind == "image" else "relu"), PRESETS)
    return PRESETS[name](kind != "image") | {"loss": {"otype": LOSSES[kind]}}


def _siren(is_shape: bool) -> Config:
    """987 parameters for a grey picture, 4,945 for a shape."""
    omega = 20.0 if is_shape else 15.0
    return {
        "encoding": {"otype": "Identity", "scale": 2.0, "offset": -1.0},
        "network": _network({"otype": "Sine", "omega": omega}, *((48, 3) if is_shape else (29, 2))),
        "optimizer": adam(3e-3 if is_shape else 1e-2),
        "schedule": {"otype": "Cosine", "final_factor": 0.01},
        "fit": _fit(is_shape),
    }


def _relu(is_shape: bool) -> Config:
    """Octaves and ReLU, as HyperDiffusion's: 967 parameters for a grey picture, 4,931 for a shape."""
    return {
        "encoding": {"otype": "Frequency", "n_frequencies": 4},
        "network": _network("ReLU", *((58, 2) if is_shape else (23, 2))),
        "optimizer": adam(1e-2),
        "schedule": {"otype": "Cosine", "final_factor": 0.01},
        "fit": _fit(is_shape),
    }


def _tiny(is_shape: bool) -> Config:
    """105 parameters for a grey picture, 1,185 for a shape: for pictures of 8 x 8 pixels, and quick trials."""
    config = _siren(is_shape)
    config["network"] = _network({"otype": "Sine", "omega": 6.0}, *((32, 2) if is_shape else (8, 2)))
    config["optimizer"] = adam(1e-2)
    return config


def _triplane(is_shape: bool) -> Config:
    """Planes of 8 channels and a small MLP (Cardace et al., ICLR 2024, whose planes are 16 channels of 32 x 32): one of
    8 x 8 for a picture, 673 parameters if it is grey; three of 16 x 16 for a shape, 7,521."""
    return {
        "encoding": {"otype": "TriPlane", "resolution": 16 if is_shape else 8, "n_features": 8},
        "network": _network("ReLU", *((32, 2) if is_shape else (16, 1))),
        "optimizer": adam(3e-2 if is_shape else 1e-1),
        "schedule": {"otype": "Cosine", "final_factor": 0.01},
        "fit": _fit(is_shape),
    }


def _network(activation: str | Config, n_neurons: int, n_hidden_layers: int) -> Config:
    return {
        "otype": "MLP", "n_neurons": n_neurons, "n_hidden_layers": n_hidden_layers, "activation": activation,
        "has_bias": True,
    }  # fmt: skip


def _fit(is_shape: bool) -> Config:
    return {"n_steps": 800 if is_shape else 200, "batch_size": 1024}


PRESETS: dict[str, Callable[[bool], Config]] = {"siren": _siren, "relu": _relu, "tiny": _tiny, "triplane": _triplane}
"""Name -> configuration; of a shape or of a picture."""
