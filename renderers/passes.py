"""Volume rendering a few samples at a time, of the rays that are still on their way (KiloNeRF; Reiser et al. 2021).

    seen = render_in_passes(origins, directions, radiance, grid, step=0.005, early_stop=0.01, background=white)

`fieldforge.renderers.volume.render` looks at all samples twice, first for density alone. Where the density is no
cheaper than the rest, as in fields of small networks, that is almost twice the work. Here every sample is looked at
once, in full, eight of each ray in a pass; a ray along which less light than `early_stop` would arrive is dropped
before the next pass. In vain are at most the rest of its last eight.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fieldforge.checks import expect_float, expect_int
from fieldforge.renderers.marching import march
from fieldforge.renderers.occupancy import OccupancyGrid
from fieldforge.renderers.samples import Samples
from fieldforge.renderers.volume import Radiance, Seen


@torch.no_grad()
def render_in_passes(
    origins: Tensor,
    directions: Tensor,
    radiance: Radiance,
    grid: OccupancyGrid,
    *,
    step: float,
    n_samples_a_pass: int = 8,
    background: Tensor | None = None,
    early_stop: float = 1e-2,
    cone_angle: float = 0.0,
    max_step: float = math.inf,
    near: float = 0.0,
    far: float = math.inf,
    tell_rays: bool = False,
) -> Seen:
    """What is seen along rays through a grid, without gradients.

    Args:
        origins, directions: (R, 3) float32; directions of unit length.
        radiance: density and colour of points.
        grid: where something is.
        step, cone_angle, max_step, near, far: of the samples, as for `march`.
        n_samples_a_pass: of each ray; the authors' is 8.
        background: (C,) or (R, C) seen through what is left; None is black.
        early_stop: a ray ends where less of the light of the next pass would arrive; the authors' is 0.01. What is left
            out dims a pixel by at most that part of the brightest colour, and the background takes its place.
        tell_rays: `radiance` takes (N,) int64 rays as a third argument.

    Returns:
        `Seen`; n_evaluated samples were asked for, of n_marched in occupied cells.

    Raises:
        TypeError, ValueError: as for `march`.

    Example:
        >>> grid = OccupancyGrid((0, 0, 0), (1, 1, 1), resolution=4)
        >>> glow = lambda points, directions: (torch.full_like(points[:, 0], 2.0), torch.ones_like(points))
        >>> o, d = torch.tensor([[0.5, 0.5, -1.0]]), torch.tensor([[0.0, 0.0, 1.0]])
        >>> render_in_passes(o, d, glow, grid, step=0.125).opacity
        tensor([0.8647])
    """
    n_each = expect_int("n_samples_a_pass", n_samples_a_pass, 1)
    early_stop = expect_float("early_stop", early_stop, 0.0, 1.0)
    samples = march(origins, directions, grid, step=step, cone_angle=cone_angle, max_step=max_step, near=near, far=far)
    n_rays, n_evaluated = origins.shape[0], 0
    deepest = -math.log(early_stop) if early_stop > 0 else math.inf
    depth = origins.new_zeros(n_rays)  # optical
    distance = origins.new_zeros(n_rays)
    color: Tensor | None = None
    live = samples.counts.nonzero()[:, 0]
    first = samples.offsets[live]
    while len(live):
        rows, is_there = _rows_of_pass(samples, live, first, n_each)
        t0, t1 = samples.t0[rows], samples.t1[rows]
        middle, slot = 0.5 * (t0 + t1), is_there.nonzero()[:, 0]
        ray = live[slot]
        along = directions[ray]
        points = torch.addcmul(origins[ray], middle[:, None], along)
        found, shown = radiance(points, along, ray) if tell_rays else radiance(points, along)
        n_evaluated += len(rows)
        tau = found.new_zeros(is_there.shape)
        tau[is_there] = found * (t1 - t0)
        through = tau.cumsum(1)  # of this pass
        weights = (torch.exp(-(depth[live, None] + through - tau)) * -torch.expm1(-tau))[is_there]
        if color is None:
            color = shown.new_zeros(n_rays, shown.shape[1])
        color.index_add_(0, ray, weights[:, None] * shown)
        distance.index_add_(0, ray, weights * middle)
        depth[live] += through[:, -1]
        goes_on = (first + n_each < samples.offsets[live + 1]) & ~(depth[live] > deepest)
        live, first = live[goes_on], first[goes_on] + n_each
    if color is None:
        color = origins.new_zeros(n_rays, 3 if background is None else background.shape[-1])
    opacity = -torch.expm1(-depth)
    if background is not None:
        color = color + (1 - opacity)[:, None] * background
    distance = torch.where(opacity > 0, distance / opacity, math.inf)
    return Seen(color, distance, opacity, samples.n_samples, n_evaluated)


def _rows_of_pass(samples: Samples, live: Tensor, first: Tensor, n_each: int) -> tuple[Tensor, Tensor]:
    """(N,) rows of the next samples of rays, and (L, n_each) which of their places are taken."""
    rows = first[:, None] + torch.arange(n_each, device=first.device)
    is_there = rows < samples.offsets[live + 1][:, None]
    return rows[is_there], is_there
