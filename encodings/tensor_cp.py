"""TensorCP: products of lines, one per axis, the canonical polyadic factors of an image or a volume (Chen et al.
2022, "TensoRF: Tensorial Radiance Fields", section 3, eq. 1).

    {"otype": "TensorCP", "resolution": 128, "n_components": 96}
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fieldforge.checks import expect_generator, expect_int, expect_points
from fieldforge.encodings.base import Encoding
from fieldforge.encodings.composite import combine
from fieldforge.encodings.interpolation import OUTSIDE, expect_affordable, interpolate, table, total_variation
from fieldforge.registry import register


@register("encoding", "TensorCP")
class TensorCP(Encoding):
    """Component r is line_r(x) line_r(y), and in 3-D also line_r(z).

    The features are the products themselves. In 2-D their sum at the entries is a matrix of rank at most
    n_components, so no image is met closer than by its truncated singular value decomposition (Eckart-Young).

    Args:
        n_input_dims: 2 or 3.
        resolution: entries along an axis, 2 to 16384.
        n_components: products, 1 to 65536 (TensoRF: 96 for density, 288 for appearance).
        generator: draws the entries, N(0, 0.2²).

    Returns:
        (*batch, n_components).

    Attributes:
        lines: (n_input_dims, resolution, n_components).

    Example:
        >>> TensorCP(2, resolution=8, n_components=4)(torch.rand(5, 2)).shape
        torch.Size([5, 4])
    """

    otype = "TensorCP"
    domain = "unit cube"
    outside = OUTSIDE
    smoothness = 0

    def __init__(
        self,
        n_input_dims: int,
        *,
        resolution: int = 128,
        n_components: int = 96,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.n_input_dims = expect_int("n_input_dims", n_input_dims, 2, 3)
        self.resolution = expect_int("resolution", resolution, 2, 2**14)
        self.n_components = self.n_output_dims = expect_int("n_components", n_components, 1, 2**16)
        self.finest_cell = 1 / (resolution - 1)
        expect_affordable("resolution", resolution, n_input_dims * resolution * n_components)
        expect_generator(generator)
        shape = (n_input_dims, resolution, n_components)
        self.lines = table(shape, lambda entries: entries.normal_(0, 0.2, generator=generator))

    def penalties(self) -> dict[str, Callable[[], Tensor]]:
        """Of the lines."""
        return {
            "total_variation": lambda: torch.stack([total_variation(line, 1) for line in self.lines]).sum(),
            "l1": lambda: self.n_input_dims * self.lines.abs().mean(),
        }

    def forward(self, x: Tensor) -> Tensor:
        expect_points(x, self.n_input_dims, owner=self)
        features = [interpolate(line, x[..., axis, None]) for axis, line in enumerate(self.lines)]
        return combine(features, "Product")
