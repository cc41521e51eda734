"""Many small networks of one shape, each with points of its own (KiloNeRF; Reiser et al., ICCV 2021).

A scene is cut into cells and every cell has a tiny MLP. Parameters are stacked, network i's being row i of each tensor,
and a batch is sorted by network, so that one call runs them all. `StackedMLP` is no `Network` of the registry: it
needs to be told which network each point belongs to.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fieldforge.backends import choose, provide
from fieldforge.checks import expect_bool, expect_generator, expect_int, expect_points
from fieldforge.fields.activations.base import Activation
from fieldforge.fields.networks.base import expect_real_activation, expect_size
from fieldforge.fields.networks.mlp import MLP
from fieldforge.kernels import cpu_door, cpu_ops, cpu_stacked
from fieldforge.kernels.triton import door as triton_door
from fieldforge.kernels.triton import mlp as triton_mlp


class StackedMLP(nn.Module):
    """`n_networks` MLPs of one shape: h_i = activation(W_i h_{i-1} + b_i), out = output_activation(W h + b).

    Args:
        n_networks: how many.
        n_input_dims: width of the features.
        n_output_dims: number of outputs.
        n_neurons, n_hidden_layers, activation, output_activation, has_bias: as for `MLP`, of each network; the hidden
            activation has real values.
        equal: whether all networks begin with the same numbers, as KiloNeRF's do.
        generator: source of the initial weights; None is torch's global one. One network has those of an `MLP`.

    Attributes:
        weights: (n_networks, n_out, n_in) of each layer, the output's last.
        biases: (n_networks, n_out) of each layer, or nothing.

    Raises:
        ValueError: a number is out of range, or there would be more than 2³⁰ parameters.

    Example:
        >>> stack = StackedMLP(512, 63, 4, n_neurons=32, n_hidden_layers=3, has_bias=True)
        >>> stack(torch.zeros(5, 63), torch.tensor([3, 0, 511, 3, 7])).shape
        torch.Size([5, 4])
    """

    def __init__(
        self,
        n_networks: int,
        n_input_dims: int,
        n_output_dims: int,
        *,
        n_neurons: int = 32,
        n_hidden_layers: int = 3,
        activation: str | Mapping[str, Any] | Activation = "ReLU",
        output_activation: str | Mapping[str, Any] | Activation = "None",
        has_bias: bool = True,
        equal: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.n_networks = expect_int("n_networks", n_networks, 1)
        self.n_input_dims = expect_int("n_input_dims", n_input_dims, 1)
        self.n_output_dims = expect_int("n_output_dims", n_output_dims, 1)
        self.n_neurons = expect_int("n_neurons", n_neurons, 1)
        self.n_hidden_layers = expect_int("n_hidden_layers", n_hidden_layers, 0, 1024)
        self.activation = expect_real_activation("activation", activation)
        self.output_activation = expect_real_activation("output_activation", output_activation)
        self.has_bias = expect_bool("has_bias", has_bias)
        self.equal = expect_bool("equal", equal)
        hidden = self.activation.smoothness if n_hidden_layers else math.inf
        self.smoothness = min(hidden, self.output_activation.smoothness)

        widths = self.widths
        shapes = list(itertools.pairwise(widths))
        expect_size(n_networks * sum(n_out * (n_in + 1) for n_in, n_out in shapes))
        self.weights = nn.ParameterList(torch.empty(n_networks, n_out, n_in) for n_in, n_out in shapes)
        self.biases = nn.ParameterList(torch.empty(n_networks, n_out) for _, n_out in shapes if has_bias)
        expect_generator(generator)
        with torch.no_grad():
            for network in range(1 if equal else n_networks):
                for layer, weight in enumerate(self.weights):
                    draw = self.activation.init_hidden if layer else self.activation.init_first
                    draw(weight[network], self.biases[layer][network] if has_bias else None, generator)
            if equal:
                for parameter in self.parameters():
                    parameter[1:] = parameter[0]

    @property
    def widths(self) -> tuple[int, ...]:
        """(n_input_dims, hidden, ..., n_output_dims)."""
        return (self.n_input_dims, *[self.n_neurons] * self.n_hidden_layers, self.n_output_dims)

    def forward(self, x: Tensor, network_index: Tensor) -> Tensor:
        """Each point through the network it belongs to, in the caller's order.

        Args:
            x: (N, n_input_dims).
            network_index: (N,) int64, from 0 to n_networks - 1.

        Returns:
            (N, n_output_dims).

        Raises:
            IndexError: there is no network of that number.
        """
        expect_points(x, self.n_input_dims, owner=self)
        if network_index.dtype != torch.int64 or network_index.shape != x.shape[:-1] or x.ndim != 2:
            raise ValueError(
                f"network_index: expected (N,) int64 for x of (N, {self.n_input_dims}), "
                f"got {tuple(network_index.shape)} {network_index.dtype} for {tuple(x.shape)}"
            )
        offsets, order = sort_by_network(network_index, self.n_networks)
        out = self.grouped(x[order], offsets)
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order), device=order.device)
        return out[back]

    def grouped(self, x: Tensor, offsets: Tensor) -> Tensor:
        """Points that are sorted already.

        Args:
            x: (N, n_input_dims), the points of network 0, then those of network 1, ...
            offsets: (n_networks + 1,) int64; network i takes the rows offsets[i] up to offsets[i + 1].

        Returns:
            (N, n_output_dims).

        Raises:
            ValueError: offsets do not begin with 0, fall, or do not end with N; on a GPU their numbers are trusted, as
                to look at them would be to wait for them.
        """
        expect_points(x, self.n_input_dims, owner=self)
        expect_offsets(offsets, len(x), self.n_networks)
        run = choose("stacked_mlp", x.device, stack=self, x_dtype=x.dtype)
        out: Tensor = run(self, x, offsets)
        return out

    def network(self, index: int) -> MLP:
        """A copy of one network, by itself."""
        expect_int("index", index, 0, self.n_networks - 1)
        with torch.device("meta"):
            one = MLP(
                self.n_input_dims, self.n_output_dims, n_neurons=self.n_neurons, n_hidden_layers=self.n_hidden_layers,
                activation=self.activation, output_activation=self.output_activation, has_bias=self.has_bias,
            )  # fmt: skip
        state = {f"layers.{i}.weight": weight[index].detach().clone() for i, weight in enumerate(self.weights)}
        state |= {f"layers.{i}.bias": bias[index].detach().clone() for i, bias in enumerate(self.biases)}
        one.load_state_dict(state, assign=True)
        return one.requires_grad_()


def sort_by_network(network_index: Tensor, n_networks: int) -> tuple[Tensor, Tensor]:
    """(offsets (n_networks + 1,), order (N,)) that sort points by network and keep the order within each.

    Args:
        network_index: (N,) int64.
        n_networks: how many networks there are.

    Raises:
        IndexError: an index is negative, or not below `n_networks`.
    """
    outside = (network_index < 0) | (network_index >= n_networks)
    if outside.any():
        raise IndexError(f"network_index: expected 0 to {n_networks - 1}, got {int(network_index[outside][0])}")
    offsets = network_index.new_zeros(n_networks + 1)
    offsets[1:] = torch.bincount(network_index, minlength=n_networks).cumsum(0)
    return offsets, network_index.argsort(stable=True)


def expect_offsets(offsets: Tensor, n_points: int, n_networks: int) -> None:
    """Require (n_networks + 1,) int64 from 0 to `n_points` that never fall; the latter on the CPU only.

    Raises:
        TypeError, ValueError: they are not; the message names the value.
    """
    if offsets.dtype != torch.int64:
        raise TypeError(f"offsets: expected int64, got {offsets.dtype}")
    if offsets.shape != (n_networks + 1,):
        raise ValueError(f"offsets: expected shape {(n_networks + 1,)}, got {tuple(offsets.shape)}")
    if offsets.device.type == "cpu":
        cpu_stacked.expect_offsets(offsets, n_points, n_networks)


def stacked_mlp(
    stack: StackedMLP, x: Tensor, offsets: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]
) -> Tensor:
    """The function itself, one network after another, with any parameters; every derivative, any device."""
    counts = offsets.diff().tolist()
    points = x.split(counts)
    of_networks = list(zip(*(weight.unbind(0) for weight in weights), strict=True))
    biases_of_networks = list(zip(*(bias.unbind(0) for bias in biases), strict=True)) or [()] * len(of_networks)
    outs = []
    for network, count in enumerate(counts):
        if count == 0 and (network or len(x)):  # an empty batch still goes through the first network
            continue
        h = points[network]
        own_biases = biases_of_networks[network] or [None] * len(weights)
        for layer, (weight, bias) in enumerate(zip(of_networks[network], own_biases, strict=True)):
            z = functional.linear(h, weight, bias)
            is_last = layer == len(weights) - 1
            h = stack.output_activation(z) if is_last else stack.activation(z, is_first=layer == 0)
        outs.append(h)
    return torch.cat(outs)


def describe(stack: StackedMLP) -> cpu_ops.MlpShape | str:
    """One network of the stack as the kernels know it, or why they do not."""
    return cpu_ops.describe_layers(stack, stack.widths)


def _refuses(*, stack: StackedMLP, x_dtype: torch.dtype) -> str | None:
    if x_dtype != torch.float32 or any(parameter.dtype != torch.float32 for parameter in stack.parameters()):
        return "it is in float32 only"
    found = describe(stack)
    return found if isinstance(found, str) else None


@provide("stacked_mlp", "reference")
def _one_by_one(stack: StackedMLP, x: Tensor, offsets: Tensor) -> Tensor:
    return stacked_mlp(stack, x, offsets, list(stack.weights), list(stack.biases))


@provide("stacked_mlp", "cpu", missing=cpu_door.missing, refuses=_refuses)
def _native(stack: StackedMLP, x: Tensor, offsets: Tensor) -> Tensor:
    shape = describe(stack)
    assert not isinstance(shape, str), shape
    return cpu_stacked.stacked_mlp(
        x, offsets, list(stack.weights), list(stack.biases), shape,
        reference=lambda x, offsets, weights, biases: stacked_mlp(stack, x, offsets, weights, biases),
    )  # fmt: skip


def _refuses_on_cuda(*, stack: StackedMLP, x_dtype: torch.dtype) -> str | None:
    found = triton_mlp.describe(stack, stack.widths)
    return found if isinstance(found, str) else triton_mlp.refuses(x_dtype, list(stack.parameters()))


@provide("stacked_mlp", "cuda", missing=triton_door.missing, refuses=_refuses_on_cuda, note=triton_door.description)
def _on_cuda(stack: StackedMLP, x: Tensor, offsets: Tensor) -> Tensor:
    shape = triton_mlp.describe(stack, stack.widths)
    assert not isinstance(shape, str), shape
    return triton_mlp.mlp(
        x, list(stack.weights), list(stack.biases), shape, offsets=offsets,
        reference=lambda x, weights, biases: stacked_mlp(stack, x, offsets, weights, biases),
    )  # fmt: skip
