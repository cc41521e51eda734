"""KPlanes: the product of feature planes, one per pair of axes of space, or of space and time (Fridovich-Keil et
al. 2023, "K-Planes: Explicit Radiance Fields in Space, Time, and Appearance", section 3.1).

    {"otype": "KPlanes", "resolution": 64, "n_features": 32, "multiscale": [1, 2, 4], "time_resolution": 25}
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fieldforge.checks import expect_generator, expect_int, expect_points
from fieldforge.encodings.base import Encoding
from fieldforge.encodings.composite import combine
from fieldforge.encodings.interpolation import OUTSIDE, expect_affordable, interpolate, table, total_variation
from fieldforge.registry import register

TIME = 3


@register("encoding", "KPlanes")
class KPlanes(Encoding):
    """At each scale the element-wise product of all planes (3 in 3-D, 6 in 4-D); scales side by side.

    Entries of space planes start as U(0.1, 0.5), away from 0, where a product has no gradient. Planes with time
    start as 1: the field is static until the data says otherwise.

    Args:
        n_input_dims: 3 (x, y, z) or 4 (x, y, z, t).
        resolution: entries along an axis of space at scale 1, at least 2.
        n_features: channels of a plane, 1 to 4096.
        multiscale: factors of `resolution`, one set of planes for each; at most 16.
        time_resolution: entries along time, the same at all scales; the authors take half the number of frames.
        generator: draws the space planes.

    Returns:
        (*batch, len(multiscale) * n_features), scales in the order given.

    Attributes:
        planes: for each scale, for each pair of axes a < b in lexical order, (R_a, R_b, n_features).

    Example:
        >>> encoding = KPlanes(4, resolution=4, n_features=8, multiscale=[1, 2])
        >>> encoding(torch.tensor([[0.3, 0.2, 0.1, 0.0], [0.3, 0.2, 0.1, 1.0]])).diff(dim=0).abs().max() < 1e-6
        tensor(True)
    """

    otype = "KPlanes"
    domain = "unit cube"
    outside = OUTSIDE
    smoothness = 0

    def __init__(
        self,
        n_input_dims: int,
        *,
        resolution: int = 64,
        n_features: int = 32,
        multiscale: Sequence[int] = (1, 2, 4),
        time_resolution: int = 25,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.n_input_dims = expect_int("n_input_dims", n_input_dims, 3, 4)
        self.resolution = expect_int("resolution", resolution, 2, 2**14)
        self.n_features = expect_int("n_features", n_features, 1, 4096)
        self.time_resolution = expect_int("time_resolution", time_resolution, 2, 2**14)
        if not 1 <= len(multiscale) <= 16:
            raise ValueError(f"multiscale: expected 1 to 16 factors, got {len(multiscale)}")
        self.multiscale = [expect_int(f"multiscale[{i}]", factor, 1, 2**10) for i, factor in enumerate(multiscale)]
        self.axes = list(itertools.combinations(range(n_input_dims), 2))
        shapes = [self._shape(pair, factor) for factor in self.multiscale for pair in self.axes]
        expect_affordable("resolution", resolution, sum(map(math.prod, shapes)))
        expect_generator(generator)
        self.n_output_dims = len(self.multiscale) * n_features
        self.finest_cell = 1 / (resolution * max(self.multiscale) - 1)
        self.planes = nn.ParameterList()
        for shape, pair in zip(shapes, self.axes * len(self.multiscale), strict=True):
            if TIME in pair:
                self.planes.append(table(shape, lambda entries: entries.fill_(1)))
            else:
                self.planes.append(table(shape, lambda entries: entries.uniform_(0.1, 0.5, generator=generator)))

    def forward(self, x: Tensor) -> Tensor:
        expect_points(x, self.n_input_dims, owner=self)
        features = [
            interpolate(plane, x[..., pair])
            for plane, pair in zip(self.planes, self.axes * len(self.multiscale), strict=True)
        ]
        n_planes = len(self.axes)
        scales = [combine(features[i : i + n_planes], "Product") for i in range(0, len(features), n_planes)]
        return torch.cat(scales, -1)

    def penalties(self) -> dict[str, Callable[[], Tensor]]:
        """Of all planes of all scales; products have no use for zeros."""
        return {"total_variation": lambda: torch.stack([total_variation(plane, 2) for plane in self.planes]).sum()}

    def channel_order(self) -> Tensor:
        """Scales from the smallest factor up; channels of one scale share their rank."""
        ranks = torch.tensor([sorted(set(self.multiscale)).index(factor) for factor in self.multiscale])
        return ranks.repeat_interleave(self.n_features)

    def _shape(self, pair: tuple[int, int], factor: int) -> tuple[int, int, int]:
        a, b = (self.time_resolution if axis == TIME else self.resolution * factor for axis in pair)
        return a, b, self.n_features
