"""How samples are spread over a ray: evenly in length, in disparity, or in a mixture of both.

A spacing is an increasing function f of the distance; a share s in [0, 1] of a ray from `near` to `far` is the distance
at which f has gone that share of its way:

    s = (f(t) - f(near)) / (f(far) - f(near))

    linear     f(t) = t
    disparity  f(t) = -1 / t                             Mildenhall et al. 2020; mip-NeRF 360 from 0.2 to 10^6
    piecewise  f(t) = t / 2 below 1, 1 - 1 / (2 t) above     nerfacto: even near the cameras, endless far away

Shares are where proposals are resampled and their losses measured. They are kept as `Samples` whose t is the share.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fieldforge.checks import expect_choice, expect_int
from fieldforge.renderers.samples import Samples, row_offsets, rows_to_rays


class Spacing(NamedTuple):
    """An increasing function of distance, and its inverse."""

    there: Callable[[Tensor], Tensor]
    back: Callable[[Tensor], Tensor]


def _piecewise(t: Tensor) -> Tensor:
    return torch.where(t < 1, t / 2, 1 - 1 / (2 * t.clamp(min=1)))


def _piecewise_back(f: Tensor) -> Tensor:
    return torch.where(f < 0.5, 2 * f, 1 / (2 - 2 * f.clamp(min=0.5)))


SPACINGS: dict[str, Spacing] = {
    "linear": Spacing(lambda t: t, lambda f: f),
    "disparity": Spacing(lambda t: -1 / t, lambda f: -1 / f),
    "piecewise": Spacing(_piecewise, _piecewise_back),
}


def to_distance(share: Tensor, near: Tensor, far: Tensor, spacing: str = "linear") -> Tensor:
    """Shares of rays -> distances along them.

    Args:
        share: (...) in [0, 1].
        near, far: (...) where the rays begin and end; for "disparity" near is above 0. far may be infinite, but for
            "linear".
        spacing: one of `SPACINGS`.

    Example:
        >>> to_distance(torch.tensor([0.0, 0.5, 1.0]), torch.tensor(1.0), torch.tensor(3.0), "disparity")
        tensor([1.0000, 1.5000, 3.0000])
    """
    there, back = SPACINGS[expect_choice("spacing", spacing, SPACINGS)]
    first, last = there(near), there(far)
    # between the ends by both of them, and not beyond: rounding must not step out of the ray
    return torch.minimum(torch.maximum(back(first * (1 - share) + last * share), near), far)


def to_share(t: Tensor, near: Tensor, far: Tensor, spacing: str = "linear") -> Tensor:
    """Distances along rays -> shares of them; the inverse of `to_distance`.

    Example:
        >>> to_share(torch.tensor([0.5, 2.0]), torch.tensor(0.0), torch.tensor(torch.inf), "piecewise")
        tensor([0.2500, 0.7500])
    """
    there, _ = SPACINGS[expect_choice("spacing", spacing, SPACINGS)]
    first, last = there(near), there(far)
    return (there(t) - first) / (last - first)


def spread(is_hit: Tensor, n_samples: int, *, jitter: Tensor | None = None, every: bool = False) -> Samples:
    """Shares of rays: intervals that cover [0, 1], equally many on each ray.

    Args:
        is_hit: (R,) bool, the rays that have any.
        n_samples: intervals on each of them.
        jitter: numbers in [0, 1), (R, 1) or (R, n_samples + 1): each edge moves to that part of the way between the
            middles of the intervals around it, all edges of a ray alike (nerfacto) or each by itself (stratified
            samples; Mildenhall et al. 2020). The outer edges move in only. None leaves all where they are.
        every: give them to every ray, hit or not: sizes then follow from shapes, and nobody waits for a device.

    Example:
        >>> spread(torch.tensor([True]), 4, jitter=torch.tensor([[0.75]])).t1
        tensor([0.3125, 0.5625, 0.8125, 0.9688])
    """
    expect_int("n_samples", n_samples, 1)
    dtype = torch.get_default_dtype() if jitter is None else jitter.dtype
    edges = torch.linspace(0, 1, n_samples + 1, dtype=dtype, device=is_hit.device)
    rows = None if every else is_hit
    if jitter is None:
        return from_edges(rows, edges.expand(len(is_hit), -1))
    expect_jitter(jitter, len(is_hit), n_samples)
    middle = (edges[1:] + edges[:-1]) / 2
    low, high = torch.cat([edges[:1], middle]), torch.cat([middle, edges[-1:]])
    return from_edges(rows, low + (high - low) * jitter)


def at_distances(shares: Samples, near: Tensor, far: Tensor, spacing: str = "linear") -> Samples:
    """The intervals of shares as intervals of distance; near and far are (R,)."""
    ray = shares.ray_index
    first, last = near[ray], far[ray]
    t0, t1 = (to_distance(share, first, last, spacing) for share in (shares.t0, shares.t1))
    return Samples.trusted(t0, t1, ray, shares.offsets, shares.n_each)


def from_edges(is_hit: Tensor | None, edges: Tensor) -> Samples:
    """Intervals between neighbouring edges (R, n + 1), in order, of the rays that are hit (R,); None: of all."""
    if is_hit is None:
        return Samples.even(edges[:, :-1], edges[:, 1:])
    edges = edges[is_hit]
    n_samples = edges.shape[1] - 1
    offsets = row_offsets(is_hit.long() * n_samples)
    ray = rows_to_rays(offsets, edges.shape[0] * n_samples)
    return Samples.trusted(edges[:, :-1].reshape(-1), edges[:, 1:].reshape(-1), ray, offsets)


def expect_jitter(jitter: Tensor, n_rays: int, n_samples: int) -> Tensor:
    """Require (R, 1) or (R, n_samples + 1) floating-point numbers in [0, 1); off the CPU, where looking at numbers
    makes the host wait, only their shape is looked at."""
    if not isinstance(jitter, Tensor) or not jitter.is_floating_point():
        raise TypeError(f"jitter: expected a floating-point tensor, got {getattr(jitter, 'dtype', type(jitter))}")
    if tuple(jitter.shape) not in ((n_rays, 1), (n_rays, n_samples + 1)):
        raise ValueError(
            f"jitter: expected ({n_rays}, 1) or ({n_rays}, {n_samples + 1}), a number for each ray or edge, "
            f"got {tuple(jitter.shape)}"
        )
    if jitter.device.type == "cpu" and not bool(((jitter >= 0) & (jitter < 1)).all()):
        raise ValueError("jitter: expected numbers in [0, 1), parts of an interval")
    return jitter
