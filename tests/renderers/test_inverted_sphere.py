"""The outside of a sphere in coordinates that end."""

from __future__ import annotations

import math

import pytest
import torch
from reference.inverted_sphere import outside_point
from torch import Tensor

from fieldforge.renderers.inverted_sphere import distance_at, inverted_places, sphere_span


def rays(n: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """From inside the unit sphere, in all directions."""
    generator = torch.Generator().manual_seed(0)
    toward = torch.nn.functional.normalize(torch.randn(2, n, 3, generator=generator, dtype=torch.float64), dim=-1)
    radius = 0.99 * torch.rand(n, 1, generator=generator, dtype=torch.float64)
    return (toward[0] * radius).to(dtype), toward[1].to(dtype)


def test_places_and_distances_are_the_papers() -> None:
    origins, directions = rays(200)
    s = 10 ** -torch.linspace(0, 5, 200, dtype=torch.float64)
    span = sphere_span(origins, directions)
    places, distance = inverted_places(span, s[:, None])[:, 0], distance_at(span, s[:, None])[:, 0]
    for i in range(200):
        point, t = outside_point(origins[i].numpy(), directions[i].numpy(), float(s[i]))
        torch.testing.assert_close(places[i, :3], torch.from_numpy(point), rtol=0, atol=1e-9)
        assert float(distance[i]) == pytest.approx(t, rel=1e-9)


def test_a_hundred_thousand_places_come_back() -> None:
    """In float32, up to 1000 radii away: place -> coordinates -> place."""
    origins, directions = rays(100_000, torch.float32)
    s = torch.rand(100_000, 1, generator=torch.Generator().manual_seed(1)) * 0.999 + 0.001
    span = sphere_span(origins, directions)
    places, t = inverted_places(span, s)[:, 0], distance_at(span, s)
    x = origins.double() + t.double() * directions.double()
    back = places[:, :3].double() / places[:, 3:].double()
    assert float(((back - x).norm(dim=-1) / x.norm(dim=-1)).max()) < 1e-5
    torch.testing.assert_close(places[:, :3].norm(dim=-1), torch.ones(100_000))


def test_rays_that_look_straight_out_are_nothing_special() -> None:
    """The paper's axis of rotation has no length there."""
    origins = torch.tensor([[0.5, 0.0, 0.0], [0.0, 0.0, 0.0], [-0.5, 0.0, 0.0]])
    directions = torch.tensor([[1.0, 0.0, 0.0]]).expand(3, 3)
    span = sphere_span(origins, directions)
    places = inverted_places(span, torch.tensor([[1.0, 0.25, 0.0]]).expand(3, 3))
    assert torch.equal(places[..., :3], directions[:, None].expand(3, 3, 3))
    assert distance_at(span, torch.full((3, 1), 0.25))[:, 0].tolist() == [3.5, 4, 4.5]
    assert span.exit.tolist() == [0.5, 1, 1.5]


def test_cameras_outside_of_the_sphere_make_numbers() -> None:
    origins, directions = rays(100)
    origins = origins + torch.tensor([3.0, 0.0, 0.0])
    span = sphere_span(origins, directions)
    assert (span.offset > 1).any()
    s = 1 / span.offset.clamp(min=1)
    places = inverted_places(span, s[:, None])
    assert places.isfinite().all()
    assert span.exit.isfinite().all()
    is_miss = span.offset > 1
    torch.testing.assert_close(distance_at(span, s[:, None])[is_miss, 0], span.distance[is_miss], rtol=0, atol=1e-6)


def test_inverse_radii_are_what_they_say() -> None:
    origins, directions = rays(500)
    s = torch.linspace(1, 0.01, 7, dtype=torch.float64).expand(500, 7)
    t = distance_at(sphere_span(origins, directions), s)
    radius = (origins[:, None] + t[..., None] * directions[:, None]).norm(dim=-1)
    torch.testing.assert_close(radius, 1 / s)
    assert (t.diff(dim=-1) > 0).all()
    assert math.isinf(float(distance_at(sphere_span(origins, directions), torch.zeros(500, 1))[0]))
