"""Sums and products along each ray of packed samples, as nerfacc names them (Li et al. 2023).

An inclusive scan counts the sample itself, an exclusive one only those before it: for (a, b, c) on one ray the
inclusive sums are (a, a + b, a + b + c), the exclusive ones (0, a, a + b). Rays do not see one another: what is lost to
rounding, infinite or NaN on one ray stays there, which a cumulative sum over all rays with its start taken off does not
grant.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from fieldforge.backends import choose, provide
from fieldforge.kernels import cpu_door, cpu_rendering
from fieldforge.kernels.triton import door as triton_door
from fieldforge.kernels.triton import rendering as triton_rendering
from fieldforge.renderers.samples import expect_offsets, rows_to_rays


def inclusive_sum(values: Tensor, offsets: Tensor) -> Tensor:
    """Sum of each sample and those before it on its ray.

    Args:
        values: (N,) floating point.
        offsets: (R + 1,) int64, ray r has the rows ``offsets[r] : offsets[r + 1]``.

    Returns:
        (N,).

    Raises:
        TypeError: wrong dtypes.
        ValueError: wrong shapes, or offsets that do not go from 0 to N.

    Example:
        >>> inclusive_sum(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 2, 3]))
        tensor([1., 3., 3.])
    """
    return _scan(values, offsets, "inclusive_sum")


def exclusive_sum(values: Tensor, offsets: Tensor) -> Tensor:
    """Sum of the samples before each on its ray; arguments and errors as for `inclusive_sum`.

    Example:
        >>> exclusive_sum(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 2, 3]))
        tensor([0., 1., 0.])
    """
    return _scan(values, offsets, "exclusive_sum")


def inclusive_prod(values: Tensor, offsets: Tensor) -> Tensor:
    """Product of each sample and those before it on its ray; arguments and errors as for `inclusive_sum`.

    The gradient is right with zeros among the factors: nothing is divided.

    Example:
        >>> inclusive_prod(torch.tensor([2.0, 3.0, 4.0]), torch.tensor([0, 2, 3]))
        tensor([2., 6., 4.])
    """
    return _scan(values, offsets, "inclusive_prod")


def exclusive_prod(values: Tensor, offsets: Tensor) -> Tensor:
    """Product of the samples before each on its ray; arguments and errors as for `inclusive_sum`.

    Example:
        >>> exclusive_prod(torch.tensor([2.0, 3.0, 4.0]), torch.tensor([0, 2, 3]))
        tensor([1., 2., 1.])
    """
    return _scan(values, offsets, "exclusive_prod")


def _scan(values: Tensor, offsets: Tensor, kind: str) -> Tensor:
    if not isinstance(values, Tensor) or not values.is_floating_point():
        got = getattr(values, "dtype", type(values).__name__)
        raise TypeError(f"values: expected a floating-point tensor, got {got}")
    if values.ndim != 1:
        raise ValueError(f"values: expected (N,), got {tuple(values.shape)}")
    scanned: Tensor = choose("segmented_scan", values.device, dtypes=(values.dtype,))(values, offsets, kind)
    return scanned


@provide("segmented_scan", "reference")
def segmented_scan(values: Tensor, offsets: Tensor, kind: str) -> Tensor:
    """The four scans by doubling (Hillis and Steele 1986): log2 of the longest ray steps, each over all samples.

    Every step adds or multiplies values of one ray only, so all derivatives are those of sums and products.

    Args:
        values: (N,).
        offsets: (R + 1,) int64.
        kind: "inclusive_sum", "exclusive_sum", "inclusive_prod" or "exclusive_prod".
    """
    expect_offsets("offsets", offsets, values.shape[0])
    combine, neutral = (torch.mul, 1.0) if kind.endswith("prod") else (torch.add, 0.0)
    n = values.shape[0]
    place = torch.arange(n, device=values.device) - offsets[rows_to_rays(offsets, n)]  # of a sample on its ray

    def earlier(values: Tensor, step: int) -> Tensor:
        shifted = torch.cat([values.new_full((step,), neutral), values[:-step]])
        return torch.where(place >= step, shifted, neutral)

    longest = int(place.max()) + 1 if n else 0
    if kind.startswith("exclusive") and n:
        values = earlier(values, 1)
    step = 1
    while step < longest:
        values = combine(values, earlier(values, step))
        step *= 2
    return values


def _refuses(**call: Any) -> str | None:
    return cpu_rendering.refuses(*call.get("dtypes", ()))


@provide("segmented_scan", "cpu", missing=cpu_door.missing, refuses=_refuses, note=cpu_door.description)
def _scan_on_cpu(values: Tensor, offsets: Tensor, kind: str) -> Tensor:
    return cpu_rendering.scan(values, offsets, kind, reference=functools.partial(segmented_scan, kind=kind))


def _refuses_on_cuda(**call: Any) -> str | None:
    return triton_rendering.refuses(*call.get("dtypes", ()))


@provide("segmented_scan", "cuda", missing=triton_door.missing, refuses=_refuses_on_cuda, note=triton_door.description)
def scan_on_cuda(values: Tensor, offsets: Tensor, kind: str) -> Tensor:
    return triton_rendering.scan(values, offsets, kind, reference=functools.partial(segmented_scan, kind=kind))
