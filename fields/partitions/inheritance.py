"""What the halves of a cell that was cut begin with: the network of the whole.

A half's own coordinates go from 0 to 1 over what was a half of the cell's: p = s x + t, axis by axis. Where a network
reads the coordinates themselves (Identity) and its first layer is linear with a bias, that layer takes this in,

    W (a p + b) + c = W' (a x + b) + c',    W' = W s,    c' = c + W (a t + b (1 - s)),

and the field is the same function after the cut as before. Frequencies, tables and splines have no such layer; there
the halves begin with the numbers of the whole, which say in half the place what the whole said in all of it. The
released code of KiloNeRF begins anew.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fieldforge.encodings.identity import Identity
from fieldforge.fields.kinds.base import Field
from fieldforge.fields.networks.fan import FAN
from fieldforge.fields.networks.mlp import MLP
from fieldforge.fields.partitions.stacks import StackedEncoding, StackedNetwork


@torch.no_grad()
def inherit(heir: Field, field: Field, parent: Tensor) -> str:
    """Give each cell of a field the networks of the cell that it is or was part of, in place.

    Args:
        heir: of the same configuration as `field` but for its partition, each of whose cells lies in one of those.
        field: with a partition.
        parent: (heir's n_cells,) int64 cells of `field`, as `fieldforge.fields.partitions.kd_tree.split_worst` gives.

    Returns:
        '' if the heir is the same function; else why halves say what their whole said, squeezed into half the place.

    Raises:
        ValueError: a field without cells, of other parts, or not a parent for each cell.
    """
    if heir.partition is None or field.partition is None:
        raise ValueError("partition: expected two fields with cells")
    n, n_before = heir.partition.n_cells, field.partition.n_cells
    if parent.shape != (n,) or parent.dtype != torch.int64:
        raise ValueError(f"parent: expected one int64 for each of {n} cells, got {tuple(parent.shape)} {parent.dtype}")
    if bool(((parent < 0) | (parent >= n_before)).any()):
        raise ValueError(f"parent: expected cells from 0 to {n_before - 1}")
    ours, theirs = dict(heir.named_parameters()), dict(field.named_parameters())
    if ours.keys() != theirs.keys():
        raise ValueError("heir: expected a field of the same parts, with another partition")
    of_cells = {
        id(one)
        for part in heir.modules()
        if isinstance(part, (StackedNetwork, StackedEncoding))
        for one in part.parameters()
    }
    for name, mine in ours.items():
        found = theirs[name]
        mine.copy_(found[parent.to(found.device)] if id(mine) in of_cells else found)
    if torch.equal(parent, torch.arange(n_before)):
        return ""
    reads = first_linear(heir)
    if isinstance(reads, str):
        return reads
    weight, bias = reads
    assert isinstance(heir.encoding, Identity)
    scale, shift = (x.to(weight) for x in _within(heir, field, parent))
    inner = heir.encoding.scale * shift + heir.encoding.offset * (1 - scale)
    bias += (weight @ inner[..., None])[..., 0]
    weight *= scale[:, None]
    return ""


def first_linear(field: Field) -> tuple[Tensor, Tensor] | str:
    """Weights (n, n_out, d) and biases (n, n_out) of what alone reads places in cells; or why there are none."""
    if not isinstance(field.encoding, Identity):
        own = field.encoding.one if isinstance(field.encoding, StackedEncoding) else field.encoding
        return f"the encoding {own.otype} of half a place is not a linear function of that of the place"
    if getattr(field, "rgb_encoding", None) is not None:
        return "colours read another encoding of the place"
    stack = field.network
    assert isinstance(stack, StackedNetwork)
    if stack.mlp is not None:
        found: tuple[Tensor, Tensor] | None = (
            (stack.mlp.weights[0], stack.mlp.biases[0]) if stack.mlp.has_bias else None
        )
    else:
        found = _of_one(stack.one)
    return found or f"a {stack.otype} has no first layer that alone reads the place, with a bias"


def _of_one(one: nn.Module | None) -> tuple[Tensor, Tensor] | None:
    if isinstance(one, MLP) and one.has_bias and one.input_injection == "none" and one.precision == "float32":
        layer = one.layers[0]
    elif isinstance(one, FAN):
        layer = one.first
    else:
        return None
    return layer.weight, layer.bias  # type: ignore[return-value]


def _within(heir: Field, field: Field, parent: Tensor) -> tuple[Tensor, Tensor]:
    """(n_cells, d) float64 side and low corner of each cell, in the coordinates of the cell that it is part of."""
    assert heir.partition is not None
    assert field.partition is not None
    low, high = heir.partition.boxes()
    low_before, high_before = (corner[parent] for corner in field.partition.boxes())
    size = high_before - low_before
    return (high - low) / size, (low - low_before) / size
