"""TriPlane: three feature planes, one per pair of axes (Chan et al. 2022, "Efficient Geometry-aware 3D Generative
Adversarial Networks", section 3.2).

    {"otype": "TriPlane", "resolution": 128, "n_features": 32, "reduction": "Sum"}
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from fieldforge.checks import expect_choice, expect_generator, expect_int, expect_points
from fieldforge.encodings.base import Encoding
from fieldforge.encodings.composite import REDUCTIONS, combine
from fieldforge.encodings.interpolation import OUTSIDE, expect_affordable, interpolate, table, total_variation
from fieldforge.registry import register

PLANES = ((0, 1), (0, 2), (1, 2))


@register("encoding", "TriPlane")
class TriPlane(Encoding):
    """The point's projections on the planes xy, xz and yz, looked up bilinearly and joined.

    Args:
        n_input_dims: 3; or 2, where the one plane xy is all there is.
        resolution: entries along an axis, 2 to 16384; the first and last stand at 0 and 1.
        n_features: channels of a plane, 1 to 4096.
        reduction: Sum (the paper), Concatenation or Product.
        generator: draws the entries, N(0, 0.1²); around 1 for Product, whose gradient near 0 would vanish.

    Returns:
        (*batch, n_features), or (*batch, 3 * n_features) in the order xy, xz, yz for Concatenation (n_features in 2-D).

    Attributes:
        planes: (3 or 1, resolution, resolution, n_features), plane (a, b) indexed by coordinate a, then b.

    Example:
        >>> TriPlane(3, resolution=8, n_features=4)(torch.rand(5, 3)).shape
        torch.Size([5, 4])
    """

    otype = "TriPlane"
    domain = "unit cube"
    outside = OUTSIDE
    smoothness = 0

    def __init__(
        self,
        n_input_dims: int = 3,
        *,
        resolution: int = 128,
        n_features: int = 32,
        reduction: Literal["Sum", "Concatenation", "Product"] = "Sum",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.n_input_dims = expect_int("n_input_dims", n_input_dims, 2, 3)
        n_planes = 3 if n_input_dims == 3 else 1
        self.resolution = expect_int("resolution", resolution, 2, 2**14)
        self.n_features = expect_int("n_features", n_features, 1, 4096)
        self.reduction = expect_choice("reduction", reduction, REDUCTIONS)
        expect_affordable("resolution", resolution, n_planes * resolution**2 * n_features)
        expect_generator(generator)
        self.finest_cell = 1 / (resolution - 1)
        self.n_output_dims = n_planes * n_features if self.reduction == "Concatenation" else n_features
        mean = 1.0 if self.reduction == "Product" else 0.0
        shape = (n_planes, resolution, resolution, n_features)
        self.planes = table(shape, lambda entries: entries.normal_(mean, 0.1, generator=generator))

    def penalties(self) -> dict[str, Callable[[], Tensor]]:
        """Of the planes."""
        return {
            "total_variation": lambda: torch.stack([total_variation(plane, 2) for plane in self.planes]).sum(),
            "l1": lambda: len(self.planes) * self.planes.abs().mean(),
        }

    def forward(self, x: Tensor) -> Tensor:
        expect_points(x, self.n_input_dims, owner=self)
        features = [interpolate(plane, x[..., axes]) for plane, axes in zip(self.planes, PLANES, strict=False)]
        return combine(features, self.reduction)
