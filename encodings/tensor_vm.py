"""TensorVM: the vector-matrix factors of a volume (Chen et al. 2022, "TensoRF: Tensorial Radiance Fields",
section 3, eq. 3).

    {"otype": "TensorVM", "resolution": 128, "n_components": 16}
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fieldforge.checks import expect_generator, expect_int, expect_points
from fieldforge.encodings.base import Encoding
from fieldforge.encodings.interpolation import OUTSIDE, expect_affordable, interpolate, table, total_variation
from fieldforge.registry import register

PLANES = ((0, 1), (0, 2), (1, 2))
LINES = (2, 1, 0)  # the axis that the plane of the same place leaves out


@register("encoding", "TensorVM")
class TensorVM(Encoding):
    """Component r of mode xy·z is plane_r(x, y) line_r(z); likewise xz·y and yz·x.

    The features are the products themselves. Their sum is TensoRF's density before activation; a linear layer on
    them is its appearance basis. TensoRF reads 0 outside the box, here the border continues.

    Args:
        n_input_dims: 3.
        resolution: entries along an axis, 2 to 16384.
        n_components: products per mode, 1 to 4096 (TensoRF: 16 for density, 48 for appearance).
        generator: draws the entries, N(0, 0.1²).

    Returns:
        (*batch, 3 * n_components), modes in the order xy·z, xz·y, yz·x.

    Attributes:
        planes: (3, resolution, resolution, n_components). lines: (3, resolution, n_components).

    Example:
        >>> TensorVM(3, resolution=8, n_components=4)(torch.rand(5, 3)).shape
        torch.Size([5, 12])
    """

    otype = "TensorVM"
    domain = "unit cube"
    outside = OUTSIDE
    smoothness = 0

    def __init__(
        self,
        n_input_dims: int = 3,
        *,
        resolution: int = 128,
        n_components: int = 16,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if n_input_dims != 3:
            raise ValueError(f"n_input_dims: TensorVM encodes points of 3 dimensions, got {n_input_dims}")
        self.n_input_dims = 3
        self.resolution = expect_int("resolution", resolution, 2, 2**14)
        self.n_components = expect_int("n_components", n_components, 1, 4096)
        expect_affordable("resolution", resolution, 3 * (resolution**2 + resolution) * n_components)
        expect_generator(generator)
        self.n_output_dims = 3 * n_components
        self.finest_cell = 1 / (resolution - 1)
        plane, line = (3, resolution, resolution, n_components), (3, resolution, n_components)
        self.planes = table(plane, lambda entries: entries.normal_(0, 0.1, generator=generator))
        self.lines = table(line, lambda entries: entries.normal_(0, 0.1, generator=generator))

    def penalties(self) -> dict[str, Callable[[], Tensor]]:
        """Variation of the planes, as in the released code; absolute entries of planes and lines."""
        return {
            "total_variation": lambda: torch.stack([total_variation(plane, 2) for plane in self.planes]).sum(),
            "l1": lambda: 3 * (self.planes.abs().mean() + self.lines.abs().mean()),
        }

    def forward(self, x: Tensor) -> Tensor:
        expect_points(x, self.n_input_dims, owner=self)
        products = [
            interpolate(plane, x[..., axes]) * interpolate(line, x[..., axis, None])
            for plane, axes, line, axis in zip(self.planes, PLANES, self.lines, LINES, strict=True)
        ]
        return torch.cat(products, -1)
