"""Marching, scans and compositing by nerfacc (Li et al. 2023), where the package is installed.

nerfacc adds a step to the last place to find the next one; ours counts steps from the start. So that both keep the
same samples, the number of each step is taken from nerfacc's place, and the place from the number. A sample whose
middle lies within rounding of a cell's border may be kept by the one and not by the other.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fieldforge.backends import provide
from fieldforge.devices import constant
from fieldforge.kernels import guests
from fieldforge.kernels.cpu_marching import CascadesLike, Marched, Walk
from fieldforge.renderers.compositing import Rendered, accumulate_plain, composite_plain
from fieldforge.renderers.marching import Stride, count_steps, march_rays
from fieldforge.renderers.samples import Samples, row_offsets
from fieldforge.renderers.scans import segmented_scan

_OF_NERFACC: dict[str, Any] = {
    "missing": guests.missing_as("nerfacc"), "note": guests.note_of("nerfacc"), "maker": "nerfacc",
}  # fmt: skip


def refuses(*, dtypes: tuple[torch.dtype, ...] = (), moves: bool = False, **_: Any) -> str | None:
    other = [dtype for dtype in dtypes if dtype != torch.float32]
    if other:
        return f"nerfacc takes float32, not {str(other[0]).removeprefix('torch.')}"
    return "nerfacc has no gradients in the places of samples" if moves else None


def packed(offsets: Tensor) -> Tensor:
    """(R + 1,) offsets to nerfacc's (R, 2): where each ray's samples begin, and how many there are."""
    return torch.stack([offsets[:-1], offsets.diff()], -1)


@provide("segmented_scan", "cuda", refuses=refuses, **_OF_NERFACC)
def scan_by_nerfacc(values: Tensor, offsets: Tensor, kind: str) -> Tensor:
    """See `fieldforge.renderers.scans.segmented_scan`."""
    scan = getattr(guests.module("nerfacc"), kind)
    rays = packed(offsets)
    return guests.differentiable(
        lambda values: scan(values.contiguous(), packed_info=rays),
        lambda values: segmented_scan(values, offsets, kind),
        values,
    )


@provide("accumulate", "cuda", refuses=refuses, **_OF_NERFACC)
def accumulate_by_nerfacc(weights: Tensor, values: Tensor, offsets: Tensor) -> Tensor:
    """See `fieldforge.renderers.compositing.accumulate`."""
    nerfacc, n_rays = guests.module("nerfacc"), len(offsets) - 1
    rays = torch.repeat_interleave(torch.arange(n_rays, device=offsets.device), offsets.diff())
    return guests.differentiable(
        lambda weights, values: nerfacc.accumulate_along_rays(weights, values, ray_indices=rays, n_rays=n_rays),
        lambda weights, values: accumulate_plain(weights, values, offsets),
        weights,
        values,
    )


@provide("composite", "cuda", refuses=refuses, **_OF_NERFACC)
def composite_by_nerfacc(samples: Samples, density: Tensor, color: Tensor) -> Rendered:
    """See `fieldforge.renderers.compositing.composite_plain`: light along each ray, before any background."""
    nerfacc, rays = guests.module("nerfacc"), packed(samples.offsets)

    def weigh(density: Tensor) -> Tensor:
        weights: Tensor = nerfacc.render_weight_from_density(samples.t0, samples.t1, density, packed_info=rays)[0]
        return weights

    def plain(density: Tensor) -> Tensor:
        return composite_plain(samples, density, color.detach()).weights

    weights = guests.differentiable(weigh, plain, density)
    sums = accumulate_by_nerfacc(weights, torch.cat([color, samples.t_mid[:, None]], -1), samples.offsets)
    # not the sum of the weights: that would round to more than 1
    absorbed = accumulate_by_nerfacc(density * samples.dt, torch.ones_like(density)[:, None], samples.offsets)
    return Rendered(sums[:, :-1], sums[:, -1], -torch.expm1(-absorbed[:, 0]), weights)


@provide("march", "cuda", **_OF_NERFACC)
def march_by_nerfacc(walk: Walk) -> Marched | int:
    """See `fieldforge.renderers.marching.march_rays`; steps that grow and cascades are left to that."""
    origins, directions, start, end, cascades, bricks, _, stride, n_most_kept, max_samples = walk
    if stride.cone_angle != 0 or len(cascades.low) != 1 or not len(origins):
        assert isinstance(stride, Stride)
        stride = replace(stride, n_most=count_steps(start, end, stride) if len(origins) else 0)
        if not stride.n_most:
            none = origins.new_empty(0)
            return none, none, none.long(), row_offsets(start.new_zeros(len(start)).long())
        return march_rays(walk._replace(stride=stride))
    box = constant(((*cascades.low[0], *cascades.high[0]),), torch.float32, origins.device)
    _, found, _ = guests.module("nerfacc").traverse_grids(
        origins.contiguous(), directions.contiguous(), cells_of(bricks, cascades), box, near_planes=start,
        far_planes=torch.maximum(start, end), step_size=stride.step, cone_angle=0.0,
    )  # fmt: skip
    rays = found.ray_indices.long()
    number = ((found.vals - start[rays]) / stride.step - 0.5).round()  # vals are middles
    is_kept = (number >= 0) & (start[rays] + (number + 0.5) * stride.step < end[rays])
    rays, number = rays[is_kept], number[is_kept]
    counts = torch.bincount(rays, minlength=len(origins))
    if n_most_kept < int(counts.max()):
        place = torch.arange(len(rays), device=rays.device) - row_offsets(counts)[rays]
        rays, number = rays[place < n_most_kept], number[place < n_most_kept]
        counts = counts.clamp(max=n_most_kept)
    if len(rays) > max_samples:
        return len(rays)
    t0 = start[rays] + number * stride.step
    t1 = start[rays] + (number + 1) * stride.step
    return t0, t1, rays, row_offsets(counts)


def cells_of(bricks: Tensor, cascades: CascadesLike) -> Tensor:
    """(n_cascades, X, Y, Z) bool of the packed bits of `fieldforge.renderers.occupancy`."""
    n_cascades, *blocks = bricks.shape
    bits = bricks[..., None] >> torch.arange(64, device=bricks.device) & 1
    cells = bits.bool().reshape(n_cascades, *blocks, 4, 4, 4).permute(0, 1, 4, 2, 5, 3, 6)
    n_x, n_y, n_z = cascades.resolution
    return cells.reshape(n_cascades, *(4 * n for n in blocks))[:, :n_x, :n_y, :n_z]
