"""Parts of a field that every cell of a partition has its own of.

`StackedNetwork` is `n` copies of any network of the registry, `StackedEncoding` of any encoding that learns; row i of
each parameter is the i-th one's. MLPs run natively as one call (`fieldforge.fields.networks.stacked`), everything else
for many cells at once where it can (`fieldforge.fields.partitions.batched`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fieldforge.checks import expect_int
from fieldforge.encodings.base import Encoding
from fieldforge.fields.networks.base import Network, expect_size
from fieldforge.fields.networks.mlp import MLP
from fieldforge.fields.networks.stacked import StackedMLP
from fieldforge.fields.partitions.base import Sorted
from fieldforge.fields.partitions.batched import of_each_cell
from fieldforge.registry import build


class StackedNetwork(nn.Module):
    """A network for each cell, all equal at first.

    Args:
        one: of one cell; its numbers are those that all begin with.
        n: how many.

    Attributes:
        one: what they are copies of: the class and its settings, with stacked parameters.

    Raises:
        ValueError: they would have more than 2³⁰ parameters, or the network is of a kind that has no copies.

    Example:
        >>> stack = StackedNetwork(MLP(3, 2, n_neurons=8, has_bias=True), 5)
        >>> stack(torch.zeros(4, 3), torch.tensor([0, 0, 1, 1, 1, 4])).shape
        torch.Size([4, 2])
    """

    mixes_points = False

    def __init__(self, one: Network, n: int) -> None:
        super().__init__()
        self.n = expect_int("n", n, 1)
        self.n_input_dims, self.n_output_dims = one.n_input_dims, one.n_output_dims
        self.smoothness = one.smoothness
        self._settings = one.config()
        self.otype = f"stack of {one.otype}s"
        self.mlp = _stack_of(one, n)
        self.one = None if self.mlp is not None else _stacked(one, n)

    def forward(self, features: Tensor, offsets: Tensor) -> Tensor:
        """(N, n_input_dims) features that are sorted by cell -> (N, n_output_dims).

        Args:
            features: of the points of the first cell, then those of the second, ...
            offsets: (n + 1,) int64; cell i has the rows offsets[i] up to offsets[i + 1].
        """
        if self.mlp is not None:
            return self.mlp.grouped(features, offsets)
        assert self.one is not None
        return of_each_cell(self.one, features, offsets, self.n_output_dims)

    def of_cell(self, index: int) -> Network:
        """A copy of one cell's network, by itself."""
        expect_int("index", index, 0, self.n - 1)
        if self.mlp is not None:
            return self.mlp.network(index)
        sizes: dict[str, Any] = {"n_input_dims": self.n_input_dims, "n_output_dims": self.n_output_dims}
        made: Network = build("network", self._settings, generator=torch.Generator().manual_seed(0), **sizes)
        assert self.one is not None
        with torch.no_grad():
            for mine, stacked in zip(made.parameters(), self.one.parameters(), strict=True):
                mine.copy_(stacked[index])
        return made

    def config(self) -> dict[str, Any]:
        """That of one of them."""
        return self._settings


class StackedEncoding(Encoding):
    """An encoding that learns, for each cell, all equal at first.

    Args:
        one: of one cell.
        n: how many.
    """

    otype = "StackedEncoding"
    domain = "unit cube"
    outside = "as of one of them"

    def __init__(self, one: Encoding, n: int) -> None:
        super().__init__()
        self.n = expect_int("n", n, 1)
        self.n_input_dims, self.n_output_dims = one.n_input_dims, one.n_output_dims
        self.smoothness, self.finest_cell = one.smoothness, one.finest_cell
        self._settings, self._order = one.config(), one.channel_order()
        self.one = _stacked(one, n)

    def grouped(self, x: Tensor, offsets: Tensor) -> Tensor:
        """(N, n_input_dims) places in cells, sorted by cell -> (N, n_output_dims)."""
        return of_each_cell(self.one, x, offsets, self.n_output_dims)

    def forward(self, x: Tensor) -> Tensor:
        raise TypeError("x: each cell has an encoding of its own; ask with grouped(x, offsets)")

    def channel_order(self) -> Tensor | None:
        return self._order

    def config(self) -> dict[str, Any]:
        """That of one of them."""
        return self._settings


def encode(encoding: Encoding, cells: Sorted) -> Tensor:
    """Features of sorted points, (N, n_output_dims), of an encoding that all cells share or have each their own."""
    if isinstance(encoding, StackedEncoding):
        return encoding.grouped(cells.local, cells.offsets)
    features: Tensor = encoding(cells.local)
    return features


def for_cells(part: nn.Module, n: int) -> nn.Module:
    """A part as every one of `n` cells has it: a network, and an encoding that learns, stacked; another as it is.

    Raises:
        ValueError: a stack of another number, or a part that cells cannot have.
    """
    if isinstance(part, (StackedNetwork, StackedEncoding)):
        if part.n != n:
            raise ValueError(f"n: expected a stack for {n} cells, got one for {part.n}")
        return part
    _expect_plain(part)
    if isinstance(part, Network):
        return StackedNetwork(part, n)
    if isinstance(part, Encoding) and any(True for _ in part.parameters()):
        return StackedEncoding(part, n)
    return part


def _expect_plain(one: nn.Module) -> None:
    """Require a module that is a function of its parameters and of a point alone."""
    name = getattr(one, "otype", type(one).__name__)
    for module in one.modules():
        if hasattr(module, "on_step") and getattr(module, "changes_by_itself", True):
            raise ValueError(f"otype: {name} changes by itself in the course of a fit, which cells cannot have")
    if getattr(one, "modulation", None) is not None or getattr(one, "reparameterisation", None) is not None:
        raise ValueError(f"otype: {name} in a cell goes without modulation and reparameterisation")
    if getattr(one, "mixes_points", False):
        raise ValueError(f"otype: this {name} mixes the points of a batch, and a cell may have none")


def _stack_of(one: Network, n: int) -> StackedMLP | None:
    """The stack of an MLP that `StackedMLP` knows, with its numbers; None of any other network."""
    if type(one) is not MLP or one.activation.is_complex or one.input_injection != "none":
        return None
    if one.precision != "float32":
        return None
    expect_size(n * sum(parameter.numel() for parameter in one.parameters()))
    with torch.device("meta"):
        made = StackedMLP(
            n, one.n_input_dims, one.n_output_dims, n_neurons=one.n_neurons, n_hidden_layers=one.n_hidden_layers,
            activation=one.activation, output_activation=one.output_activation, has_bias=one.has_bias, equal=True,
        )  # fmt: skip
    state = {f"weights.{i}": _repeated(layer.weight, n) for i, layer in enumerate(one.layers)}  # type: ignore[arg-type]
    if one.has_bias:
        state |= {f"biases.{i}": _repeated(layer.bias, n) for i, layer in enumerate(one.layers)}  # type: ignore[arg-type]
    made.load_state_dict(state, assign=True)
    return made.requires_grad_()


def _stacked(one: nn.Module, n: int) -> Any:
    """The same module, each of whose parameters has an axis more, in front."""
    expect_size(n * sum(parameter.numel() for parameter in one.parameters()))
    for module in one.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(_repeated(parameter, n), requires_grad=parameter.requires_grad))
    return one


def _repeated(parameter: Tensor, n: int) -> Tensor:
    return parameter.detach().expand(n, *parameter.shape).contiguous()
