"""Isosurfaces: closed where the level set is, exact on planes, found in few evaluations, followed where bounds lie."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fieldforge.renderers.isosurface import (
    BYTES_A_BLOCK,
    EmptyLevelError,
    Isosurface,
    TooLargeError,
    isosurface,
    surface_blocks,
)
from fieldforge.renderers.marching_cubes import marching_cubes

BOX = ((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))


def sphere(points: Tensor) -> Tensor:
    return torch.linalg.vector_norm(points - 0.05, dim=-1) - 0.6


def torus(points: Tensor) -> Tensor:
    ring = torch.linalg.vector_norm(points[:, :2], dim=-1) - 0.55
    return torch.sqrt(ring**2 + points[:, 2] ** 2) - 0.2


def volume(surface: Isosurface) -> float:
    a, b, c = (surface.vertices[surface.faces[:, corner]] for corner in range(3))
    return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)


def euler(surface: Isosurface) -> int:
    return len(surface.vertices) - len(surface.faces) // 2


@pytest.mark.parametrize("is_distance", [True, False])
@pytest.mark.parametrize("resolution", [30, 33, 64])
def test_a_sphere_is_closed_and_faces_outward(resolution: int, is_distance: bool) -> None:
    found = isosurface(sphere, BOX, resolution=resolution, is_distance=is_distance)
    assert found.n_open_edges == 0
    assert euler(found) == 2
    assert volume(found) == pytest.approx(4 / 3 * np.pi * 0.6**3, rel=0.02)


def test_a_torus_has_one_hole() -> None:
    found = isosurface(torus, BOX, resolution=60, is_distance=True)
    assert (found.n_open_edges, euler(found)) == (0, 0)


@pytest.mark.parametrize("seed", range(4))
def test_noise_gives_closed_surfaces(seed: int) -> None:
    """Every case of the table, every ambiguous face: each edge is walked once in each direction."""
    n_blocks, b = 3, 4
    lattice = np.random.default_rng(seed).normal(size=(n_blocks * b + 1,) * 3).astype(np.float32)
    for axis in range(3):
        np.moveaxis(lattice, axis, 0)[[0, -1]] = 1.0  # outside all around
    firsts = np.stack(np.meshgrid(*(np.arange(n_blocks) * b,) * 3, indexing="ij"), -1).reshape(-1, 3)
    values = np.stack([lattice[x : x + b + 1, y : y + b + 1, z : z + b + 1] for x, y, z in firsts])
    vertices, faces = marching_cubes(values, firsts, np.array(lattice.shape))
    directed = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    forth = np.unique(directed[:, 0] * len(vertices) + directed[:, 1], return_counts=True)
    back = np.unique(directed[:, 1] * len(vertices) + directed[:, 0], return_counts=True)
    np.testing.assert_array_equal(forth[0], back[0])
    np.testing.assert_array_equal(forth[1], back[1])


def test_a_plane_is_met_exactly_and_boxes_need_not_be_cubes() -> None:
    plane = lambda p: p[:, 2] - 0.3  # noqa: E731
    found = isosurface(plane, ((0.0, 0.0, 0.0), (2.0, 1.0, 0.7)), resolution=21, is_distance=True)
    np.testing.assert_allclose(found.vertices[:, 2], 0.3, atol=1e-6)
    assert found.vertices[:, 0].max() == pytest.approx(2.0)
    assert 1.0 <= found.vertices[:, 1].max() < 1.1
    assert found.n_open_edges > 0  # it leaves the box


def test_a_distance_needs_few_evaluations() -> None:
    found = isosurface(sphere, BOX, resolution=512, is_distance=True, slope=1.1)
    assert found.n_evaluated < 0.05 * found.n_cells
    assert found.n_open_edges == 0


def test_another_level_is_another_sphere() -> None:
    found = isosurface(sphere, BOX, resolution=48, level=-0.2, is_distance=True)
    radius = np.linalg.norm(found.vertices - 0.05, axis=1)
    np.testing.assert_allclose(radius, 0.4, atol=2e-3)


def test_a_surface_is_followed_where_the_bound_lies() -> None:
    """A function three times as steep as it claims to be: the part that the bound loses hangs on to the rest."""
    steep = lambda p: torch.where(p[:, 0] > 0, 6 * sphere(p), sphere(p))  # noqa: E731
    found = isosurface(steep, BOX, resolution=64, is_distance=True, slope=1.0)
    assert (found.n_open_edges, euler(found)) == (0, 2)


def test_two_bodies_are_both_found() -> None:
    pair = lambda p: torch.minimum(  # noqa: E731
        torch.linalg.vector_norm(p - 0.5, dim=-1) - 0.1, torch.linalg.vector_norm(p + 0.5, dim=-1) - 0.1
    )
    found = isosurface(pair, BOX, resolution=100, is_distance=True)
    assert euler(found) == 4


def test_an_empty_level_says_what_there_is() -> None:
    with pytest.raises(EmptyLevelError, match="level: 5 is nowhere in the box; the values seen there go from -0"):
        isosurface(sphere, BOX, resolution=32, level=5.0)
    with pytest.raises(EmptyLevelError, match="level: -5 is nowhere") as found:
        isosurface(sphere, BOX, resolution=32, level=-5.0, is_distance=True)
    assert found.value.smallest == pytest.approx(-0.6, abs=0.06)  # of the whole box, not of one block
    assert found.value.largest == pytest.approx(np.sqrt(3) * 1.05 - 0.6, abs=0.06)


@pytest.mark.parametrize("is_distance", [True, False])
def test_progress_goes_forward_to_its_end(is_distance: bool) -> None:
    shares: list[float] = []
    steep = lambda p: torch.where(p[:, 0] > 0, 6 * sphere(p), sphere(p))  # noqa: E731  (blocks are followed in waves)
    isosurface(steep, BOX, resolution=64, is_distance=is_distance, slope=1.0, observe=shares.append, chunk=2**12)
    assert len(shares) > 4
    assert shares[0] < 0.2
    assert shares[-1] == 1
    assert max(shares) == 1
    # following finds new blocks: what was half of the work may turn out to be a little less
    assert min(np.diff(shares)) > -0.2


def test_a_surface_too_large_for_memory_is_refused_with_the_figure() -> None:
    with pytest.raises(TooLargeError, match=r"64 cells a side need about .* GiB .* should do") as found:
        isosurface(sphere, BOX, resolution=64, is_distance=True, max_bytes=2**20)
    assert found.value.needed % BYTES_A_BLOCK == 0
    isosurface(sphere, BOX, resolution=64, is_distance=True, max_bytes=found.value.needed)


@pytest.mark.parametrize("is_distance", [True, False])
def test_blocks_near_the_surface_hold_all_of_it(is_distance: bool) -> None:
    margin = 0.03
    blocks, n_evaluated = surface_blocks(sphere, BOX, n_blocks=24, is_distance=is_distance, slope=1.0, margin=margin)
    assert blocks.shape == (24, 24, 24)
    assert 0 < n_evaluated <= 25**3
    directions = torch.nn.functional.normalize(torch.randn(5000, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    for radius in (0.6 - margin, 0.6, 0.6 + margin):
        place = ((0.05 + radius * directions + 1) * 12).long()
        assert blocks[tuple(place.T)].all()
    assert blocks.float().mean() < 0.3


def test_a_function_without_numbers_is_refused() -> None:
    with pytest.raises(ValueError, match="f: gives values that are not finite"):
        isosurface(lambda p: p[:, 0] / 0, BOX, resolution=8)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"resolution": 100_000}, "resolution: expected an integer from 2 to 4096"),
        ({"level": float("nan")}, "level: expected a finite number"),
        ({"slope": 0.5}, "slope: expected a finite number of at least 1"),
        ({"box": ((0, 0, 0), (1, 0, 1))}, "box: expected a lower and a higher corner"),
    ],
)
def test_bad_arguments_are_named(keywords: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        isosurface(sphere, **{"box": BOX, **keywords})  # type: ignore[arg-type]
