"""Density and colour of a scene whose cells have networks of their own (KiloNeRF; Reiser et al., ICCV 2021).

Points are sorted once for both networks. Where no gradients are wanted, encoding and networks are one native call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from fieldforge.backends import offer, provide
from fieldforge.encodings.base import Encoding
from fieldforge.fields.networks.stacked import describe
from fieldforge.fields.partitions.base import Sorted
from fieldforge.fields.partitions.stacks import StackedEncoding, StackedNetwork, encode
from fieldforge.kernels import cpu_cells, cpu_door, cpu_encodings


class InCells(Protocol):
    """What a `fieldforge.fields.kinds.radiance.RadianceField` with a partition has."""

    encoding: Encoding
    rgb_encoding: Encoding | None
    network: nn.Module
    rgb_network: nn.Module


def in_cells(scene: InCells, cells: Sorted, code: Tensor, rays: Tensor | None) -> Tensor:
    """The density network's first number and the colour of points in cells, (N, 4) in the caller's order.

    Args:
        scene: its encodings and networks.
        cells: the points.
        code: (R, n) of the rays.
        rays: (N,) the row of `code` of each point; None: its own.
    """
    run = offer("radiance_in_cells", code.device, scene=scene, tensors=(cells.places, code)) or plainly
    out: Tensor = run(scene, cells, code, rays)
    return out


@provide("radiance_in_cells", "reference")
def plainly(scene: InCells, cells: Sorted, code: Tensor, rays: Tensor | None) -> Tensor:
    """`in_cells` in plain PyTorch; this function defines it."""
    geometry = scene.network(encode(scene.encoding, cells), cells.offsets)
    features = [geometry, code[rays[cells.order]] if rays is not None else cells.arrange(code)]
    if scene.rgb_encoding is not None:
        features.insert(1, encode(scene.rgb_encoding, cells))
    color = scene.rgb_network(torch.cat(features, -1), cells.offsets)
    return cells.restore(torch.cat([geometry[:, :1], color], -1))


def describe_cells(scene: InCells) -> tuple[cpu_encodings.EncodingShape, cpu_cells.Stacked, cpu_cells.Stacked] | str:
    """What the native kernel needs of such a field, or why it does not run it."""
    if scene.rgb_encoding is not None:
        return "it has no second encoding of places, and the field has one for colour"
    if isinstance(scene.encoding, StackedEncoding) or any(True for _ in scene.encoding.buffers()):
        return "it needs an encoding without numbers of its own"
    encoding = cpu_encodings.describe_encoding(scene.encoding)
    if isinstance(encoding, str):
        return encoding
    stacks = []
    for network in (scene.network, scene.rgb_network):
        if not isinstance(network, StackedNetwork) or network.mlp is None:
            return "it needs stacks of MLPs"
        shape = describe(network.mlp)
        if isinstance(shape, str):
            return shape
        stacks.append(cpu_cells.Stacked(shape, list(network.mlp.weights), list(network.mlp.biases)))
    return encoding, stacks[0], stacks[1]


def _refuses(*, scene: InCells, tensors: Sequence[Tensor]) -> str | None:
    parameters = [*scene.network.parameters(), *scene.rgb_network.parameters()]
    if torch.is_grad_enabled() and any(one.requires_grad for one in (*tensors, *parameters)):
        return "it gives no gradients"
    if any(one.dtype != torch.float32 for one in (*tensors, *parameters)):
        return "it is in float32 only"
    found = describe_cells(scene)
    return found if isinstance(found, str) else None


@provide("radiance_in_cells", "cpu", missing=cpu_door.missing, refuses=_refuses, note=cpu_door.description)
def _radiance_natively(scene: InCells, cells: Sorted, code: Tensor, rays: Tensor | None) -> Tensor:
    found = describe_cells(scene)
    assert not isinstance(found, str), found
    return cpu_cells.cells_radiance(cells.places, cells.offsets, cells.order, code, rays, *found)
