"""The grid on a GPU is the reference's, in value and in every derivative."""

from __future__ import annotations

import math

import pytest
import torch
from interpreted import DEVICE, needs_triton, on_device
from reference.grid import grid_point
from torch import Tensor

from fieldforge.encodings.grid import Grid, grid
from fieldforge.encodings.time_grid import TimeGrid
from fieldforge.kernels.triton import grid as on_gpu

pytestmark = needs_triton


def make(n_dims: int, generator: torch.Generator, **keys: object) -> Grid:
    options = {"n_levels": 2, "log2_hashmap_size": 6, "base_resolution": 5, "per_level_scale": 1.7} | keys
    encoding = Grid(n_dims, **options)  # type: ignore[arg-type]
    with torch.no_grad():
        encoding.table.uniform_(-1, 1, generator=generator)
    return encoding.to(DEVICE)


def run(encoding: Grid, x: Tensor, *, is_deterministic: bool = False) -> Tensor:
    return on_gpu.grid(
        x, encoding.table, encoding.levels, encoding.interpolation, reference=grid, is_deterministic=is_deterministic
    )


def points(n: int, n_dims: int, generator: torch.Generator) -> Tensor:
    x = torch.rand(n, n_dims, generator=generator)
    if n > 2:
        x[0], x[1] = 0.0, 1.0  # the corners of the domain
    return x.to(DEVICE).requires_grad_()


def normal(shape: torch.Size, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator).to(DEVICE)


def assert_close(got: Tensor, expected: Tensor, tolerance: float = 4e-6) -> None:
    assert got.shape == expected.shape
    got, expected = got.detach().double(), expected.detach().double()
    if expected.numel():
        assert (got - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize(
    ("n_dims", "kind", "interpolation", "n_features", "n_points"),
    [
        (1, "Hash", "Linear", 1, 1),
        (1, "Dense", "Smoothstep", 2, 17),
        (2, "Hash", "Linear", 2, 257),
        (2, "Tiled", "Nearest", 4, 15),
        (2, "Hash", "Smoothstep", 8, 3),
        (3, "Hash", "Linear", 2, 0),
        (3, "Hash", "Smoothstep", 2, 17),
        pytest.param(3, "Tiled", "Linear", 4, 15, marks=pytest.mark.slow),
        pytest.param(4, "Hash", "Linear", 2, 17, marks=pytest.mark.slow),
        (4, "Dense", "Nearest", 1, 15),
    ],
)
def test_value_and_gradients_are_the_references(
    n_dims: int, kind: str, interpolation: str, n_features: int, n_points: int, generator: torch.Generator
) -> None:
    encoding = make(n_dims, generator, type=kind, interpolation=interpolation, n_features_per_level=n_features)
    x = points(n_points, n_dims, generator)
    expected, got = grid(x, encoding.table, encoding.levels, interpolation), run(encoding, x)
    assert_close(got, expected)
    grad = normal(got.shape, generator)
    wanted = (x, encoding.table)
    in_order = torch.autograd.grad(run(encoding, x, is_deterministic=True), wanted, grad)
    as_they_come = torch.autograd.grad(got, wanted, grad)
    for one, other, third in zip(as_they_come, in_order, torch.autograd.grad(expected, wanted, grad), strict=True):
        assert_close(one, third)
        assert_close(other, third)


def test_points_outside_the_cube_wrap_like_the_reference(generator: torch.Generator) -> None:
    encoding = make(3, generator)
    x = (8 * torch.rand(40, 3, generator=generator) - 4).to(DEVICE)
    x[0], x[1] = 1e9, -1e9  # positions beyond int32 saturate
    expected, got = grid(x, encoding.table, encoding.levels, "Linear"), run(encoding, x)
    assert_close(got, expected, 1e-5)
    grad = normal(got.shape, generator)
    assert_close(
        *(torch.autograd.grad(features, encoding.table, grad)[0] for features in (got, expected)), tolerance=1e-5
    )


@pytest.mark.parametrize("interpolation", ["Linear", "Smoothstep"])
def test_values_are_those_of_the_definition_in_float64(interpolation: str, generator: torch.Generator) -> None:
    encoding = make(2, generator, interpolation=interpolation)
    x = points(20, 2, generator)
    got = run(encoding, x)
    (slope,) = torch.autograd.grad(got[:, 3].sum(), x)
    keys = {"kind": "Hash", "n_levels": 2, "log2_hashmap_size": 6, "base_resolution": 5, "per_level_scale": 1.7}
    for point, features, gradient in zip(x.tolist(), got.tolist(), slope.tolist(), strict=True):
        value, derivative, _ = grid_point(
            point, encoding.table.tolist(), interpolation=interpolation, is_float32=True, **keys
        )
        assert features == pytest.approx(value, abs=1e-6)
        assert gradient == pytest.approx(derivative[3], abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, pytest.param(torch.bfloat16, marks=on_device)])
