"""Which samples a step sees, on a GPU: the keyed permutation in one pass, with nothing for the host to wait for."""

from __future__ import annotations

import torch
from torch import Tensor

from fieldforge.kernels.triton.door import blocks, expect_tensor, launch

BLOCK = 256


def permute(index: Tensor, n: int, key: Tensor) -> Tensor:
    """`fieldforge.apps.fit.samplers.permute`.

    Args:
        index: (m,) int64 in [0, n) on a CUDA device.
        n: size of the range.
        key: (m,) int64 beside it.

    Raises:
        TypeError, ValueError: a tensor has another dtype, shape or device.
    """
    shape = tuple(index.shape)
    index = expect_tensor("index", index, (shape[0] if len(shape) == 1 else -1,), (torch.int64,))
    key = expect_tensor("key", key, shape, (torch.int64,), index.device)
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    out = torch.empty_like(index)
    from fieldforge.kernels.triton import draw_kernels

    m = len(index)
    launch(draw_kernels.permute, (blocks(m, BLOCK),), index, key, out, m, n, half, (1 << half) - 1, BLOCK=BLOCK)
    return out
