"""Importance sampling along rays by the inverse of a distribution, and search in packed edges, as nerfacc has them.

A histogram is packed like samples: ray r has the rows ``offsets[r] : offsets[r + 1]`` of ``edges`` (M,) and of ``cdf``
(M,), the mass in front of each edge; both never decrease along a ray. Rays may have different numbers of edges, and
gaps are bins without mass. Nothing here has a gradient: positions are chosen, not learned (Mildenhall et al. 2020).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fieldforge.backends import choose, provide
from fieldforge.checks import expect_bool, expect_float, expect_generator, expect_int
from fieldforge.kernels import cpu_door, cpu_rendering
from fieldforge.kernels.triton import door as triton_door
from fieldforge.kernels.triton import rendering as triton_rendering
from fieldforge.kernels.triton import sampling as triton_sampling
from fieldforge.renderers.samples import Samples, expect_offsets, rows_to_rays
from fieldforge.renderers.scans import inclusive_sum


def histogram(samples: Samples, weights: Tensor, *, padding: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """The distribution that has mass `weights` spread evenly over each interval.

    Args:
        samples: N intervals in order.
        weights: (N,) at least 0.
        padding: what is added to every weight, so that intervals without any are tried too (nerfacto: 0.01).

    Returns:
        edges (2N,), cdf (2N,) and offsets (R + 1,): two edges an interval, so that gaps between intervals stay empty.

    Example:
        >>> samples = Samples.from_dense(torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 3.0]]))
        >>> histogram(samples, torch.tensor([1.0, 3.0]))[:2]
        (tensor([0., 1., 2., 3.]), tensor([0., 1., 1., 4.]))
    """
    padding = expect_float("padding", padding, 0.0)
    if weights.shape != samples.t0.shape:
        raise ValueError(f"weights: expected {tuple(samples.t0.shape)}, a row per sample, got {tuple(weights.shape)}")
    with torch.no_grad():
        upper = inclusive_sum(weights + padding if padding else weights, samples.offsets)
        is_inner = samples.ray_index[1:] == samples.ray_index[:-1]
        lower = torch.cat([upper.new_zeros(min(1, samples.n_samples)), torch.where(is_inner, upper[:-1], 0.0)])
        edges = torch.stack([samples.t0, samples.t1], -1).reshape(-1)
        return edges, torch.stack([lower, upper], -1).reshape(-1), 2 * samples.offsets


def importance_sample(
    edges: Tensor,
    cdf: Tensor,
    offsets: Tensor,
    n_samples: int,
    *,
    stratified: bool = False,
    generator: torch.Generator | None = None,
) -> Samples:
    """Intervals where the mass is: each stands for the same share of its ray's.

    Args:
        edges, cdf, offsets: a packed histogram; the cdf need not begin at 0 or end at 1.
        n_samples: number of intervals on each ray, at least 1.
        stratified: shift the values of the cdf by one random offset per ray; else take the middles of equal shares.
        generator: draws the offsets.

    Returns:
        `Samples`: n_samples intervals on each ray that has edges, none on others. They meet half-way between the
        positions at which the cdf has the values, and reach as far beyond the first and last, but not beyond the
        histogram.

    Raises:
        TypeError, ValueError: as for `inverse_cdf`; n_samples is below 1.

    Example:
        >>> edges, cdf = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0.0, 0.0, 1.0])
        >>> importance_sample(edges, cdf, torch.tensor([0, 3]), 4).t_mid
        tensor([1.1250, 1.3750, 1.6250, 1.8750])
    """
    n_samples = expect_int("n_samples", n_samples, 1)
    expect_bool("stratified", stratified)
    _expect_histogram(edges, cdf, offsets)
    with torch.no_grad():
        has_edges = offsets[1:] > offsets[:-1]
        first, last = offsets[:-1][has_edges], offsets[1:][has_edges] - 1
        bias: Tensor | float = 0.5
        if stratified:
            drawn = torch.rand(offsets.shape[0] - 1, 1, generator=expect_generator(generator), device=cdf.device)
            bias = drawn[has_edges].to(cdf.dtype)
        share = (cdf[last] - cdf[first])[:, None] / n_samples
        place = torch.arange(n_samples, device=cdf.device, dtype=cdf.dtype) + bias
        kept = torch.cat([first, last[-1:] + 1]) if len(first) else offsets[:1]  # rays without edges have no rows
        position = inverse_cdf(edges, cdf, kept, cdf[first][:, None] + place * share)
        t0, t1 = _around(position, edges[first], edges[last])
        counts = torch.cat([offsets[:1], has_edges.cumsum(0)]) * n_samples
        return Samples.trusted(t0.reshape(-1), t1.reshape(-1), rows_to_rays(counts, t0.numel()), counts)


def inverse_cdf(edges: Tensor, cdf: Tensor, offsets: Tensor, u: Tensor, *, is_sound: bool = False) -> Tensor:
    """Positions at which the distribution of each ray has given values.

    Args:
        edges, cdf, offsets: a packed histogram.
        u: (R, n) values of the cdf, in any order; those beyond its ends count as its ends.
        is_sound: whether the offsets are known to go from 0 to M, as those of `histogram` do; looking at them makes the
            host wait for a device.

    Returns:
        (R, n): between the two edges that `searchsorted` finds in the cdf, linearly, or half-way where the bin has no
        mass; NaN on rays without edges.

    Raises:
        TypeError: wrong dtypes.
        ValueError: wrong shapes, or offsets do not go from 0 to M.
    """
    if not is_sound:
        _expect_histogram(edges, cdf, offsets)
    if not isinstance(u, Tensor) or u.dtype != cdf.dtype:
        raise TypeError(f"u: expected {cdf.dtype} as the cdf, got {getattr(u, 'dtype', type(u).__name__)}")
    if u.ndim != 2 or u.shape[0] != offsets.shape[0] - 1:
        raise ValueError(f"u: expected ({offsets.shape[0] - 1}, n), a row per ray, got {tuple(u.shape)}")
    with torch.no_grad():
        out: Tensor = choose("inverse_cdf", cdf.device, dtypes=(edges.dtype, cdf.dtype))(edges, cdf, offsets, u)
        return out


def searchsorted(edges: Tensor, offsets: Tensor, values: Tensor, value_offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Between which edges of its ray each value lies.

    Args:
        edges: (M,), never decreasing on a ray, ray r having the rows ``offsets[r] : offsets[r + 1]``.
        values: (K,), ray r having the rows ``value_offsets[r] : value_offsets[r + 1]``, in any order.

    Returns:
        left, right: (K,) int64 rows of the edges with edges[left] <= value < edges[right]. Both are the first row of
        the ray below its edges; at its last edge or beyond they are the last two rows; -1 on rays without edges.

    Raises:
        TypeError: wrong dtypes.
        ValueError: wrong shapes, or offsets do not fit.

    Example:
        >>> two = torch.tensor([0, 2])
        >>> searchsorted(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0, 3]), torch.tensor([1.0, 5.0]), two)
        (tensor([1, 1]), tensor([2, 2]))
    """
    for name, tensor in (("edges", edges), ("values", values)):
        _expect_row_of_floats(name, tensor)
    if values.dtype != edges.dtype:
        raise TypeError(f"values: expected {edges.dtype} as the edges, got {values.dtype}")
    with torch.no_grad():
        run = choose("searchsorted", edges.device, dtypes=(edges.dtype, values.dtype))
        left, right = run(edges, offsets, values, value_offsets)
        return left, right


