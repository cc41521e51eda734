"""ResidualMLP: blocks that add to a stream, wide inside (conventional) or wide outside (hourglass).

    {"otype": "ResidualMLP", "n_neurons": 256, "n_inner": 64, "n_blocks": 4, "norm": "batch", "lift": "learned",
     "is_scaled": false, "activation": "ReLU", "output_activation": "None"}

z_0 = W_in x, z_{i+1} = z_i + W2_i activation(W1_i norm(z_i)), y = output_activation(W_out z_L). With n_inner below
n_neurons blocks squeeze and the stream is wide ("Rethinking the shape convention of an MLP", arXiv 2510.01796), with
n_inner above it they expand: one class, so that the two can be compared fairly. No linear layer has a bias, and all
begin by PyTorch's law, U(±1/√n), none at 0; those that a sine or Gabor activation reads by that activation's law.

As in the paper's code the lift W_in can stay as it was drawn (there: `--fix_Win`, off by default). Of raw coordinates
a frozen lift knows no more than the coordinates do: put an encoding before it. Their images pass through a sigmoid,
here "output_activation": "Sigmoid"; distances and sounds want none. Not theirs: norm "layer" (mean 0 and variance 1
over the stream of each point) and "none", and `is_scaled`, which divides what a block adds by √L.

BatchNorm, without factors of its own, takes mean and variance of the batch while a step of a fit runs, and running ones
(momentum 0.1) otherwise. Then a point's output depends on its batch, so slopes in a step are no slopes of the field:
losses that differentiate it refuse this, and so do fits of scenes, whose batches are not all of one kind.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from fieldforge.checks import expect_bool, expect_choice, expect_generator, expect_int, expect_points
from fieldforge.fields.activations.base import Activation, draw_linear
from fieldforge.fields.activations.pointwise import Pointwise
from fieldforge.fields.networks.base import Modulation, Network, empty_linear, expect_real_activation, expect_size
from fieldforge.registry import register

MOMENTUM = 0.1


class RunningNorm(nn.Module):
    """(*batch, n) less mean, over standard deviation: of the batch in training mode, running ones otherwise.

    Attributes:
        mean, variance: (n,) buffers, the running ones.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, n: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n))
        self.register_buffer("variance", torch.ones(n))
        self.eval()

    def forward(self, z: Tensor) -> Tensor:
        flat = z.reshape(-1, z.shape[-1])
        is_batch = self.training and len(flat) > 1  # the variance of one point says nothing
        return functional.batch_norm(flat, self.mean, self.variance, None, None, is_batch, MOMENTUM).view(z.shape)


