"""Signed distance, occupancy and unsigned distance as fields."""

from __future__ import annotations

import pytest
import torch

from fieldforge.contracts.field import check_field
from fieldforge.fields import operators
from fieldforge.fields.kinds.shape import OccupancyField, SDFField, ShapeField, UDFField

NETWORK = {"otype": "MLP", "n_neurons": 8, "n_hidden_layers": 1, "has_bias": True}
KINDS = (SDFField, OccupancyField, UDFField)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_keeps_the_contract(kind: type[ShapeField]) -> None:
    check_field(lambda: kind(encoding="Identity", network=NETWORK, low=[-3.0, 1.0, 0.25], side=4.0))


def test_distances_are_in_world_units() -> None:
    """The same network in a cube twice the side answers twice the distance at twice the place."""
    small = SDFField(encoding="Identity", network=NETWORK, low=[0, 0, 0], side=1.0)
    large = SDFField(encoding=small.encoding, network=small.network, low=[0, 0, 0], side=2.0)
    points = torch.rand(20, 3)
    torch.testing.assert_close(large.distance(2 * points), 2 * small.distance(points))


def test_outside_the_cube_the_way_there_is_added() -> None:
    field = SDFField(encoding="Identity", network=NETWORK, low=[0, 0, 0], side=1.0)
    border, outside = torch.tensor([[1.0, 0.5, 0.5]]), torch.tensor([[3.5, 0.5, 0.5]])
    torch.testing.assert_close(field.distance(outside), field.distance(border) + 2.5)


def test_nothing_is_occupied_outside_the_cube() -> None:
    field = OccupancyField(encoding="Identity", network=NETWORK)
    assert field.occupancy(torch.tensor([[1.01, 0.0, 0.0]])).item() == 0
    assert field.level(torch.tensor([[1.01, 0.0, 0.0]])).item() == 0.5


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"low": [0, 0]}, "low: expected three numbers"),
        ({"side": 0.0}, "side: expected a finite number above 0"),
        ({"side": float("nan")}, "side: expected a finite number above 0"),
        ({"low": [1e20, 0, 0], "side": 1.0}, "side: 1 is lost beside coordinates of 1e\\+20"),
    ],
)
def test_a_cube_that_is_none_is_refused(keywords: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SDFField(encoding="Identity", network=NETWORK, **keywords)  # type: ignore[arg-type]


def test_the_normal_has_unit_length() -> None:
    field = SDFField(encoding="Identity", network=NETWORK | {"activation": "Softplus"})
    normals = field.normal(torch.rand(50, 3) - 0.5)
    torch.testing.assert_close(torch.linalg.vector_norm(normals, dim=-1), torch.ones(50))


def test_a_field_spreads_its_samples_by_its_finest_cells() -> None:
    """Twice for gradients, four times for second derivatives, in world units."""
    grid = {"otype": "Composite", "nested": [{"otype": "HashGrid", "n_levels": 2, "base_resolution": 33}]}
    field = SDFField(encoding=grid, network=NETWORK, low=[0, 0, 0], side=10)
    assert field.finest_cell == pytest.approx(10 / 65)
    points = torch.rand(20, 3) * 10
    wide, wider = 2 * field.finest_cell, 4 * field.finest_cell
    with torch.no_grad():
        torch.testing.assert_close(
            field.gradient(points, "plane"), operators.gradient(field.level, points, "plane", sigma=wide)
        )
        torch.testing.assert_close(
            field.gradient(points, "taps6"), operators.gradient(field.level, points, "taps6", step=wide)
        )
        torch.testing.assert_close(
            field.mean_curvature(points), operators.mean_curvature(field.level, points, sigma=wider)
        )


@pytest.mark.parametrize("kind", [SDFField, UDFField])
def test_second_derivatives_are_finite_and_those_of_the_network(kind: type[ShapeField]) -> None:
    """In world units, inside and outside the cube: twice the side halves the curvature."""
    field = kind(encoding="Identity", network=NETWORK | {"activation": "Softplus"}, low=[0, 0, 0], side=2.0)
    inside = torch.rand(20, 3)
    found = field.hessian(2 * inside, "autodiff")
    torch.testing.assert_close(found, operators.hessian(field.level_in_cube, inside, "autodiff") / 2)
    assert found.abs().max() > 1e-4
    assert field.hessian(torch.rand(20, 3) + 5, "autodiff").isfinite().all()
