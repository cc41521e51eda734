"""A fake of the package nerfacc for tests: the interface of its documentation (0.5.3), ray by ray, on the CPU."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

calls: list[str] = []
"""Names of what was asked, for tests to look at."""


@dataclass
class RaySamples:
    vals: Tensor
    packed_info: Tensor | None = None
    ray_indices: Tensor | None = None


def _per_ray(values: Tensor, packed_info: Tensor, name: str, scan: object) -> Tensor:
    calls.append(name)
    assert packed_info.shape[-1] == 2
    parts = [scan(values[begin : begin + n]) for begin, n in packed_info.tolist()]  # type: ignore[operator]
    return torch.cat(parts) if parts else values[:0]


def _before(scanned: Tensor, neutral: float) -> Tensor:
    return torch.cat([scanned.new_full((min(1, len(scanned)),), neutral), scanned[:-1]])


def inclusive_sum(inputs: Tensor, packed_info: Tensor) -> Tensor:
    return _per_ray(inputs, packed_info, "inclusive_sum", lambda v: v.cumsum(0))


def exclusive_sum(inputs: Tensor, packed_info: Tensor) -> Tensor:
    return _per_ray(inputs, packed_info, "exclusive_sum", lambda v: _before(v.cumsum(0), 0.0))


def inclusive_prod(inputs: Tensor, packed_info: Tensor) -> Tensor:
    return _per_ray(inputs, packed_info, "inclusive_prod", lambda v: v.cumprod(0))


def exclusive_prod(inputs: Tensor, packed_info: Tensor) -> Tensor:
    return _per_ray(inputs, packed_info, "exclusive_prod", lambda v: _before(v.cumprod(0), 1.0))


def render_weight_from_density(
    t_starts: Tensor, t_ends: Tensor, sigmas: Tensor, packed_info: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    calls.append("render_weight_from_density")
    tau = sigmas * (t_ends - t_starts)
    left = torch.exp(-exclusive_sum(tau, packed_info))
    alphas = 1 - torch.exp(-tau)
    return left * alphas, left, alphas


def accumulate_along_rays(weights: Tensor, values: Tensor | None, ray_indices: Tensor, n_rays: int) -> Tensor:
    calls.append("accumulate_along_rays")
    source = weights[:, None] if values is None else weights[:, None] * values
    return torch.zeros(n_rays, source.shape[1], dtype=source.dtype).index_add(0, ray_indices, source)


def traverse_grids(
    rays_o: Tensor, rays_d: Tensor, binaries: Tensor, aabbs: Tensor, near_planes: Tensor, far_planes: Tensor,
    step_size: float, cone_angle: float,
) -> tuple[None, RaySamples, None]:  # fmt: skip
    """A step is added to the last place to find the next one, as there."""
    calls.append("traverse_grids")
    assert cone_angle == 0.0
    assert binaries.dtype == torch.bool
    low, high, size = aabbs[0, :3], aabbs[0, 3:], torch.tensor(binaries.shape[1:])
    middles, rays = [], []
    for ray, (origin, direction) in enumerate(zip(rays_o, rays_d, strict=True)):
        t, end = near_planes[ray].clone(), float(far_planes[ray])
        while float(t) + 0.5 * step_size < end:
            middle = 0.5 * (t + (t + step_size))
            cell = ((origin + middle * direction - low) / (high - low) * size).floor().long()
            inside = bool(((cell >= 0) & (cell < size)).all())
            if inside and bool(binaries[0, cell[0], cell[1], cell[2]]):
                middles.append(float(middle))
                rays.append(ray)
            t = t + step_size
    return None, RaySamples(torch.tensor(middles), ray_indices=torch.tensor(rays, dtype=torch.int64)), None
