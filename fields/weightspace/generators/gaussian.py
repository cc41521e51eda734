"""Gaussian and PCAGaussian: the baselines that a model of weights has to beat.

    {"otype": "Gaussian", "shrinkage": null}         {"otype": "PCAGaussian", "n_components": 64}

Gaussian: mean and full covariance, (1 - s) S + s diag(S) with S the sample covariance. Fewer fields than parameters
leave S without full rank; some of its diagonal is then needed. `shrinkage` null takes s from the data (Schäfer and
Strimmer 2005: of the correlations off the diagonal, the sum of the variances of their estimates over the sum of their
squares, at most 1) and keeps it in its state; 0 is S itself, 1 the diagonal Gaussian.

PCAGaussian: independent normal numbers along the first principal directions, nothing across the others.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fieldforge.checks import expect_float, expect_int
from fieldforge.fields.weightspace.generators.base import Generator, draw_like
from fieldforge.fields.weightspace.layout import Layout
from fieldforge.registry import register

MAX_SIDE = 20_000
"""Parameters up to which a full covariance is formed: 3 GB of float64."""


@register("generator", "Gaussian")
class Gaussian(Generator):
    """N(mean, (1 - s) S + s diag(S)).

    Args:
        layout: of the vectors, at most 20,000 numbers.
        shrinkage: s in [0, 1]; None: from the data.

    Attributes:
        mean: (d,). factor: (d, d), a root of the covariance.
        used_shrinkage: the s of the last `fit`, a tensor of one number.
    """

    otype = "Gaussian"

    mean: Tensor
    factor: Tensor
    used_shrinkage: Tensor

    def __init__(self, layout: Layout, *, shrinkage: float | None = None) -> None:
        super().__init__(layout)
        self.shrinkage = None if shrinkage is None else expect_float("shrinkage", shrinkage, 0.0, 1.0)
        d = self.layout.n_parameters
        if d > MAX_SIDE:
            raise ValueError(f"layout: a full covariance of {d:,} numbers is too large (at most {MAX_SIDE:,}); "
                             "PCAGaussian has no such limit")  # fmt: skip
        self.register_buffer("mean", torch.zeros(d))
        self.register_buffer("factor", torch.zeros(d, d))
        self.register_buffer("used_shrinkage", torch.zeros(()))

    @torch.no_grad()
    def fit(self, vectors: Tensor) -> None:
        x = self.expect_training_set(vectors, 3)
        mean = x.mean(0)
        centred = x - mean
        covariance = centred.T @ centred / (len(x) - 1)
        s = self.shrinkage
        if s is None:
            deviation = x.std(0)
            s = optimal_shrinkage(centred / torch.where(deviation > 0, deviation, torch.ones_like(deviation)))
        shrunk = (1 - s) * covariance + s * covariance.diagonal().diag()
        values, directions = torch.linalg.eigh(shrunk)
        self.mean.copy_(mean)
        self.factor.copy_(directions * values.clamp_min(0).sqrt())
        self.used_shrinkage.fill_(s)

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        return self.mean + draw_like(n, self.mean, generator, len(self.mean)) @ self.factor.T


@register("generator", "PCAGaussian")
class PCAGaussian(Generator):
    """N(mean, S restricted to the first principal directions).

    Args:
        layout: of the vectors.
        n_components: how many directions; fewer where the training set has fewer.

    Attributes:
        mean: (d,). directions: (n_components, d), each as long as the deviation along it.
    """

    otype = "PCAGaussian"

    mean: Tensor
    directions: Tensor

    def __init__(self, layout: Layout, *, n_components: int = 64) -> None:
        super().__init__(layout)
        self.n_components = expect_int("n_components", n_components, 1)
        self.register_buffer("mean", torch.zeros(self.layout.n_parameters))
        self.register_buffer("directions", torch.zeros(self.n_components, self.layout.n_parameters))

    @torch.no_grad()
    def fit(self, vectors: Tensor) -> None:
        x = self.expect_training_set(vectors, 2)
        mean, directions, deviations = principal(x, self.n_components)
        self.mean.copy_(mean)
        self.directions.zero_()
        self.directions[: len(directions)] = directions * deviations[:, None]

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        return self.mean + draw_like(n, self.mean, generator, self.n_components) @ self.directions


def principal(x: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Principal directions of (m, d) vectors.

    Returns:
        The mean (d,), the first directions (k, d) of length 1, and the deviations (k,) along them, largest first; k is
        `n`, or what m vectors have.
    """
    mean = x.mean(0)
    _, sizes, directions = torch.linalg.svd(x - mean, full_matrices=False)
    kept = min(n, len(x) - 1, len(sizes))
    return mean, directions[:kept], sizes[:kept] / (len(x) - 1) ** 0.5


def optimal_shrinkage(centred: Tensor) -> float:
    """Schäfer and Strimmer's s towards no correlation, from (n, d) vectors of mean 0 and deviation 1, n of at least 3.

    S are their covariances, here correlations. Var(S_ij) is estimated from the n products x_i x_j; neither sum needs a
    tensor of n d² numbers.
    """
    n = len(centred)
    mean_product = centred.T @ centred / n
    squares = centred.square()
    mean_square = squares.T @ squares / n
    of_entries = (mean_square - mean_product.square()) * n**2 / (n - 1) ** 3  # Var(S_ij), S with n - 1 below
    covariance = mean_product * n / (n - 1)
    off = ~torch.eye(centred.shape[1], dtype=torch.bool, device=centred.device)
    below = float(covariance[off].square().sum())
    return min(1.0, max(0.0, float(of_entries[off].sum()) / below)) if below > 0 else 1.0
