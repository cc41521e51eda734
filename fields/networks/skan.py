"""SKAN: functions of one variable from a pool of bases, of which each node comes to keep one.

    {"otype": "SKAN", "n_neurons": 16, "n_hidden_layers": 2, "bases": ["b_spline", "gaussian", "switch", "chebyshev",
     "jacobi", "gram", "relu_square", "wavelet", "silu"], "select_from": 0.5, "prune_at": 0.8,
     "final_temperature": 0.1, "entropy": 0.001, "output_activation": "None"}

In the style of S-KAN ("Activation space selectable KANs", arXiv 2408.08338): the paper has a pool of bases for each
node, a weighted combination of them, and three phases: full training, selective training, pruning. Its selection rule
and settings were not found, and the code beside it selects nothing, so what follows is ours:

    y_o = sum_j softmax(a_o / temperature)_j sum_i sum_m c_joim psi_jm(x_i)

until `select_from` of all steps at temperature 1; then the temperature falls exponentially to `final_temperature`, and
each step takes `entropy` times the gradient of the entropy of the softmax from a, beside what the optimizer does, as
decoupled weight decay does; from `prune_at` on each node has the basis of its largest a, the coefficients of all others
are 0, and the rest is fine-tuned. What was chosen stands in a buffer and in the file.

Bases, after x -> tanh(x), which keeps polynomials bounded (but for the SiLU, which reads x): cubic B-splines of 5
intervals; 8 Gaussians (FastKAN); 8 reflected switches 1 - tanh² (FasterKAN); Chebyshev polynomials to degree 4; Jacobi
polynomials (alpha = beta = 1) to degree 3; Gram polynomials to degree 3, orthonormal over 8 equidistant points; 8
products of squared ReLUs (ReLU-KAN); 7 Mexican hats in three octaves (Wav-KAN); the SiLU. That is the pool of the
authors' repository, whose Gram polynomials have factors and whose wavelets have places and widths that are learnt: here
coefficients are all that is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fieldforge.checks import expect_choice, expect_float, expect_generator, expect_int, expect_points
from fieldforge.fields.activations.base import Activation, draw_uniform
from fieldforge.fields.networks import splines
from fieldforge.fields.networks.base import Modulation, Network, expect_real_activation, expect_size
from fieldforge.registry import register

N_CENTERS = 8
_STEP = 2 / (N_CENTERS - 1)


def _centers(x: Tensor) -> Tensor:
    """(*batch, n) -> (*batch, n, 8): the way to each of eight centres from -1 to 1, in steps between them."""
    at = -1 + _STEP * torch.arange(N_CENTERS, dtype=x.dtype, device=x.device)
    return (x[..., None] - at) / _STEP


def _b_spline(x: Tensor) -> Tensor:
    return splines.basis(x, splines.uniform_knots(-1, 1, 5, 3).to(x)[None], 3)


def _chebyshev(x: Tensor) -> Tensor:
    values = [torch.ones_like(x), x]
    for _ in range(3):
        values.append(2 * x * values[-1] - values[-2])
    return torch.stack(values, -1)


def _jacobi(x: Tensor) -> Tensor:
    """Of alpha = beta = 1: 1, 2x, (15x² - 3) / 4, (7x³ - 3x)."""
    return torch.stack([torch.ones_like(x), 2 * x, 3.75 * x**2 - 0.75, 7 * x**3 - 3 * x], -1)


def _gram(x: Tensor) -> Tensor:
    """To degree 3, of mean square 1 over `N_CENTERS` equidistant points of [-1, 1] and orthogonal there.

    p_n+1 = x p_n - b_n p_n-1 with b_n = n² (N² - n²) / ((4 n² - 1) (N - 1)²); of p_n that mean is b_1 b_2 ... b_n.
    """
    n_points = N_CENTERS
    b = [n**2 * (n_points**2 - n**2) / ((4 * n**2 - 1) * (n_points - 1) ** 2) for n in (1, 2, 3)]
    values = [torch.ones_like(x), x]
    for one in b[:2]:
        values.append(x * values[-1] - one * values[-2])
    return torch.stack([value / math.sqrt(math.prod(b[:n])) for n, value in enumerate(values)], -1)


def _wavelet(x: Tensor) -> Tensor:
    """(1 - t²) exp(-t² / 2) for [-1, 1], its halves and its quarters; t goes from -2 to 2 over each."""
    t = [2 * (x - ((2 * i + 1) / n - 1)) * n for n in (1, 2, 4) for i in range(n)]
    return torch.stack([(1 - one**2) * torch.exp(-0.5 * one**2) for one in t], -1)


def _relu_square(x: Tensor) -> Tensor:
    """(relu(1 - t) relu(1 + t))², two steps of the centres wide, 1 in the middle."""
    t = _centers(x) / 2
    return (functional.relu(1 - t) * functional.relu(1 + t)) ** 2


BASES: dict[str, tuple[Callable[[Tensor], Tensor], int, float]] = {
    "b_spline": (_b_spline, 8, 2),
    "gaussian": (lambda x: torch.exp(-(_centers(x) ** 2)), N_CENTERS, math.inf),
    "switch": (lambda x: 1 - torch.tanh(_centers(x)) ** 2, N_CENTERS, math.inf),
    "chebyshev": (_chebyshev, 5, math.inf),
    "jacobi": (_jacobi, 4, math.inf),
    "gram": (_gram, 4, math.inf),
    "relu_square": (_relu_square, N_CENTERS, 1),
    "wavelet": (_wavelet, 7, math.inf),
    "silu": (lambda x: functional.silu(x)[..., None], 1, math.inf),
}
"""Name -> (*batch, n) to (*batch, n, m), m, and its continuous derivatives."""


class SKANLayer(nn.Module):
    """(*batch, n_in) -> (*batch, n_out).

    Attributes:
        coefficients: of each basis, (n_out, n_in, m). logits: a, (n_out, n_bases).
        chosen: (n_out,) int64, a buffer: number of the basis that is left, -1 before the pruning.
        temperature: (), a buffer.
    """

    chosen: Tensor
    temperature: Tensor

    def __init__(self, n_in: int, n_out: int, bases: Sequence[str], generator: torch.Generator | None) -> None:
        super().__init__()
        self.bases = list(bases)
        self.coefficients = nn.ParameterList(torch.empty(n_out, n_in, BASES[name][1]) for name in bases)
        self.logits = nn.Parameter(torch.zeros(n_out, len(bases)))
        self.register_buffer("chosen", torch.full((n_out,), -1, dtype=torch.int64))
        self.register_buffer("temperature", torch.ones(()))
        for table in self.coefficients:
            draw_uniform(table, 1 / math.sqrt(n_in * table.shape[-1]), generator)

    def shares(self) -> Tensor:
        """(n_out, n_bases), at least 0, of sum 1: how much of each basis a node has."""
        hard = functional.one_hot(self.chosen.clamp(min=0), len(self.bases)).to(self.logits.dtype)
        return torch.where(self.chosen[:, None] >= 0, hard, torch.softmax(self.logits / self.temperature, -1))

    def forward(self, x: Tensor) -> Tensor:
        shares, squashed = self.shares(), torch.tanh(x)
        out: Tensor | float = 0.0
        for j, (name, table) in enumerate(zip(self.bases, self.coefficients, strict=True)):
            values = BASES[name][0](x if name == "silu" else squashed)
            out = out + functional.linear(values.flatten(-2), table.flatten(-2)) * shares[:, j]
        assert isinstance(out, Tensor)
        return out

    @torch.no_grad()
    def sharpen(self, temperature: float, entropy: float) -> None:
        """Set the temperature, and take one step against the entropy of the shares."""
        self.temperature.fill_(temperature)
        share = self.shares()
        logs = share.clamp(min=1e-12).log()
        # d entropy / d a_j = -share_j (log share_j + entropy) / temperature
        slope = -share * (logs - (share * logs).sum(-1, keepdim=True)) / temperature
        self.logits.sub_(entropy * slope)

    @torch.no_grad()
    def prune(self) -> None:
        """Keep the basis of the largest a at each node, for good; coefficients of the others become 0."""
        self.chosen.copy_(torch.where(self.chosen >= 0, self.chosen, self.logits.argmax(-1)))
        for j, table in enumerate(self.coefficients):
            table.mul_((self.chosen == j).to(table.dtype)[:, None, None])


@register("network", "SKAN")
class SKAN(Network):
    """Layers of functions of one variable whose bases are selected while it is trained.

    Coefficients from U(±1/√(n_in m)) for m functions of a basis, a = 0: all bases count alike at first.

    Args:
        n_input_dims: width of the features.
        n_output_dims: number of outputs.
        n_neurons: width of the hidden layers.
        n_hidden_layers: number of hidden layers, also 0.
        bases: names of `BASES`, each once.
        select_from: share of a fit's steps from which on the temperature falls.
        prune_at: share from which on each node has one basis; 1: never.
        final_temperature: what it has fallen to there.
        entropy: step against the entropy of the shares, in the second phase.
        output_activation: name or table of the last one.
        generator: source of the initial weights; None is torch's global one.

    Attributes:
        layers: the `SKANLayer`s.

    Raises:
        ValueError: a number is out of range, there is no such basis, or one is named twice.

    Example:
        >>> SKAN(2, 3, n_neurons=8, n_hidden_layers=1, bases=["chebyshev", "silu"])(torch.zeros(5, 2)).shape
        torch.Size([5, 3])
    """

    otype = "SKAN"

    def __init__(
        self,
        n_input_dims: int,
        n_output_dims: int,
        *,
        n_neurons: int = 16,
        n_hidden_layers: int = 2,
        bases: Sequence[str] = tuple(BASES),
        select_from: float = 0.5,
        prune_at: float = 0.8,
        final_temperature: float = 0.1,
        entropy: float = 1e-3,
        output_activation: str | Mapping[str, Any] | Activation = "None",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.n_input_dims = expect_int("n_input_dims", n_input_dims, 1)
        self.n_output_dims = expect_int("n_output_dims", n_output_dims, 1)
        self.n_neurons = expect_int("n_neurons", n_neurons, 1)
        self.n_hidden_layers = expect_int("n_hidden_layers", n_hidden_layers, 0, 1024)
        self.bases = [expect_choice("bases", name, BASES) for name in bases]
        if not bases or len(set(self.bases)) != len(self.bases):
            raise ValueError(f"bases: expected some of {', '.join(BASES)}, each once, got {', '.join(bases) or 'none'}")
        self.select_from = expect_float("select_from", select_from, 0.0, 1.0)
        self.prune_at = expect_float("prune_at", prune_at, self.select_from, 1.0)
        self.final_temperature = expect_float("final_temperature", final_temperature, 1e-3, 1.0)
        self.entropy = expect_float("entropy", entropy, 0.0, 1e3)
        self.output_activation = expect_real_activation("output_activation", output_activation)
        self.smoothness = min(self.output_activation.smoothness, *(BASES[name][2] for name in self.bases))

        shapes = list(itertools.pairwise((n_input_dims, *[n_neurons] * n_hidden_layers, n_output_dims)))
        n_functions = sum(BASES[name][1] for name in self.bases)
        expect_size(sum(n_out * (n_in * n_functions + len(self.bases)) for n_in, n_out in shapes))
        expect_generator(generator)
        self.layers = nn.ModuleList(SKANLayer(n_in, n_out, self.bases, generator) for n_in, n_out in shapes)

    def on_step(self, step: int, n_steps: int) -> None:
        """Where in its three phases a fit is; nothing in the first."""
        for layer in self.layers:
            assert isinstance(layer, SKANLayer)
            if self.prune_at < 1 and step >= self.prune_at * n_steps:
                layer.prune()
            elif step >= self.select_from * n_steps:
                length = max(1.0, (self.prune_at - self.select_from) * n_steps)
                way = min(1.0, (step - self.select_from * n_steps) / length)
                layer.sharpen(self.final_temperature**way, self.entropy)

    def forward(self, features: Tensor, *, modulate: Modulation | None = None) -> Tensor:
        """(*batch, n_input_dims) -> (*batch, n_output_dims); `modulate` sees what a hidden layer gives."""
        expect_points(features, self.n_input_dims, name="features", owner=self)
        h = features
        for index, layer in enumerate(self.layers):
            h = layer(h)
            if modulate is not None and index < self.n_hidden_layers:
                h = modulate(index, h)
        return self.output_activation(h)
