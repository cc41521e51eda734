"""ImageField: pixels outside, the unit square inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fieldforge.contracts.field import FIELD_CHECKS
from fieldforge.encodings.identity import Identity
from fieldforge.fields.kinds.image import MAX_SIDE, ImageField
from fieldforge.registry import ConfigError, build

LINEAR: dict[str, Any] = {"otype": "MLP", "n_hidden_layers": 0}
"""One matrix: the colour is W (x, y) with x and y of the unit square."""


def image(**changes: Any) -> ImageField:
    options = {"encoding": "Identity", "network": LINEAR, "width": 8, "height": 4, "n_channels": 2} | changes
    field = ImageField(**options, generator=torch.Generator().manual_seed(0))
    if options["network"] == LINEAR and field.n_channels == 2:
        field.network.layers[0].weight.data = torch.eye(2)  # the colour is the place in the unit square
    return field


FIELDS: dict[str, Callable[[], ImageField]] = {
    "identity": image,
    "hash grid": lambda: image(
        encoding={"otype": "HashGrid", "n_levels": 3, "log2_hashmap_size": 6},
        network={"otype": "MLP", "n_neurons": 8, "n_hidden_layers": 2},
        n_channels=4,
        color_space="linear",
        output_scale=[2.0, 3.0, 0.1, 1.0],
        output_offset=[0.1, -1.0, 0.3, 0.0],
    ),
    "SIREN": lambda: image(
        encoding={"otype": "Identity", "scale": 2.0, "offset": -1.0},
        network={"otype": "MLP", "n_neurons": 8, "n_hidden_layers": 2, "activation": "Sine", "has_bias": True},
        n_channels=1,
    ),
}


@pytest.mark.parametrize("check", FIELD_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", FIELDS)
def test_it_keeps_the_promises_of_a_field(name: str, check: Callable[[Callable[[], ImageField]], None]) -> None:
    check(FIELDS[name])


def test_each_side_of_the_picture_becomes_the_unit_interval() -> None:
    corners_and_first_centre = torch.tensor([[0.0, 0.0], [8.0, 4.0], [8.0, 0.0], [0.5, 0.5]])
    expected = torch.tensor([[0.0, 0.0], [1.0, 1.0], [1.0, 0.0], [0.5 / 8, 0.5 / 4]])
    assert torch.equal(image().color(corners_and_first_centre), expected)


def test_outside_it_answers_as_at_the_nearest_point_of_the_border() -> None:
    field = image()
    outside = torch.tensor([[-3.0, 2.0], [9.0, 2.0], [4.0, -1.0], [4.0, 99.0], [-5.0, 77.0]])
    border = torch.tensor([[0.0, 2.0], [8.0, 2.0], [4.0, 0.0], [4.0, 4.0], [0.0, 4.0]])
    assert torch.equal(field.color(outside), field.color(border))


def test_scale_and_offset_act_on_each_channel() -> None:
    points = torch.rand(5, 2)
    plain = image().color(points)
    scaled = image(output_scale=[2.0, 10.0], output_offset=[1.0, -3.0]).color(points)
    assert torch.allclose(scaled, plain * torch.tensor([2.0, 10.0]) + torch.tensor([1.0, -3.0]))


def test_values_are_not_clipped() -> None:
    bright = image(output_scale=[50.0, 50.0], output_offset=[-10.0, 0.0], color_space="srgb")
    answer = bright.color(torch.tensor([[0.0, 4.0]]))
    assert torch.equal(answer, torch.tensor([[-10.0, 50.0]]))


def test_neighbouring_pixels_of_the_widest_picture_are_told_apart() -> None:
    field = image(width=MAX_SIDE, height=1)
    for at in (torch.arange(5) + 0.5, MAX_SIDE - 5 + torch.arange(5) + 0.5):
        unit = field.to_unit(torch.stack([at, torch.zeros(5)], -1))[:, 0]
        assert bool((unit.diff() > 0).all())
        assert bool((unit * MAX_SIDE == at).all())


def test_points_finer_than_the_parameters_are_rounded_only_inside_the_unit_square() -> None:
    field = image(width=3)
    points = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    assert field.color(points).dtype == torch.float32
    assert float(field.to_unit(points)[0, 0]) == 1 / 3


def test_the_colour_changes_with_the_place_as_the_derivative_says() -> None:
    field = FIELDS["SIREN"]().double()
    points = (torch.rand(4, 2, dtype=torch.float64) * torch.tensor([8.0, 4.0])).requires_grad_()
    assert torch.autograd.gradcheck(field.color, points)
    assert field.smoothness > 2
    assert FIELDS["hash grid"]().smoothness == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "width: expected an integer from 1"),
        ({"height": 2.5}, "height: expected an integer"),
        ({"n_channels": 5}, "n_channels: expected an integer from 1 to 4, got 5"),
        ({"color_space": "sRBG"}, "color_space: expected one of srgb, linear.*did you mean srgb"),
        ({"output_scale": [1.0]}, "output_scale: expected 2 numbers, one per channel"),
        ({"output_offset": [1.0, float("nan")]}, r"output_offset\[1\]: expected a finite number"),
        ({"encoding": {"otype": "Identity", "scal": 2}}, "encoding.scal: Identity has no such key; did you mean scale"),
        ({"network": {"otype": "MLP", "n_neurons": 0}}, "network.n_neurons: expected an integer"),
        ({"encoding": Identity(3)}, "encoding: expected Identity with n_input_dims=2, got 3"),
    ],
)
def test_a_wrong_option_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        image(**change)


def test_parts_made_beforehand_are_taken() -> None:
    encoding = Identity(2, scale=2.0)
    field = image(encoding=encoding)
    assert field.encoding is encoding
    assert field.config()["encoding"] == {"otype": "Identity", "scale": 2.0, "offset": 0.0}


def test_the_configuration_is_complete_and_strict() -> None:
    config = image().config()
    assert config["output_scale"] == [1.0, 1.0]
    assert build("field", config).config() == config
    with pytest.raises(ConfigError, match="widht: ImageField has no such key; did you mean width"):
        build("field", config | {"widht": 3})
