"""The grid: float64 loops = reference = tuned PyTorch, tiny-cuda-nn's sizes, and what a lattice must do."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.grid import grid_point
from torch import Tensor

from fieldforge.backends import BackendError, use_backend
from fieldforge.encodings.grid import DenseGrid, Grid, HashGrid, TiledGrid, grid_levels, level_index
from fieldforge.kernels import cpu_door
from fieldforge.registry import ConfigError, build

TYPES = ("Hash", "Dense", "Tiled")
INTERPOLATIONS = ("Linear", "Smoothstep", "Nearest")
LEVELS = {"n_levels": 3, "base_resolution": 3, "per_level_scale": 1.7, "log2_hashmap_size": 5}


def small_grid(n_dims: int, **keys: Any) -> Grid:
    """A grid with entries of size 1, so that features are too."""
    grid = Grid(n_dims, **{**LEVELS, **keys})
    torch.nn.init.normal_(grid.table, generator=torch.Generator().manual_seed(1))
    return grid


def some_points(n_dims: int) -> Tensor:
    """Random points, all corners of the cube, points on cell edges of the base lattice, and points outside."""
    generator = torch.Generator().manual_seed(2)
    inside = torch.rand(8, n_dims, generator=generator)
    corners = torch.tensor(list(itertools.product((0.0, 1.0), repeat=n_dims)))
    edges = torch.tensor([0.25, 0.75])[:, None].expand(-1, n_dims)  # scale 2: at 1 and 2 on the lattice
    outside = torch.cat([inside[:2] - 1.3, inside[2:4] * 40, -1e5 * inside[4:5], 1e12 * inside[5:6]])
    return torch.cat([inside, corners, edges, outside])


def by_loops(grid: Grid, x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Features of x (N, d), and the gradients of x and the table when `grad` (N, n_output_dims) is that of features."""
    table = grid.table.detach().double()
    features, grad_x, grad_table = [], [], torch.zeros_like(table)
    for number, point in enumerate(x.tolist()):
        value, derivative, weights = grid_point(
            point,
            table.tolist(),
            kind=grid.type,
            n_levels=grid.n_levels,
            log2_hashmap_size=grid.log2_hashmap_size,
            base_resolution=grid.base_resolution,
            per_level_scale=grid.per_level_scale,
            interpolation=grid.interpolation,
            is_float32=x.dtype == torch.float32,
        )
        features.append(value)
        grad_x.append((grad[number].double()[:, None] * torch.tensor(derivative, dtype=torch.float64)).sum(0).tolist())
        for level, of_level in enumerate(grad[number].double().split(grid.n_features_per_level)):
            for row, weight in weights[level].items():
                grad_table[row] += weight * of_level
    return torch.tensor(features, dtype=torch.float64), torch.tensor(grad_x, dtype=torch.float64), grad_table


