"""Chain: the matrices and biases of an MLP in a layout, and batches of them as tensors with channels.

The chain is what symmetries and equivariant networks see of a field: matrices W_1 (d_1, d_0), ..., W_M (d_M, d_{M-1})
and biases b_m (d_m,), as PyTorch keeps them. The authors' codes keep (d_{m-1}, d_m).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fieldforge.fields.weightspace.layout import Layout


@dataclass(frozen=True)
class WeightBatch:
    """Numbers, or features, at every entry of the matrices and biases of a batch of MLPs.

    Attributes:
        weights: W_m as (batch, d_m, d_{m-1}, n_channels), first layer first.
        biases: b_m as (batch, d_m, n_channels).
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]

    @property
    def widths(self) -> tuple[int, ...]:
        """(d_0, ..., d_M)."""
        return (self.weights[0].shape[2], *(weight.shape[1] for weight in self.weights))

    def map(self, function: Callable[[Tensor], Tensor]) -> WeightBatch:
        """The same function at every tensor."""
        return WeightBatch(tuple(map(function, self.weights)), tuple(map(function, self.biases)))

    def tensors(self) -> tuple[Tensor, ...]:
        """W_1, b_1, W_2, b_2, ..."""
        return tuple(tensor for pair in zip(self.weights, self.biases, strict=True) for tensor in pair)


@dataclass(frozen=True)
class Chain:
    """Which tensors of a layout are the linear layers of its MLP.

    Attributes:
        layout: all tensors of the field.
        weights: names of the matrices, first layer first.
        biases: names of their biases; None where a layer has none.
        rest: names of the other tensors (a table of features, say).
    """

    layout: Layout
    weights: tuple[str, ...]
    biases: tuple[str | None, ...]
    rest: tuple[str, ...]

    @classmethod
    def find(cls, layout: Layout) -> Chain:
        """Every tensor of two axes whose name ends with "weight" is a matrix; X.bias belongs to X.weight.

        Matrices stand in the order of the layout, or by their number where the names differ only in one.

        Raises:
            ValueError: there is no matrix, or one does not read what the one before gives.
        """
        shapes = layout.shapes
        weights = _in_order([name for name, shape in shapes.items() if name.endswith("weight") and len(shape) == 2])
        if not weights:
            raise ValueError(f"layout: expected the matrices of an MLP (X.weight), got {', '.join(shapes)}")
        for before, name in itertools.pairwise(weights):
            if shapes[name][1] != shapes[before][0]:
                raise ValueError(
                    f"layout: {name}: expected (n_out, {shapes[before][0]}), the width that {before} gives, "
                    f"got {shapes[name]}; an MLP that reads its input again has no such chain"
                )
        biases = tuple(cls._bias_of(name, shapes) for name in weights)
        used = {*weights, *biases}
        return cls(layout, tuple(weights), biases, tuple(name for name in shapes if name not in used))

    @staticmethod
    def _bias_of(weight: str, shapes: dict[str, tuple[int, ...]]) -> str | None:
        name = weight.removesuffix("weight") + "bias"
        if name in shapes and shapes[name] != shapes[weight][:1]:
            raise ValueError(f"layout: {name}: expected {shapes[weight][:1]}, got {shapes[name]}")
        return name if name in shapes else None

    @property
    def widths(self) -> tuple[int, ...]:
        """(d_0, ..., d_M): inputs, hidden layers, outputs."""
        shapes = [self.layout.shapes[name] for name in self.weights]
        return (shapes[0][1], *(n_out for n_out, _ in shapes))

    @property
    def hidden(self) -> tuple[int, ...]:
        """Widths of the hidden layers."""
        return self.widths[1:-1]

    def expect_whole(self, owner: str) -> Chain:
        """Require that there is nothing beside the chain."""
        if self.rest:
            raise ValueError(f"layout: {owner} reads an MLP's matrices and biases, got also {', '.join(self.rest)}")
        return self

    def split(self, vectors: Tensor) -> WeightBatch:
        """(batch, n_parameters) to matrices and biases with one channel; a bias that is not there is 0."""
        tensors = self.layout.unflatten(vectors)
        weights = tuple(tensors[name][..., None] for name in self.weights)
        biases = tuple(
            weight.new_zeros(*weight.shape[:2], 1) if name is None else tensors[name][..., None]
            for name, weight in zip(self.biases, weights, strict=True)
        )
        return WeightBatch(weights, biases)

    def join(self, batch: WeightBatch, vectors: Tensor | None = None) -> Tensor:
        """The inverse of `split`; tensors beside the chain are those of `vectors`."""
        tensors = {} if vectors is None else self.layout.unflatten(vectors)
        for name, bias_name, weight, bias in zip(self.weights, self.biases, batch.weights, batch.biases, strict=True):
            tensors[name] = weight[..., 0]
            if bias_name is not None:
                tensors[bias_name] = bias[..., 0]
        return torch.cat([tensors[name].flatten(1) for name in self.layout.shapes], -1)


def _in_order(names: list[str]) -> list[str]:
    """By their number when the names differ in one number alone, else as they are."""
    split = [re.fullmatch(r"(.*?)(\d+)(\D*)", name) for name in names]
    if all(split) and len({(part[1], part[3]) for part in split if part}) == 1:
        return sorted(names, key=lambda name: int(re.findall(r"\d+", name)[-1]))
    return names
