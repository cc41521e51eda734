"""RBF: one layer of radial functions whose centres lie among the features (Bouzidi et al. 2025, "Gaussian RBFNet").

    {"otype": "RBF", "n_neurons": 64, "kernel": "gaussian", "initial": "gnf", "feature_std": 1.0,
     "output_activation": "None"}

D_k = sum_j exp(b_kj) (f_j - c_kj)², y = W kernel(D) + w_0: anisotropic bumps of the feature vector f instead of a
small MLP. Made to stand behind a grid; of two or three raw coordinates it would need a great many centres. As in the
authors' code (AbdelazizBouzidi/GNF) distances are those of the expanded square, a matrix product; unlike there they are
clamped at 0, below which float32 may take them. Their `betas_shifts` is read by nothing and left out, and so is the
bank for each level of the grid, which does not run as released.

kernel                    of D                           continuous derivatives
"gaussian"                exp(-D / 2)                    all
"multiquadric"            √(D + 1)                       all
"inverse_multiquadric"    1 / √(D + 1)                   all
"cubic"                   √D³                            2
"thin_plate"              D log √D                       1
"wendland"                (1 - √D)₊⁹ (9 √D + 1)          2

The last is Wendland's C² function with the exponent that the authors fixed; nothing is left of it where D > 1.

How it begins: `initial` "gnf" is theirs, centres from U(±1e-4) and b = 0. Behind F features of standard deviation 1
(their grids) D is about F and a Gaussian exp(-F/2): a slow start; behind a fresh hash grid all features are near 0 and
all Gaussians 1. "spread" draws centres from N(0, s²), with s the `feature_std`, and takes b = -log(F s²), so that D is
about 2 wherever the features have that spread.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from fieldforge.checks import expect_choice, expect_float, expect_generator, expect_int, expect_points
from fieldforge.fields.activations.base import Activation, draw_linear, draw_uniform
from fieldforge.fields.networks.base import Modulation, Network, empty_linear, expect_real_activation, expect_size
from fieldforge.registry import register

TINY = 1e-12
"""Squared distance below which functions of the distance itself are flat: √D has no slope at 0."""


def _distance(square: Tensor) -> Tensor:
    return square.clamp(min=TINY).sqrt()


def _wendland(square: Tensor) -> Tensor:
    r = _distance(square)
    return (1 - r).clamp(min=0) ** 9 * (9 * r + 1)


KERNELS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "gaussian": (lambda square: torch.exp(-0.5 * square), math.inf),
    "multiquadric": (lambda square: torch.sqrt(square + 1), math.inf),
    "inverse_multiquadric": (lambda square: torch.rsqrt(square + 1), math.inf),
    "cubic": (lambda square: _distance(square) ** 3, 2),
    "thin_plate": (lambda square: square * _distance(square).log(), 1),
    "wendland": (_wendland, 2),
}
"""Name -> function of the squared distance, and how often it is continuously differentiable in the features."""


@register("network", "RBF")
class RBF(Network):
    """W kernel(D) + w_0; W and w_0 by PyTorch's law.

    Args:
        n_input_dims: F, width of the features.
        n_output_dims: number of outputs.
        n_neurons: K, number of centres.
        kernel: one of `KERNELS`.
        initial: "gnf" or "spread", see above.
        feature_std: s of "spread": the standard deviation of the features, once trained.
        output_activation: name or table of the last one.
        generator: source of the initial weights; None is torch's global one.

    Attributes:
        centers: (K, F). log_precision: (K, F), b. last: the linear layer.

    Example:
        >>> head = RBF(32, 3, n_neurons=64)
        >>> sum(p.numel() for p in head.parameters()) == 64 * (32 + 32) + 3 * (64 + 1)
        True
    """

    otype = "RBF"

    def __init__(
        self,
        n_input_dims: int,
        n_output_dims: int,
        *,
        n_neurons: int = 64,
        kernel: Literal[
            "gaussian", "multiquadric", "inverse_multiquadric", "cubic", "thin_plate", "wendland"
        ] = "gaussian",
        initial: Literal["gnf", "spread"] = "gnf",
        feature_std: float = 1.0,
        output_activation: str | Mapping[str, Any] | Activation = "None",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.n_input_dims = expect_int("n_input_dims", n_input_dims, 1)
        self.n_output_dims = expect_int("n_output_dims", n_output_dims, 1)
        self.n_neurons = expect_int("n_neurons", n_neurons, 1)
        self.kernel = expect_choice("kernel", kernel, KERNELS)
        self.initial = expect_choice("initial", initial, ("gnf", "spread"))
        self.feature_std = expect_float("feature_std", feature_std, 0.0, 1e6, open_low=True)
        self.output_activation = expect_real_activation("output_activation", output_activation)
        self.smoothness = min(KERNELS[self.kernel][1], self.output_activation.smoothness)

        expect_size(n_neurons * (2 * n_input_dims + n_output_dims) + n_output_dims)
        expect_generator(generator)
        self.centers = nn.Parameter(torch.empty(n_neurons, n_input_dims))
        self.log_precision = nn.Parameter(torch.zeros(n_neurons, n_input_dims))
        if self.initial == "gnf":
            draw_uniform(self.centers, 1e-4, generator)
        elif not self.centers.is_meta:
            nn.init.normal_(self.centers, std=self.feature_std, generator=generator)
            nn.init.constant_(self.log_precision, -math.log(n_input_dims * self.feature_std**2))
        self.last = empty_linear(n_neurons, n_output_dims, has_bias=True)
        draw_linear(self.last.weight, self.last.bias, generator)

    def square_distances(self, features: Tensor) -> Tensor:
        """D, (*batch, F) -> (*batch, K), at least 0."""
        precision = self.log_precision.exp()
        near = functional.linear(features, precision * self.centers)
        square = functional.linear(features.square(), precision, (precision * self.centers.square()).sum(-1))
        return (square - 2 * near).clamp(min=0)

    def forward(self, features: Tensor, *, modulate: Modulation | None = None) -> Tensor:
        """(*batch, n_input_dims) -> (*batch, n_output_dims); `modulate` sees D, and what it gives is clamped at 0."""
        expect_points(features, self.n_input_dims, name="features", owner=self)
        square = self.square_distances(features)
        if modulate is not None:
            square = modulate(0, square).clamp(min=0)
        return self.output_activation(self.last(KERNELS[self.kernel][0](square)))
