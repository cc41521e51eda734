"""Rendering in passes is rendering, up to the light that is left out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fieldforge.renderers.cameras import look_at
from fieldforge.renderers.occupancy import OccupancyGrid
from fieldforge.renderers.passes import render_in_passes
from fieldforge.renderers.volume import render

BOX = (-1.0, -1.0, -1.0), (1.0, 1.0, 1.0)


def cloud(points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Fog here and a wall there, of colours that depend on the place and on the direction."""
    density = 40 * (torch.sin(5 * points).prod(-1) > 0.1) + 0.5
    return density.float(), 0.5 + 0.5 * torch.sin(3 * points + directions)


def rays(n: int = 24) -> tuple[Tensor, Tensor]:
    return look_at((0.4, -3, 1), (0, 0, 0), width=n, height=n).rays()


def grid() -> OccupancyGrid:
    generator = torch.Generator().manual_seed(0)
    return OccupancyGrid.from_cells(torch.rand(8, 8, 8, generator=generator) < 0.6, *BOX)


@pytest.mark.parametrize("n_each", [1, 3, 8, 1000])
@pytest.mark.parametrize("background", [None, torch.tensor([1.0, 0.5, 0.2]), "of rays"])
def test_without_an_end_every_sample_counts(n_each: int, background: Tensor | str | None) -> None:
    origins, directions = rays(12)
    behind = (
        torch.rand(len(origins), 3, generator=torch.Generator().manual_seed(0))
        if background == "of rays"
        else background
    )
    seen = render_in_passes(
        origins, directions, cloud, grid(), step=0.02, n_samples_a_pass=n_each, background=behind, early_stop=0  # type: ignore[arg-type]
    )  # fmt: skip
    whole = render(origins, directions, cloud, grid(), step=0.02, background=behind, early_stop=0)  # type: ignore[arg-type]
    assert seen.n_marched == seen.n_evaluated == whole.n_evaluated
    for mine, other in ((seen.color, whole.color), (seen.opacity, whole.opacity), (seen.distance, whole.distance)):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("early_stop", [0.3, 0.01])
def test_a_ray_ends_where_its_light_does(early_stop: float) -> None:
    origins, directions = rays()
    seen = render_in_passes(origins, directions, cloud, grid(), step=0.02, early_stop=early_stop)
    whole = render(origins, directions, cloud, grid(), step=0.02, early_stop=0)
    assert (seen.color - whole.color).abs().max() < early_stop
    assert (whole.opacity - seen.opacity).min() > -1e-5
    assert seen.n_evaluated < 0.9 * whole.n_evaluated
    least = render(origins, directions, cloud, grid(), step=0.02, early_stop=early_stop,
                   density=lambda points: cloud(points, points)[0]).n_evaluated  # fmt: skip
    assert least <= seen.n_evaluated <= least + 8 * len(origins), "at most a pass too many"


def test_rays_are_told_and_some_see_nothing() -> None:
    origins, directions = rays(8)
    origins = torch.cat([origins, torch.tensor([[9.0, 9.0, 9.0]])])
    directions = torch.cat([directions, torch.tensor([[0.0, 0.0, 1.0]])])
    asked = []

    def told(points: Tensor, along: Tensor, ray: Tensor) -> tuple[Tensor, Tensor]:
        asked.append(ray)
        assert torch.equal(along, directions[ray])
        return cloud(points, along)

    seen = render_in_passes(origins, directions, told, grid(), step=0.05, tell_rays=True)
    assert sum(map(len, asked)) == seen.n_evaluated
    assert 64 not in torch.cat(asked)
    assert seen.color[64].tolist() == [0, 0, 0]
    assert seen.distance[64] == math.inf


@pytest.mark.parametrize("n", [0, 1])
def test_few_rays(n: int) -> None:
    origins, directions = (rows[:n] for rows in rays(4))
    seen = render_in_passes(origins, directions, cloud, grid(), step=0.05, background=torch.ones(3))
    assert seen.color.shape == (n, 3)
    none = OccupancyGrid.from_cells(torch.zeros(2, 2, 2, dtype=torch.bool), *BOX)
    assert render_in_passes(origins, directions, cloud, none, step=0.05, background=torch.ones(3)).n_evaluated == 0


def test_what_is_no_number_is_seen() -> None:
    origins, directions = rays(4)
    wild = lambda points, along: (torch.full_like(points[:, 0], math.nan), torch.ones_like(points))  # noqa: E731
    assert render_in_passes(origins, directions, wild, grid(), step=0.05).color.isnan().any()


def test_bad_passes_are_named() -> None:
    for options, said in (({"n_samples_a_pass": 0}, "n_samples_a_pass"), ({"early_stop": 1.5}, "early_stop")):
        with pytest.raises(ValueError, match=said):
            render_in_passes(*rays(4), cloud, grid(), step=0.05, **options)  # type: ignore[arg-type]
