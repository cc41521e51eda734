"""Sphere tracing (Hart 1996): where rays meet the zero level of a distance, in steps as long as the distance.

A fitted distance is not exact. Steps are divided by `slope`, how much steeper than 1 the function may be; a step that
crosses the surface is noticed by the change of sign, and the crossing is then narrowed down. Steps are over-relaxed by
default (Keinert et al. 2014): a step longer than the distance is kept if the next ball overlaps the last one, and is
taken back otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fieldforge.checks import expect_float, expect_int

Distance = Callable[[Tensor], Tensor]
"""(N, 3) points -> (N,) distances, negative inside."""

_REFINEMENTS = 4


class Hits(NamedTuple):
    """What R rays meet."""

    t: Tensor
    """(R,) distance along the ray, where it hits; infinity where it does not."""
    is_hit: Tensor
    """(R,) bool."""
    n_evaluations: int
    """How many points were asked for, all rays together."""


def sphere_trace(
    distance: Distance,
    origins: Tensor,
    directions: Tensor,
    t_near: Tensor,
    t_far: Tensor,
    *,
    tolerance: float,
    slope: float = 1.0,
    relaxation: float = 1.2,
    max_steps: int = 192,
) -> Hits:
    """March every ray from t_near until it meets the surface or t_far.

    Args:
        distance: in the same units as t.
        origins, directions: (R, 3), directions of unit length.
        t_near, t_far: (R,); rays with t_far <= t_near miss.
        tolerance: a distance below this is a hit, in units of t; about the size of a pixel there.
        slope: the steepest that the function is, 1 for an exact distance.
        relaxation: 1 is plain sphere tracing; up to 2.
        max_steps: after so many steps a ray counts as a miss, unless it stands within ten tolerances.

    Returns:
        `Hits`. Gradients do not pass.
    """
    expect_float("tolerance", tolerance, 0.0, open_low=True)
    expect_float("slope", slope, 1e-3)
    expect_float("relaxation", relaxation, 1.0, 2.0)
    expect_int("max_steps", max_steps, 1)
    with torch.no_grad():
        return _trace(distance, origins, directions, t_near, t_far, tolerance, slope, relaxation, max_steps)


def _trace(
    distance: Distance,
    origins: Tensor,
    directions: Tensor,
    t_near: Tensor,
    t_far: Tensor,
    tolerance: float,
    slope: float,
    relaxation: float,
    max_steps: int,
) -> Hits:
    t = t_near.clone()
    is_hit = torch.zeros_like(t, dtype=torch.bool)
    ray = (t_far > t_near).nonzero().squeeze(1)  # the rays still under way
    omega = torch.full_like(t, relaxation)
    last_radius, last_step = torch.zeros_like(t), torch.zeros_like(t)
    n_evaluations = 0
    for step in range(max_steps):
        if not len(ray):
            break
        here = t[ray]
        d = distance(origins[ray] + here[:, None] * directions[ray])
        n_evaluations += len(ray)
        radius = d.abs() / slope
        too_far = (omega[ray] > 1) & (radius + last_radius[ray] < last_step[ray])
        crossed = (d < 0) & (last_step[ray] > 0) & ~too_far
        close = (d.abs() < tolerance) & ~too_far
        if crossed.any():
            rays = ray[crossed]
            t[rays], asked = _refine(distance, origins[rays], directions[rays], (t - last_step)[rays], t[rays])
            n_evaluations += asked
        is_hit[ray[crossed | close]] = True
        if step == 0:
            is_hit[ray[d < 0]] = True  # it begins inside
        # go on: forward by the ball, or back to where the last ball is left
        forward = torch.where(too_far, last_radius[ray] - last_step[ray], radius * omega[ray])
        omega[ray[too_far]] = 1.0
        last_step[ray] = torch.where(too_far, last_radius[ray], forward)
        last_radius[ray] = torch.where(too_far, last_radius[ray], radius)
        goes_on = ~is_hit[ray]
        ray, forward = ray[goes_on], forward[goes_on]
        t[ray] += forward
        ray = ray[t[ray] <= t_far[ray]]
    if len(ray):  # grazing rays that stand close to the surface
        d = distance(origins[ray] + t[ray, None] * directions[ray])
        n_evaluations += len(ray)
        is_hit[ray[d.abs() < 10 * tolerance]] = True
    return Hits(torch.where(is_hit, t, torch.inf), is_hit, n_evaluations)


def _refine(
    distance: Distance, origins: Tensor, directions: Tensor, outside: Tensor, inside: Tensor
) -> tuple[Tensor, int]:
    """Where the sign changes between two places of each ray: false position, halving the end that stays (Illinois)."""
    ends = torch.stack([outside, inside])
    values = torch.stack([distance(origins + t[:, None] * directions) for t in ends])
    last = torch.zeros(len(outside), dtype=torch.long, device=outside.device)
    columns = torch.arange(len(outside), device=outside.device)
    middle = inside
    for step in range(_REFINEMENTS):
        span = values[0] - values[1]
        share = torch.where(span > 0, values[0] / span.clamp(min=1e-30), 0.5).clamp(0, 1)
        middle = ends[0] + share * (ends[1] - ends[0])
        d = distance(origins + middle[:, None] * directions)
        end = (d < 0).long()
        if step:
            values[1 - end, columns] = torch.where(end == last, values[1 - end, columns] / 2, values[1 - end, columns])
        ends[end, columns], values[end, columns], last = middle, d, end
    return middle, (_REFINEMENTS + 2) * len(outside)


def ambient_occlusion(distance: Distance, points: Tensor, normals: Tensor, *, reach: float, n_taps: int = 5) -> Tensor:
    """How open the surroundings of surface points are, 0 to 1, (N,): distances along the normal against the way there.

    Evans 2006 ("Fast approximations for global illumination"), weights halving from tap to tap.

    Args:
        distance: in the units of the points.
        points, normals: (N, 3), normals of unit length.
        reach: how far out the last tap lies.
        n_taps: taps along the normal.
    """
    missing, total = torch.zeros_like(points[:, 0]), 0.0
    with torch.no_grad():
        for tap in range(1, n_taps + 1):
            way, weight = reach * tap / n_taps, 0.5**tap
            free = distance(points + way * normals).clamp(0, way)
            missing += weight * (1 - free / way)
            total += weight
    return 1 - missing / total
