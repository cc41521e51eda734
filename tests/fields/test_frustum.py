"""Normalised device coordinates: lines stay lines, everything ahead is in the box, and points come back."""

from __future__ import annotations

import math

import pytest
import torch

from fieldforge.fields.frustum import Frustum
from fieldforge.fields.kinds.ndc import NDCField
from fieldforge.renderers.cameras.paths import toward

POSE = toward(
    torch.tensor([[1.0, 2.0, 3.0]]).double().numpy(), torch.tensor([[0.3, -0.2, 0.9]]).double().numpy(),
    torch.tensor([0.0, 1.0, 0.1]).double().numpy(),
)[0]  # fmt: skip
FRUSTUM = Frustum(POSE.tolist(), (0.6, 0.4), 1.5)


def rays(n: int, spread: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    """Beginning around the middle, looking ahead."""
    generator = torch.Generator().manual_seed(0)
    local = torch.rand(n, 3, generator=generator, dtype=torch.float64) - 0.5
    move = torch.randn(n, 3, generator=generator, dtype=torch.float64) * spread
    move[:, 2] = -1.0
    turn = torch.from_numpy(POSE[:, :3])
    return local @ turn.T + torch.from_numpy(POSE[:, 3]), torch.nn.functional.normalize(move @ turn.T, dim=-1)


def test_corners_of_the_view_are_corners_of_the_box() -> None:
    for depth, z in ((1.5, -1.0), (3.0, 0.0), (1e12, 1.0)):
        local = torch.tensor([[0.6, 0.4, -1.0], [-0.6, 0.4, -1.0]], dtype=torch.float64) * depth
        world = local @ torch.from_numpy(POSE[:, :3]).T + torch.from_numpy(POSE[:, 3])
        expected = torch.tensor([[1.0, 1.0, z], [-1.0, 1.0, z]], dtype=torch.float64)
        torch.testing.assert_close(FRUSTUM.to_ndc(world), expected, atol=1e-9, rtol=0)


def test_points_come_back() -> None:
    origins, directions = rays(200)
    points = origins + 7 * directions
    torch.testing.assert_close(FRUSTUM.from_ndc(FRUSTUM.to_ndc(points)), points, atol=1e-9, rtol=0)
    behind = origins - 7 * directions
    assert FRUSTUM.to_ndc(behind).isnan().all()


def test_points_of_a_ray_lie_on_the_bent_ray_at_their_distances() -> None:
    origins, directions = rays(100)
    bent = FRUSTUM.bend(origins, directions)
    for distance in (3.0, 10.0, 300.0):
        ndc = FRUSTUM.to_ndc(origins + distance * directions)
        length = ((ndc - bent.origins) * bent.directions).sum(-1)
        torch.testing.assert_close(bent.origins + length[:, None] * bent.directions, ndc, atol=1e-9, rtol=0)
        back = FRUSTUM.distance(bent, length, origins, directions)
        torch.testing.assert_close(back, torch.full_like(back, distance), atol=1e-6, rtol=1e-6)
    assert (bent.origins[:, 2] + 1).abs().max() < 1e-9  # they begin on the near plane


def test_rays_that_look_back_meet_nothing() -> None:
    origins, directions = rays(10)
    bent = FRUSTUM.bend(origins, -directions)
    assert (bent.origins[:, 2] > 1).all()
    assert (bent.directions[:, 2] > 0).all()
    assert FRUSTUM.distance(bent, torch.ones(10), origins, -directions).isinf().all()


def test_speed_is_the_derivative_of_a_place() -> None:
    origins, directions = rays(50)
    points, step = origins + 5 * directions, 1e-6
    finite = (FRUSTUM.to_ndc(points + step * directions) - FRUSTUM.to_ndc(points - step * directions)) / (2 * step)
    torch.testing.assert_close(FRUSTUM.speed(points, directions), finite, atol=1e-7, rtol=1e-6)


def make(**keywords: object) -> NDCField:
    mlp = {"otype": "MLP", "n_neurons": 16, "n_hidden_layers": 1, "output_activation": "Sigmoid"}
    inside = {
        "otype": "RadianceField", "encoding": "Identity", "network": mlp, "rgb_network": mlp,
        "low": [-1, -1, -1], "high": [1, 1, 1],
    }  # fmt: skip
    given = {"field": inside, "pose": POSE.tolist(), "slopes": [0.6, 0.4], "near": 1.5, "far": 30.0}
    return NDCField(**given | keywords, generator=torch.Generator().manual_seed(0))  # type: ignore[arg-type]


def test_what_a_stretch_of_a_ray_absorbs_is_the_same_in_both_coordinates() -> None:
    field = make()
    origins, directions = (one.float() for one in rays(64, 0.1))
    a, b = 4.0, 4.001
    bent = FRUSTUM.bend(origins, directions)
    middle = origins + 0.5 * (a + b) * directions
    length = torch.linalg.vector_norm(
        FRUSTUM.to_ndc((origins + b * directions).double()) - FRUSTUM.to_ndc((origins + a * directions).double()),
        dim=-1,
    )
    inside, color = field.field.radiance(FRUSTUM.to_ndc(middle), bent.directions)
    density, seen = field.radiance(middle, directions)
    torch.testing.assert_close(density * (b - a), (inside * length).float(), rtol=1e-3, atol=0)
    torch.testing.assert_close(seen, color, atol=1e-4, rtol=0)


def test_the_box_of_the_world_holds_what_is_ahead_up_to_far() -> None:
    field = make()
    low, high = torch.tensor(field.low), torch.tensor(field.high)
    origins, directions = (one.float() for one in rays(500, 0.1))
    points = origins + 20 * directions
    assert ((points > low) & (points < high)).all()
    assert field.density(points).min() > 0
    assert field.density(origins - 5 * directions).max() == 0


@pytest.mark.parametrize(
    ("keywords", "sentence"),
    [
        ({"near": 0.0}, "near: expected"),
        ({"slopes": [0.5]}, "two numbers"),
        ({"slopes": [0.5, math.inf]}, "slopes: expected"),
        ({"pose": [[1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 1, 0]]}, "a rotation"),
        ({"pose": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]}, "three rows of four"),
        ({"far": 1.0}, "far: expected"),
    ],
)
def test_frusta_that_are_none_are_refused(keywords: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make(**keywords)