@pytest.fixture(params=["native", "tuned"], autouse=True)
def what_is_cpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend "cpu" is compiled where there was a compiler and tuned PyTorch elsewhere: each test sees both."""
    if request.param == "native" and cpu_door.missing():
        pytest.skip(f"no native kernels: {cpu_door.missing()}")
    if request.param == "tuned":
        monkeypatch.setattr(cpu_door, "missing", lambda: "switched off by a test")


def by_backend(name: str, grid: Grid, x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    with use_backend(name):
        x = x.clone().requires_grad_()
        features = grid(x)
        grad_x, grad_table = torch.autograd.grad(features, (x, grid.table), grad)
    return features.detach(), grad_x, grad_table


def assert_close(found: tuple[Tensor, ...], expected: tuple[Tensor, ...], tolerance: float) -> None:
    for name, one, other in zip(("features", "d/dx", "d/dtable"), found, expected, strict=True):
        worst = (one - other).abs().max() / other.abs().max().clamp_min(1.0)
        assert worst <= tolerance, f"{name} differ by {worst:.1e} of their size"


# --- three-way agreement -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("n_dims", [1, 2, 3, 4])
@pytest.mark.parametrize("type", TYPES)
def test_loops_reference_and_tuned_agree(type: str, n_dims: int, interpolation: str) -> None:
    grid = small_grid(n_dims, type=type, interpolation=interpolation)
    x = some_points(n_dims)
    grad = torch.randn(len(x), grid.n_output_dims, generator=torch.Generator().manual_seed(3))
    expected = by_loops(grid, x, grad)
    assert_close(by_backend("reference", grid, x, grad), expected, 2e-6)
    assert_close(by_backend("cpu", grid, x, grad), expected, 2e-6)
    inside = x[(x >= 0).all(1) & (x <= 1).all(1)]  # another path of the tuned version
    assert_close(by_backend("cpu", grid, inside, grad[: len(inside)]), by_loops(grid, inside, grad), 2e-6)


@pytest.mark.parametrize("n_features", [1, 2, 4, 8])
@pytest.mark.parametrize("n_dims", [2, 3])
def test_any_number_of_features_agrees(n_dims: int, n_features: int) -> None:
    grid = small_grid(n_dims, n_features_per_level=n_features, interpolation="Smoothstep")
    x = some_points(n_dims)
    grad = torch.randn(len(x), grid.n_output_dims, generator=torch.Generator().manual_seed(3))
    expected = by_loops(grid, x, grad)
    assert_close(by_backend("reference", grid, x, grad), expected, 2e-6)
    assert_close(by_backend("cpu", grid, x, grad), expected, 2e-6)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_in_float64_the_reference_is_the_loops(interpolation: str) -> None:
    grid = small_grid(3, interpolation=interpolation).double()
    x = some_points(3).double()[:20]
    grad = torch.randn(len(x), grid.n_output_dims, generator=torch.Generator().manual_seed(3)).double()
    assert_close(by_backend("reference", grid, x, grad), by_loops(grid, x, grad), 1e-13)


@pytest.mark.parametrize("n_dims", [2, 3])
def test_fine_levels_and_many_chunks_agree(n_dims: int) -> None:
    grid = small_grid(n_dims, n_levels=6, base_resolution=16, per_level_scale=3.0, log2_hashmap_size=11)
    x = torch.rand(9000, n_dims, generator=torch.Generator().manual_seed(4))
    x[-1] = 1.5  # the last chunk takes the way for points outside
    grad = torch.randn(9000, grid.n_output_dims, generator=torch.Generator().manual_seed(5))
    assert_close(by_backend("cpu", grid, x, grad), by_backend("reference", grid, x, grad), 2e-6)


@settings(max_examples=30, deadline=None)
@given(
    n_dims=st.integers(2, 4),
    type=st.sampled_from(TYPES),
    base_resolution=st.integers(1, 9),
    per_level_scale=st.floats(1.0, 4.0),
    log2_hashmap_size=st.integers(1, 9),
    low=st.floats(-2, 0),
    width=st.floats(0.1, 3),  # of a single place the slope may all but cancel, and its relative error is large
)
def test_cpu_is_the_reference_for_any_lattice(
    n_dims: int,
    type: str,
    base_resolution: int,
    per_level_scale: float,
    log2_hashmap_size: int,
    low: float,
    width: float,
) -> None:
    grid = small_grid(
        n_dims,
        type=type,
        base_resolution=base_resolution,
        per_level_scale=per_level_scale,
        log2_hashmap_size=log2_hashmap_size,
    )
    generator = torch.Generator().manual_seed(6)
    x = low + width * torch.rand(20, n_dims, generator=generator)
    grad = torch.randn(20, grid.n_output_dims, generator=generator)
    assert_close(by_backend("cpu", grid, x, grad), by_backend("reference", grid, x, grad), 5e-6)


def test_second_derivatives_of_tuned_are_those_of_the_reference() -> None:
    grid = small_grid(3, interpolation="Smoothstep")
    start = torch.rand(10, 3, generator=torch.Generator().manual_seed(7))
    found = {}
    for backend in ("reference", "cpu"):
        with use_backend(backend):
            x = start.clone().requires_grad_()
            (slope,) = torch.autograd.grad(grid(x).sin().sum(), x, create_graph=True)
            found[backend] = torch.autograd.grad((slope.norm(dim=-1) - 1).square().sum(), (x, grid.table))
    for name, one, other in zip(("x", "table"), found["cpu"], found["reference"], strict=True):
        assert (one - other).abs().max() < 1e-5 * other.abs().max(), f"second derivatives of {name} differ"


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("n_features", [1, 2, 4])
def test_bits_do_not_depend_on_the_number_of_threads(backend: str, n_features: int, two_threads: None) -> None:
    grid = small_grid(2, n_features_per_level=n_features, base_resolution=16, log2_hashmap_size=8)
    x = torch.rand(20000, 2, generator=torch.Generator().manual_seed(8))
    grad = torch.randn(20000, grid.n_output_dims, generator=torch.Generator().manual_seed(9))
    results = []
    for n_threads in (2, 2, 1):
        torch.set_num_threads(n_threads)
        results.append(by_backend(backend, grid, x, grad))
    for other in results[1:]:
        for one, same in zip(results[0], other, strict=True):
            assert torch.equal(one, same)


def test_cpu_refuses_float64_by_name() -> None:
    grid = small_grid(2).double()
    with use_backend("cpu"), pytest.raises(BackendError, match=r"float32 only, not torch\.float64"):
        grid(torch.rand(3, 2, dtype=torch.float64))
    assert grid(torch.rand(3, 2, dtype=torch.float64)).dtype == torch.float64  # auto takes the reference


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_only_what_needs_a_gradient_gets_one(backend: str) -> None:
    grid = small_grid(2)
    x = torch.rand(5, 2, requires_grad=True)
    with use_backend(backend):
        grid(x.detach()).sum().backward()
        assert x.grad is None
        assert grid.table.grad is not None
        grid.table.requires_grad_(False)
        grid(x).sum().backward()
        assert x.grad is not None


def test_a_table_may_begin_anywhere_in_memory() -> None:
    grid = small_grid(2)
    flat = torch.cat([torch.zeros(1), grid.table.detach().flatten()])
    x = torch.rand(5, 2)
    elsewhere = torch.func.functional_call(grid, {"table": flat[1:].view_as(grid.table)}, (x,))
    assert torch.equal(elsewhere, grid(x))


# --- tiny-cuda-nn's layout ---------------------------------------------------------------------------------------


def test_the_size_that_tiny_cuda_nn_tests() -> None:
    levels = grid_levels(3, n_levels=20, base_resolution=32, log2_hashmap_size=16, per_level_scale=1.5)
    assert [level.size for level in levels[:3]] == [32768, 65536, 65536]
    assert 2 * sum(level.size for level in levels) == 2_555_904
    grid = Grid(3, n_levels=20, base_resolution=32, log2_hashmap_size=16, per_level_scale=1.5)
    assert sum(parameter.numel() for parameter in grid.parameters()) == 2_555_904


def test_levels_follow_one_another_in_the_table() -> None:
    for level, following in itertools.pairwise(grid_levels(2, n_levels=8)):
        assert level.offset + level.size == following.offset


def test_scale_and_resolution_of_the_usual_hierarchy() -> None:
    levels = grid_levels(2, n_levels=4, base_resolution=16, per_level_scale=2.0)
    assert [(level.scale, level.resolution) for level in levels] == [(15, 16), (31, 32), (63, 64), (127, 128)]
    assert [level.is_hashed for level in grid_levels(2, n_levels=4, log2_hashmap_size=12)] == [False] * 3 + [True]


def test_hash_of_a_lattice_point_by_hand() -> None:
    level = grid_levels(3, n_levels=1, base_resolution=100, log2_hashmap_size=19)[0]
    # 5·2654435761 = 13272178805 and 7·805459861 = 5638219027; less 3 and 1 times 2^32 that is 387276917, 1343251731
    assert 3 ^ 387276917 ^ 1343251731 == 1191511397
    assert level.is_hashed
    assert level_index(torch.tensor([3, 5, 7]), level) == 329061  # the low 19 bits


def test_dense_index_runs_fastest_along_x() -> None:
    level = grid_levels(3, type="Dense", n_levels=1, base_resolution=10)[0]
    assert level_index(torch.tensor([3, 5, 7]), level) == 753


def test_tiles_repeat() -> None:
    level = grid_levels(2, type="Tiled", n_levels=3, base_resolution=4)[2]
    assert (level.resolution, level.size) == (16, 16)
    assert level_index(torch.tensor([3, 5]), level) == (3 + 5 * 16) % 16


def test_a_level_whose_strides_overflow_is_one_row_as_in_tiny_cuda_nn() -> None:
    levels = grid_levels(3, type="Tiled", n_levels=9, base_resolution=16)
    assert [level.multipliers[0] for level in levels] == [1] * 7 + [0, 0]  # 1625^3 < 2^32 < 1626^3
    assert level_index(torch.tensor([3, 5, 7]), levels[8]) == 0


def test_dense_grids_grow_to_256_by_default() -> None:
    grid = Grid(2, type="Dense", n_levels=5, n_features_per_level=1)
    assert grid.per_level_scale == pytest.approx(2.0)
    assert grid.config()["per_level_scale"] == grid.per_level_scale
    assert Grid(2, type="Dense", n_levels=1).per_level_scale == 1.0


def test_levels_come_one_after_another_in_the_output() -> None:
    grid = small_grid(2, n_features_per_level=4)
    with torch.no_grad():
        for number, level in enumerate(grid.levels):
            grid.table[level.offset : level.offset + level.size] = torch.arange(4.0) + 10 * number
    expected = torch.tensor([0.0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23])
    assert torch.allclose(grid(torch.rand(7, 2)), expected.expand(7, -1))  # weights sum to one, too
    assert grid.channel_order().tolist() == [0] * 4 + [1] * 4 + [2] * 4


# --- what a lattice must do --------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_dims", [2, 3])
def test_a_dense_level_reproduces_affine_functions(n_dims: int, generator: torch.Generator) -> None:
    grid = Grid(n_dims, type="Dense", n_levels=1, base_resolution=9, n_features_per_level=1, per_level_scale=1.0)
    slope = torch.arange(1.0, n_dims + 1)
    lattice = torch.cartesian_prod(*[torch.arange(9.0)] * n_dims).flip(-1)  # x fastest
    corner = (lattice - 0.5) / 8  # the lattice point c stands at (c - 1/2) / scale
    with torch.no_grad():
        grid.table[: len(corner), 0] = corner @ slope + 0.25
    x = torch.rand(200, n_dims, generator=generator) * 0.9 + 1e-3  # beyond 15/16 the last cell wraps
    assert torch.allclose(grid(x)[:, 0], x @ slope + 0.25, atol=1e-5)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("type", TYPES)
def test_weights_sum_to_one_everywhere(type: str, interpolation: str) -> None:
    grid = small_grid(3, type=type, interpolation=interpolation)
    torch.nn.init.ones_(grid.table)
    x = some_points(3)
    assert torch.allclose(grid(x), torch.ones(len(x), grid.n_output_dims), atol=1e-6)


def test_position_is_rounded_once() -> None:
    """x·scale + 1/2 as a fused multiply-add; rounding the product first is 1/64 of a cell off just below 2^17."""
    grid = small_grid(1, n_levels=1, base_resolution=200001, log2_hashmap_size=19, n_features_per_level=1)
    scale = np.float32(grid.levels[0].scale)
    bits = np.float32((2**17 - 0.5) / 200000).view(np.int32) + np.arange(40, dtype=np.int32)
    x = bits.view(np.float32)[:, None]  # neighbours in float32
    once = np.float32(x.astype(np.float64) * float(scale) + 0.5)
    twice = np.float32(x * scale) + np.float32(0.5)
    assert np.abs(once - twice).max() == 1 / 64
    table = grid.table.detach().double().numpy()
    cell = np.floor(once).astype(int)[:, 0]
    t = once - np.floor(once)
    expected = (1 - t) * table[cell] + t * table[cell + 1]
    for backend in ("reference", "cpu"):
        with use_backend(backend):
            assert np.abs(grid(torch.from_numpy(x)).detach().numpy() - expected).max() < 1e-6


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_any_number_may_come(interpolation: str, backend: str) -> None:
    grid = small_grid(2, interpolation=interpolation)
    extreme = torch.tensor([0.0, -0.0, 1e-45, -1e-7, 1e10, -1e10, 3e38, -3e38, math.inf, -math.inf, math.nan])
    with use_backend(backend):
        x = torch.cartesian_prod(extreme, extreme).requires_grad_()
        features = grid(x)
        features.sum().backward()
    moderate = (x.abs() <= 1e10).all(-1)
    assert torch.isfinite(features[moderate]).all()
    if interpolation == "Nearest":
        assert torch.isfinite(features).all()
    else:
        assert features[torch.isnan(x).any(-1)].isnan().all()


def test_smoothness_by_interpolation() -> None:
    assert [small_grid(2, interpolation=one).smoothness for one in INTERPOLATIONS] == [0, 1, -1]


# --- construction ------------------------------------------------------------------------------------------------


def test_names_choose_the_type() -> None:
    for name, alias in (("HashGrid", HashGrid), ("DenseGrid", DenseGrid), ("TiledGrid", TiledGrid)):
        built = build("encoding", {"otype": name, **LEVELS}, n_input_dims=2)
        assert built.config() == alias(2, **LEVELS).config()
        assert built.type == name.removesuffix("Grid")


def test_initial_entries_are_small_and_of_the_generator() -> None:
    first, again, other = (Grid(2, **LEVELS, generator=torch.Generator().manual_seed(seed)).table for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert 0.9e-4 < first.abs().max() <= 1e-4
    assert first.mean().abs() < 2e-5


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"n_levels": 10**9}, "n_levels: expected an integer from 1 to 64, got 1000000000"),
        ({"log2_hashmap_size": 31}, "log2_hashmap_size: expected an integer from 1 to 30"),
        ({"n_features_per_level": 3}, "n_features_per_level: expected 1, 2, 4 or 8, got 3"),
        ({"type": "Hsah"}, "did you mean Hash"),
        ({"type": "Dense", "base_resolution": 4096, "per_level_scale": 1.0}, "n_levels: 16 levels .* are .* numbers"),
        ({"log2_hashmap_size": 30}, "numbers, of at most 2,147,483,647"),
        ({"n_levels": 40}, "per_level_scale: level 27 would have .* lattice points per axis"),
        ({"per_level_scale": 1e9}, "per_level_scale: expected a finite number above 0"),
        ({"per_level_scale": 0.5}, "per_level_scale: level 5 would have 0.5 lattice points"),
        ({"hash": "Prime"}, "hash: only 'CoherentPrime' is implemented, got 'Prime'"),
        ({"stochastic_interpolation": True}, "stochastic_interpolation: only False"),
        ({"fixed_point_pos": True}, "fixed_point_pos: only False"),
    ],
)
def test_bad_keys_are_refused_before_memory_is_taken(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^encoding.*{message}"):
        build("encoding", {"otype": "Grid", **keys}, path="encoding", n_input_dims=3)


def test_huge_tables_can_be_planned_without_memory() -> None:
    with torch.device("meta"):
        grid = Grid(3, log2_hashmap_size=24)
        assert grid(torch.empty(7, 3)).shape == (7, 32)
    assert grid.table.is_meta
