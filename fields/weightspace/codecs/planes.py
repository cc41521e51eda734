"""PlaneChannels: the channels of a tri-plane field's planes (Cardace et al., ICLR 2024, "Neural Processing of Tri-Plane
Hybrid Neural Fields").

    {"otype": "PlaneChannels"}

A field with a `TriPlane` encoding keeps its features as (3, R, R, C); a network on them reads 3 C pictures of R x R.
Of a picture there is one plane, (1, R, R, C).
Each fit finds its channels in an order of its own, so what reads them should not mind the order. The paper's classifier
also divides each place by the length of its 3 C values, which the network does (`ChannelTransformer(is_normalized)`),
and leaves the MLP behind the planes alone; here it is kept beside the channels, so that nothing is lost.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fieldforge.fields.weightspace.codecs.base import Initialization, Statistics, WeightCodec
from fieldforge.fields.weightspace.layout import Layout
from fieldforge.registry import register


class Channels(NamedTuple):
    """Planes as pictures, and the other parameters."""

    channels: Tensor
    """(batch, 3 C, R, R): plane xy's channels, plane xz's, plane yz's."""
    rest: Tensor
    """(batch, n): all other parameters in the order of the layout."""


@register("codec", "PlaneChannels")
class PlaneChannels(WeightCodec[Channels]):
    """Tri-planes as channels.

    Args:
        layout: one tensor whose name ends with "planes" of shape (3, R, R, C) or (1, R, R, C), and any others.
        statistics, initialization: as for every codec.

    Attributes:
        planes: the name of that tensor.
        n_planes: 3 or 1. n_channels: C of all of them together. resolution: R.

    Raises:
        ValueError: there is no such tensor, or more than one.
    """

    otype = "PlaneChannels"

    def __init__(
        self, layout: Layout, *, statistics: Statistics = "none", initialization: Initialization = "unknown"
    ) -> None:
        super().__init__(layout, statistics=statistics, initialization=initialization)
        found = [name for name, shape in self.layout.tensors if name.endswith("planes") and _is_planes(shape)]
        if len(found) != 1:
            raise ValueError(
                "layout: PlaneChannels reads one tensor X.planes of shape (3 or 1, R, R, C), "
                f"got {', '.join(f'{name} {list(shape)}' for name, shape in self.layout.tensors)}"
            )
        self.planes = found[0]
        self.n_planes, self.resolution, _, n_features = self.layout.shapes[self.planes]
        self.n_channels = self.n_planes * n_features

    def arrange(self, vectors: Tensor) -> Channels:
        tensors = self.layout.unflatten(vectors)
        planes = tensors.pop(self.planes).permute(0, 1, 4, 2, 3)  # (batch, planes, C, R, R)
        rest = [tensor.flatten(1) for tensor in tensors.values()]
        return Channels(planes.flatten(1, 2), torch.cat(rest, -1) if rest else vectors[:, :0])

    def restore(self, code: Channels) -> Tensor:
        planes = code.channels.unflatten(1, (self.n_planes, -1)).permute(0, 1, 3, 4, 2).flatten(1)
        sizes = [size for (name, _), size in zip(self.layout.tensors, self.layout.sizes, strict=True)
                 if name != self.planes]  # fmt: skip
        others = iter(code.rest.split(sizes, -1) if sizes else ())
        return torch.cat([planes if name == self.planes else next(others) for name, _ in self.layout.tensors], -1)

    def move_channels(self, vectors: Tensor, order: Tensor) -> Tensor:
        """The same fields with their channels in another order: of all planes, and of the columns that read them.

        Args:
            vectors: (batch, n_parameters), of fields that add their planes.
            order: (batch, C), a permutation of each field's C channels.

        Raises:
            ValueError: the layout has no first matrix (n, C).
        """
        tensors, n_features = self.layout.unflatten(vectors), self.n_channels // self.n_planes
        first = next((name for name, shape in self.layout.tensors if len(shape) == 2), None)
        if first is None or self.layout.shapes[first][1] != n_features:
            raise ValueError(f"layout: expected a first matrix that reads {n_features} channels, got {first}")
        for name in (self.planes, first):
            tensor = tensors[name]
            index = order.view(len(order), *[1] * (tensor.ndim - 2), n_features)
            tensors[name] = tensor.gather(-1, index.expand_as(tensor))
        return self.layout.flatten(tensors)


def _is_planes(shape: tuple[int, ...]) -> bool:
    return len(shape) == 4 and shape[0] in (1, 3) and shape[1] == shape[2]
