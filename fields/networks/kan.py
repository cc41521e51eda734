"""KAN: networks whose weights are functions of one variable (Liu et al. 2024), in the efficient form of efficient-kan.

    {"otype": "KAN", "n_neurons": 16, "n_hidden_layers": 2, "n_intervals": 5, "degree": 3, "low": -1.0, "high": 1.0,
     "activation": "SiLU", "normalization": "none", "update_every": 0, "update_until": 0, "output_activation": "None"}

y_o = sum_i [b_oi silu(x_i) + s_oi sum_m c_oim B_m(x_i)] with B-splines of G intervals and degree k over [low, high].
Bases are computed once for each input and all else is one matrix product, which is the "efficient" of efficient-kan;
G is how fine the functions are. Outside [low, high] a spline fades to 0 over k intervals and only the SiLU is left, so
what comes in should stay inside: behind Identity {"scale": 2, "offset": -1}, with `normalization`, or with knots that
move to where the samples are.

Knots move as in efficient-kan: those at equal counts of samples, mixed with a fiftieth of equally spaced ones, and
coefficients refitted. Two things differ. There the refitted values already contain s, and are stored where s multiplies
them again, so that every update changes the function; here the splines without s are refitted. And there coefficients
that no sample reaches become 0; here they stay. When to update is what pykan's `fit` has: steps 0, every, 2 every, ...
below a limit, from the batch of that step (`fieldforge.apps.fit.stages`). The moments that an optimizer has
of coefficients on the old knots are kept. Averages of parameters (EMA) would mix coefficients on different knots: end
the updates early if they are wanted.

Parameters: n_in n_out (G + k + 2) a layer; no biases.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from fieldforge.checks import expect_choice, expect_float, expect_generator, expect_int, expect_points
from fieldforge.fields.activations.base import Activation, draw_uniform
from fieldforge.fields.networks import splines
from fieldforge.fields.networks.base import Modulation, Network, expect_real_activation, expect_size
from fieldforge.registry import register

UNIFORM = 0.02
MARGIN = 0.01
NOISE = 0.1


class KANLayer(nn.Module):
    """(*batch, n_in) -> (*batch, n_out), each pair with a function of its own.

    Attributes:
        coefficients: (n_out, n_in, G + k). scale, base: (n_out, n_in). knots: (n_in, G + 2k + 1), a buffer.
    """

    knots: Tensor

    def __init__(
        self,
        n_in: int,
        n_out: int,
        activation: Activation,
        *,
        n_intervals: int,
        degree: int,
        low: float,
        high: float,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        self.activation, self.n_intervals, self.degree = activation, n_intervals, degree
        self.coefficients = nn.Parameter(torch.empty(n_out, n_in, n_intervals + degree))
        self.scale = nn.Parameter(torch.empty(n_out, n_in))
        self.base = nn.Parameter(torch.empty(n_out, n_in))
        self.register_buffer("knots", torch.empty(n_in, n_intervals + 2 * degree + 1))
        noise = torch.empty(n_out, n_in, n_intervals + 1)
        draw_uniform(self.base, 1 / math.sqrt(n_in), generator)
        draw_uniform(noise, 0.5 * NOISE / n_intervals, generator)
        draw_uniform(self.scale, 1 / math.sqrt(n_in), generator)
        if not noise.is_meta:
            self.knots.copy_(splines.uniform_knots(low, high, n_intervals, degree))
            with torch.no_grad():
                self.coefficients.copy_(splines.at_inner_knots(noise, low, high, degree))

    def forward(self, x: Tensor) -> Tensor:
        bases = splines.basis(x, self.knots, self.degree)  # (*batch, n_in, G + k)
        weights = self.coefficients * self.scale[..., None]
        return functional.linear(self.activation(x), self.base) + functional.linear(
            bases.flatten(-2), weights.flatten(-2)
        )

    @torch.no_grad()
    def move_knots(self, x: Tensor) -> None:
        """Knots to where samples (*batch, n_in) are, coefficients so that the function stays, in place.

        Nothing happens where there is no sample, or one that is not finite.
        """
        x = x.detach().reshape(-1, x.shape[-1])
        if not len(x) or not bool(torch.isfinite(x).all()):
            return
        knots = splines.quantile_knots(x, self.n_intervals, self.degree, uniform=UNIFORM, margin=MARGIN)
        change = splines.change_of_knots(x, self.knots, knots, self.degree)
        self.coefficients.copy_((change @ self.coefficients.double()[..., None])[..., 0])
        self.knots.copy_(knots)


@register("network", "KAN")
class KAN(Network):
    """Layers of splines and SiLUs.

    Base weights b and scales s from U(±1/√n_in); splines interpolate noise from U(±0.05/G) at the inner knots, with the
    smallest coefficients that do.

    Args:
        n_input_dims: width of the features.
        n_output_dims: number of outputs.
        n_neurons: width of the hidden layers.
        n_hidden_layers: number of hidden layers, also 0: one layer of functions.
        n_intervals: G, cells of each spline.
        degree: k, at least 1; the network has k - 1 continuous derivatives, so second ones (eikonal losses) want 3.
        low, high: where the cells are at first.
        activation: the function b multiplies.
        normalization: what keeps inputs of a layer in range: "none"; "tanh" of them; or "layer", mean 0 and variance 1
            over the inputs of each point, without parameters. The first layer's inputs too.
        update_every: steps between movements of the knots; 0 is never.
        update_until: step from which on they rest; 0 is half of all steps.
        output_activation: name or table of the last one.
        generator: source of the initial weights; None is torch's global one.

    Attributes:
        layers: the `KANLayer`s.

    Raises:
        ValueError: a number is out of range, or `low` is not below `high`.

    Example:
        >>> kan = KAN(2, 3, n_neurons=8, n_hidden_layers=1)
        >>> sum(p.numel() for p in kan.parameters()) == (2 * 8 + 8 * 3) * (5 + 3 + 2)
        True
    """

    otype = "KAN"

    def __init__(
        self,
        n_input_dims: int,
        n_output_dims: int,
        *,
        n_neurons: int = 16,
        n_hidden_layers: int = 2,
        n_intervals: int = 5,
        degree: int = 3,
        low: float = -1.0,
        high: float = 1.0,
        activation: str | Mapping[str, Any] | Activation = "SiLU",
        normalization: Literal["none", "tanh", "layer"] = "none",
        update_every: int = 0,
        update_until: int = 0,
        output_activation: str | Mapping[str, Any] | Activation = "None",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.n_input_dims = expect_int("n_input_dims", n_input_dims, 1)
        self.n_output_dims = expect_int("n_output_dims", n_output_dims, 1)
        self.n_neurons = expect_int("n_neurons", n_neurons, 1)
        self.n_hidden_layers = expect_int("n_hidden_layers", n_hidden_layers, 0, 1024)
        self.n_intervals, self.degree = expect_spline(n_intervals, degree)
        self.low, self.high = expect_range(low, high)
        self.activation = expect_real_activation("activation", activation)
        self.normalization = expect_choice("normalization", normalization, ("none", "tanh", "layer"))
        self.update_every = expect_int("update_every", update_every, 0, 10**9)
        self.update_until = expect_int("update_until", update_until, 0, 10**9)
        self.output_activation = expect_real_activation("output_activation", output_activation)
        self.smoothness = min(self.degree - 1, self.activation.smoothness, self.output_activation.smoothness)

        shapes = list(itertools.pairwise((n_input_dims, *[n_neurons] * n_hidden_layers, n_output_dims)))
        expect_size(sum(n_in * n_out * (n_intervals + degree + 2) for n_in, n_out in shapes))
        expect_generator(generator)
        self.layers = nn.ModuleList(
            KANLayer(
                n_in, n_out, self.activation, n_intervals=n_intervals, degree=degree, low=self.low, high=self.high,
                generator=generator,
            )
            for n_in, n_out in shapes
        )  # fmt: skip
        self._moves_knots = False

    @property
    def changes_by_itself(self) -> bool:
        """Whether knots move in a fit."""
        return self.update_every > 0

    def on_step(self, step: int, n_steps: int) -> None:
        """Knots move in the next forward pass if it is their turn."""
        until = self.update_until or n_steps // 2
        self._moves_knots = self.update_every > 0 and step < until and step % self.update_every == 0

    def forward(self, features: Tensor, *, modulate: Modulation | None = None) -> Tensor:
        """(*batch, n_input_dims) -> (*batch, n_output_dims); `modulate` sees what a hidden layer gives."""
        expect_points(features, self.n_input_dims, name="features", owner=self)
        moves, self._moves_knots = self._moves_knots and self.training, False  # once a step
        return self._run(features, modulate, moves)

    def move_knots(self, features: Tensor) -> None:
        """Move the knots of all layers, one after another, to where features (*batch, n_input_dims) lead."""
        expect_points(features, self.n_input_dims, name="features", owner=self)
        with torch.no_grad():
            self._run(features, None, moves=True)

    def _run(self, h: Tensor, modulate: Modulation | None, moves: bool) -> Tensor:
        for index, layer in enumerate(self.layers):
            h = normalized(h, self.normalization)
            if moves:
                layer.move_knots(h)  # type: ignore[operator]
            h = layer(h)
            if modulate is not None and index < self.n_hidden_layers:
                h = modulate(index, h)
        return self.output_activation(h)


def normalized(h: Tensor, how: str) -> Tensor:
    """(*batch, n) with each point's numbers brought near [-1, 1]; see `KAN`."""
    if how == "tanh":
        return torch.tanh(h)
    return functional.layer_norm(h, h.shape[-1:]) if how == "layer" else h


def expect_spline(n_intervals: int, degree: int) -> tuple[int, int]:
    """(n_intervals, degree) of a spline that can be had."""
    return expect_int("n_intervals", n_intervals, 1, 4096), expect_int("degree", degree, 1, 9)


def expect_range(low: float, high: float) -> tuple[float, float]:
    """(low, high) of which the second is above the first."""
    low, high = expect_float("low", low, -1e6, 1e6), expect_float("high", high, -1e6, 1e6)
    if not high - low > 1e-6 * max(1.0, abs(low), abs(high)):
        raise ValueError(f"high: expected a number above low = {low:g}, got {high:g}")
    return low, high
