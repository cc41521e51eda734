"""Sphere tracing (Hart 1996): where rays meet the zero level of a distance, in steps as long as the distance.

A fitted distance is not exact. Steps are divided by `slope`, how much steeper than 1 the function may be; a step that
crosses the surface is noticed by the change of sign, and the crossing is then narrowed down. Steps are over-relaxed by
default (Keinert et al. 2014): a step longer than the distance is kept if the next ball overlaps the last one, and is
taken back otherwise.

A function that is no distance is walked along in equal steps instead (`walk`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fieldforge.checks import expect_float, expect_int
from fieldforge.renderers.samples import Samples

Distance = Callable[[Tensor], Tensor]
"""(N, 3) points -> (N,) distances, negative inside."""

_REFINEMENTS = 4
_DARK = 4e-3  # less light than this is none
_AT_ONCE = 8  # samples of a ray in one call of `walk`


class Hits(NamedTuple):
    """What R rays meet."""

    t: Tensor
    """(R,) distance along the ray, where it hits; infinity where it does not."""
    is_hit: Tensor
    """(R,) bool."""
    n_evaluations: int
    """How many points were asked for, all rays together."""


class _Underway(NamedTuple):
    """The rays that have met nothing yet, one row each; rays that end leave the arrays."""

    ray: Tensor
    origin: Tensor
    direction: Tensor
    t: Tensor
    t_far: Tensor
    omega: Tensor
    last_radius: Tensor
    last_step: Tensor

    def only(self, rows: Tensor) -> _Underway:
        return _Underway(*(part.index_select(0, rows) for part in self))


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
    found = torch.full_like(t_near, torch.inf)
    zeros = torch.zeros_like(t_near)
    rays = _Underway(
        torch.arange(len(t_near), device=t_near.device), origins, directions, t_near, t_far,
        torch.full_like(t_near, relaxation), zeros, zeros,
    ).only((t_far > t_near).nonzero().squeeze(1))  # fmt: skip
    n_evaluations = 0
    for _ in range(max_steps):
        if not len(rays.ray):
            break
        d = distance(torch.addcmul(rays.origin, rays.t[:, None], rays.direction))
        n_evaluations += len(d)
        radius = d.abs() / slope
        too_far = (radius + rays.last_radius < rays.last_step) & (rays.omega > 1)
        ends = (d < tolerance) & ~too_far
        at = ends.nonzero().squeeze(1)
        if len(at):
            t = rays.t[at]
            # it came from outside, so the surface is between; a ray that begins inside stays where it is
            crossed = ((d[at] < 0) & (rays.last_step[at] > 0)).nonzero().squeeze(1)
            if len(crossed):
                over = rays.only(at[crossed])
                t[crossed], asked = _refine(distance, over.origin, over.direction, over.t - over.last_step, over.t)
                n_evaluations += asked
            found[rays.ray[at]] = t
        # go on: forward by the ball, or back to where the last ball is left
        forward = torch.where(too_far, rays.last_radius - rays.last_step, radius * rays.omega)
        t = rays.t + forward
        rays = rays._replace(
            t=t,
            omega=rays.omega.masked_fill(too_far, 1.0),
            last_step=torch.where(too_far, rays.last_radius, forward),
            last_radius=torch.where(too_far, rays.last_radius, radius),
        )
        goes_on = (~ends & (t <= rays.t_far)).nonzero().squeeze(1)
        if len(goes_on) < len(t):
            rays = rays.only(goes_on)
    if len(rays.ray):  # grazing rays that stand close to the surface
        d = distance(torch.addcmul(rays.origin, rays.t[:, None], rays.direction))
        n_evaluations += len(d)
        close = (d.abs() < 10 * tolerance).nonzero().squeeze(1)
        found[rays.ray[close]] = rays.t[close]
    return Hits(found, found.isfinite(), n_evaluations)


def walk(f: Distance, origins: Tensor, directions: Tensor, samples: Samples) -> Hits:
    """The first of each ray's samples with f below 0, and then where f changes its sign before it.

    For functions that tell inside from outside but not how far away the surface is. What is thinner than a sample is
    long may be missed.

    Args:
        f: (N, 3) points -> (N,) values, negative inside.
        origins, directions: (R, 3).
        samples: where f is asked, at the middle of each; where a ray has none, it is taken to be outside.

    Returns:
        `Hits`. Gradients do not pass.
    """
    found = torch.full_like(origins[:, 0], torch.inf)
    n_evaluations = 0
    first, end = samples.offsets[:-1].clone(), samples.offsets[1:]
    ahead = torch.arange(_AT_ONCE, device=found.device)
    middle, length = (samples.t0 + samples.t1) / 2, samples.t1 - samples.t0
    with torch.no_grad():
        ray = (first < end).nonzero().squeeze(1)
        while len(ray):
            sample = torch.minimum(first[ray, None] + ahead, end[ray, None] - 1)  # (n, _AT_ONCE); the last one again
            t = middle[sample]
            points = torch.addcmul(origins[ray, None], t[..., None], directions[ray, None])
            is_inside = f(points.view(-1, 3)).view(t.shape) < 0
            n_evaluations += t.numel()
            meets = is_inside.any(1)
            if meets.any():
                rays = ray[meets]
                at = is_inside[meets].int().argmax(1, keepdim=True)  # the first
                here, step = t[meets].gather(1, at)[:, 0], length[sample[meets].gather(1, at)[:, 0]]
                found[rays], asked = _refine(f, origins[rays], directions[rays], here - step, here)
                n_evaluations += asked
            first[ray] += _AT_ONCE
            ray = ray[~meets & (first[ray] < end[ray])]
    return Hits(found, found.isfinite(), n_evaluations)


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


def soft_shadow(
    distance: Distance,
    points: Tensor,
    light: Tensor,
    *,
    reach: float,
    width: float = 0.15,
    start: float = 0.0,
    shortest: float = 2e-3,
    slope: float = 1.0,
    max_steps: int = 64,
) -> Tensor:
    """How much of a light reaches surface points, 0 to 1, (N,): sphere tracing toward it, and how narrowly rays pass.

    Quilez ("Soft shadows in raymarched SDFs", 2010) with Aaltonen's estimate of the closest pass (GDC 2018,
    "Claybook"), here for steps of any length: the balls of distance h at t and of h' at t - s, one step before, meet
    in a circle

        y = (h² + s² - h'²) / (2 s) before t, at e = √(h² - y²) from the ray,
        lit = min over steps of e / (width (t - y))

    and where they do not meet between the two, y = 0. Behind the hard edge of a shadow it is dark; lit = 1 ends the
    penumbra, which lies outside that edge and spans `width` times the way to what throws it. Shown is lit² (3 - 2 lit),
    without corners at either end.

    Args:
        distance: in the units of the points.
        points: (N, 3), a little outside the surface.
        light: (3,) unit vector toward the light.
        reach: how far away something can still throw a shadow.
        width: of the penumbra, over the distance to what throws it; 0.15 is 8.5 degrees.
        start: the first step from the points, so that these do not shade themselves.
        shortest: steps are not shorter; about a pixel.
        slope: the steepest that the function is, 1 for an exact distance.
        max_steps: where a ray stands after so many, its shadow is what was seen so far.
    """
    expect_float("reach", reach, 0.0, open_low=True)
    expect_float("width", width, 0.0, 10.0, open_low=True)
    expect_float("start", start, 0.0)
    expect_float("shortest", shortest, 0.0, open_low=True)
    expect_float("slope", slope, 1e-3)
    expect_int("max_steps", max_steps, 1)
    lit = torch.ones_like(points[:, 0])
    with torch.no_grad():
        index = torch.arange(len(points), device=points.device)
        t = lit * max(start, shortest)
        last_h, last_step = torch.zeros_like(t), t
        for _ in range(max_steps):
            if not len(index):
                break
            h = distance(points[index] + t[:, None] * light)
            y = (h * h + last_step * last_step - last_h * last_h) / (2 * last_step)
            y = torch.where((y > 0) & (y < h) & (y < last_step), y, 0.0)
            e = (h * h - y * y).clamp(min=0).sqrt()
            share = torch.where(h > 0, e / (width * (t - y)), 0.0)
            darkest = torch.minimum(lit[index], share)
            lit[index] = darkest
            last_h, last_step = h, (h / slope).clamp(min=shortest)
            t = t + last_step
            goes_on = ((darkest > _DARK) & (t < reach)).nonzero().squeeze(1)
            index, t, last_h, last_step = index[goes_on], t[goes_on], last_h[goes_on], last_step[goes_on]
    lit = torch.where(lit > _DARK, lit, 0.0)
    return lit * lit * (3 - 2 * lit)
