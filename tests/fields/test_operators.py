"""Derivatives of callables: exact where the polynomial is, right on spheres and tori, mixed entries in their place."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fieldforge.fields.operators import gradient, hessian, laplacian, mean_curvature

POINTS = torch.randn(40, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 0.3 + 0.7


def linear(p: Tensor) -> Tensor:
    return 2 * p[:, 0] - 3 * p[:, 1] + 0.5 * p[:, 2] + 7


def quadratic(p: Tensor) -> Tensor:
    x, y, z = p.unbind(-1)
    return x * z + 2 * y * z - 3 * x * x + y + 5


def torus(p: Tensor, major: float = 0.6, minor: float = 0.25) -> Tensor:
    ring = torch.linalg.vector_norm(p[:, :2], dim=-1) - major
    return torch.sqrt(ring**2 + p[:, 2] ** 2) - minor


def on_torus(n: int, major: float = 0.6, minor: float = 0.25) -> tuple[Tensor, Tensor, Tensor]:
    """Points, normals and mean curvature."""
    generator = torch.Generator().manual_seed(2)
    u, v = (2 * math.pi * torch.rand(2, n, generator=generator, dtype=torch.float64)).unbind(0)
    normal = torch.stack([u.cos() * v.cos(), u.sin() * v.cos(), v.sin()], -1)
    centre = torch.stack([u.cos(), u.sin(), torch.zeros_like(u)], -1) * major
    curvature = (1 / minor + v.cos() / (major + minor * v.cos())) / 2
    return centre + minor * normal, normal, curvature


@pytest.mark.parametrize("method", ["autodiff", "taps6", "taps4", "plane", "quadratic"])
def test_every_method_is_exact_on_a_linear_function(method: str) -> None:
    expected = torch.tensor([2.0, -3.0, 0.5], dtype=torch.float64).expand(40, 3)
    torch.testing.assert_close(gradient(linear, POINTS, method), expected, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("method", ["autodiff", "taps6", "quadratic"])
def test_second_order_methods_are_exact_on_a_quadratic(method: str) -> None:
    """With mixed entries where they belong: xz at (x, z), yz at (y, z)."""
    expected = torch.tensor([[-6.0, 0, 1], [0, 0, 2], [1, 2, 0]], dtype=torch.float64)
    torch.testing.assert_close(hessian(quadratic, POINTS, method), expected.expand(40, 3, 3), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(
        laplacian(quadratic, POINTS, method), torch.full((40,), -6.0).double(), atol=1e-6, rtol=0
    )
    autodiff = gradient(quadratic, POINTS)
    torch.testing.assert_close(gradient(quadratic, POINTS, method), autodiff, atol=1e-8, rtol=1e-8)


def test_four_taps_give_the_laplacian_of_a_sphere() -> None:
    sphere = lambda p: torch.linalg.vector_norm(p, dim=-1)  # noqa: E731
    radius = torch.linalg.vector_norm(POINTS, dim=-1)
    torch.testing.assert_close(laplacian(sphere, POINTS, "taps4", sigma=1e-3), 2 / radius, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("method", ["autodiff", "taps6", "quadratic"])
def test_curvature_of_a_torus(method: str) -> None:
    points, normals, curvature = on_torus(200)
    found = mean_curvature(torus, points, method, sigma=3e-3)
    assert ((found - curvature).abs() / curvature.abs().clamp(min=0.5)).median() < 2e-3
    cosine = (gradient(torus, points, method, sigma=3e-3) * normals).sum(-1)
    torch.testing.assert_close(cosine, torch.ones_like(cosine), atol=1e-3, rtol=0)


def test_float32_curvature_is_right_at_small_sigma() -> None:
    """Uncentred normal equations in float32 are off by a factor of 3.6 here."""
    direction = torch.nn.functional.normalize(POINTS.float(), dim=-1)
    found = mean_curvature(lambda p: torch.linalg.vector_norm(p, dim=-1), direction * 0.5, sigma=2e-3)
    assert ((found - 2).abs() / 2).median() < 0.02


def test_a_fit_needs_no_differentiable_field() -> None:
    steps = lambda p: (p[:, 0] * 1000).round() / 1000  # noqa: E731
    found = gradient(steps, POINTS, "plane", sigma=0.05, n_samples=256)
    torch.testing.assert_close(found, torch.tensor([1.0, 0, 0], dtype=torch.float64).expand(40, 3), atol=5e-3, rtol=0)
    assert gradient(steps, POINTS).abs().max() == 0


def test_taps_pass_gradients_to_parameters() -> None:
    """What an eikonal loss on a grid needs."""
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    gradient(lambda p: scale * quadratic(p), POINTS, "taps4").square().sum().backward()
    assert scale.grad is not None
    assert scale.grad > 0


def test_batch_axes_are_kept_and_none_may_be_there() -> None:
    assert gradient(linear, POINTS.view(2, 5, 4, 3), "quadratic").shape == (2, 5, 4, 3)
    assert hessian(quadratic, POINTS[:0]).shape == (0, 3, 3)
    assert mean_curvature(quadratic, POINTS[:0]).shape == (0,)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"method": "taps5"}, "method: expected one of .*, got 'taps5'; did you mean"),
        ({"method": "plane", "sigma": 0.0}, "sigma: expected a finite number above 0"),
        ({"method": "plane", "n_samples": 33}, "n_samples: expected an even number"),
        ({"method": "quadratic", "n_samples": 8}, "n_samples: expected an integer from 20"),
    ],
)
def test_what_cannot_be_fitted_is_refused(keywords: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gradient(linear, POINTS, **keywords)  # type: ignore[arg-type]


def test_samples_in_pairs_give_a_plane_the_gradient_of_a_quadratic() -> None:
    options = {"sigma": 0.1, "n_samples": 64}
    plane, second = gradient(torus, POINTS, "plane", **options), gradient(torus, POINTS, "quadratic", **options)
    torch.testing.assert_close(plane, second, atol=1e-12, rtol=1e-12)


def test_the_error_of_four_taps_is_of_first_order_and_of_six_of_second() -> None:
    error = {}
    for method, step in (("taps4", 0.02), ("taps4", 0.01), ("taps6", 0.02), ("taps6", 0.01)):
        found = gradient(torus, POINTS, method, step=step) - gradient(torus, POINTS).detach()
        error[method, step] = float(torch.linalg.vector_norm(found))
    assert error["taps4", 0.02] == pytest.approx(2 * error["taps4", 0.01], rel=0.05)
    assert error["taps6", 0.02] == pytest.approx(4 * error["taps6", 0.01], rel=0.05)
