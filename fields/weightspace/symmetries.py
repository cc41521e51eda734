"""Symmetries of an MLP's weights: other numbers, the same function (Hecht-Nielsen 1990; Chen et al. 1993).

Hidden units of a layer may change places: rows of W_m and b_m, columns of W_{m+1}. Behind an odd activation a unit may
change its sign: row, bias and column (sin(omega (w x + b)) is odd in (w, b) together); behind an even one the column
keeps its own. A sine's bias may also move by half periods (`fold_phases`). ReLU's positive factors are a symmetry too,
which is left alone here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fieldforge.fields.activations.base import Activation
from fieldforge.fields.activations.sine import Sine
from fieldforge.fields.weightspace.chain import Chain, WeightBatch

Parity = Literal["odd", "even", "none"]


def parity(activation: Activation) -> Parity:
    """Whether f(-z) is -f(z) or f(z), looked at in float64; a complex activation counts as neither.

    Example:
        >>> from fieldforge.fields.activations.sine import Sine
        >>> parity(Sine(omega=6.0))
        'odd'
    """
    if activation.is_complex:
        return "none"
    z = torch.linspace(0.003, 3.1, 257, dtype=torch.float64)
    kinds: list[Parity] = []
    for is_first in (False, True):
        right, left = activation(z, is_first=is_first), activation(-z, is_first=is_first)
        size = 1e-12 * right.abs().max().clamp_min(1e-12)
        is_odd, is_even = bool(((right + left).abs() <= size).all()), bool(((right - left).abs() <= size).all())
        kinds.append("odd" if is_odd else "even" if is_even else "none")
    return kinds[0] if kinds[0] == kinds[1] else "none"


@dataclass(frozen=True)
class Change:
    """One element of the group for each field of a batch.

    Attributes:
        orders: for each hidden layer (batch, d_m) int64; unit j of the result is unit orders[:, j] of the field.
        signs: for each hidden layer (batch, d_m) of 1 and -1, what the incoming numbers of unit j of the result are
            multiplied by.
    """

    orders: tuple[Tensor, ...]
    signs: tuple[Tensor, ...]


class Symmetries:
    """The group of a field's MLP.

    Args:
        chain: the MLP in the field's layout.
        activation: its parity decides about signs; None: "none" for all.

    Example:
        >>> from fieldforge.fields.networks.mlp import MLP
        >>> from fieldforge.fields.weightspace.layout import Layout
        >>> mlp = MLP(2, 1, n_neurons=5, n_hidden_layers=2, activation="Tanh", has_bias=True)
        >>> layout = Layout.of(mlp.state_dict())
        >>> symmetries = Symmetries(Chain.find(layout), mlp.activation)
        >>> change = symmetries.draw(1)
        >>> other = symmetries.apply(layout.flatten(mlp.state_dict())[None], change)
        >>> again = MLP(2, 1, n_neurons=5, n_hidden_layers=2, activation="Tanh", has_bias=True)
        >>> _ = again.load_state_dict({name: tensor[0] for name, tensor in layout.unflatten(other).items()})
        >>> torch.allclose(mlp(torch.ones(1, 2)), again(torch.ones(1, 2)), atol=1e-6)
        True
    """

    def __init__(self, chain: Chain, activation: Activation | None = None) -> None:
        self.chain = chain
        self.parity: Parity = "none" if activation is None else parity(activation)

    def draw(self, n: int, generator: torch.Generator | None = None, *, has_signs: bool = True) -> Change:
        """`n` random elements: any order of the hidden units, and any signs where the parity allows them.

        Args:
            n: how many fields.
            generator: source; None is torch's global one.
            has_signs: False leaves signs alone.
        """
        device = None if generator is None else generator.device

        def fair(width: int) -> Tensor:
            return torch.rand(n, width, generator=generator, device=device)

        orders = [fair(width).argsort(-1) for width in self.chain.hidden]
        signs = [torch.ones(n, width, device=device) for width in self.chain.hidden]
        if self.parity != "none" and has_signs:
            signs = [
                torch.where(fair(width) < 0.5, -one, one) for width, one in zip(self.chain.hidden, signs, strict=True)
            ]
        return Change(tuple(orders), tuple(signs))

    def apply(self, vectors: Tensor, change: Change) -> Tensor:
        """(batch, n_parameters) to other weights of the same functions; no number changes but in place and sign."""
        self.chain.layout.expect(vectors)
        return self.chain.join(self.apply_to(self.chain.split(vectors), change), vectors)

    def apply_to(self, batch: WeightBatch, change: Change) -> WeightBatch:
        """The same on matrices and biases with any number of channels."""
        weights, biases = list(batch.weights), list(batch.biases)
        for layer, (order, sign) in enumerate(zip(change.orders, change.signs, strict=True)):
            order, sign = order.to(weights[layer].device), sign.to(weights[layer])
            weights[layer] = _take(weights[layer], order, 1) * sign[:, :, None, None]
            biases[layer] = _take(biases[layer], order, 1) * sign[:, :, None]
            following = _take(weights[layer + 1], order, 2)
            weights[layer + 1] = following * sign[:, None, :, None] if self.parity == "odd" else following
        return WeightBatch(tuple(weights), tuple(biases))

    def canonical(self, vectors: Tensor) -> Tensor:
        """The one form that all weights of an orbit share, bit for bit.

        Layer by layer from the input, the first number of a unit's (bias, incoming weights) that is not 0 is made
        positive where the parity allows it, and units are sorted by these numbers. Units that agree in all of them
        keep their order.
        """
        return self.apply(vectors, self.to_canonical(vectors))

    def to_canonical(self, vectors: Tensor) -> Change:
        """The element of the group that `canonical` applies."""
        self.chain.layout.expect(vectors)
        batch = self.chain.split(vectors)
        orders: list[Tensor] = []
        signs: list[Tensor] = []
        column_order: Tensor | None = None
        column_sign: Tensor | None = None
        for weight, bias in zip(batch.weights[:-1], batch.biases[:-1], strict=True):
            rows = weight[..., 0]
            if column_order is not None and column_sign is not None:
                rows = rows.gather(2, column_order[:, None].expand_as(rows))
                rows = rows * column_sign[:, None] if self.parity == "odd" else rows
            keys = torch.cat([bias, rows], -1)  # (batch, d_m, 1 + d_{m-1})
            sign = _first_sign(keys) if self.parity != "none" else torch.ones_like(keys[..., 0])
            order = _sorted_rows(keys * sign[..., None])
            column_order, column_sign = order, sign.gather(1, order)
            orders.append(order)
            signs.append(column_sign)
        return Change(tuple(orders), tuple(signs))


def fold_phases(vectors: Tensor, chain: Chain, activation: Sine) -> Tensor:
    """Every hidden bias of a sine network moved into [0, pi / (2 omega)], the function unchanged up to rounding.

    sin(omega (w x + b)) changes its sign when b moves by pi / omega, which the outgoing column undoes; and
    sin(omega (w x + b)) = sin(omega (-w x + pi / omega - b)). Biases drawn from U(±1/√n) are often further out than
    half a period, so that one wave has several biases. What is left after folding is the order of the units.

    Args:
        vectors: (batch, n_parameters).
        chain: the MLP in the field's layout.
        activation: its `Sine`, for the frequencies.

    Returns:
        (batch, n_parameters).
    """
    chain.layout.expect(vectors)
    batch = chain.split(vectors)
    weights, biases = list(batch.weights), list(batch.biases)
    for layer in range(len(weights) - 1):
        half = math.pi / activation.factor(layer == 0)
        steps = torch.floor(biases[layer] / half)
        bias = (biases[layer] - steps * half).clamp(0, half)
        is_far = bias > half / 2
        biases[layer] = torch.where(is_far, half - bias, bias)
        weights[layer] = torch.where(is_far[:, :, None], -weights[layer], weights[layer])
        sign = 1 - 2 * steps.remainder(2)  # (batch, d_m, 1)
        weights[layer + 1] = weights[layer + 1] * sign[:, None]
    return chain.join(WeightBatch(tuple(weights), tuple(biases)), vectors)


def _take(tensor: Tensor, order: Tensor, axis: int) -> Tensor:
    """Entries of each item of the batch in another order along `axis`."""
    shape: Sequence[int] = [1] * tensor.ndim
    index = order.reshape(*(len(order) if a == 0 else order.shape[1] if a == axis else 1 for a in range(len(shape))))
    return tensor.gather(axis, index.expand_as(tensor))


def _first_sign(rows: Tensor) -> Tensor:
    """(..., n) to (...): the sign of the first number that is not 0, or 1."""
    first = (rows != 0).to(torch.int8).argmax(-1, keepdim=True)
    sign = rows.gather(-1, first)[..., 0].sign()
    return torch.where(sign == 0, torch.ones_like(sign), sign)


def _sorted_rows(rows: Tensor) -> Tensor:
    """(batch, n_rows, n) to the order (batch, n_rows) that sorts rows as words, the first number counting most."""
    rows = rows + 0.0  # -0 and 0 are one number
    order = torch.arange(rows.shape[1], device=rows.device).expand(rows.shape[:2])
    for column in reversed(range(rows.shape[2])):
        key = rows[..., column].gather(1, order)
        order = order.gather(1, key.argsort(dim=1, stable=True))
    return order
