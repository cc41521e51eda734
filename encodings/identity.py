"""Identity: the coordinates themselves, scaled and shifted (tiny-cuda-nn).

{"otype": "Identity", "scale": 1.0, "offset": 0.0}
"""

from __future__ import annotations

import math

from torch import Tensor

from fieldforge.checks import expect_float, expect_int, expect_points
from fieldforge.encodings.base import Encoding
from fieldforge.registry import register


@register("encoding", "Identity")
class Identity(Encoding):
    """x * scale + offset.

    Args:
        n_input_dims: number of coordinates d.
        scale: factor.
        offset: added after scaling.

    Returns:
        (*batch, d).

    Example:
        >>> Identity(2, scale=2.0, offset=-1.0)(torch.tensor([0.0, 0.75]))
        tensor([-1.0000,  0.5000])
    """

    otype = "Identity"
    domain = "reals"
    outside = "the same formula holds everywhere"
    smoothness = math.inf

    def __init__(self, n_input_dims: int, *, scale: float = 1.0, offset: float = 0.0) -> None:
        super().__init__()
        self.n_input_dims = self.n_output_dims = expect_int("n_input_dims", n_input_dims, 1)
        self.scale = expect_float("scale", scale)
        self.offset = expect_float("offset", offset)

    def forward(self, x: Tensor) -> Tensor:
        expect_points(x, self.n_input_dims, owner=self)
        return x * self.scale + self.offset
