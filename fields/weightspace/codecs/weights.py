"""Weights: matrices and biases, as equivariant networks read them (DWSNets, NFN, neural graphs).

{"otype": "Weights", "statistics": "layer"}
"""

from __future__ import annotations

from torch import Tensor

from fieldforge.fields.weightspace.chain import Chain, WeightBatch
from fieldforge.fields.weightspace.codecs.base import Initialization, Statistics, WeightCodec
from fieldforge.fields.weightspace.layout import Layout
from fieldforge.registry import register


@register("codec", "Weights")
class Weights(WeightCodec[WeightBatch]):
    """A `WeightBatch` with one channel: W_m (batch, d_m, d_{m-1}, 1), b_m (batch, d_m, 1).

    DWSNets subtracts the mean of every single number and divides by its deviation, which does not commute with the
    permutations its layers commute with; the neural graphs' statistics are one mean and one deviation for each matrix
    and bias. These are the default here ("layer").

    Args:
        layout: matrices and biases of an MLP and nothing beside them; a bias that is not there reads as 0.
        statistics, initialization: as for every codec.

    Attributes:
        chain: which tensor is which.
    """

    otype = "Weights"

    def __init__(
        self, layout: Layout, *, statistics: Statistics = "layer", initialization: Initialization = "unknown"
    ) -> None:
        super().__init__(layout, statistics=statistics, initialization=initialization)
        self.chain = Chain.find(self.layout).expect_whole("Weights")

    def arrange(self, vectors: Tensor) -> WeightBatch:
        return self.chain.split(vectors)

    def restore(self, code: WeightBatch) -> Tensor:
        return self.chain.join(code)
