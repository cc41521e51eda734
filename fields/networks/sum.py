"""Sum: what a tensor decomposition has for a network, a sum over its components (Chen et al. 2022, "TensoRF: Tensorial
Radiance Fields", section 4.1).

{"otype": "Sum"}
"""

from __future__ import annotations

import math

from torch import Tensor

from fieldforge.checks import expect_int, expect_points
from fieldforge.fields.networks.base import Modulation, Network
from fieldforge.registry import register


@register("network", "Sum")
class Sum(Network):
    """Output j is the sum of the j-th block of n_input_dims / n_output_dims features; no parameters.

    As many outputs as features hands the features on, as a plain grid needs it.

    Args:
        n_input_dims: width of the features, a multiple of `n_output_dims`.
        n_output_dims: number of outputs.

    Example:
        >>> Sum(6, 2)(torch.arange(6.0))
        tensor([ 3., 12.])
    """

    otype = "Sum"
    smoothness = math.inf

    def __init__(self, n_input_dims: int, n_output_dims: int) -> None:
        super().__init__()
        self.n_input_dims = expect_int("n_input_dims", n_input_dims, 1)
        self.n_output_dims = expect_int("n_output_dims", n_output_dims, 1)
        if n_input_dims % n_output_dims:
            raise ValueError(
                f"n_output_dims: {n_input_dims} features cannot be {n_output_dims} equal blocks; an encoding of "
                f"{n_output_dims}, {2 * n_output_dims}, ... features can"
            )

    def forward(self, features: Tensor, *, modulate: Modulation | None = None) -> Tensor:
        """(*batch, n_input_dims) -> (*batch, n_output_dims); there is no hidden layer to modulate."""
        expect_points(features, self.n_input_dims, name="features", owner=self)
        return features.unflatten(-1, (self.n_output_dims, -1)).sum(-1)
