"""The halves of a cell begin as the whole was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fieldforge.fields.kinds.base import Field
from fieldforge.fields.kinds.image import ImageField
from fieldforge.fields.kinds.radiance import RadianceField
from fieldforge.fields.kinds.shape import SDFField
from fieldforge.fields.partitions.inheritance import inherit
from fieldforge.fields.partitions.kd_tree import split_worst

CENTERED = {"otype": "Identity", "scale": 2.0, "offset": -1.0}
RELU = {"otype": "MLP", "n_neurons": 8, "n_hidden_layers": 2, "has_bias": True}
FAN = {"otype": "FAN", "n_neurons": 8, "n_hidden_layers": 1}
WIRE = RELU | {"activation": "WIRE"}


def shaken(field: Field) -> Field:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in field.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator).to(parameter)
    return field


def image(partition: Any, network: Any = RELU, encoding: Any = CENTERED) -> ImageField:
    return ImageField(
        encoding=encoding, network=network, width=9, height=7, partition=partition,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip


def halved(field: Any, make: Any, seed: int) -> tuple[Any, Tensor]:
    """The field with about half of its cells cut, and parents."""
    errors = torch.rand(field.partition.n_cells, generator=torch.Generator().manual_seed(seed))
    tree, parent = split_worst(field.partition, errors, 0.5)
    assert tree.n_cells > field.partition.n_cells
    return make(tree), parent


@pytest.mark.parametrize("network", [RELU, RELU | {"activation": "Tanh"}, FAN, WIRE, RELU | {"n_hidden_layers": 0}])
def test_a_cut_does_not_change_a_field_that_reads_its_coordinates(network: Any) -> None:
    def make(partition: Any) -> ImageField:
        return image(partition, network)

    field = shaken(make({"otype": "UniformGrid", "resolution": [3, 2]}))
    points = torch.rand(500, 2, generator=torch.Generator().manual_seed(2)) * torch.tensor([9.0, 7.0])
    before = field.color(points)
    for seed in range(3):  # cuts of cuts
        heir, parent = halved(field, make, seed)
        assert inherit(heir, field, parent) == ""
        torch.testing.assert_close(heir.color(points), before, rtol=1e-5, atol=1e-5)
        field = heir


def test_a_cut_of_a_sine_network_is_exact_but_for_rounding() -> None:
    """In float64: a frequency of 30 enlarges what float32 rounds."""

    def make(partition: Any) -> Any:
        return image(partition, RELU | {"activation": {"otype": "Sine", "omega": 30.0}}).double()

    field = shaken(make({"otype": "UniformGrid", "resolution": 2}))
    heir, parent = halved(field, make, 0)
    assert inherit(heir, field, parent) == ""
    points = torch.rand(200, 2, dtype=torch.float64) * 7
    torch.testing.assert_close(heir.color(points), field.color(points), rtol=1e-9, atol=1e-9)


def test_a_cut_does_not_change_shapes_and_scenes() -> None:
    def shape(partition: Any) -> SDFField:
        return SDFField(encoding=CENTERED, network=RELU, partition=partition)

    def scene(partition: Any) -> RadianceField:
        return RadianceField(
            encoding=CENTERED, network=RELU, rgb_network=RELU | {"output_activation": "Sigmoid"}, n_geometry=3,
            partition=partition, low=[-3.0, 0.0, 1.0], high=[1.0, 2.0, 4.0],
        )  # fmt: skip

    for make in (shape, scene):
        field: Any = shaken(make({"otype": "UniformGrid", "resolution": 2}))  # type: ignore[operator]
        heir, parent = halved(field, make, 1)
        assert inherit(heir, field, parent) == ""
        (low, high), generator = field.box, torch.Generator().manual_seed(3)
        unit = torch.rand(200, 3, generator=generator)
        points = torch.tensor(low) + unit * (torch.tensor(high) - torch.tensor(low))
        torch.testing.assert_close(heir(points), field(points), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("network", "encoding", "said"), [
    (RELU, {"otype": "Frequency", "n_frequencies": 2}, "Frequency of half a place is not a linear function"),
    (RELU, {"otype": "HashGrid", "n_levels": 2, "log2_hashmap_size": 5, "base_resolution": 2}, "Grid of half a place"),
    (RELU | {"has_bias": False}, CENTERED, "no first layer that alone reads the place, with a bias"),
    (WIRE | {"input_injection": "all"}, CENTERED, "no first layer"),
    ({"otype": "KAN", "n_neurons": 4}, CENTERED, "stack of KANs has no first layer"),
])  # fmt: skip
def test_where_no_layer_takes_the_cut_in_numbers_are_copied_and_it_is_said(
    network: Any, encoding: Any, said: str
) -> None:
    """A cell that was not cut stays what it was; a half says in its place what the whole said in all of it."""

    def make(partition: Any) -> ImageField:
        return image(partition, network, encoding)

    field = shaken(make({"otype": "KDTree", "resolution": [2, 1]}))
    tree, parent = split_worst(field.partition, torch.tensor([0.0, 1.0]), 0.5)  # type: ignore[arg-type]
    heir = make(tree)
    assert said in inherit(heir, field, parent)
    local = torch.rand(30, 2, generator=torch.Generator().manual_seed(0))
    left = local * torch.tensor([0.5, 1.0])
    torch.testing.assert_close(heir.outputs(left), field.outputs(left))
    low, high = tree.boxes()
    for cell in (1, 2):
        inside = (low[cell] + local * (high[cell] - low[cell])).float()
        whole = torch.tensor([0.5, 0.0]) + local * torch.tensor([0.5, 1.0])
        torch.testing.assert_close(heir.outputs(inside), field.outputs(whole), rtol=1e-3, atol=1e-4)


def test_without_a_cut_all_stays_and_other_fields_are_refused() -> None:
    field, heir = shaken(image("UniformGrid")), image("UniformGrid")
    assert inherit(heir, field, torch.arange(64)) == ""
    points = torch.rand(20, 2) * 7
    assert torch.equal(heir.color(points), field.color(points))
    with pytest.raises(ValueError, match="expected two fields with cells"):
        inherit(image(None), field, torch.arange(64))
    with pytest.raises(ValueError, match="one int64 for each of 64 cells"):
        inherit(heir, field, torch.arange(3))
    with pytest.raises(ValueError, match="from 0 to 63"):
        inherit(heir, field, torch.arange(64) + 1)
    with pytest.raises(ValueError, match="a field of the same parts"):
        inherit(image("UniformGrid", FAN), field, torch.arange(64))