@provide("searchsorted", "reference")
def searchsorted_plain(edges: Tensor, offsets: Tensor, values: Tensor, value_offsets: Tensor) -> tuple[Tensor, Tensor]:
    """`searchsorted` in plain PyTorch: every value halves its range at once."""
    expect_offsets("offsets", offsets, edges.shape[0])
    expect_offsets("value_offsets", value_offsets, values.shape[0])
    if value_offsets.shape != offsets.shape:
        raise ValueError(
            f"value_offsets: expected {offsets.shape[0] - 1} rays as the edges have, got {value_offsets.shape[0] - 1}"
        )
    ray = rows_to_rays(value_offsets, values.shape[0])
    first, last = offsets[ray], offsets[ray + 1] - 1
    low, high = first, last  # the last edge is never above: values beyond it belong to the last bin
    rows = edges if edges.shape[0] else edges.new_zeros(1)
    longest = int((offsets[1:] - offsets[:-1]).max()) if offsets.shape[0] > 1 else 0
    for _ in range(longest.bit_length()):
        middle = (low + high) // 2
        is_open = low < high
        is_below = is_open & (rows[middle.clamp_min(0)] <= values)
        low, high = torch.where(is_below, middle + 1, low), torch.where(is_open & ~is_below, middle, high)
    has_edges = last >= first
    return torch.where(has_edges, torch.maximum(low - 1, first), -1), torch.where(has_edges, low, -1)


