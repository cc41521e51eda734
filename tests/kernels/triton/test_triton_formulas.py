"""Encodings that are formulas on a GPU are the definitions in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from interpreted import DEVICE, needs_triton
from reference import encodings as by_definition
from torch import Tensor

from fieldforge.encodings.frequency import frequency
from fieldforge.encodings.one_blob import one_blob
from fieldforge.encodings.random_fourier import random_fourier
from fieldforge.encodings.spherical_harmonics import spherical_harmonics
from fieldforge.encodings.triangle_wave import triangle_wave
from fieldforge.kernels.triton import formulas
from fieldforge.kernels.triton.door import launch

pytestmark = needs_triton


def frequencies(n_features: int, n_dims: int) -> Tensor:
    return torch.randn(n_features, n_dims, generator=torch.Generator().manual_seed(n_features)).to(DEVICE)


def fourier(x: Tensor, number: int) -> Tensor:
    return random_fourier(x, frequencies(number, x.shape[1]))


PLAIN: dict[str, Callable[[Tensor, int], Tensor]] = {
    "frequency": frequency, "one_blob": one_blob, "spherical_harmonics": spherical_harmonics,
    "triangle_wave": triangle_wave, "random_fourier": fourier,
}  # fmt: skip
CASES = [
    ("frequency", 1, 2, 17), ("frequency", 12, 3, 33), ("frequency", 5, 1, 0), ("one_blob", 1, 2, 15),
    ("one_blob", 16, 2, 17), ("one_blob", 128, 1, 3), ("spherical_harmonics", 2, 3, 1),
    ("spherical_harmonics", 4, 3, 67), ("spherical_harmonics", 8, 3, 15), ("triangle_wave", 1, 2, 17),
    ("triangle_wave", 12, 3, 33), ("triangle_wave", 5, 1, 0), ("random_fourier", 1, 1, 1),
    ("random_fourier", 70, 2, 33), ("random_fourier", 17, 5, 15), ("random_fourier", 9, 16, 3),
    ("random_fourier", 4, 3, 0),
]  # fmt: skip


def run(name: str, x: Tensor, number: int) -> Tensor:
    given = frequencies(number, x.shape[1]) if name == "random_fourier" else number
    out: Tensor = getattr(formulas, name)(x, given, reference=partial(_plain, name, number))
    return out


def _plain(name: str, number: int, x: Tensor) -> Tensor:
    return PLAIN[name](x, number)


@pytest.mark.parametrize(("name", "number", "n_dims", "n"), CASES)
def test_value_and_gradient_are_the_references(
    name: str, number: int, n_dims: int, n: int, generator: torch.Generator
) -> None:
    x = (1.5 * torch.rand(n, n_dims, generator=generator) - 0.25).to(DEVICE).requires_grad_()
    exact = x.detach().double().requires_grad_()
    got, expected = run(name, x, number), PLAIN[name](exact, number)
    grad = torch.randn(got.shape, generator=generator).to(DEVICE)
    assert got.shape == expected.shape
    (slope,), (exact_slope,) = torch.autograd.grad(got, x, grad), torch.autograd.grad(expected, exact, grad.double())
    if n:
        assert (got - expected).abs().max() < 1e-5 * max(1.0, float(expected.detach().abs().max()))
        assert (slope - exact_slope).norm() < 2e-5 * exact_slope.norm()


def test_values_are_those_of_the_definition_in_float64(generator: torch.Generator) -> None:
    x = torch.rand(6, 2, generator=generator)
    v = torch.nn.functional.normalize(torch.randn(6, 3, generator=generator), dim=-1)
    for name, number, given, points in (
        ("frequency", 4, x, x), ("one_blob", 8, x, x), ("spherical_harmonics", 6, 0.5 * (v + 1), v),
        ("triangle_wave", 5, x, x),
    ):  # fmt: skip
        for point, features in zip(points.tolist(), run(name, given.to(DEVICE), number).tolist(), strict=True):
            assert features == pytest.approx(getattr(by_definition, name)(point, number), abs=3e-6)


def test_random_features_are_those_of_the_definition_in_float64(generator: torch.Generator) -> None:
    x, rows = torch.rand(5, 2, generator=generator), frequencies(7, 2)
    for point, features in zip(x.tolist(), run("random_fourier", x.to(DEVICE), 7).tolist(), strict=True):
        assert features == pytest.approx(by_definition.random_fourier(point, rows.tolist()), abs=6e-6)


def test_triangle_waves_have_the_bits_and_at_turning_points_the_slopes_of_the_reference() -> None:
    x = (torch.arange(-64, 64).to(DEVICE) / 64)[:, None].requires_grad_()
    found = []
    for out in (run("triangle_wave", x, 6), triangle_wave(x, 6)):
        found.append((out, *torch.autograd.grad(out.cumsum(1).sum(), x)))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_trained_or_wide_frequencies_are_refused() -> None:
    call = {"dtype": torch.float32, "n_outputs": 8}
    assert formulas.refuses(**call, tensor=torch.zeros(4, 3)) is None
    assert "trained" in str(formulas.refuses(**call, tensor=torch.zeros(4, 3, requires_grad=True)))
    assert "of 16 axes" in str(formulas.refuses(**call, tensor=torch.zeros(4, 17)))
    assert "float64" in str(formulas.refuses(**call, tensor=torch.zeros(4, 3, dtype=torch.float64)))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", ["frequency", "one_blob", "triangle_wave"])
def test_outputs_may_have_more_numbers_than_32_bits_count(name: str) -> None:
    """The first program of 2^30 coordinates writes all of its block; a product of sizes in 32 bits would be below 0."""
    kernel = getattr(formulas._kernels(), name)
    out = torch.full((2 * 512,), math.nan, device=DEVICE)
    launch(kernel, (1,), torch.zeros(512, device=DEVICE), out, 2**30, **formulas._constant(name, 2), BLOCK=512)
    assert not out[: 1024 if name == "frequency" else 512].isnan().any()


def test_gradients_in_a_batch_are_the_references(generator: torch.Generator) -> None:
    """`is_grads_batched` sends gradients without memory."""
    x = torch.rand(3, 2, generator=generator).to(DEVICE).requires_grad_()
    out = run("triangle_wave", x, 2)
    grads = torch.randn(4, *out.shape, generator=generator).to(DEVICE)
    (found,) = torch.autograd.grad(out, x, grads, is_grads_batched=True, retain_graph=True)
    for one, grad in zip(found, grads, strict=True):
        assert torch.allclose(one, torch.autograd.grad(out, x, grad, retain_graph=True)[0])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", PLAIN)
def test_nan_in_nan_out(name: str, generator: torch.Generator) -> None:
    x = torch.rand(5, 3, generator=generator).to(DEVICE)
    x[2] = math.nan
    assert run(name, x, 2).isnan().any(1).tolist() == [False, False, True, False, False]


def test_the_second_derivative_is_the_references(generator: torch.Generator) -> None:
    x = torch.rand(5, 3, generator=generator).to(DEVICE).requires_grad_()
    for name in PLAIN:
        found = []
        for out in (run(name, x, 4), PLAIN[name](x, 4)):
            (slope,) = torch.autograd.grad(out.pow(3).sum(), x, create_graph=True)
            found.append(torch.autograd.grad(slope.square().sum(), x)[0])
        assert (found[0] - found[1]).norm() <= 1e-4 * found[1].norm()


def test_the_door_names_what_is_wrong() -> None:
    with pytest.raises(TypeError, match="x: expected float32 on a CUDA device"):
        run("frequency", torch.rand(3, 2, device=DEVICE).double(), 4)
