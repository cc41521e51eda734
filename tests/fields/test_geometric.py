"""An untrained field that is the distance to a sphere."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fieldforge.contracts import check_field
from fieldforge.fields.kinds.shape import SDFField

COORDINATES = {"otype": "Identity", "scale": 2.0, "offset": -1.0}
BESIDE_A_GRID = {
    "otype": "Composite",
    "nested": [
        {"otype": "HashGrid", "n_levels": 4, "log2_hashmap_size": 10, "n_dims_to_encode": 3, "dims_to_encode_begin": 0},
        COORDINATES | {"n_dims_to_encode": 3, "dims_to_encode_begin": 0},
    ],
}


def sphere(encoding: Any, activation: Any, *, width: int = 128, depth: int = 3, seed: int = 0, **more: Any) -> SDFField:
    network = {"otype": "MLP", "n_neurons": width, "n_hidden_layers": depth, "activation": activation} | more
    return SDFField(
        encoding=encoding, network=network | {"has_bias": True}, low=[-3, 1, 2], side=2.0, sphere=0.35,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip


@pytest.mark.parametrize("encoding", [COORDINATES, "Identity", BESIDE_A_GRID], ids=["centred", "plain", "grid"])
@pytest.mark.parametrize(
    ("activation", "more", "mean", "most"),
    [
        ("ReLU", {}, 0.01, 0.08),
        ({"otype": "Softplus", "beta": 100.0}, {}, 0.01, 0.08),
        ({"otype": "Softplus", "beta": 100.0}, {"input_injection": "mid", "depth": 4}, 0.01, 0.08),
        ({"otype": "Sine", "omega": 30.0}, {}, 0.03, 0.3),  # the tip of the cone, in the middle, is what it misses
    ],
    ids=["ReLU", "Softplus", "skip", "Sine"],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_an_untrained_field_is_a_sphere(
    encoding: Any, activation: Any, more: dict[str, Any], mean: float, most: float, seed: int
) -> None:
    """In sides of the cube; its surface nowhere farther than a fortieth of the side from the sphere."""
    field = sphere(encoding, activation, seed=seed, **more)
    unit = torch.rand(5000, 3, generator=torch.Generator().manual_seed(9))
    points = torch.tensor([-3.0, 1.0, 2.0]) + 2.0 * unit
    expected = 2.0 * ((unit - 0.5).norm(dim=-1) - 0.35)
    with torch.no_grad():
        error = (field.distance(points) - expected).abs() / 2.0
    assert float(error.mean()) < mean
    assert float(error.max()) < most
    assert float(error[expected.abs() < 0.04].max()) < 0.04


def test_a_grid_beside_the_coordinates_says_nothing_yet_but_learns() -> None:
    field = sphere(BESIDE_A_GRID, "ReLU")
    points = torch.rand(100, 3, generator=torch.Generator().manual_seed(0)) * 2 + torch.tensor([-3.0, 1.0, 2.0])
    before = field.distance(points).detach()
    with torch.no_grad():
        field.encoding.parts[0].table.uniform_(-1, 1, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(field.distance(points), before)
    field.distance(points).square().sum().backward()
    first = field.network.layers[0].weight.grad
    assert bool((first[:, :8] != 0).any())


def test_a_sphere_keeps_what_every_field_promises() -> None:
    check_field(lambda: sphere(BESIDE_A_GRID, "ReLU", width=16, depth=2))


@pytest.mark.parametrize(
    ("encoding", "network", "message"),
    [
        ({"otype": "HashGrid", "n_levels": 2}, {"has_bias": True}, "the coordinates among the features"),
        (COORDINATES, {}, "has_bias=false"),
        (COORDINATES, {"has_bias": True, "activation": "Tanh"}, "not Tanh"),
        (COORDINATES, {"has_bias": True, "output_activation": "Tanh"}, "not Tanh after"),
        (COORDINATES, {"has_bias": True, "n_hidden_layers": 0}, "not MLP"),
    ],
)
def test_what_has_no_sphere_is_refused(encoding: Any, network: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SDFField(encoding=encoding, network={"otype": "MLP"} | network, sphere=0.3)
