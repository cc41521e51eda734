"""Proposal sampling: cheap densities say where the costly one is asked (Barron et al. 2022, mip-NeRF 360).

    levels, shares, samples = propose(origins, directions, near, far, [coarse, fine], [256, 96, 48])

Each level asks its density on the intervals that the one before left, and its weights decide where the next samples
lie. The intervals of the last are for whoever renders. Positions have no gradient; weights have those of the densities.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fieldforge.checks import expect_float, expect_int
from fieldforge.renderers.compositing import weights_from_density
from fieldforge.renderers.samples import Samples, row_offsets, rows_to_rays
from fieldforge.renderers.sampling import histogram, inverse_cdf
from fieldforge.renderers.spacing import at_distances, expect_jitter, from_edges, spread
from fieldforge.renderers.volume import Density, density_at


class Level(NamedTuple):
    """What one proposal was asked, and what it said."""

    shares: Samples
    """Intervals in shares of the rays, for losses and for resampling."""
    samples: Samples
    """The same in world length."""
    weights: Tensor
    """(N,) differentiable in the proposal's density."""


def annealing(step: int, n_steps: int = 1000, bias: float = 10.0) -> float:
    """The exponent on weights before they are resampled, from 0 (all alike) to 1 (mip-NeRF 360, section 4).

        a = b x / ((b - 1) x + 1)    with x = step / n_steps, at most 1

    Example:
        >>> [round(annealing(step), 3) for step in (0, 100, 1000)]
        [0.0, 0.526, 1.0]
    """
    expect_int("step", step, 0)
    expect_int("n_steps", n_steps, 0)
    expect_float("bias", bias, 0.0, open_low=True)
    x = min(step / n_steps, 1.0) if n_steps else 1.0
    return bias * x / ((bias - 1) * x + 1)


def resample(
    samples: Samples, weights: Tensor, n_samples: int, *, padding: float = 0.01, jitter: Tensor | None = None
) -> Samples:
    """Intervals whose edges lie where the weights are, at equal steps of their cumulative sum.

    Args:
        samples: intervals in order, in shares or in length.
        weights: (N,) at least 0.
        n_samples: intervals on each ray that has any; they have n_samples + 1 edges.
        padding: what is added to each weight, so that no interval is forgotten for good.
        jitter: numbers in [0, 1), (R, 1) or (R, n_samples + 1), by which the steps are shifted; None is 1/2.

    Returns:
        Samples; no gradient. Those of a ray begin and end half a step inside its own where there is no jitter.

    Example:
        >>> samples = Samples.from_dense(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 2.0]]))
        >>> resample(samples, torch.tensor([0.0, 1.0]), 3, padding=0.0).t0
        tensor([1.1250, 1.3750, 1.6250])
    """
    expect_int("n_samples", n_samples, 1)
    with torch.no_grad():
        edges, cdf, offsets = histogram(samples, weights.detach(), padding=padding)
        is_hit = None if samples.n_each else offsets[1:] > offsets[:-1]
        if is_hit is None:
            total = cdf[offsets[1:] - 1]
        else:
            total = torch.zeros(samples.n_rays, dtype=cdf.dtype, device=cdf.device)
            total[is_hit] = cdf[offsets[1:][is_hit] - 1]
        place = torch.arange(n_samples + 1, dtype=cdf.dtype, device=cdf.device)
        part = 0.5 if jitter is None else expect_jitter(jitter, samples.n_rays, n_samples).to(cdf.dtype)
        u = (place + part) * (total / (n_samples + 1))[:, None]
        return from_edges(is_hit, inverse_cdf(edges, cdf, offsets, u.contiguous(), is_sound=True))


