"""Spaces: a box, and contractions of the world around it."""

from __future__ import annotations

import math

import pytest
import torch
from reference.spaces import contract
from torch import Tensor

from fieldforge.contracts.field import check_field
from fieldforge.fields.kinds.radiance import RadianceField
from fieldforge.fields.space import NORMS, Box, Contraction
from fieldforge.registry import ConfigError, available, build

LOW, HIGH = [-3.0, 1.0, 0.25], [1.0, 2.0, 4.0]
NETWORK = {"otype": "MLP", "n_neurons": 8, "n_hidden_layers": 1, "has_bias": True}
GRID = {"otype": "HashGrid", "n_levels": 2, "log2_hashmap_size": 6, "base_resolution": 4}


def far_and_near(n: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Places from a hundredth of a box's size to ten thousand sizes from its middle; 0 to 1 is the box."""
    generator = torch.Generator().manual_seed(0)
    toward = torch.nn.functional.normalize(torch.randn(n, 3, generator=generator, dtype=torch.float64), dim=-1)
    distance = 10 ** (torch.rand(n, 1, generator=generator, dtype=torch.float64) * 6 - 2)
    return (toward * distance + 0.5).to(dtype)


def field_of(space: object) -> RadianceField:
    return RadianceField(
        encoding=GRID, network=NETWORK, rgb_network=NETWORK, low=LOW, high=HIGH, space=space, n_geometry=5,  # type: ignore[arg-type]
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip


@pytest.mark.parametrize("norm", NORMS)
def test_a_contraction_is_the_one_of_the_paper(norm: str) -> None:
    space = build("space", {"otype": "Contraction", "norm": norm})
    unit = far_and_near(300)
    world = unit * (torch.tensor(HIGH) - torch.tensor(LOW)) + torch.tensor(LOW)
    expected = torch.tensor([contract(point, LOW, HIGH, norm) for point in world.tolist()], dtype=torch.float64)
    torch.testing.assert_close(space.to_cube(unit), expected, rtol=1e-12, atol=1e-12)
    single = space.to_cube(unit.float())
    torch.testing.assert_close(single.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_the_world_fits_into_the_cube_and_the_box_into_its_inner_half(norm: str) -> None:
    space = build("space", {"otype": "Contraction", "norm": norm})
    unit = torch.cat([far_and_near(1009, torch.float32), torch.tensor([[1e30, -1e30, 3.0], [1e38, 0.5, 0.5]])])
    cube = space.to_cube(unit)
    assert ((cube >= 0) & (cube <= 1)).all()
    x = 2 * unit - 1
    is_near = (x.abs().amax(-1) if norm == "inf" else x.norm(dim=-1)) <= 1
    assert 100 < int(is_near.sum()) < 900
    torch.testing.assert_close(cube[is_near], 0.25 + 0.5 * unit[is_near])
    beyond = (4 * cube - 2).abs().amax(-1) if norm == "inf" else (4 * cube - 2).norm(dim=-1)
    assert (beyond[~is_near] >= 1 - 1e-6).all()
    assert float(beyond[-2]) == pytest.approx(2)


@pytest.mark.parametrize("norm", NORMS)
def test_a_contraction_can_be_undone(norm: str) -> None:
    space, unit = build("space", {"otype": "Contraction", "norm": norm}), far_and_near(1009)
    back = space.from_cube(space.to_cube(unit))
    assert float(((back - unit).norm(dim=-1) / (1 + unit.norm(dim=-1))).max()) < 1e-9
    assert not space.from_cube(torch.tensor([[1.0, 0.5, 0.5]])).isfinite().all()


@pytest.mark.parametrize("norm", NORMS)
def test_the_slope_of_a_contraction_is_that_of_differences(norm: str) -> None:
    space = build("space", {"otype": "Contraction", "norm": norm})
    unit = far_and_near(50)
    jacobian = torch.stack([torch.autograd.functional.jacobian(space.to_cube, point) for point in unit])
    for axis in range(3):
        step = torch.zeros(3, dtype=torch.float64)
        step[axis] = 1e-6
        size = 1 + unit.norm(dim=-1, keepdim=True)
        slope = (space.to_cube(unit + step * size) - space.to_cube(unit - step * size)) / (2e-6 * size)
        torch.testing.assert_close(jacobian[:, :, axis], slope, rtol=1e-4, atol=1e-7)


def test_neighbours_stay_neighbours_across_the_border() -> None:
    """Value and, along a ray from the middle, slope are continuous where the contraction begins."""
    for norm in NORMS:
        along = (torch.tensor([1.0, 1.0 + 1e-6], dtype=torch.float64)[:, None] * torch.tensor([1.0, 0.0, 0.0]) + 1) / 2
        cube = Contraction(norm=norm).to_cube(along)
        assert float((cube[1] - cube[0])[0] / 1e-6) == pytest.approx(0.25, rel=1e-4)


def test_what_is_no_place_is_nowhere() -> None:
    unit = torch.tensor([[0.5, math.nan, 0.5], [math.inf, 0.5, 0.5], [0.5, 0.5, 0.5], [0.5, 0.5, 1.5]])
    assert Box().holds(unit).tolist() == [False, False, True, False]
    assert Contraction().holds(unit).tolist() == [False, False, True, True]
    assert field_of("Contraction").density(unit).tolist()[:2] == [0, 0]


@pytest.mark.parametrize("space", ["Box", "Contraction", {"otype": "contraction", "norm": "2"}])
def test_fields_in_any_space_keep_the_contract(space: object) -> None:
    check_field(lambda: field_of(space))


def test_a_contracted_field_goes_on_beyond_its_box() -> None:
    far = torch.tensor([[1e3, 0.0, 0.0], [0.0, -50.0, 7.0]])
    assert (field_of("Contraction").density(far) > 0).all()
    assert not field_of("Box").density(far).any()


def test_spaces_are_parts_like_others() -> None:
    assert {"Box", "Contraction"} <= set(available("space"))
    assert field_of("box").config()["space"] == {"otype": "Box"}
    assert field_of({"otype": "Contraction"}).config()["space"] == {"otype": "Contraction", "norm": "inf"}
    with pytest.raises(ConfigError, match="no space is called 'Cube'"):
        field_of("Cube")
    with pytest.raises(ConfigError, match=r"space\.norm: expected one of inf, 2, got '3'"):
        field_of({"otype": "Contraction", "norm": "3"})


def test_a_field_without_a_space_in_its_configuration_is_a_box() -> None:
    """As files from before there were spaces are."""
    old = field_of("Box").config()
    del old["space"]
    assert build("field", old).config()["space"] == {"otype": "Box"}