def test_a_table_of_half_precision_adds_in_full_precision(dtype: torch.dtype, generator: torch.Generator) -> None:
    encoding = make(2, generator, n_features_per_level=4).to(dtype)
    x = points(300, 2, generator)
    got = run(encoding, x)
    exact = encoding.table.double()
    expected = grid(x, exact, encoding.levels, "Linear")
    step = torch.finfo(dtype).eps
    assert got.dtype == dtype
    assert_close(got, expected, step)
    grad = normal(got.shape, generator).to(dtype)
    (to_table,) = torch.autograd.grad(got, encoding.table, grad)
    assert to_table.dtype == dtype
    again = exact.detach().requires_grad_()
    assert_close(
        to_table, torch.autograd.grad(grid(x, again, encoding.levels, "Linear"), again, grad.double())[0], step
    )


def test_a_last_axis_with_its_own_scale(generator: torch.Generator) -> None:
    keys = {"n_levels": 1, "n_time_levels": 1, "log2_hashmap_size": 5, "base_resolution": 4}
    encoding = TimeGrid(3, n_space_dims=2, time_base_resolution=3, time_resolution=4, **keys, generator=generator)
    levels = encoding.levels
    table = torch.rand(encoding.table.shape, generator=generator).to(DEVICE).requires_grad_()
    x = points(20, 3, generator)
    got, expected = on_gpu.grid(x, table, levels, "Linear", reference=grid), grid(x, table, levels, "Linear")
    assert_close(got, expected)
    grad = normal(got.shape, generator)
    for one, other in zip(*(torch.autograd.grad(out, (x, table), grad) for out in (got, expected)), strict=True):
        assert_close(one, other)


@on_device
def test_a_position_is_rounded_once(generator: torch.Generator) -> None:
    """Where x * scale is just below 2^19 and the sum is above, rounding twice would move points by 1/16 of a cell."""
    encoding = make(1, generator, n_levels=1, base_resolution=1_000_003, log2_hashmap_size=12)
    scale = encoding.levels[0].scale
    x = torch.linspace((2**19 - 0.5) / scale, 2**19 / scale, 400, dtype=torch.float64).float()[:, None].to(DEVICE)
    assert_close(run(encoding, x), grid(x, encoding.table, encoding.levels, "Linear"))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_nan_in_nan_out(generator: torch.Generator) -> None:
    encoding = make(2, generator)
    x = torch.rand(12, 2, generator=generator).to(DEVICE)
    x[3, 0], x[7, 1], x[9, 0] = math.nan, math.inf, -math.inf
    is_nan = run(encoding, x).isnan()
    assert is_nan[[3, 7, 9]].all()
    assert not is_nan[[0, 1, 2, 4, 8, 10]].any()


@pytest.mark.parametrize("interpolation", ["Linear", "Smoothstep"])
def test_the_second_derivative_is_the_references(interpolation: str, generator: torch.Generator) -> None:
    encoding = make(2, generator, interpolation=interpolation)
    x = points(9, 2, generator)
    found = []
    for out in (run(encoding, x), grid(x, encoding.table, encoding.levels, interpolation)):
        (slope,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), (x, encoding.table)))
    for one, other in zip(*found, strict=True):
        assert_close(one, other, 2e-5)


def test_in_order_means_the_same_bits(generator: torch.Generator) -> None:
    encoding = make(2, generator)
    x = points(50, 2, generator)
    grad = normal(torch.Size([50, encoding.n_output_dims]), generator)
    first, second = (
        torch.autograd.grad(run(encoding, x, is_deterministic=True), encoding.table, grad)[0] for _ in range(2)
    )
    assert torch.equal(first, second)


def test_the_door_names_what_is_wrong(generator: torch.Generator) -> None:
    encoding = make(2, generator)
    levels = encoding.levels
    with pytest.raises(TypeError, match="x: expected float32 on a CUDA device, got torch"):
        on_gpu.grid(torch.rand(3, 2, device=DEVICE).double(), encoding.table, levels, "Linear", reference=grid)
    with pytest.raises(ValueError, match=r"x: expected shape \(3, 2\), got \(3, 3\)"):
        on_gpu.grid(torch.rand(3, 3, device=DEVICE), encoding.table, levels, "Linear", reference=grid)
    with pytest.raises(ValueError, match="table: expected shape"):
        on_gpu.grid(torch.rand(3, 2, device=DEVICE), encoding.table[1:], levels, "Linear", reference=grid)
    with pytest.raises(ValueError, match="levels: expected at least one"):
        on_gpu.grid(torch.rand(3, 2, device=DEVICE), encoding.table, [], "Linear", reference=grid)
