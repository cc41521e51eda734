"""Adam on a GPU: a step of a whole parameter, or of the entries of a table that were touched, in one pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fieldforge.kernels.triton.door import blocks, expect_tensor, launch

BLOCK = 1024


def refuses(*, dtype: torch.dtype, **_: Any) -> str | None:
    """Why a parameter of a dtype cannot be moved, or None."""
    return None if dtype == torch.float32 else f"it moves float32 parameters only, not {dtype}"


def step(
    weight: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    *,
    rate: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    counts: Tensor | None = None,
    corrections: Tensor | None = None,
    l2: float = 0.0,
    relative_decay: float = 0.0,
    absolute_decay: float = 0.0,
    gradient_limit: float = 0.0,
    limit: float = 0.0,
    low: float = 0.0,
    high: float = 3.0e38,
) -> None:
    """Move `weight` and its moments in place, as `fieldforge.kernels.cpu_training.Rule` says.

    Args:
        weight, first, second: float32 of one shape on a CUDA device, contiguous; written.
        gradient: float32 of that shape.
        rate: with the bias correction in it, unless there are counts.
        counts: int32 of that shape, how often each entry was moved; written. Entries whose gradient is zero are then
            left alone with their moments and their count.
        corrections: (most + 2,) float32, the factor on the rate of an entry that is moved for the n-th time; where
            there are counts.
        gradient_limit, limit: magnitudes that gradients and weights are clipped to; 0: not.
        low, high: of rate / (sqrt(v) + epsilon).

    Raises:
        TypeError, ValueError: a tensor has another dtype, shape or device, or is not contiguous where it is written.
    """
    shape, device = tuple(weight.shape), weight.device
    written = {"weight": weight, "first": first, "second": second} | ({} if counts is None else {"counts": counts})
    for name, tensor in written.items():
        if not tensor.is_contiguous():
            raise ValueError(f"{name}: expected a contiguous tensor, as it is written in place")
        expect_tensor(name, tensor, shape, (torch.int32 if name == "counts" else torch.float32,), device)
    gradient = expect_tensor("gradient", gradient, shape, device=device)
    if counts is not None:
        if corrections is None:
            raise ValueError("corrections: expected one for each count, got None")
        corrections = expect_tensor("corrections", corrections, tuple(corrections.shape), device=device)
    from fieldforge.kernels.triton import adam_kernels

    n = weight.numel()
    launch(
        adam_kernels.step, (blocks(n, BLOCK),), weight.detach(), gradient, first, second, counts, corrections, n,
        rate, beta1, beta2, 1.0 - beta1, 1.0 - beta2, epsilon, l2, relative_decay, absolute_decay, gradient_limit,
        limit, low, high, SKIPS_ZERO=counts is not None, HAS_L2=l2 != 0.0,
        HAS_DECAY=relative_decay != 0.0 or absolute_decay != 0.0, LIMITS_GRADIENT=gradient_limit != 0.0,
        LIMITS=limit != 0.0, HAS_EPSILON=epsilon != 0.0, BLOCK=BLOCK, enable_fp_fusion=False,
    )  # fmt: skip