@register("network", "ResidualMLP")
class ResidualMLP(Network):
    """A stream of `n_neurons` numbers and `n_blocks` blocks of `n_inner` units.

    Args:
        n_input_dims: width of the features.
        n_output_dims: number of outputs.
        n_neurons: d_z, width of the stream.
        n_inner: d_h, width inside a block.
        n_blocks: L, also 0.
        norm: what a block reads of the stream: "batch", "layer" or "none", none of them with parameters.
        lift: whether W_in is "learned", or "frozen", a buffer.
        is_scaled: whether what blocks add is divided by √L, for many of them.
        activation: inside the blocks.
        output_activation: name or table of the last one.
        generator: source of the initial weights; None is torch's global one.

    Attributes:
        lifts: W_in (d_z, n_input_dims), a parameter or a buffer. squeeze, widen: W1 and W2 of each block. last: W_out.
        mixes_points: whether a point's output depends on its batch while a step of a fit runs.

    Example:
        >>> hourglass = ResidualMLP(2, 3, n_neurons=64, n_inner=16, n_blocks=2)
        >>> sum(p.numel() for p in hourglass.parameters()) == 2 * 2 * 64 * 16 + (2 + 3) * 64
        True
    """

    otype = "ResidualMLP"

    lifts: Tensor

    def __init__(
        self,
        n_input_dims: int,
        n_output_dims: int,
        *,
        n_neurons: int = 256,
        n_inner: int = 64,
        n_blocks: int = 4,
        norm: Literal["batch", "layer", "none"] = "batch",
        lift: Literal["learned", "frozen"] = "learned",
        is_scaled: bool = False,
        activation: str | Mapping[str, Any] | Activation = "ReLU",
        output_activation: str | Mapping[str, Any] | Activation = "None",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.n_input_dims = expect_int("n_input_dims", n_input_dims, 1)
        self.n_output_dims = expect_int("n_output_dims", n_output_dims, 1)
        self.n_neurons = expect_int("n_neurons", n_neurons, 1)
        self.n_inner = expect_int("n_inner", n_inner, 1)
        self.n_blocks = expect_int("n_blocks", n_blocks, 0, 1024)
        self.norm = expect_choice("norm", norm, ("batch", "layer", "none"))
        self.lift = expect_choice("lift", lift, ("learned", "frozen"))
        self.is_scaled = expect_bool("is_scaled", is_scaled)
        self.activation = expect_real_activation("activation", activation)
        self.output_activation = expect_real_activation("output_activation", output_activation)
        hidden = self.activation.smoothness if n_blocks else math.inf
        self.smoothness = min(hidden, self.output_activation.smoothness)
        self.mixes_points = self.changes_by_itself = self.norm == "batch" and n_blocks > 0

        expect_size(2 * n_blocks * n_neurons * n_inner + n_neurons * (n_input_dims + n_output_dims))
        expect_generator(generator)
        first = empty_linear(n_input_dims, n_neurons, has_bias=False)
        draw_linear(first.weight, None, generator)
        if self.lift == "learned":
            self.lifts = first.weight
        else:
            self.register_buffer("lifts", first.weight.detach())
        squeezes = [empty_linear(n_neurons, n_inner, has_bias=False) for _ in range(n_blocks)]
        widens = [empty_linear(n_inner, n_neurons, has_bias=False) for _ in range(n_blocks)]
        draw = draw_linear if isinstance(self.activation, Pointwise) else self.activation.init_hidden
        for squeeze, widen in zip(squeezes, widens, strict=True):
            draw(squeeze.weight, None, generator)
            draw_linear(widen.weight, None, generator)
        self.squeeze, self.widen = nn.ModuleList(squeezes), nn.ModuleList(widens)
        self.norms = nn.ModuleList(RunningNorm(n_neurons) for _ in range(n_blocks if self.norm == "batch" else 0))
        self.last = empty_linear(n_neurons, n_output_dims, has_bias=False)
        draw_linear(self.last.weight, None, generator)
        self.eval()  # statistics of a batch are for the steps of a fit, which say so

    def on_step(self, step: int, n_steps: int) -> None:
        """Nothing changes but the mode: see `fieldforge.apps.fit.stages`."""

    def forward(self, features: Tensor, *, modulate: Modulation | None = None) -> Tensor:
        """(*batch, n_input_dims) -> (*batch, n_output_dims); `modulate` sees W1 norm(z) before the activation."""
        expect_points(features, self.n_input_dims, name="features", owner=self)
        z = functional.linear(features, self.lifts)
        for index, (squeeze, widen) in enumerate(zip(self.squeeze, self.widen, strict=True)):
            inner = squeeze(self._normed(index, z))
            if modulate is not None:
                inner = modulate(index, inner)
            more = widen(self.activation(inner))
            z = z + (more / math.sqrt(self.n_blocks) if self.is_scaled else more)
        return self.output_activation(self.last(z))

    def _normed(self, index: int, z: Tensor) -> Tensor:
        if self.norm == "batch":
            normed: Tensor = self.norms[index](z)
            return normed
        return functional.layer_norm(z, z.shape[-1:]) if self.norm == "layer" else z
