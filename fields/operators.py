"""Derivatives of any callable field: gradient, Hessian, Laplacian, mean curvature.

A grid's own derivative carries the noise of its cells. Instead of differentiating the field, fit a low-degree
polynomial to its values around the point and differentiate that (Chetan et al., CVPR 2025, arXiv 2312.05984):

    samples p_j = q + σ e_j,  e_j ~ N(0, I);   values y_j = f(p_j)
    plane:     min over b, g       of  Σ_j (b + g·e_j - y_j)²             gradient g/σ
    quadratic: min over b, g, H    of  Σ_j (b + g·e_j + ½ e_jᵀ H e_j - y_j)²   gradient g/σ, Hessian H/σ²

σ sets what is kept: below the size of the finest cells noise passes, far above it the shape's own curvature is lost.
Twice the finest cells for normals and four times for second derivatives did best; data/studies/derivatives.md.

Where we differ from the released code: coordinates are centred and divided by σ before the fit (its float32 normal
equations in plain coordinates are off by a factor of 3.6 in curvature on a sphere of radius 0.5 at σ = 0.002); samples
come in pairs ±e, which removes the even terms from the gradient exactly; one set of samples serves all points, so that
the least squares are solved once; and the Hessian's mixed entries stand where they belong.

A field here is any function (N, d) -> (N,); only "autodiff" differentiates it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import TypedDict, Unpack

import torch
from torch import Tensor

from fieldforge.checks import expect_choice, expect_float, expect_int, expect_points

Scalar = Callable[[Tensor], Tensor]
"""(N, d) points -> (N,) values."""

METHODS = ("autodiff", "taps6", "taps4", "plane", "quadratic")
SIGMA = 1e-2


class Samples(TypedDict, total=False):
    """Where a fit looks at the field.

    Keys:
        sigma: standard deviation of the samples, in the units of the points; 0.01. A `ShapeField` knows its cells and
            chooses by them. The taps of second derivatives lie that far.
        n_samples: for each point; an even number; 64.
        generator: of the samples; None is a fixed seed, so that two calls agree.
    """

    sigma: float
    n_samples: int
    generator: torch.Generator | None


def gradient(
    f: Scalar, points: Tensor, method: str = "autodiff", *, step: float = 1e-3, **samples: Unpack[Samples]
) -> Tensor:
    """df/dx at each point.

    Args:
        f: (N, d) -> (N,).
        points: (*batch, d) in the units of f.
        method: "autodiff"; "taps6", central differences along each axis; "taps4", the four corners of a tetrahedron
            (3-D only; Neuralangelo's): an error of first order in the step where f bends across two axes, so that it
            wants shorter steps than the six; "plane" or "quadratic", fits as above, whose gradients are equal.
        step: distance of the taps along an axis, in the units of the points; with "taps4" the corners lie that far.
        samples: of a fit, see `Samples`.

    Returns:
        (*batch, d), not normalised. With "autodiff" it can be differentiated again where gradients are enabled.

    Raises:
        ValueError: no such method, numbers out of range, "taps4" in other than three dimensions.

    Example:
        >>> gradient(lambda p: (p ** 2).sum(-1), torch.tensor([[1.0, 2.0, 3.0]]), "quadratic").round(decimals=3)
        tensor([[2., 4., 6.]])
    """
    expect_choice("method", method, METHODS)
    flat, d = _flat(points)
    if method == "autodiff":
        found = _autodiff(f, flat)
    elif method == "taps6":
        taps = torch.cat((torch.eye(d), -torch.eye(d)))
        found = _around(f, flat, taps, _step(step)) @ taps.to(flat) / (2 * step)
    elif method == "taps4":
        corners, h = _tetrahedron(d), _step(step) / math.sqrt(3)
        found = _around(f, flat, corners, h) @ corners.to(flat) / (4 * h)
    else:
        found = _Fit(d, is_quadratic=method == "quadratic", **samples).first_and_second(f, flat)[0]
    return found.view(points.shape)


def hessian(f: Scalar, points: Tensor, method: str = "quadratic", **samples: Unpack[Samples]) -> Tensor:
    """d²f/dx², symmetric, (*batch, d, d).

    Args:
        f: (N, d) -> (N,).
        points: (*batch, d) in the units of f.
        method: "autodiff", "taps6" (differences of values at sigma along the axes) or "quadratic".
        samples: see `Samples`.
    """
    return _first_and_second(f, points, method, samples)[1]


def laplacian(f: Scalar, points: Tensor, method: str = "quadratic", **samples: Unpack[Samples]) -> Tensor:
    """The trace of the Hessian, (*batch,); arguments as for `hessian`, and "taps4" for five values a point in 3-D."""
    if expect_choice("method", method, METHODS) == "taps4":
        flat, d = _flat(points)
        h = _step(samples.get("sigma", SIGMA)) / math.sqrt(3)
        corners = _around(f, flat, _tetrahedron(d), h).sum(-1)
        return ((corners / 2 - 2 * f(flat)) / h**2).view(points.shape[:-1])
    return hessian(f, points, method, **samples).diagonal(0, -2, -1).sum(-1)


def mean_curvature(f: Scalar, points: Tensor, method: str = "quadratic", **samples: Unpack[Samples]) -> Tensor:
    """div(∇f/|∇f|)/(d - 1) of the level set through each point, (*batch,), in 1/units of the points.

    Positive on a ball's surface whose field is positive outside: 1/r. Arguments as for `hessian`.
    """
    g, h = _first_and_second(f, points, method, samples)
    squared = (g * g).sum(-1)
    bent = torch.einsum("...i,...ij,...j->...", g, h, g)
    trace = h.diagonal(0, -2, -1).sum(-1)
    return (trace * squared - bent) / (squared**1.5 * max(1, points.shape[-1] - 1))


def _first_and_second(f: Scalar, points: Tensor, method: str, samples: Samples) -> tuple[Tensor, Tensor]:
    """Gradient and Hessian from the same values."""
    expect_choice("method", method, ("autodiff", "taps6", "quadratic"))
    flat, d = _flat(points)
    if method == "autodiff":
        with torch.enable_grad():
            x = flat.detach().requires_grad_() if not flat.requires_grad else flat
            g = _autodiff(f, x, is_recorded=True)
            rows = [torch.autograd.grad(g[:, i].sum(), x, retain_graph=True, allow_unused=True)[0] for i in range(d)]
        second = torch.stack([torch.zeros_like(flat) if row is None else row for row in rows], 1)
        first = g.detach()
    elif method == "taps6":
        sigma = samples.get("sigma", SIGMA)
        first = gradient(f, flat, "taps6", step=sigma)
        second = _second_differences(f, flat, _step(sigma))
    else:
        first, second = _Fit(d, is_quadratic=True, **samples).first_and_second(f, flat)
    return first.view(points.shape), second.view(*points.shape, d)


class _Fit:
    """Least squares on one set of scaled offsets: the coefficients are a fixed matrix times the values.

    Columns of the design: 1, e_i, then ½ e_i² and e_i e_j in the order of `_pairs`.
    """

    def __init__(
        self,
        d: int,
        *,
        is_quadratic: bool,
        sigma: float = SIGMA,
        n_samples: int = 64,
        generator: torch.Generator | None = None,
    ) -> None:
        self.sigma = expect_float("sigma", sigma, 0.0, open_low=True)
        n_unknown = 1 + d + (d * (d + 1) // 2 if is_quadratic else 0)
        expect_int("n_samples", n_samples, 2 * n_unknown, 2**16)
        if n_samples % 2:
            raise ValueError(f"n_samples: expected an even number, as samples come in pairs, got {n_samples}")
        half = torch.randn(
            n_samples // 2, d, dtype=torch.float64, generator=generator or torch.Generator().manual_seed(0)
        )
        self.offsets = torch.cat((half, -half))
        columns = [torch.ones(n_samples, 1, dtype=torch.float64), self.offsets]
        if is_quadratic:
            pairs = [self.offsets[:, i] * self.offsets[:, j] * (0.5 if i == j else 1.0) for i, j in _pairs(d)]
            columns.append(torch.stack(pairs, 1))
        self.solution = torch.linalg.pinv(torch.cat(columns, 1))  # (n_unknown, n_samples)

    def coefficients(self, f: Scalar, points: Tensor) -> Tensor:
        values = _around(f, points, self.offsets, self.sigma)
        centre = values.mean(1, keepdim=True)  # a constant is fitted exactly; taking it out first keeps its digits
        return (values - centre) @ self.solution.T.to(values)

    def first_and_second(self, f: Scalar, points: Tensor) -> tuple[Tensor, Tensor]:
        """The polynomial's gradient (N, d) and Hessian (N, d, d); that of a plane is 0."""
        n, d = points.shape
        c = self.coefficients(f, points)
        second = c.new_zeros(n, d, d)
        if c.shape[1] > d + 1:
            for column, (i, j) in enumerate(_pairs(d), start=d + 1):
                second[:, i, j] = second[:, j, i] = c[:, column] / self.sigma**2
        return c[:, 1 : d + 1] / self.sigma, second


def _around(f: Scalar, points: Tensor, offsets: Tensor, scale: float, chunk: int = 2**18) -> Tensor:
    """f at points + scale * offsets: (N, k), some points at a time."""
    k = len(offsets)
    moves = (offsets.double() * scale).to(points)
    rows = max(1, chunk // k)
    parts = [f((part[:, None] + moves).reshape(-1, points.shape[-1])).view(-1, k) for part in points.split(rows)]
    return torch.cat(parts) if parts else points.new_empty(0, k)


def _autodiff(f: Scalar, points: Tensor, *, is_recorded: bool | None = None) -> Tensor:
    is_recorded = torch.is_grad_enabled() if is_recorded is None else is_recorded
    with torch.enable_grad():
        x = points if points.requires_grad else points.detach().requires_grad_()
        (g,) = torch.autograd.grad(f(x).sum(), x, create_graph=is_recorded)
    return g


def _second_differences(f: Scalar, points: Tensor, h: float) -> Tensor:
    d = points.shape[-1]
    axes = torch.eye(d)
    middle = f(points)
    along = _around(f, points, torch.cat((axes, -axes)), h)
    second = torch.zeros(len(points), d, d, dtype=middle.dtype, device=middle.device)
    for i in range(d):
        second[:, i, i] = (along[:, i] + along[:, d + i] - 2 * middle) / h**2
    for i, j in itertools.combinations(range(d), 2):
        corners = torch.stack([s * axes[i] + t * axes[j] for s, t in ((1, 1), (-1, -1), (1, -1), (-1, 1))])
        a, b, c, e = _around(f, points, corners, h).unbind(1)
        second[:, i, j] = second[:, j, i] = (a + b - c - e) / (4 * h**2)
    return second


def _pairs(d: int) -> list[tuple[int, int]]:
    return list(itertools.combinations_with_replacement(range(d), 2))


def _tetrahedron(d: int) -> Tensor:
    if d != 3:
        raise ValueError(f"method: 'taps4' needs points of three dimensions, got {d}")
    return torch.tensor([[1.0, -1.0, -1.0], [-1.0, -1.0, 1.0], [-1.0, 1.0, -1.0], [1.0, 1.0, 1.0]])


def _step(step: float) -> float:
    return expect_float("step", step, 0.0, open_low=True)


def _flat(points: Tensor) -> tuple[Tensor, int]:
    d = points.shape[-1] if points.ndim else 0
    expect_points(points, d, name="points")
    return points.reshape(-1, d), d
