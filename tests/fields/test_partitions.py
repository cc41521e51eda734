"""Partitions: each point in one cell, and a field of many small networks that is what its cells say."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from fieldforge.backends import use_backend
from fieldforge.contracts import check_field, check_partition
from fieldforge.fields.file import FieldFileError, load_field, save_field
from fieldforge.fields.kinds.base import Field
from fieldforge.fields.kinds.image import ImageField
from fieldforge.fields.kinds.radiance import RadianceField
from fieldforge.fields.kinds.shape import SDFField
from fieldforge.fields.partitions.base import Partition
from fieldforge.fields.partitions.kd_tree import KDTree, split_worst
from fieldforge.fields.partitions.stacks import StackedEncoding, StackedNetwork
from fieldforge.fields.partitions.uniform_grid import UniformGrid
from fieldforge.registry import ConfigError, build

NETWORK = {"otype": "MLP", "n_neurons": 8, "n_hidden_layers": 2, "has_bias": True}
COLORS = NETWORK | {"output_activation": "Sigmoid", "n_hidden_layers": 1}
PLACE = {"otype": "Frequency", "n_frequencies": 3}
GRID = {"otype": "HashGrid", "n_levels": 2, "log2_hashmap_size": 6, "base_resolution": 2}


def image(partition: Any, encoding: Any = PLACE, network: Any = NETWORK, seed: int = 0) -> ImageField:
    generator = torch.Generator().manual_seed(seed)
    return ImageField(encoding=encoding, network=network, width=12, height=8, partition=partition, generator=generator)


def scene(partition: Any, **keywords: Any) -> RadianceField:
    given: dict[str, Any] = {"encoding": PLACE, "network": NETWORK, "rgb_network": COLORS, "n_geometry": 5}
    generator = torch.Generator().manual_seed(keywords.pop("seed", 0))
    return RadianceField(**given | keywords, partition=partition, generator=generator)


def shake(field: Field, seed: int = 1) -> Field:
    """Every cell has numbers of its own."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in field.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return field


def random_partition(seed: int) -> Partition:
    """Any grid, or any tree, of one to three dimensions."""
    generator = torch.Generator().manual_seed(seed)
    d = 1 + seed % 3
    resolution = torch.randint(1, 7, (d,), generator=generator).tolist()
    if seed % 2:
        return UniformGrid(d, resolution=resolution)
    n_cells, splits = math.prod(resolution), []
    for _ in range(int(torch.randint(0, 40, (), generator=generator))):
        cell = int(torch.randint(0, n_cells + len(splits), (), generator=generator))
        splits.append([cell, int(torch.randint(0, d, (), generator=generator))])
    try:
        return KDTree(d, resolution=resolution, splits=splits)
    except ValueError:  # one place was cut 25 times
        return KDTree(d, resolution=resolution)


@pytest.mark.parametrize("seed", range(12))
def test_partitions_keep_the_contract(seed: int) -> None:
    check_partition(lambda: random_partition(seed))


def test_a_face_belongs_to_the_cell_above() -> None:
    grid = UniformGrid(3, resolution=[2, 4, 1])
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])] * 3)
    cell, local = grid.locate(corners)
    for point, at, where in zip(corners.tolist(), cell.tolist(), local.tolist(), strict=True):
        x, y = min(1, int(point[0] * 2)), min(3, int(point[1] * 4))
        assert at == x * 4 + y
        assert where == [point[0] * 2 - x, point[1] * 4 - y, point[2]]


def test_a_tree_of_halves_is_a_grid() -> None:
    """Cut everywhere, it has the same cells in another order, and the same places in them."""
    splits = [[0, 0], [0, 1], [1, 1], [0, 0], [1, 0], [2, 0], [3, 0]]
    tree, grid = KDTree(2, resolution=1, splits=splits), UniformGrid(2, resolution=[4, 2])
    unit = torch.rand(500, 2, generator=torch.Generator().manual_seed(0))
    (of_tree, local), (of_grid, expected) = tree.locate(unit), grid.locate(unit)
    assert torch.equal(local, expected)
    pairs = set(zip(of_tree.tolist(), of_grid.tolist(), strict=True))
    assert len(pairs) == 8
    assert len({cell for cell, _ in pairs}) == 8


