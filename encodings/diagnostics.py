"""What an encoding can remember and how it fills in, and the linear head that uses no more than that (Zheng,
Ramasinghe and Lucey 2021, "Rethinking Positional Encoding").

    features = encoding(samples)                     # (n, F)
    stable_rank(features)                            # how many directions matter: memory
    distance_profile(encoding, torch.zeros(1), d)    # how alike two points are: what happens between samples
    weight = ridge(features, values)                 # features @ weight is the best linear fit
"""

from __future__ import annotations

import torch
from torch import Tensor

from fieldforge.checks import expect_float
from fieldforge.encodings.base import Encoding


@torch.no_grad()
def stable_rank(features: Tensor) -> float:
    """The sum of squared singular values over the largest of them, at most the rank; 0 of nothing but zeros.

    Args:
        features: (n, F).

    Example:
        >>> stable_rank(torch.eye(3))
        3.0
    """
    _expect_matrix("features", features)
    squares = torch.linalg.svdvals(features.double()).square()
    return float(squares.sum() / squares[0]) if squares.numel() and squares[0] > 0 else 0.0


@torch.no_grad()
def distance_profile(encoding: Encoding, x: Tensor, distances: Tensor, axis: int = 0) -> Tensor:
    """The product of the features of a point and of those at distances from it along an axis, over that at distance 0.

    Args:
        encoding: what is looked at.
        x: (n_input_dims,) the point.
        distances: (n,).
        axis: along which coordinate.

    Returns:
        (n,); 1 at distance 0.
    """
    others = x.expand(len(distances), -1).clone()
    others[:, axis] += distances
    here = encoding(x)
    profile: Tensor = (encoding(others) @ here) / (here @ here)
    return profile


@torch.no_grad()
def ridge(features: Tensor, values: Tensor, strength: float = 1e-6) -> Tensor:
    """The linear head W that minimises the sum of |features W - values|² plus strength · r |W|², in float64, with r the
    mean squared length of a row of the features.

    Args:
        features: (n, F).
        values: (n, C).
        strength: at least 0.

    Returns:
        (F, C), of the type of `values`.
    """
    _expect_matrix("features", features)
    _expect_matrix("values", values)
    if len(features) != len(values):
        raise ValueError(f"values: expected a row for each of {len(features)} of the features, got {len(values)}")
    u, s, v = torch.linalg.svd(features.double(), full_matrices=False)
    return (v.T @ (_inverse(s, strength, len(features))[:, None] * (u.T @ values.double()))).to(values.dtype)


@torch.no_grad()
def ridge_kronecker(rows: Tensor, columns: Tensor, values: Tensor, strength: float = 1e-6) -> Tensor:
    """The same for products of features on a grid, without ever making them: of n · m samples F · G features each.

    Args:
        rows: (n, F) features of the grid's first coordinate.
        columns: (m, G) of its second.
        values: (n, m, C).
        strength: as for `ridge`, of the products.

    Returns:
        (F, G, C): the fit at sample (i, j) is the sum of rows[i, f] columns[j, g] W[f, g] over f and g.
    """
    _expect_matrix("rows", rows)
    _expect_matrix("columns", columns)
    if values.ndim != 3 or values.shape[:2] != (len(rows), len(columns)):
        raise ValueError(f"values: expected ({len(rows)}, {len(columns)}, C), got {tuple(values.shape)}")
    u, s, v = torch.linalg.svd(rows.double(), full_matrices=False)
    p, t, q = torch.linalg.svd(columns.double(), full_matrices=False)
    inner = torch.einsum("ia,ijc,jb->abc", u, values.double(), p)
    inner = inner * _inverse(s[:, None] * t, strength, len(rows) * len(columns))[..., None]
    return torch.einsum("af,abc,bg->fgc", v, inner, q).to(values.dtype)


def _inverse(singular: Tensor, strength: float, n_rows: int) -> Tensor:
    """s / (s² + strength · sum s² / n_rows), 0 where both vanish."""
    expect_float("strength", strength, 0.0)
    squares = singular.square()
    below = squares + strength * squares.sum() / max(1, n_rows)
    return torch.where(below > 0, singular / below.clamp_min(1e-300), 0.0)


def _expect_matrix(name: str, value: Tensor) -> None:
    if not isinstance(value, Tensor) or value.ndim != 2 or not value.is_floating_point():
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"{name}: expected a matrix of floating-point numbers, got {shape}")
