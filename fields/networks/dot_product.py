"""DotProduct: colours that are given by coefficients of a basis of directions, with no layer at all (Fridovich-Keil et
al. 2022, "Plenoxels: Radiance Fields without Neural Networks", section 3.1).

{"otype": "DotProduct", "n_basis": 9, "output_activation": "Sigmoid"}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fieldforge.checks import expect_int, expect_points
from fieldforge.fields.activations.base import Activation
from fieldforge.fields.networks.base import Modulation, Network, expect_real_activation
from fieldforge.registry import register


@register("network", "DotProduct")
class DotProduct(Network):
    """output_activation(coefficients · values): the input ends with n_output_dims · n_basis coefficients, output by
    output, and then the n_basis values that they belong to; what stands before them is not read.

    With spherical harmonics for the code of directions of a radiance field and 27 coefficients a place this is
    Plenoxels' colour. The paper cuts colours below 0 off; a sigmoid, as here by default, is that of PlenOctrees (Yu et
    al. 2021), from which a number below 0 can return.

    Args:
        n_input_dims: at least (n_output_dims + 1) · n_basis.
        n_output_dims: number of outputs.
        n_basis: values of the basis; the square of the degree for `SphericalHarmonics`.
        output_activation: name or table.

    Example:
        >>> head = DotProduct(5, 1, n_basis=2, output_activation="None")
        >>> head(torch.tensor([100.0, 2.0, 3.0, 10.0, 1.0]))
        tensor([23.])
    """

    otype = "DotProduct"

    def __init__(
        self,
        n_input_dims: int,
        n_output_dims: int,
        *,
        n_basis: int = 9,
        output_activation: str | Mapping[str, Any] | Activation = "Sigmoid",
    ) -> None:
        super().__init__()
        self.n_input_dims = expect_int("n_input_dims", n_input_dims, 1)
        self.n_output_dims = expect_int("n_output_dims", n_output_dims, 1)
        self.n_basis = expect_int("n_basis", n_basis, 1)
        least = (n_output_dims + 1) * n_basis
        if n_input_dims < least:
            raise ValueError(
                f"n_basis: {n_output_dims} outputs by {n_basis} coefficients, and the values themselves, are {least} "
                f"numbers, and the input has {n_input_dims}; a smaller n_basis or more features will do"
            )
        self.output_activation = expect_real_activation("output_activation", output_activation)
        self.smoothness = self.output_activation.smoothness

    def forward(self, features: Tensor, *, modulate: Modulation | None = None) -> Tensor:
        """(*batch, n_input_dims) -> (*batch, n_output_dims); there is no hidden layer to modulate."""
        expect_points(features, self.n_input_dims, name="features", owner=self)
        values = features[..., -self.n_basis :]  # (*batch, K)
        rows = features[..., -(self.n_output_dims + 1) * self.n_basis : -self.n_basis]
        out = (rows.unflatten(-1, (self.n_output_dims, self.n_basis)) * values[..., None, :]).sum(-1)
        return self.output_activation(out)
