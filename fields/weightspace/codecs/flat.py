"""FlatVector: the weights as one vector, as they are.

{"otype": "FlatVector", "statistics": "entry"}
"""

from __future__ import annotations

from torch import Tensor

from fieldforge.fields.weightspace.codecs.base import WeightCodec
from fieldforge.registry import register


@register("codec", "FlatVector")
class FlatVector(WeightCodec[Tensor]):
    """(batch, n_parameters), in the order of the layout.

    For what treats every number alike: Gaussians, plain MLPs. Means only something to them where all fields began at
    the same numbers.
    """

    otype = "FlatVector"

    def arrange(self, vectors: Tensor) -> Tensor:
        return vectors

    def restore(self, code: Tensor) -> Tensor:
        return code
