"""B-splines of one variable: knots, the basis on them, and the same spline on other knots (de Boor 1978).

G intervals and degree k have G + k basis functions, and G + 2k + 1 knots, since k more intervals stand on either side.
Between the first and the last of the inner knots the basis sums to 1; beyond them it fades to 0 over k intervals.
"""

from __future__ import annotations

import torch
from torch import Tensor

MOST_SAMPLES = 4096
"""Points a spline is refitted at."""


def uniform_knots(low: float, high: float, n_intervals: int, degree: int) -> Tensor:
    """(n_intervals + 2 degree + 1,) knots at equal distances, of which the inner ones go from low to high."""
    step = (high - low) / n_intervals
    knots = torch.empty(n_intervals + 2 * degree + 1)
    if not knots.is_meta:  # a first operation there would import sympy, 2 s of a short command
        torch.arange(-degree, n_intervals + degree + 1, out=knots).mul_(step).add_(low)
    return knots


def basis(x: Tensor, knots: Tensor, degree: int) -> Tensor:
    """Values of all basis functions, by the recursion of Cox and de Boor.

    Args:
        x: (*batch, n).
        knots: (n, m + degree + 1), rising, or (1, m + degree + 1) for all n alike. Intervals hold their left end.
        degree: k >= 0; the basis has k - 1 continuous derivatives where knots differ.

    Returns:
        (*batch, n, m), differentiable in x as often as one likes.
    """
    x = x[..., None]
    values = ((x >= knots[:, :-1]) & (x < knots[:, 1:])).to(x.dtype)
    for k in range(1, degree + 1):
        width = knots[:, k:] - knots[:, :-k]
        slope = torch.where(width > 0, 1 / width, 0.0)  # equal knots: nothing between them
        rising = (x - knots[:, :-k]) * slope  # (*batch, n, m + degree - k + 1)
        values = rising[..., :-1] * values[..., :-1] + (1 - rising[..., 1:]) * values[..., 1:]
    return values


def at_inner_knots(values: Tensor, low: float, high: float, degree: int) -> Tensor:
    """The smallest coefficients whose spline on uniform knots has given values at the inner ones.

    Args:
        values: (..., n_intervals + 1).
        low, high, degree: of the knots.

    Returns:
        (..., n_intervals + degree).
    """
    n_intervals = values.shape[-1] - 1
    knots = uniform_knots(low, high, n_intervals, degree).double()
    at = knots[degree : degree + n_intervals + 1]
    matrix = basis(at[:, None], knots[None], degree)[:, 0]
    return (values.double() @ torch.linalg.pinv(matrix).T).to(values.dtype)


def quantile_knots(x: Tensor, n_intervals: int, degree: int, *, uniform: float, margin: float) -> Tensor:
    """Knots at which samples are cut into intervals of equal counts.

    Args:
        x: (n_points, n) samples, at least one.
        n_intervals, degree: of the spline.
        uniform: share of knots at equal distances that is mixed in.
        margin: by which those reach beyond the samples.

    Returns:
        (n, n_intervals + 2 degree + 1).
    """
    ordered = x.sort(0).values
    place = torch.linspace(0, len(x) - 1, n_intervals + 1, device=x.device, dtype=torch.float64).long()
    step = (ordered[-1] - ordered[0] + 2 * margin) / n_intervals  # (n,)
    count = torch.arange(n_intervals + 1, device=x.device, dtype=x.dtype)[:, None]
    inner = uniform * (count * step + ordered[0] - margin) + (1 - uniform) * ordered[place]
    beyond = torch.arange(1, degree + 1, device=x.device, dtype=x.dtype)[:, None] * step
    return torch.cat([inner[:1] - beyond.flip(0), inner, inner[-1:] + beyond]).T.contiguous()


def change_of_knots(x: Tensor, old: Tensor, new: Tensor, degree: int) -> Tensor:
    """What turns coefficients on old knots into those on new ones whose spline is nearest at samples.

    Least squares, of which the smallest change is taken: a basis function that no sample reaches keeps its coefficient.
    A spline that is one polynomial of that degree is kept exactly; what has bends at the old knots as well as can be.

    Args:
        x: (n_points, n) samples; of more than `MOST_SAMPLES` some in even steps of their order are used.
        old, new: (n, m + degree + 1) knots.
        degree: of the spline.

    Returns:
        (n, m, m), float64: new coefficients (n, m, 1) = this @ the old ones.
    """
    ordered = x.double().sort(0).values
    if len(x) > MOST_SAMPLES:
        ordered = ordered[torch.linspace(0, len(x) - 1, MOST_SAMPLES, device=x.device, dtype=torch.float64).long()]
    before, after = (basis(ordered, knots.double(), degree).transpose(0, 1) for knots in (old, new))
    return torch.eye(before.shape[-1], device=x.device, dtype=torch.float64) + (
        torch.linalg.pinv(after) @ (before - after)
    )
