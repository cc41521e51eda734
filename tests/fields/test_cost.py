"""Multiply-adds are counted as PyTorch counts them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fieldforge.backends import use_backend
from fieldforge.fields.cost import Cost, cost_of
from fieldforge.fields.kinds.image import ImageField
from fieldforge.fields.kinds.radiance import RadianceField

VANILLA = {"otype": "MLP", "n_neurons": 256, "n_hidden_layers": 8, "has_bias": True}
KILO = {"otype": "MLP", "n_neurons": 32, "n_hidden_layers": 2, "has_bias": True}


def scene(network: Any, rgb: Any, n_geometry: int, partition: Any = None) -> RadianceField:
    return RadianceField(
        encoding={"otype": "Frequency", "n_frequencies": 10}, network=network, rgb_network=rgb, n_geometry=n_geometry,
        dir_encoding={"otype": "Frequency", "n_frequencies": 4}, partition=partition,
    )  # fmt: skip


def counted(run: Any) -> int:
    with use_backend("reference"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(
    "field",
    [
        scene(VANILLA, VANILLA | {"n_neurons": 128, "n_hidden_layers": 1}, 16),
        scene(VANILLA | {"input_injection": "mid", "has_bias": False}, KILO, 256),
        scene(KILO, KILO | {"n_hidden_layers": 1}, 33, {"otype": "UniformGrid", "resolution": 2}),
        scene(KILO, KILO | {"n_hidden_layers": 0}, 33, {"otype": "KDTree", "splits": [[0, 1]]}),
    ],
)
def test_the_cost_of_a_scene_is_what_torch_counts(field: RadianceField) -> None:
    cost = cost_of(field)
    assert cost is not None
    points, along = torch.rand(2, 37, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert counted(lambda: field.density(points)) == 37 * cost.density
    assert counted(lambda: field.radiance(points, along)) == 37 * (cost.density + cost.color)


def test_networks_of_other_layers_are_not_counted() -> None:
    assert cost_of(ImageField(encoding="Identity", network={"otype": "KAN"}, width=4, height=4)) is None
    plain = ImageField(encoding="Identity", network=KILO, width=4, height=4)
    assert cost_of(plain) == Cost(2 * 32 + 32 * 32 + 32 * 3, 0)


def test_a_small_network_is_a_hundredth_of_the_large_one() -> None:
    small = cost_of(scene(KILO, KILO | {"n_hidden_layers": 1}, 33, "UniformGrid"))
    large = cost_of(scene(VANILLA, VANILLA | {"n_neurons": 128, "n_hidden_layers": 1}, 256))
    assert small is not None
    assert large is not None
    assert small == (60 * 32 + 32 * 32 + 32 * 33, (33 + 24) * 32 + 32 * 3)
    assert 80 < sum(large) / sum(small) < 110
