"""Fourier reparameterisation: matrices that are trained as coefficients of cosines (Shi, Zhou and Gu, CVPR 2024,
"Improved Implicit Neural Representation with Fourier Reparameterized Training").

    {"otype": "MLP", "reparameterisation": {"otype": "Fourier", "n_low": 64, "n_high": 64, "n_phases": 16}}

A matrix between two hidden layers is W = coefficients @ basis, with a fixed basis of cosines along the inputs,

    basis[(w, p), j] = alpha cos(w z_j + 2π p / P),   w in {1/L, 2/L, ..., 1} and {1, 2, ..., H},   p = 0 ... P - 1

at L positions' worth of one longest period, z_j from -πL to πL in equal steps. The first and the last matrix stay as
they are. The function class is that of the plain network: what changes is how an optimizer moves. `materialise` gives
the plain layer; fits do so at the end unless told to keep the coefficients, which are many times as many.

Under plain gradient descent the gradient of W is G basisᵀ basis, nearly a multiple of a projection of G; under Adam,
which moves each coefficient by itself, alpha acts as a factor on the learning rate of the hidden layers. A comparison
needs plain layers with that factor beside it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from fieldforge.checks import expect_bool, expect_float, expect_int
from fieldforge.fields.activations.base import Activation, draw_uniform
from fieldforge.registry import config_of, register


class Reparameterisation(ABC):
    """Another set of numbers for the matrices between hidden layers.

    Class attribute: ``otype``. Instance attribute: ``keep``, whether a finished field keeps these numbers.
    """

    otype: ClassVar[str]
    keep: bool

    @abstractmethod
    def layer(
        self, n_in: int, n_out: int, *, has_bias: bool, activation: Activation, generator: torch.Generator | None
    ) -> ReparameterisedLinear:
        """A layer with its numbers drawn."""

    def config(self) -> dict[str, Any]:
        """The configuration that rebuilds it."""
        return config_of(self)


class ReparameterisedLinear(nn.Module, ABC):
    """A linear layer whose matrix is computed: ``weight`` (n_out, n_in), ``bias`` (n_out,) or None."""

    bias: nn.Parameter | None

    @property
    @abstractmethod
    def weight(self) -> Tensor:
        """(n_out, n_in), differentiable in what it is made of."""

    def forward(self, x: Tensor) -> Tensor:
        """(*batch, n_in) -> (*batch, n_out)."""
        return functional.linear(x, self.weight, self.bias)

    @torch.no_grad()
    def materialise(self) -> nn.Linear:
        """A plain layer of the same function, with parameters of its own."""
        weight = self.weight
        plain = nn.Linear(weight.shape[1], weight.shape[0], bias=self.bias is not None, device="meta")
        plain.weight = nn.Parameter(weight.clone())
        if self.bias is not None:
            plain.bias = nn.Parameter(self.bias.detach().clone())
        return plain.requires_grad_(next(self.parameters()).requires_grad)


@register("reparameterisation", "Fourier")
class Fourier(Reparameterisation):
    """A fixed basis of (n_low + n_high) * n_phases cosines.

    Args:
        n_low: L, frequencies 1/L, 2/L, ..., 1; at least half the width of the layer, or the basis has too low a rank.
        n_high: H, frequencies 1, 2, ..., H.
        n_phases: P, at least 3; with two, cosines differ in sign alone.
        alpha: amplitude. What the layer begins as does not depend on it; how fast it learns does (0.05 for ReLU, 0.01
            for sines in the paper).
        keep: whether a finished field keeps coefficients; else it is a plain MLP.

    Example:
        >>> Fourier(n_low=16, n_high=16, n_phases=4).basis(32).shape
        torch.Size([128, 32])
    """

    otype = "Fourier"

    def __init__(
        self, *, n_low: int = 128, n_high: int = 128, n_phases: int = 32, alpha: float = 0.05, keep: bool = False
    ) -> None:
        self.n_low = expect_int("n_low", n_low, 1, 4096)
        self.n_high = expect_int("n_high", n_high, 0, 4096)
        self.n_phases = expect_int("n_phases", n_phases, 3, 4096)
        self.alpha = expect_float("alpha", alpha, 0.0, 1e6, open_low=True)
        self.keep = expect_bool("keep", keep)

    @property
    def n_rows(self) -> int:
        """M, coefficients of each output."""
        return (self.n_low + self.n_high) * self.n_phases

    def basis(self, n_in: int) -> Tensor:
        """(n_rows, n_in) float64, the phases of a frequency together, frequencies as above."""
        low = torch.arange(1, self.n_low + 1, dtype=torch.float64) / self.n_low
        high = torch.arange(1, self.n_high + 1, dtype=torch.float64)
        phase = 2 * math.pi * torch.arange(self.n_phases, dtype=torch.float64) / self.n_phases
        end = math.pi * self.n_low  # half the longest period, 2π / (1/L)
        position = torch.linspace(-end, end, n_in, dtype=torch.float64)
        angle = torch.cat([low, high])[:, None, None] * position + phase[:, None]  # (L + H, P, n_in)
        return self.alpha * angle.cos().flatten(0, 1)

    def layer(
        self, n_in: int, n_out: int, *, has_bias: bool, activation: Activation, generator: torch.Generator | None
    ) -> ReparameterisedLinear:
        return FourierReparameterisedLinear(n_in, n_out, self, has_bias=has_bias, activation=activation,
                                            generator=generator)  # fmt: skip


class FourierReparameterisedLinear(ReparameterisedLinear):
    """y = (coefficients @ basis) x + bias.

    Column i of the coefficients is drawn from U(±√(6/M) / |basis_i|), for sines over their omega, so that W has the law
    of He, variance 2 / n_in; the bias begins at 0.

    Args:
        n_in: at least 16; the basis of fewer says little.
        n_out: number of outputs.
        rule: the basis.
        has_bias: whether there is one.
        activation: what follows; its omega divides the initial coefficients.
        generator: of the coefficients.

    Attributes:
        coefficients: (n_out, M) parameter.
        basis: (M, n_in) buffer, computed, not stored.
    """

    basis: Tensor

    def __init__(
        self,
        n_in: int,
        n_out: int,
        rule: Fourier,
        *,
        has_bias: bool = True,
        activation: Activation | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if n_in < 16:
            raise ValueError(f"reparameterisation: needs hidden layers of at least 16 inputs, got {n_in}")
        coefficients = torch.empty(n_out, rule.n_rows)
        if coefficients.is_meta:
            basis = torch.empty(rule.n_rows, n_in)
        else:
            basis = rule.basis(n_in).to(coefficients)
        self.register_buffer("basis", basis, persistent=False)
        self.coefficients = nn.Parameter(coefficients)
        draw_uniform(self.coefficients, 1.0, generator)
        omega = float(getattr(activation, "omega", 1.0))
        with torch.no_grad():
            self.coefficients.mul_(math.sqrt(6 / rule.n_rows) / omega / torch.linalg.vector_norm(basis, dim=1))
        self.bias = nn.Parameter(torch.zeros(n_out)) if has_bias else None

    @property
    def weight(self) -> Tensor:
        return self.coefficients @ self.basis
