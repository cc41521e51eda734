"""Fields inside and outside of a sphere."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fieldforge.contracts.field import check_field
from fieldforge.fields.kinds.inside_outside import InsideOutsideField

NETWORK = {"otype": "MLP", "n_neurons": 8, "n_hidden_layers": 1, "has_bias": True}
COLORS = NETWORK | {"output_activation": "Sigmoid"}
GRID = {"otype": "HashGrid", "n_levels": 2, "log2_hashmap_size": 6, "base_resolution": 4}
INSIDE = {"otype": "RadianceField", "encoding": GRID, "network": NETWORK, "rgb_network": COLORS, "n_geometry": 5}
CENTER, RADIUS = [1.0, -2.0, 0.5], 2.5


def make(**keywords: Any) -> InsideOutsideField:
    given: dict[str, Any] = {
        "inside": INSIDE, "outside_encoding": GRID, "outside_network": NETWORK, "outside_rgb_network": COLORS,
        "center": CENTER, "radius": RADIUS, "n_geometry": 4,
    }  # fmt: skip
    return InsideOutsideField(**given | keywords)


def test_it_keeps_the_contract() -> None:
    check_field(make)


def test_inside_is_inside_and_outside_is_the_rest() -> None:
    field = make()
    toward = torch.nn.functional.normalize(torch.randn(50, 3), dim=-1)
    near, far = (torch.tensor(CENTER) + RADIUS * share * toward for share in (0.99, 4.0))
    density, color = field.radiance(near, toward)
    expected = field.inside.radiance(near, toward)
    assert torch.equal(density, expected[0])
    assert torch.equal(color, expected[1])
    assert torch.equal(field.inside_density(near), density)
    assert not field.inside_density(far).any()
    density, color = field.radiance(far, toward)
    along_s, expected_color = field.outside_radiance(torch.cat([toward, torch.full((50, 1), 0.25)], -1), toward)
    torch.testing.assert_close(color, expected_color)
    torch.testing.assert_close(density, along_s / 16 / RADIUS)  # of a radius r, ds = dr / r^2


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match="expected the cube around the sphere"):
        make(inside=INSIDE | {"low": [0.0, 0.0, 0.0]})
    with pytest.raises(ValueError, match="expected a RadianceField in the space Box"):
        make(inside=INSIDE | {"space": "Contraction"})
    with pytest.raises(ValueError, match="radius: expected a finite number above 0"):
        make(radius=0.0)
    with pytest.raises(ValueError, match=r"outside_network\.n_neuron"):
        make(outside_network={"otype": "MLP", "n_neuron": 3})
