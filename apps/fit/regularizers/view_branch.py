"""The norms of the networks that give colour (KiloNeRF; Reiser et al., ICCV 2021, section 3.3).

{"otype": "ViewBranchNorm", "weight": 1e-6}

What a colour owes to the direction is kept small, so that small networks do not learn the photos by heart: without it
new views of KiloNeRF have artefacts. The released code adds up the norms themselves, not their squares, one for each
weight and bias of the direction layer and the colour layer, and over all cells at once; so the pull on a number does
not depend on how large all of them are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fieldforge.apps.fit.regularizers.base import Regularizer
from fieldforge.checks import expect_float, expect_int
from fieldforge.registry import register


@register("regularizer", "ViewBranchNorm")
class ViewBranchNorm(Regularizer):
    """weight * the sum of ||W|| over the tensors W of the colour network.

    Args:
        weight: factor, at least 0; the authors' is 1e-6.
        until: steps in which it counts; 0 is all.

    Example:
        >>> field = nn.Module()
        >>> field.rgb_network = nn.Linear(2, 1)
        >>> field.rgb_network.load_state_dict({"weight": torch.tensor([[3.0, 4.0]]), "bias": torch.tensor([-2.0])})
        <All keys matched successfully>
        >>> float(ViewBranchNorm(weight=0.5)(field).detach())
        3.5
    """

    otype = "ViewBranchNorm"

    def __init__(self, *, weight: float = 1e-6, until: int = 0) -> None:
        self.weight = expect_float("weight", weight, 0.0, 1e30)
        self.until = expect_int("until", until, 0, 2**31)

    def __call__(self, field: nn.Module) -> Tensor:
        network = getattr(field, "rgb_network", None)
        parameters = list(network.parameters()) if isinstance(network, nn.Module) else []
        if not parameters:
            raise ValueError("otype: ViewBranchNorm needs a field whose rgb_network has parameters")
        return self.weight * torch.stack([torch.linalg.vector_norm(one) for one in parameters]).sum()
