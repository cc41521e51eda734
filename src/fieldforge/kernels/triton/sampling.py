"""Search in packed edges and importance sampling on a GPU, the same bits as the plain versions. Not differentiable.

`torch.searchsorted` is one kernel too, but of rows of one length; rays have their own numbers of edges and of values,
which the plain version halves in some twenty operations a step, and waits for the longest ray. Offsets must be sound,
as in `rendering`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fieldforge.kernels.triton.door import blocks, expect_tensor, launch
from fieldforge.kernels.triton.rendering import expect_offsets, expect_row

BLOCK = 128


def searchsorted(edges: Tensor, offsets: Tensor, values: Tensor, value_offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of the edges to the left and right of each value, on the value's ray.

    Args:
        edges, values: (M,) and (K,) float32 on a CUDA device.
        offsets, value_offsets: (R + 1,) int64 each.

    Returns:
        (K,) int64 each, as `fieldforge.renderers.sampling.searchsorted` says.
    """
    edges, values = expect_row("edges", edges), expect_row("values", values)
    offsets, queries = expect_offsets(offsets, edges), expect_offsets(value_offsets, edges, "value_offsets")
    n_rays = offsets.shape[0] - 1
    if queries.shape != offsets.shape:
        raise ValueError(f"value_offsets: expected {n_rays} rays as the edges have, got {queries.shape[0] - 1}")
    n_values = values.shape[0]
    left, right = (torch.empty(n_values, dtype=torch.int64, device=edges.device) for _ in range(2))
    launch(
        _kernels().searchsorted, (blocks(n_values, BLOCK),), edges, offsets, values, queries, left, right, n_values,
        n_rays, BLOCK=BLOCK,
    )  # fmt: skip
    return left, right


def inverse_cdf(edges: Tensor, cdf: Tensor, offsets: Tensor, u: Tensor) -> Tensor:
    """(M,) edges and the distribution at them, (R, n) values of it -> (R, n) positions; float32 on a CUDA device."""
    edges = expect_row("edges", edges)
    cdf = expect_tensor("cdf", cdf, tuple(edges.shape), device=edges.device)
    offsets = expect_offsets(offsets, edges)
    u = expect_tensor("u", u, (offsets.shape[0] - 1, u.shape[-1] if u.ndim else 0), device=edges.device)
    out = torch.empty_like(u)
    launch(
        _kernels().inverse_cdf, (blocks(u.numel(), BLOCK),), edges, cdf, offsets, u, out, u.numel(), u.shape[1],
        BLOCK=BLOCK, enable_fp_fusion=False,
    )  # fmt: skip
    return out


def _kernels() -> Any:
    from fieldforge.kernels.triton import sampling_kernels

    return sampling_kernels