@pytest.mark.parametrize(
    "make",
    [
        lambda: image({"otype": "UniformGrid", "resolution": [3, 2]}),
        lambda: image({"otype": "KDTree", "resolution": 2, "splits": [[0, 0], [4, 1]]}),
        lambda: image({"otype": "UniformGrid", "resolution": 2}, encoding=GRID),
        lambda: image({"otype": "UniformGrid", "resolution": 2}, network={"otype": "FAN", "n_neurons": 8}),
        lambda: SDFField(encoding=PLACE, network=NETWORK, partition={"otype": "UniformGrid", "resolution": 2}),
        lambda: scene({"otype": "UniformGrid", "resolution": [2, 3, 1]}, low=[-3.0, 0.0, 1.0], high=[1.0, 2.0, 4.0]),
        lambda: scene({"otype": "UniformGrid", "resolution": 2}, rgb_encoding=GRID, occupancy=8, space="Contraction"),
        lambda: scene({"otype": "KDTree", "splits": [[0, 3], [0, 1]]}, appearance=2, n_photos=3, duration=0.5),
    ],
)
def test_fields_of_cells_keep_the_contract(make: Any) -> None:
    check_field(make)


@pytest.mark.parametrize("network", [NETWORK, {"otype": "FAN", "n_neurons": 8}])
@pytest.mark.parametrize("encoding", [PLACE, GRID])
def test_one_cell_is_the_plain_field(encoding: Any, network: Any) -> None:
    plain, cells = image(None, encoding, network), image({"otype": "UniformGrid", "resolution": 1}, encoding, network)
    points = torch.rand(40, 2, generator=torch.Generator().manual_seed(2)) * torch.tensor([14.0, 9.0]) - 1
    torch.testing.assert_close(cells.color(points), plain.color(points), rtol=1e-5, atol=1e-6)
    with use_backend("reference"):
        assert torch.equal(cells.color(points), plain.color(points))


def test_one_cell_is_the_plain_scene() -> None:
    plain, cells = scene(None), scene({"otype": "UniformGrid", "resolution": 1})
    points, along = torch.rand(2, 40, 3, generator=torch.Generator().manual_seed(2)) * 2 - 1
    for mine, other in zip(cells.radiance(points, along), plain.radiance(points, along), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)
    assert torch.equal(cells.radiance(points, along)[0], cells.density(points))


def loop(field: Field, unit: Tensor) -> Tensor:
    """What a field says, one point after another, by the network of its cell alone."""
    assert field.partition is not None
    assert isinstance(field.network, StackedNetwork)
    cell, local = field.partition.locate(unit)
    outs = []
    with use_backend("reference"):
        for index, place in zip(cell.tolist(), local, strict=True):
            if isinstance(field.encoding, StackedEncoding):
                one = {name: p[index] for name, p in field.encoding.one.named_parameters()}
                features = torch.func.functional_call(field.encoding.one, one, (place[None],))
            else:
                features = field.encoding(place[None])
            outs.append(field.network.of_cell(index)(features)[0])
    return torch.stack(outs) if outs else unit.new_zeros(0, field.n_output_dims)


@pytest.mark.parametrize("seed", range(6))
def test_the_grouped_field_is_the_loop_over_its_networks(seed: int) -> None:
    """Any partition, any number of points: none, one, fewer than cells, and all in one corner."""
    generator = torch.Generator().manual_seed(seed)
    partition = {"otype": "KDTree", "resolution": [3, 2], "splits": [[1, 0], [6, 1]]} if seed % 2 else "UniformGrid"
    encoding = GRID if seed == 2 else PLACE
    field = shake(image(partition, encoding, {"otype": "FAN", "n_neurons": 8} if seed == 3 else NETWORK), seed)
    for n in (0, 1, 17, 131):
        unit = torch.rand(n, 2, generator=generator) * (0.1 if n == 131 else 1)
        torch.testing.assert_close(field.outputs(unit), loop(field, unit), rtol=1e-5, atol=1e-5)


def test_equal_numbers_everywhere_are_one_network_in_every_cell() -> None:
    field = image({"otype": "UniformGrid", "resolution": [3, 5]})
    place = torch.rand(20, 2, generator=torch.Generator().manual_seed(3))
    alone = image(None)
    expected = alone.outputs(place)
    for corner in torch.cartesian_prod(torch.arange(3), torch.arange(5)):
        unit = (corner + place) / torch.tensor([3, 5])
        torch.testing.assert_close(field.outputs(unit), expected, rtol=1e-3, atol=1e-4)  # places are rounded


