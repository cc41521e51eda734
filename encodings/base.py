"""What an encoding is: coordinates in, features out.

An encoding maps points of its `domain` to a feature vector that a small network can read. To write one, subclass
`Encoding`, keep every constructor keyword as an attribute of the same name, and run
`fieldforge.contracts.check_encoding` on it. `encodings/identity.py` is the shortest example.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from fieldforge.registry import config_of

Domain = Literal["unit cube", "reals", "direction"]


class Encoding(nn.Module, ABC):
    """Coordinates to features.

    Class attributes that checks, wrappers and losses read:

    - ``otype``: the name in a configuration.
    - ``domain``: where the function is meant to be used: the unit cube [0, 1]^d, all of R^d, or directions given
      as (v + 1) / 2 in the unit cube.
    - ``outside``: one sentence on what happens outside the domain.

    Instance attributes: ``n_input_dims``, ``n_output_dims``; ``smoothness``, the number of continuous derivatives in x
    (-1: jumps; 0: continuous; ``math.inf``: all); and ``finest_cell``, the side of the smallest cells between whose
    corners it interpolates, in the unit cube (None: there are none).
    """

    otype: ClassVar[str]
    domain: ClassVar[Domain]
    outside: ClassVar[str]

    n_input_dims: int
    n_output_dims: int
    smoothness: float
    finest_cell: float | None = None

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """(*batch, n_input_dims) -> (*batch, n_output_dims), any batch shape, also empty and non-contiguous."""

    def channel_order(self) -> Tensor | None:
        """(n_output_dims,) rank of each channel from coarse (0) to fine, or None when channels have no order.

        SAPE, PINs and coarse-to-fine masks open channels in this order.
        """
        return None

    def penalties(self) -> dict[str, Callable[[], Tensor]]:
        """What can be asked of the parameters, each a scalar that is 0 where they are as tame as can be.

        - ``total_variation``: the mean squared difference of neighbouring entries, summed over axes and tables.
        - ``l1``: the mean of absolute entries, summed over tables.
        - ``parseval``: the mean squared gradient of the features, from their spectrum.
        """
        return {}

    def config(self) -> dict[str, Any]:
        """The configuration that rebuilds this encoding (without parameters)."""
        return config_of(self)
