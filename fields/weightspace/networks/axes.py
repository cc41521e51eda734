"""Axes: what a matrix or a bias looks like to the group that permutes hidden units.

Every axis of a tensor is either permutable, with the number of its layer, or fixed (inputs and outputs of the MLP). Two
tensors have the permutable axes in common whose layers are the same; a fixed axis is folded into the channels, as each
of its entries is a thing of its own. All equivariant linear maps follow from these alone: for every set of axes that
source and target share, pool the source over its others, mix channels, and repeat along the target's others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from fieldforge.fields.weightspace.chain import WeightBatch


@dataclass(frozen=True)
class Entries:
    """One matrix or bias.

    Attributes:
        shape: (d_m, d_{m-1}) of a matrix, (d_m,) of a bias.
        layers: for each axis the number of its layer, or None for a fixed axis.
    """

    shape: tuple[int, ...]
    layers: tuple[int | None, ...]

    @property
    def permutable(self) -> tuple[int, ...]:
        """Layers of the permutable axes, in order."""
        return tuple(layer for layer in self.layers if layer is not None)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Lengths of the permutable axes."""
        return tuple(size for size, layer in zip(self.shape, self.layers, strict=True) if layer is not None)

    @property
    def n_fixed(self) -> int:
        """Entries of the fixed axes together."""
        n = 1
        for size, layer in zip(self.shape, self.layers, strict=True):
            n *= size if layer is None else 1
        return n

    def fold(self, tensor: Tensor) -> Tensor:
        """(batch, *shape, f) to (batch, *sizes, n_fixed * f)."""
        order = [axis for axis, layer in enumerate(self.layers) if layer is not None]
        order += [axis for axis, layer in enumerate(self.layers) if layer is None]
        moved = tensor.permute(0, *(axis + 1 for axis in order), tensor.ndim - 1)
        return moved.flatten(1 + len(self.sizes))

    def unfold(self, tensor: Tensor, n_channels: int) -> Tensor:
        """(batch, *sizes, n_fixed * f) to (batch, *shape, f), the inverse of `fold`."""
        fixed = [size for size, layer in zip(self.shape, self.layers, strict=True) if layer is None]
        tensor = tensor.unflatten(-1, (*fixed, n_channels))
        order = [axis for axis, layer in enumerate(self.layers) if layer is not None]
        order += [axis for axis, layer in enumerate(self.layers) if layer is None]
        back = sorted(range(len(order)), key=order.__getitem__)
        return tensor.permute(0, *(axis + 1 for axis in back), tensor.ndim - 1)


def entries_of(widths: Sequence[int], *, has_fixed_ends: bool = True) -> tuple[list[Entries], list[Entries]]:
    """The matrices and the biases of an MLP.

    Args:
        widths: (d_0, ..., d_M).
        has_fixed_ends: whether inputs and outputs are fixed; else they may be permuted like hidden units.
    """
    last = len(widths) - 1
    layer_of: list[int | None] = [None if has_fixed_ends and index in (0, last) else index for index in range(last + 1)]
    weights = [Entries((widths[m], widths[m - 1]), (layer_of[m], layer_of[m - 1])) for m in range(1, last + 1)]
    biases = [Entries((widths[m],), (layer_of[m],)) for m in range(1, last + 1)]
    return weights, biases


def fold_all(batch: WeightBatch, weights: Sequence[Entries], biases: Sequence[Entries]) -> list[Tensor]:
    """Every tensor folded, matrices first."""
    pairs = zip((*weights, *biases), (*batch.weights, *batch.biases), strict=True)
    return [entries.fold(tensor) for entries, tensor in pairs]


def spread(tensor: Tensor, own: Sequence[int], target: Entries) -> Tensor:
    """(batch, *sizes of the layers `own`, f) with an axis of length 1 for each of the target's other layers."""
    for axis, layer in enumerate(target.permutable):
        if layer not in own:
            tensor = tensor.unsqueeze(axis + 1)
    return tensor