@provide("inverse_cdf", "reference")
def inverse_cdf_plain(edges: Tensor, cdf: Tensor, offsets: Tensor, u: Tensor) -> Tensor:
    """`inverse_cdf` in plain PyTorch."""
    if u.numel() == 0:
        return u.clone()
    padded_edges, padded_cdf = (torch.cat([t, t.new_full((1,), torch.nan)]) for t in (edges, cdf))
    has_edges = offsets[1:] > offsets[:-1]
    first = torch.where(has_edges, offsets[:-1], -1)  # the row of NaN
    last = torch.where(has_edges, offsets[1:] - 1, -1)
    u = torch.clamp(u, padded_cdf[first][:, None], padded_cdf[last][:, None])
    each = torch.arange(u.shape[0] + 1, device=u.device) * u.shape[1]
    below, above = (row.reshape(u.shape) for row in searchsorted_plain(cdf, offsets, u.reshape(-1), each))
    mass = padded_cdf[above] - padded_cdf[below]
    start, end = padded_edges[below], padded_edges[above]
    inside = (u - padded_cdf[below]) / mass * (end - start) + start
    # an empty bin has no place of its own (nerfacc's threshold); rounding must not step over the end of a bin
    return torch.where((mass < 1e-10) & ~u.isnan(), 0.5 * (start + end), torch.where(inside > end, end, inside))


def _refuses(**call: Any) -> str | None:
    return cpu_rendering.refuses(*call.get("dtypes", ()))


@provide("searchsorted", "cpu", missing=cpu_door.missing, refuses=_refuses, note=cpu_door.description)
def _searchsorted_on_cpu(
    edges: Tensor, offsets: Tensor, values: Tensor, value_offsets: Tensor
) -> tuple[Tensor, Tensor]:
    return cpu_rendering.searchsorted(edges, offsets, values, value_offsets)


@provide("inverse_cdf", "cpu", missing=cpu_door.missing, refuses=_refuses, note=cpu_door.description)
def _inverse_cdf_on_cpu(edges: Tensor, cdf: Tensor, offsets: Tensor, u: Tensor) -> Tensor:
    return cpu_rendering.inverse_cdf(edges, cdf, offsets, u)


def _refuses_on_cuda(**call: Any) -> str | None:
    return triton_rendering.refuses(*call.get("dtypes", ()))


_on_cuda: dict[str, Any] = {
    "missing": triton_door.missing, "refuses": _refuses_on_cuda, "note": triton_door.description,
}  # fmt: skip
provide("searchsorted", "cuda", **_on_cuda)(triton_sampling.searchsorted)
provide("inverse_cdf", "cuda", **_on_cuda)(triton_sampling.inverse_cdf)


def _around(position: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """(R, n) positions in order -> beginnings and ends (R, n) of intervals that meet between them, in [low, high]."""
    if position.shape[1] == 1:
        return low[:, None], high[:, None]  # nothing says how wide it is: all there is
    between = 0.5 * (position[:, 1:] + position[:, :-1])
    reach = 0.5 * (position[:, 1] - position[:, 0]), 0.5 * (position[:, -1] - position[:, -2])
    begin = torch.maximum(position[:, 0] - reach[0], low)[:, None]
    end = torch.minimum(position[:, -1] + reach[1], high)[:, None]
    return torch.cat([begin, between], -1), torch.cat([between, end], -1)


def _expect_histogram(edges: Tensor, cdf: Tensor, offsets: Tensor) -> None:
    _expect_row_of_floats("edges", edges)
    _expect_row_of_floats("cdf", cdf)
    if cdf.shape != edges.shape or cdf.dtype != edges.dtype:
        raise ValueError(
            f"cdf: expected {edges.dtype} {tuple(edges.shape)} as the edges, got {cdf.dtype} {tuple(cdf.shape)}"
        )
    expect_offsets("offsets", offsets, edges.shape[0])


def _expect_row_of_floats(name: str, tensor: Tensor) -> None:
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        raise TypeError(f"{name}: expected a floating-point tensor, got {getattr(tensor, 'dtype', type(tensor))}")
    if tensor.ndim != 1:
        raise ValueError(f"{name}: expected one row of numbers, got {tuple(tensor.shape)}")