def test_gradients_of_the_grouped_field_are_those_of_the_loop() -> None:
    field = shake(image({"otype": "UniformGrid", "resolution": [3, 2]})).double()
    unit = torch.rand(30, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    weight = torch.randn(30, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    wanted = [unit, *field.parameters()]
    mine = torch.autograd.grad((field.outputs(unit) * weight).sum(), wanted)
    assert field.partition is not None
    assert isinstance(field.network, StackedNetwork)
    assert field.network.mlp is not None
    cell, local = field.partition.locate(unit)
    total = unit.new_zeros(())
    for i, index in enumerate(cell.tolist()):
        h = field.encoding(local[i])
        for layer, (w, b) in enumerate(zip(field.network.mlp.weights, field.network.mlp.biases, strict=True)):
            h = w[index] @ h + b[index]
            h = h.relu() if layer < 2 else h
        total = total + h @ weight[i]
    for one, other in zip(mine, torch.autograd.grad(total, wanted), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


def test_an_edge_is_no_slope() -> None:
    assert image("UniformGrid").smoothness == -1
    assert image({"otype": "UniformGrid", "resolution": 1}).smoothness == image(None).smoothness


def test_the_worst_cells_are_cut_across_their_longest_side() -> None:
    tree, parent = split_worst(UniformGrid(3, resolution=2), torch.tensor([0.0, 5, 1, 1, math.nan, 3, 1, 1]), 2.0,
                               sides=[1.0, 3.0, 2.0])  # fmt: skip
    assert tree.splits == [[1, 1], [5, 1]]
    assert parent.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 1, 5]
    again, parent = split_worst(tree, torch.arange(10.0), 1.5, sides=[1.0, 3.0, 2.0], max_cells=12)
    assert again.splits == [[1, 1], [5, 1], [8, 2], [9, 2]]
    assert parent.tolist() == [*range(10), 8, 9]
    unit = torch.rand(200, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(parent[again.locate(unit)[0]], tree.locate(unit)[0])


def test_a_file_holds_the_cells(tmp_path: Any) -> None:
    field = shake(scene({"otype": "KDTree", "resolution": 2, "splits": [[3, 1], [8, 2]]}))
    save_field(tmp_path / "a.field", field, dtype="float16")
    loaded, _ = load_field(tmp_path / "a.field")
    assert isinstance(loaded, RadianceField)
    assert loaded.config() == field.config()
    assert isinstance(loaded.partition, KDTree)
    points = torch.rand(50, 3) * 2 - 1
    torch.testing.assert_close(loaded.density(points), field.density(points), rtol=2e-2, atol=1e-2)


def test_a_file_that_asks_for_more_cells_than_it_holds_is_refused_unread(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    field = image({"otype": "UniformGrid", "resolution": 2})
    config = field.config()
    for partition, said in (
        ({"otype": "UniformGrid", "resolution": [100, 100]}, "network"),
        ({"otype": "UniformGrid", "resolution": [2**20, 2**20]}, "at most"),
        ({"otype": "KDTree", "resolution": 2, "splits": [[4, 0]]}, "splits"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(type(field), "config", lambda self, p=partition: config | {"partition": p})
            patch.setattr("fieldforge.fields.file.misfit", lambda *_: None)
            patch.setattr("fieldforge.fields.file.skeleton_of", lambda _: field)
            save_field(tmp_path / "a.field", field)
        with pytest.raises(FieldFileError, match=said):
            load_field(tmp_path / "a.field")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"otype": "UniformGrid", "resolution": 0}, r"resolution\[0\]"),
        ({"otype": "UniformGrid", "resolution": [1, 2]}, "one for each of 3 axes"),
        ({"otype": "UniformGrid", "resolution": 1000}, "at most 1,048,576 cells"),
        ({"otype": "UniformGrid", "cells": 3}, "no such key"),
        ({"otype": "KDTree", "splits": [[1, 0]]}, r"splits\[0\]\[0\]: expected an integer from 0 to 0"),
        ({"otype": "KDTree", "splits": [[0, 3]]}, r"splits\[0\]\[1\]: expected an integer from 0 to 2"),
        ({"otype": "KDTree", "splits": [[0]]}, "expected a cell and an axis"),
        ({"otype": "KDTree", "splits": [[0, 0]] * 25}, "24 times already"),
        ("Octree", "no partition is called"),
    ],
)
def test_cells_that_cannot_be_are_named(config: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build("partition", config, n_input_dims=3)


def test_networks_that_cells_cannot_have_are_named() -> None:
    for network, said in (
        (NETWORK | {"modulation": "CAM"}, "without modulation"),
        (NETWORK | {"n_neurons": 4000}, "2|parameters"),
        ({"otype": "PINs"}, "network"),
    ):
        partition = {"otype": "UniformGrid", "resolution": 64}
        with pytest.raises(ValueError, match=said), torch.device("meta"):
            image(partition, network=network)
    with pytest.raises(ValueError, match="sphere: is of one network"):
        SDFField(encoding="Identity", network=NETWORK, partition="UniformGrid", sphere=0.3)
    stack = StackedNetwork(image(None).network, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected a stack for 64 cells, got one for 3"):
        image("UniformGrid", network=stack)