def union(first: Samples, second: Samples) -> Samples:
    """The intervals between all edges of two sets of intervals on the same rays, each without gaps.

    Of n and m intervals become n + m + 1; some may have no length. The fine network of the original NeRF is asked there
    (Mildenhall et al. 2020, section 5.2).

    Example:
        >>> one, two = (Samples.from_dense(*torch.tensor([[[a]], [[b]]])) for a, b in ((0.0, 2.0), (1.0, 2.0)))
        >>> union(one, two).t0
        tensor([0., 1., 2.])
    """
    if first.n_rays != second.n_rays:
        raise ValueError(f"second: expected samples of {first.n_rays} rays as the first, got {second.n_rays}")
    if first.n_each and second.n_each:
        together = torch.cat([_rows_of_edges(first), _rows_of_edges(second)], -1).sort(-1).values
        return from_edges(None, together)
    parts = [_edges(samples) for samples in (first, second)]
    edge, ray = torch.cat([edge for edge, _ in parts]), torch.cat([ray for _, ray in parts])
    order = edge.argsort(stable=True)
    order = order[ray[order].argsort(stable=True)]
    edge, ray = edge[order], ray[order]
    is_inner = ray[1:] == ray[:-1]
    kept = ray[1:][is_inner]
    counts = torch.zeros(first.n_rays, dtype=torch.int64, device=ray.device).index_add(0, kept, torch.ones_like(kept))
    offsets = row_offsets(counts)
    return Samples.trusted(edge[:-1][is_inner], edge[1:][is_inner], rows_to_rays(offsets, len(kept)), offsets)


def propose(
    origins: Tensor,
    directions: Tensor,
    near: Tensor,
    far: Tensor,
    densities: Sequence[Density],
    counts: Sequence[int],
    *,
    spacing: str = "linear",
    exponent: float | Tensor = 1.0,
    padding: float = 0.01,
    jitter: Tensor | None = None,
    every: bool = False,
) -> tuple[list[Level], Samples, Samples]:
    """Samples along rays by any number of proposals.

    Args:
        origins, directions: (R, 3), directions of unit length.
        near, far: (R,) where each ray begins and ends; it has no samples unless far > near.
        densities: of the proposals, coarse to fine; with gradients where those are enabled.
        counts: samples of each of them, and of whoever comes after.
        spacing: of the first samples, one of `fieldforge.renderers.spacing.SPACINGS`.
        exponent: on the weights before they are resampled, see `annealing`; a number or a tensor () of one.
        padding: of the weights, see `resample`.
        jitter: (R, len(counts)) in [0, 1), one number for each ray and level; None is no randomness.
        every: whether rays that end where they begin have samples too, of no length, which show nothing: then nobody
            waits for a device to know how many rays do not.

    Returns:
        What the proposals said, and the last samples, in shares and in length.

    Example:
        >>> o, d = torch.zeros(1, 3), torch.tensor([[0.0, 0.0, 1.0]])
        >>> wall = lambda points: 1e3 * (points[:, 2] > 1.5)
        >>> samples = propose(o, d, torch.zeros(1), torch.full((1,), 4.0), [wall], [64, 4])[2]
        >>> bool((samples.t_mid[1:3] > 1.45).all() and (samples.t_mid[1:3] < 2.5).all())
        True
    """
    if len(counts) != len(densities) + 1:
        raise ValueError(f"counts: expected {len(densities) + 1}, one for each density and the last, got {len(counts)}")
    if not isinstance(exponent, Tensor):
        expect_float("exponent", exponent, 0.0)
    if jitter is not None and jitter.shape != (len(origins), len(counts)):
        raise ValueError(f"jitter: expected ({len(origins)}, {len(counts)}), got {tuple(jitter.shape)}")
    columns = [None] * len(counts) if jitter is None else list(jitter.split(1, -1))
    shares = spread(far > near, counts[0], jitter=columns[0], every=every)
    samples = at_distances(shares, near, far, spacing)
    levels = []
    for density, n_samples, column in zip(densities, counts[1:], columns[1:], strict=True):
        weights = weights_from_density(samples, density_at(samples, origins, directions, density))
        levels.append(Level(shares, samples, weights))
        shares = resample(shares, weights.detach() ** exponent, n_samples, padding=padding, jitter=column)
        samples = at_distances(shares, near, far, spacing)
    return levels, shares, samples


def _rows_of_edges(samples: Samples) -> Tensor:
    """(R, n + 1) of samples of which every ray has n."""
    first, last = (t.view(samples.n_rays, samples.n_each or 0) for t in (samples.t0, samples.t1))
    return torch.cat([first, last[:, -1:]], -1)


def _edges(samples: Samples) -> tuple[Tensor, Tensor]:
    """Beginnings of all intervals and the last end of each ray, with the ray of each."""
    last = samples.offsets[1:][samples.counts > 0] - 1
    edge = torch.cat([samples.t0, samples.t1[last]])
    return edge, torch.cat([samples.ray_index, samples.ray_index[last]])
