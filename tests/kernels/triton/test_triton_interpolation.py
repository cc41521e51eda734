"""Interpolation in tables on a GPU is the plain one in float64, and the definition."""

from __future__ import annotations

import math

import pytest
import torch
from interpreted import DEVICE, needs_triton
from reference import encodings as by_definition
from torch import Tensor

from fieldforge.encodings import interpolation
from fieldforge.kernels.triton import interpolation as on_gpu

pytestmark = needs_triton
plain = interpolation._interpolate
run = interpolation._interpolate_on_cuda


def draw(*shape: int, generator: torch.Generator) -> Tensor:
    return (1.4 * torch.rand(*shape, generator=generator) - 0.2).to(DEVICE).requires_grad_()


def error(got: Tensor, expected: Tensor) -> float:
    got, expected = got.detach(), expected.detach()
    assert got.shape == expected.shape
    return float((got.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-30))


@pytest.mark.parametrize(
    ("shape", "n"),
    [((2, 1), 17), ((9, 5), 65), ((3, 7, 40), 33), ((5, 2, 3), 0), ((4, 3, 5, 2), 67), ((2, 2, 2, 1), 1)],
)
def test_value_and_gradients_are_the_references(shape: tuple[int, ...], n: int, generator: torch.Generator) -> None:
    """Also of points outside, whose gradient is 0."""
    table, x = draw(*shape, generator=generator), draw(n, len(shape) - 1, generator=generator)
    exact = [one.detach().double().requires_grad_() for one in (table, x)]
    got, expected = run(table, x), plain(*exact)
    assert error(got, expected) < 1e-6
    grad = torch.randn(got.shape, generator=generator).to(DEVICE)
    found, truth = torch.autograd.grad(got, (table, x), grad), torch.autograd.grad(expected, exact, grad.double())
    for one, other in zip(found, truth, strict=True):
        assert error(one, other) < 3e-6


def test_values_are_those_of_the_definition_and_the_shape_of_the_batch_stays(generator: torch.Generator) -> None:
    table, x = draw(3, 4, 2, generator=generator), draw(2, 3, 2, generator=generator)
    got = run(table, x)
    assert got.shape == (2, 3, 2)
    for point, features in zip(x.flatten(0, 1).tolist(), got.flatten(0, 1).tolist(), strict=True):
        assert features == pytest.approx(by_definition.interpolate(table.tolist(), point), abs=1e-6)


def test_a_table_of_half_precision_adds_in_full_precision(generator: torch.Generator) -> None:
    table = draw(3, 3, 2, generator=generator).detach().half().requires_grad_()
    x, exact = draw(300, 2, generator=generator), table.detach().double().requires_grad_()
    got, expected = run(table, x), plain(exact, x.double())
    assert got.dtype == torch.float32
    assert error(got, expected) < 1e-6
    (one,), (other,) = torch.autograd.grad(got.sum(), table), torch.autograd.grad(expected.sum(), exact)
    assert one.dtype == torch.float16
    assert error(one, other) < 1e-3


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_nan_in_nan_out_and_infinity_is_the_border(generator: torch.Generator) -> None:
    table = draw(3, 3, 2, generator=generator).detach()
    x = torch.tensor([[0.5, math.nan], [math.inf, 0.5], [1.0, 0.5], [-math.inf, 0.5], [0.0, 0.5]], device=DEVICE)
    found = run(table, x)
    assert found.isnan().any(1).tolist() == [True, False, False, False, False]
    assert torch.equal(found[1], found[2])
    assert torch.equal(found[3], found[4])


def test_the_second_derivative_is_the_references(generator: torch.Generator) -> None:
    table, x = draw(4, 4, 2, generator=generator), draw(9, 2, generator=generator)
    found = []
    for out in (run(table, x), plain(table, x)):
        (slope,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), (x, table)))
    for one, other in zip(*found, strict=True):
        assert error(one, other) < 1e-5


def test_what_the_kernels_lack_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    call = {"dtype": torch.float16, "x_dtype": torch.float32, "has_slope": True, "shape": (4, 4, 2)}
    assert on_gpu.refuses(**call) is None
    assert "float64" in str(on_gpu.refuses(**call | {"x_dtype": torch.float64}))
    assert "1 to 3 axes" in str(on_gpu.refuses(**call | {"shape": (2, 2, 2, 2, 1)}))
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert "deterministic" in str(on_gpu.refuses(**call))


def test_the_door_names_what_is_wrong(generator: torch.Generator) -> None:
    table, x = draw(3, 3, 2, generator=generator), draw(4, 2, generator=generator)
    with pytest.raises(TypeError, match="x: expected float32 on a CUDA device"):
        run(table, x.double())
    with pytest.raises(ValueError, match=r"x: expected shape \(4, 2\), got \(4, 3\)"):
        run(table, torch.rand(4, 3, device=DEVICE))
    with pytest.raises(ValueError, match="table: expected 1 to 3 sides of at least 2"):
        run(table[:1], x)
