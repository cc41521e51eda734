"""Rows: all matrices and biases as rows of one matrix (inr2vec; De Luigi et al. 2023; nf2vec; Ramirez et al. 2024).

    {"otype": "Rows"}

A row is what one unit reads, a row of W_m, or a whole bias; of the first layer it is what one input gives, a row of
W_1ᵀ, so that a long input costs rows and no width. Rows are padded with zeros to the width of the widest.

For equal hidden layers the rows between the first and the last layer are inr2vec's (L (H + 1) rows of H); it drops the
rest, which `RowEncoder(part="hidden")` does too. nf2vec takes all of tiny-cuda-nn's parameters in rows of 64; its first
matrix, (64, 144), is then cut across units, which nothing is gained by and is not repeated here.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from fieldforge.fields.weightspace.chain import Chain, WeightBatch
from fieldforge.fields.weightspace.codecs.base import Initialization, Statistics, WeightCodec
from fieldforge.fields.weightspace.layout import Layout
from fieldforge.registry import register


@register("codec", "Rows")
class Rows(WeightCodec[Tensor]):
    """(batch, n_rows, width): W_1ᵀ, b_1, W_2, b_2, ..., W_M, b_M, padded with zeros.

    Args:
        layout: matrices and biases of an MLP and nothing beside them; a layer without bias has no row for it.
        statistics, initialization: as for every codec.

    Attributes:
        chain: which tensor is which.
        width: numbers in a row.
        n_rows: how many rows.
        hidden: the rows of W_2 up to b_{M-1}; empty where there is one hidden layer or none.
    """

    otype = "Rows"

    def __init__(
        self, layout: Layout, *, statistics: Statistics = "none", initialization: Initialization = "unknown"
    ) -> None:
        super().__init__(layout, statistics=statistics, initialization=initialization)
        self.chain = Chain.find(self.layout).expect_whole("Rows")
        *hidden, n_outputs = self.chain.widths[1:]
        self.width = max(*hidden, n_outputs, self.chain.widths[0] if not hidden else 0)
        self._blocks: list[tuple[int, int]] = []  # (rows, numbers in each) of W_1ᵀ, b_1, ...
        for index, (n_in, n_out) in enumerate(zip(self.chain.widths, self.chain.widths[1:], strict=False)):
            self._blocks.append((n_in, n_out) if index == 0 and hidden else (n_out, n_in))
            self._blocks.append((0 if self.chain.biases[index] is None else 1, n_out))
        counts = [count for count, _ in self._blocks]
        self.n_rows = sum(counts)
        self.hidden = slice(sum(counts[:2]), sum(counts[:-2]))

    def arrange(self, vectors: Tensor) -> Tensor:
        batch = self.chain.split(vectors)
        blocks = []
        for index, (tensor, (count, length)) in enumerate(zip(batch.tensors(), self._blocks, strict=True)):
            block = tensor.transpose(1, 2) if self._is_turned(index) else tensor
            block = block.flatten(1)[:, : count * length].reshape(len(vectors), count, length)
            blocks.append(functional.pad(block, (0, self.width - length)))
        return torch.cat(blocks, 1)

    def restore(self, code: Tensor) -> Tensor:
        weights, biases = [], []
        blocks = code.split([count for count, _ in self._blocks], 1)
        for index, (block, (_, length)) in enumerate(zip(blocks, self._blocks, strict=True)):
            numbers = block[..., :length]
            if index % 2:
                biases.append(numbers.transpose(1, 2))  # (batch, n_out, 1), or no channel where there is no bias
            else:
                weights.append((numbers.transpose(1, 2) if self._is_turned(index) else numbers)[..., None])
        return self.chain.join(WeightBatch(tuple(weights), tuple(biases)))

    def _is_turned(self, index: int) -> bool:
        return index == 0 and len(self.chain.widths) > 2
