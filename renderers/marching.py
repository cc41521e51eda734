"""Marching: samples along rays, only where an occupancy grid says that something is (Müller et al. 2022, Instant-NGP).

The samples of a ray begin where it enters the grid, or at `near`. Without a cone angle they are all of length `step`::

    t0[k] = start + k * step,   t1[k] = start + (k + 1) * step

With one they grow with the distance, as pixels do: ``t1[k] = t0[k] + clamp(t0[k] * cone_angle, step, max_step)``. A
sample is kept when its middle ``0.5 * (t0 + t1)`` is before the end of the ray (`far`, or where it leaves the grid) and
lies in an occupied cell; so a kept sample may reach over the end by half its length. Everything is computed in float32,
product and sum rounded one after the other, so that walking from cell to cell finds exactly the samples that testing
all of them finds.

Samples behind something opaque are kept: marching knows no densities. To end rays early, ask for the density at the
samples without gradients, and keep those that `fieldforge.renderers.compositing.visibility` names.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fieldforge.backends import choose, provide
from fieldforge.checks import expect_float, expect_int
from fieldforge.kernels import cpu_door, cpu_marching
from fieldforge.kernels.cpu_marching import Marched, StrideLike, Walk
from fieldforge.kernels.triton import door as triton_door
from fieldforge.kernels.triton import marching as triton_marching
from fieldforge.renderers.occupancy import OccupancyGrid, look_up
from fieldforge.renderers.rays import Vector, expect_rays, expect_span, intersect_box
from fieldforge.renderers.samples import Samples, row_offsets

MAX_STEPS = 2**20
"""t / step: float32 has 8 numbers a step left there."""
MAX_SAMPLES = 2**28
"""Of all rays together: 4 GiB of intervals and ray numbers."""


@dataclass(frozen=True)
class Stride:
    """How samples follow one another; float32 numbers."""

    step: float
    cone_angle: float = 0.0
    max_step: float = math.inf
    n_most: int = 0
    """No ray has more samples before those in empty cells are left out."""

    def length(self, t: float) -> float:
        """Of the sample that begins at t."""
        return min(max(t * self.cone_angle, self.step), self.max_step)


def march(
    origins: Tensor,
    directions: Tensor,
    grid: OccupancyGrid,
    *,
    step: float,
    cone_angle: float = 0.0,
    max_step: float = math.inf,
    near: float = 0.0,
    far: float = math.inf,
    offset: Tensor | None = None,
    max_samples_per_ray: int | None = None,
    max_samples: int = MAX_SAMPLES,
) -> Samples:
    """Samples in the occupied cells of a grid.

    Args:
        origins: (R, 3) float32, world length.
        directions: (R, 3) float32. t counts in units of their length: make them unit vectors for t in world length.
        grid: where something is; on the same device.
        step: length of a sample, or with a cone angle the least.
        cone_angle: length of a sample over its distance, at least 0. 1/256 in Instant-NGP's large scenes.
        max_step: the most with a cone angle, at least `step`.
        near, far: samples begin at `near` or later, and have their middles before `far`.
        offset: (R,) float32 in [0, 1): each ray's first sample begins this part of its length later, so that training
            sees every distance. None is 0.
        max_samples_per_ray: the first so many samples are kept; None is all.
        max_samples: the most of all rays together.

    Returns:
        Samples; none on rays that miss the grid, have direction 0 or numbers that are not finite.

    Raises:
        TypeError: rays or offset are not float32.
        ValueError: shapes; a step that is not above 0, or too small for the distance (`MAX_STEPS`); more samples than
            `max_samples`. On a device numbers are not looked at, as the host would wait for them.

    Not differentiable.

    Example:
        >>> grid = OccupancyGrid.from_cells(torch.tensor([True, False, True]).view(3, 1, 1), (0, 0, 0), (3, 1, 1))
        >>> march(torch.tensor([[-1.0, 0.5, 0.5]]), torch.tensor([[1.0, 0.0, 0.0]]), grid, step=0.5).t0
        tensor([1.0000, 1.5000, 3.0000, 3.5000])
    """
    for name, tensor in (("origins", origins), ("directions", directions)):
        if isinstance(tensor, Tensor) and tensor.dtype != torch.float32:
            raise TypeError(f"{name}: expected float32, got {tensor.dtype}; use {name}.float()")
    origins, directions = (rays.detach() for rays in expect_rays(origins, directions))
    if grid.bricks.device != origins.device:
        raise ValueError(f"grid: expected it on {origins.device} like the rays, got {grid.bricks.device}")
    near, far = expect_span(near, far)
    n_most_kept = (
        MAX_SAMPLES if max_samples_per_ray is None else expect_int("max_samples_per_ray", max_samples_per_ray, 1)
    )
    expect_int("max_samples", max_samples, 1)
    stride = make_stride(step, cone_angle, max_step)
    box = grid.cascades.low[-1], grid.cascades.high[-1]
    start, end = intersect_box(origins, directions, *box, near, far)
    if offset is not None:
        length = (start * stride.cone_angle).clamp(stride.step, stride.max_step)
        start = start + _expect_offset(offset, origins) * length
    run = choose("march", origins.device)
    if origins.device.type == "cpu" or run is march_rays:
        stride = replace(stride, n_most=count_steps(start, end, stride))
    else:  # kernels go on to the end of each ray; the host would wait to hear where that is
        stride = replace(stride, n_most=_expect_steps(box, stride))
    if not stride.n_most or not origins.shape[0]:
        none = origins.new_empty(0)
        return Samples.trusted(none, none, none.long(), none.new_zeros(origins.shape[0] + 1).long())
    grids = grid.cascades, grid.bricks, grid.superbricks
    found = run(Walk(origins, directions, start, end, *grids, stride, n_most_kept, max_samples))
    if isinstance(found, int):
        raise ValueError(
            f"max_samples: {found} samples and more on {origins.shape[0]} rays, at most {max_samples}; "
            f"take a larger step than {step:g}, or fewer rays at once"
        )
    return Samples.trusted(*found)


def make_stride(step: float, cone_angle: float, max_step: float) -> Stride:
    """The three numbers, checked and rounded to float32."""
    step = expect_float("step", step, float(np.finfo(np.float32).tiny), open_low=True)
    cone_angle = expect_float("cone_angle", cone_angle, 0.0)
    if isinstance(max_step, bool) or not isinstance(max_step, (int, float)) or not max_step >= step:
        raise ValueError(f"max_step: expected a number of at least step = {step:g}, got {max_step!r}")
    return Stride(float(np.float32(step)), float(np.float32(cone_angle)), float(np.float32(max_step)))


def _expect_steps(box: tuple[Vector, Vector], stride: Stride) -> int:
    """`MAX_STEPS`, where steps are not too short for the box; how far away the rays begin is not looked at."""
    across = math.dist(*box)
    if stride.cone_angle == 0 and across > MAX_STEPS * stride.step:
        raise ValueError(
            f"step: a length of {stride.step:g} in a box of {across:g} is more than {MAX_STEPS} steps, beyond which "
            f"float32 does not tell them apart"
        )
    return MAX_STEPS


def count_steps(start: Tensor, end: Tensor, stride: Stride) -> int:
    """A number of samples that no ray exceeds; 0 where no ray has any.

    Raises:
        ValueError: the last sample would be too short for its distance.
    """
    is_hit = end > start
    if not bool(is_hit.any()):
        return 0
    first, last = start[is_hit].double(), end[is_hit].double()
    furthest = float(last.max())
    if not furthest <= MAX_STEPS * stride.length(furthest):
        raise ValueError(
            f"step: a length of {stride.length(furthest):g} at t = {furthest:g} is "
            f"{furthest / stride.length(furthest):.3g} steps from the ray's origin; at most {MAX_STEPS}, beyond which "
            f"float32 does not tell them apart"
        )
    if stride.cone_angle == 0:
        return int((last - first).max() / stride.step) + 3  # at most MAX_STEPS
    # steps of equal length, then growing ones, then equal ones again; one eighth more for what is lost in rounding
    grow = torch.maximum(first, last.clamp(max=stride.step / stride.cone_angle))
    even = torch.maximum(grow, last.clamp(max=stride.max_step / stride.cone_angle))
    n_steps = float(
        ((grow - first) / stride.step + (even / grow).log() / math.log1p(stride.cone_angle)
         + (last - even) / stride.max_step).max()
    )  # fmt: skip
    if not n_steps <= MAX_STEPS:
        raise ValueError(f"step: lengths from {stride.step:g} on are {n_steps:.3g} samples a ray; at most {MAX_STEPS}")
    return int(1.125 * n_steps) + 8


@provide("march", "reference")
def march_rays(walk: Walk) -> Marched | int:
    """All samples of every ray, and of them those in occupied cells; this function defines marching.

    Superbricks are not needed here; native versions jump over empty ones.

    Returns:
        (t0, t1, ray_index, offsets) as in `Samples`; or how many samples there are, when more than `max_samples`.
    """
    origins, directions, start, end, cascades, bricks, _, stride, n_most_kept, max_samples = walk
    n_at_once = max(1, 2**21 // stride.n_most)
    parts, counts, n_samples = [], [], 0
    for first in range(0, max(1, origins.shape[0]), n_at_once):
        rows = slice(first, first + n_at_once)
        edges = edges_of(start[rows], stride)  # (r, n_most + 1)
        t0, t1 = edges[:, :-1], edges[:, 1:]
        middle = 0.5 * (t0 + t1)
        points = origins[rows, None] + middle[..., None] * directions[rows, None]
        is_kept = look_up(points.reshape(-1, 3), cascades, bricks).view_as(middle) & (middle < end[rows, None])
        is_kept &= is_kept.cumsum(-1) <= n_most_kept
        counts.append(is_kept.sum(-1))
        n_samples += int(counts[-1].sum())
        if n_samples > max_samples:
            return n_samples
        parts.append((t0[is_kept], t1[is_kept], is_kept.nonzero()[:, 0] + first))
    t0, t1, ray_index = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return t0, t1, ray_index, row_offsets(torch.cat(counts))


def edges_of(start: Tensor, stride: StrideLike) -> Tensor:
    """(R,) -> (R, n_most + 1): where samples meet."""
    if stride.cone_angle == 0:
        return start[:, None] + torch.arange(stride.n_most + 1, device=start.device, dtype=start.dtype) * stride.step
    edges = [start]
    for _ in range(stride.n_most):
        edges.append(edges[-1] + (edges[-1] * stride.cone_angle).clamp(stride.step, stride.max_step))
    return torch.stack(edges, -1)


provide("march", "cpu", missing=cpu_door.missing, note=cpu_door.description)(cpu_marching.march)
provide("march", "cuda", missing=triton_door.missing, note=triton_door.description)(triton_marching.march)


def _expect_offset(offset: Tensor, origins: Tensor) -> Tensor:
    if not isinstance(offset, Tensor) or offset.dtype != torch.float32:
        raise TypeError(f"offset: expected float32, got {getattr(offset, 'dtype', type(offset).__name__)}")
    if offset.shape != origins.shape[:1] or offset.device != origins.device:
        raise ValueError(
            f"offset: expected one number for each of {origins.shape[0]} rays on {origins.device}, "
            f"got {tuple(offset.shape)} on {offset.device}"
        )
    if offset.device.type == "cpu" and not bool(((offset >= 0) & (offset < 1)).all()):  # elsewhere looking waits
        raise ValueError("offset: expected numbers in [0, 1), parts of a sample")
    return offset.detach()
