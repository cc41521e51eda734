"""Radiance fields: density and colour in a box of the world."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from fieldforge.contracts.field import check_field
from fieldforge.fields.kinds.radiance import RadianceField, truncated_exp

NETWORK = {"otype": "MLP", "n_neurons": 8, "n_hidden_layers": 1, "has_bias": True}
COLORS = NETWORK | {"output_activation": "Sigmoid"}
TIME_GRID = {"otype": "TimeGrid", "n_levels": 2, "log2_hashmap_size": 6, "base_resolution": 4, "time_resolution": 3}
GRID = {"otype": "HashGrid", "n_levels": 2, "log2_hashmap_size": 6, "base_resolution": 4}


def make(**keywords: Any) -> RadianceField:
    given: dict[str, Any] = {"encoding": GRID, "network": NETWORK, "rgb_network": COLORS, "n_geometry": 5}
    return RadianceField(**given | keywords)


SECOND: dict[str, Any] = {"rgb_encoding": {"otype": "TensorVM", "resolution": 4, "n_components": 2}}


@pytest.mark.parametrize(
    "keywords",
    [
        {},
        {"density_activation": "softplus", "occupancy": 9, "background": [1, 1, 1]},
        SECOND | {"density_activation": "softplus", "density_shift": -3.0, "density_scale": 25.0},
        {"rgb_encoding": TIME_GRID, "duration": 0.5},
        {"appearance": 3, "n_photos": 4, "background_network": COLORS, "encoding": TIME_GRID, "duration": 1.0},
        {
            "rgb_encoding": {"otype": "PREF", "resolution": 4, "n_features": 2, "parts": "Complex"},
            "rgb_network": {"otype": "Basis", "n_basis": 3, "n_direct": 16, "n_frequencies": 1, "nested": COLORS},
        },
        {
            "rgb_encoding": {"otype": "DenseGrid", "n_levels": 4, "base_resolution": 4, "per_level_scale": 1.0},
            "dir_encoding": {"otype": "SphericalHarmonics", "degree": 1},
            "rgb_network": {"otype": "DotProduct", "n_basis": 1},
        },
    ],
)
def test_radiance_fields_keep_the_contract(keywords: dict[str, Any]) -> None:
    check_field(lambda: make(low=[-3.0, 1.0, 0.25], high=[1.0, 2.0, 4.0], **keywords))


def test_cascades_lie_in_a_box_and_around_a_contraction() -> None:
    box = {"low": [-4.0, 0.0, 0.0], "high": [4.0, 8.0, 16.0], "n_cascades": 3, "occupancy": 9}
    assert make(**box).innermost == ([-1, 3, 6], [1, 5, 10])
    assert make(**box, space="Contraction").innermost == ([-4, 0, 0], [4, 8, 16])
    assert make(**box).bricks.shape == (3, 3, 3, 3)
    check_field(lambda: make(**box, space="Contraction"))


def test_nothing_is_outside_the_box() -> None:
    field = make()
    points = torch.tensor([[1.01, 0.0, 0.0], [0.0, -1.5, 0.0], [0.0, 0.0, math.inf]])
    assert field.density(points).tolist() == [0, 0, 0]
    assert (field.density(points[:2] * 0.5) > 0).all()


def test_density_is_per_world_unit() -> None:
    """The same network in a box twice the size: half the density, so that rays through it see the same."""
    small = make()
    large = make(
        encoding=small.encoding, network=small.network, rgb_network=small.rgb_network,
        low=[-2.0, -2.0, -2.0], high=[2.0, 2.0, 2.0],
    )  # fmt: skip
    points = torch.rand(20, 3) * 2 - 1
    torch.testing.assert_close(2 * large.density(2 * points), small.density(points))


def test_the_density_alone_is_the_one_beside_the_colour() -> None:
    field = make()
    points, directions = torch.rand(2, 30, 3)
    directions = torch.nn.functional.normalize(directions, dim=-1)
    density, color = field.radiance(points, directions)
    assert torch.equal(density, field.density(points))
    assert color.shape == (30, 3)
    assert ((color > 0) & (color < 1)).all()


def test_a_second_encoding_is_read_between_the_geometry_and_the_code() -> None:
    field = make(**SECOND)
    points, directions = torch.rand(2, 30, 3)
    directions = torch.nn.functional.normalize(directions, dim=-1)
    assert field.rgb_encoding is not None
    geometry, _ = field.geometry(points)
    read = [geometry, field.rgb_encoding(0.5 * points + 0.5), field.dir_encoding(0.5 * directions + 0.5)]
    density, color = field.radiance(points, directions)
    assert torch.equal(color, field.rgb_network(torch.cat(read, -1)))
    color.sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in field.rgb_encoding.parameters())
    for parameter in field.rgb_encoding.parameters():
        parameter.data += 1
    again, other = field.radiance(points, directions)
    assert torch.equal(again, density)
    assert not torch.equal(other, color)


@pytest.mark.parametrize("activation", ["softplus", "exponential"])
def test_the_density_is_shifted_and_then_scaled(activation: str) -> None:
    plain = make(density_activation=activation)
    other = make(
        encoding=plain.encoding, network=plain.network, rgb_network=plain.rgb_network, density_activation=activation,
        density_shift=-2.0, density_scale=5.0,
    )  # fmt: skip
    points = torch.rand(20, 3) * 2 - 1
    number = plain.geometry(points)[0][:, 0] - 2
    value = number.exp() if activation == "exponential" else torch.nn.functional.softplus(number)
    torch.testing.assert_close(other.density(points), 5 * value / 2)


def test_colour_depends_on_the_direction_and_density_does_not() -> None:
    field = make()
    points = torch.zeros(2, 3)
    density, color = field.radiance(points, torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]))
    assert density[0] == density[1]
    assert not torch.equal(color[0], color[1])


def test_the_exponential_is_cut_and_keeps_its_slope() -> None:
    x = torch.tensor([-2.0, 0.5, 14.0], dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(truncated_exp, x)
    far = torch.tensor([40.0, 1e30], requires_grad=True)
    value: Tensor = truncated_exp(far)
    value.sum().backward()
    assert torch.equal(value.detach(), torch.full((2,), 15.0).exp())
    assert far.grad is not None
    assert torch.equal(far.grad, value.detach())


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"low": [0, 0]}, "low: expected three numbers"),
        ({"low": [1, 0, 0]}, "high: expected each number above"),
        ({"background": [0, math.nan, 0]}, r"background\[1\]: expected a finite number"),
        ({"density_activation": "tanh"}, "density_activation: expected one of"),
        ({"rgb_network": {"otype": "MLP", "n_neuron": 3}}, r"rgb_network\.n_neuron"),
        ({"dir_encoding": "Nope"}, "dir_encoding"),
        ({"duration": 1.5}, "duration: expected"),
        ({"appearance": 4}, "n_photos: expected an integer from 1 to"),
        ({"n_photos": 4}, "n_photos: expected"),
        ({"encoding": TIME_GRID | {"time_resolution": 1}, "duration": 1.0}, r"encoding\.time_resolution"),
        ({"rgb_encoding": {"otype": "TensorVM", "n_component": 3}}, r"rgb_encoding\.n_component"),
        ({"density_shift": math.nan}, "density_shift: expected a finite number"),
        ({"density_scale": 0.0}, "density_scale: expected a finite number above 0"),
    ],
)
def test_what_cannot_be_built_is_named(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**keywords)


def test_a_direction_belongs_to_each_point() -> None:
    with pytest.raises(ValueError, match="directions: expected one for each point"):
        make().radiance(torch.zeros(4, 3), torch.zeros(3, 3))


def test_a_field_that_changes_is_asked_at_times() -> None:
    field = make(encoding=TIME_GRID, duration=1.0)
    with torch.no_grad():
        for table in field.encoding.parameters():
            table.normal_(generator=torch.Generator().manual_seed(0))
    points, times = torch.rand(2, 5, 3) - 0.5, torch.rand(2, 5)
    density = field.density(points, times)
    assert not torch.equal(density, field.density(points, 1 - times))
    assert torch.equal(density, field(torch.cat([points, times[..., None]], -1)))
    assert torch.equal(field.density(points, times + 5), field.density(points, torch.ones_like(times)))
    for wrong in (None, times[:1]):
        with pytest.raises(ValueError, match="times: expected one for each point"):
            field.density(points, wrong)
    with pytest.raises(ValueError, match="times: this field stands still"):
        make().density(points, times)


def test_photos_change_colours_alone_and_their_mean_stands_for_none() -> None:
    field = make(appearance=3, n_photos=4)
    points, directions = torch.rand(6, 3), torch.nn.functional.normalize(torch.rand(6, 3), dim=-1)
    first, second = (field.radiance(points, directions, photos=torch.full((6,), photo)) for photo in (0, 3))
    assert torch.equal(first[0], second[0])
    assert not torch.equal(first[1], second[1])
    mean = field.code(directions)[:, -3:]
    torch.testing.assert_close(mean, field.photo_vectors.mean(0).expand(6, 3))
    assert torch.equal(
        field.code(directions, torch.arange(4).repeat(2)[:6])[:, -3:], field.photo_vectors[[0, 1, 2, 3, 0, 1]]
    )


def test_what_is_behind_the_box_is_a_colour_or_a_network() -> None:
    directions = torch.nn.functional.normalize(torch.rand(6, 3), dim=-1)
    assert torch.equal(make().behind(directions), torch.zeros(6, 3))
    assert torch.equal(make(background=[1, 0.5, 0]).behind(directions)[2], torch.tensor([1, 0.5, 0]))
    field = make(background_network=COLORS)
    assert len(field.behind(directions).unique(dim=0)) == 6
    assert len(field.of_rays) == 4
