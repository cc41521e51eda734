"""What is seen of fields inside and outside of a sphere."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from fieldforge.apps.render.inside_outside import InsideOutsideEye, outside
from fieldforge.fields.kinds.inside_outside import InsideOutsideField
from fieldforge.renderers.occupancy import OccupancyGrid

NETWORK: dict[str, Any] = {"otype": "MLP", "n_neurons": 8, "n_hidden_layers": 1, "has_bias": True}
INSIDE = {"encoding": "Identity", "network": NETWORK, "rgb_network": NETWORK, "n_geometry": 1}


def constant(inside: float, beyond: float, color: float = 0.25, n_outside: int = 64) -> InsideOutsideField:
    """A field of constant densities and one colour."""
    field = InsideOutsideField(
        inside={"otype": "RadianceField", **INSIDE}, outside_encoding="Identity", outside_network=NETWORK,
        outside_rgb_network=NETWORK, n_geometry=1, n_outside=n_outside, radius=2.0,
    )  # fmt: skip
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.zero_()
        field.inside.network.layers[-1].bias[0] = torch.tensor(inside * 4.0).log()  # type: ignore[index,union-attr]
        field.outside_network.layers[-1].bias[0] = torch.tensor(beyond).log()  # type: ignore[index,union-attr]
        for network in (field.inside.rgb_network, field.outside_rgb_network):
            network.layers[-1].bias += color  # type: ignore[index,union-attr]
    return field


def rays(n: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    origins = torch.rand(n, 3, generator=generator) - 0.5
    return origins, torch.nn.functional.normalize(torch.randn(n, 3, generator=generator), dim=-1)


def see(field: InsideOutsideField, *rays: Tensor, step: float = 0.01) -> Any:
    return InsideOutsideEye(field, OccupancyGrid(field.low, field.high, 8), step=step, early_stop=0.0)(*rays)


def test_one_colour_everywhere_has_no_seam() -> None:
    """All weights, inside, outside and at infinity, are 1 together."""
    seen = see(constant(0.3, 2.0), *rays(300))
    torch.testing.assert_close(seen.color, torch.full((300, 3), 0.25))
    torch.testing.assert_close(seen.opacity, torch.ones(300))


def test_a_thin_outside_is_seen_at_its_distance() -> None:
    """With nothing inside and a wall right behind the sphere, the distance is that to the sphere."""
    field = constant(1e-6, 1e6, n_outside=4096)
    origins, directions = rays(100)
    seen = see(field, origins, directions)
    leaves = (origins + seen.distance[:, None] * directions).norm(dim=-1)
    torch.testing.assert_close(leaves, torch.full((100,), 2.0), rtol=2e-3, atol=0)


def test_the_outside_fades_along_the_inverse_radius() -> None:
    field = constant(1e-6, 5.0, n_outside=512)
    origins, directions = torch.zeros(1, 3), torch.tensor([[0.0, 0.0, 1.0]])
    _, distance = outside(field, origins, directions, torch.full((1,), 0.5))
    mean = 1 - (1 - math.exp(-5.0)) / 5  # of s, which falls from 1 to 0 while light is lost at the rate 5
    assert float(distance) == pytest.approx(2.0 / mean, rel=1e-3)


def test_cameras_outside_and_lines_through_the_middle_make_numbers() -> None:
    field = constant(0.3, 2.0)
    origins = torch.tensor([[5.0, 0.0, 0.0], [5.0, 0.0, 0.0], [5.0, 0.0, 0.0], [0.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
    directions = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [-1.0, 0, 0], [0, 0, 1.0], [1.0, 0, 0]])
    seen = see(field, origins, directions)
    assert seen.color.isfinite().all()
    assert seen.distance.isfinite().all()
    torch.testing.assert_close(seen.color, torch.full((5, 3), 0.25))
    assert (seen.distance >= 0).all()


def test_no_rays_are_no_picture() -> None:
    seen = see(constant(0.3, 2.0), torch.empty(0, 3), torch.empty(0, 3))
    assert seen.color.shape == (0, 3)
