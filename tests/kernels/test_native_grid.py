"""The native grid is the reference's, in value and in every derivative."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from reference.grid import grid_point

from fieldforge.encodings.grid import Grid, grid
from fieldforge.kernels import cpu_door, cpu_ops

pytestmark = pytest.mark.skipif(cpu_door.missing() is not None, reason=f"no native kernels: {cpu_door.missing()}")


def native(encoding: Grid, x: torch.Tensor, table: torch.Tensor | None = None) -> torch.Tensor:
    values = encoding.table if table is None else table
    return cpu_ops.grid(x, values, encoding.levels, encoding.interpolation, reference=grid)


def make(n_dims: int, generator: torch.Generator, **keys: object) -> Grid:
    options = {"n_levels": 4, "log2_hashmap_size": 8, "base_resolution": 4, "per_level_scale": 1.6} | keys
    encoding = Grid(n_dims, **options)  # type: ignore[arg-type]
    with torch.no_grad():
        encoding.table.uniform_(-1, 1, generator=generator)
    return encoding


def assert_close(got: torch.Tensor, expected: torch.Tensor, tolerance: float = 2e-6) -> None:
    """Element-wise against the largest element, and as a vector: direction and length."""
    assert got.shape == expected.shape
    got, expected = got.detach().double(), expected.detach().double()
    if expected.numel() == 0 or expected.abs().max() == 0:
        assert torch.equal(got, expected)
        return
    assert (got - expected).abs().max() <= tolerance * expected.abs().max()
    assert (got - expected).norm() <= tolerance * expected.norm()
    cosine = float((got * expected).sum() / (got.norm() * expected.norm()))
    assert cosine == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize("n_points", [0, 1, 15, 17, 300])
@pytest.mark.parametrize("interpolation", ["Linear", "Smoothstep", "Nearest"])
@pytest.mark.parametrize("kind", ["Hash", "Dense", "Tiled"])
@pytest.mark.parametrize("n_dims", [1, 2, 3, 4])
def test_value_and_gradients_are_the_references(
    n_dims: int, kind: str, interpolation: str, n_points: int, generator: torch.Generator
) -> None:
    encoding = make(n_dims, generator, type=kind, interpolation=interpolation)
    x = torch.rand(n_points, n_dims, generator=generator)
    if n_points > 2:
        x[0], x[1] = 0.0, 1.0  # the corners of the domain
    x.requires_grad_()
    grad = torch.randn(n_points, encoding.n_output_dims, generator=generator)
    expected = grid(x, encoding.table, encoding.levels, interpolation)
    got = native(encoding, x)
    assert_close(got, expected)
    wanted = (x, encoding.table)
    for one, other in zip(
        torch.autograd.grad(got, wanted, grad), torch.autograd.grad(expected, wanted, grad), strict=True
    ):
        assert_close(one, other, 4e-6)


@pytest.mark.parametrize("kind", ["Hash", "Dense", "Tiled"])
@pytest.mark.parametrize("n_features", [1, 2, 4, 8])
def test_points_outside_the_cube_wrap_like_the_reference(
    kind: str, n_features: int, generator: torch.Generator
) -> None:
    encoding = make(3, generator, type=kind, n_features_per_level=n_features)
    x = 8 * torch.rand(200, 3, generator=generator) - 4
    x[0] = 1e9  # positions beyond int32 saturate
    x.requires_grad_()
    expected = grid(x, encoding.table, encoding.levels, "Linear")
    got = native(encoding, x)
    assert_close(got, expected, 1e-5)
    grad = torch.randn(got.shape, generator=generator)
    (got_grad,) = torch.autograd.grad(got, encoding.table, grad)
    (expected_grad,) = torch.autograd.grad(expected, encoding.table, grad)
    assert_close(got_grad, expected_grad, 1e-5)


@pytest.mark.parametrize("interpolation", ["Linear", "Smoothstep"])
def test_values_are_those_of_the_definition_in_float64(interpolation: str, generator: torch.Generator) -> None:
    encoding = make(2, generator, interpolation=interpolation)
    x = torch.rand(20, 2, generator=generator)
    got = native(encoding, x)
    for point, features in zip(x.tolist(), got.tolist(), strict=True):
        expected, _, _ = grid_point(
            point,
            encoding.table.tolist(),
            kind="Hash",
            n_levels=4,
            log2_hashmap_size=8,
            base_resolution=4,
            per_level_scale=1.6,
            interpolation=interpolation,
            is_float32=True,
        )
        assert features == pytest.approx(expected, abs=1e-6)


def test_a_position_is_rounded_once(generator: torch.Generator) -> None:
    """Where x * scale is just below 2^19 and the sum is above, rounding twice would move points by 1/16 of a cell."""
    encoding = make(1, generator, n_levels=1, base_resolution=1_000_003, log2_hashmap_size=12)
    scale = encoding.levels[0].scale
    x = torch.linspace((2**19 - 0.5) / scale, 2**19 / scale, 400, dtype=torch.float64).float()[:, None]
    twice = x * torch.tensor(scale, dtype=torch.float32) + 0.5
    once = (x.double() * scale + 0.5).float()
    assert (twice - once).abs().max() > 0.05  # the two rules do differ here
    assert_close(native(encoding, x), grid(x, encoding.table, encoding.levels, "Linear"))


def test_nan_in_nan_out(generator: torch.Generator) -> None:
    for interpolation in ("Linear", "Smoothstep"):  # Nearest reads some row of the table
        encoding = make(2, generator, interpolation=interpolation)
        x = torch.rand(40, 2, generator=generator)
        x[3, 0], x[7, 1], x[9, 0] = math.nan, math.inf, -math.inf
        is_nan = native(encoding, x).isnan()
        assert is_nan[[3, 7, 9]].all()
        assert not is_nan[[0, 1, 2, 4, 8, 10]].any()


def test_the_nearest_row_is_read_alone() -> None:
    encoding = Grid(2, n_levels=1, base_resolution=4, interpolation="Nearest")
    with torch.no_grad():
        encoding.table.zero_()[5] = math.nan  # row 5 is the corner (1, 1)
    x = torch.tensor([[0.1, 0.1], [0.3, 0.3], [0.3, 0.1]])
    assert native(encoding, x).isnan().any(1).tolist() == [False, True, False]


def test_the_second_derivative_is_the_references(generator: torch.Generator) -> None:
    encoding = make(2, generator, interpolation="Smoothstep")
    x = torch.rand(30, 2, generator=generator, requires_grad=True)
    weight = torch.randn(30, encoding.n_output_dims, generator=generator)
    results = []
    for run in (functools.partial(native, encoding), encoding):
        (slope,) = torch.autograd.grad((run(x) * weight).sum(), x, create_graph=True)
        results.append(torch.autograd.grad(slope.square().sum(), (x, encoding.table)))
    for got, expected in zip(*results, strict=True):
        assert_close(got, expected, 2e-5)


def test_rows_need_not_be_contiguous(generator: torch.Generator) -> None:
    encoding = make(2, generator)
    x = torch.rand(2, 60, generator=generator).t()[::2]
    assert torch.equal(native(encoding, x), native(encoding, x.contiguous()))


def test_bad_calls_are_errors_before_the_kernel(generator: torch.Generator) -> None:
    encoding = make(2, generator)
    with pytest.raises(TypeError, match=r"x: expected float32"):
        native(encoding, torch.rand(3, 2, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"x: expected shape"):
        native(encoding, torch.rand(3, 3))
    with pytest.raises(ValueError, match=r"x: expected shape"):
        native(encoding, torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"table: expected shape"):
        native(encoding, torch.rand(3, 2), encoding.table[:-1])
    with pytest.raises(TypeError, match=r"table: expected float32 on the CPU"):
        native(encoding, torch.rand(3, 2), encoding.table.to("meta"))
