"""Volume rendering: march, ask for density, drop what nobody sees, ask for colour, composite.

    seen = render(origins, directions, radiance, grid, density=density, step=0.005, background=white)
    seen.color, seen.distance, seen.opacity

`density` and `radiance` are callables; whose they are does not matter here. With a `density` the samples are looked at
twice: first all of them for density alone, without gradients; then, in full, those to which more light arrives than
`early_stop`. What is left out dims a pixel by at most `early_stop` of the brightest colour (1e-4 by default, a
fortieth of the step between two 8-bit values), and the background takes the place of all of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from fieldforge.checks import expect_int
from fieldforge.renderers.compositing import Rendered, composite, visibility
from fieldforge.renderers.marching import march
from fieldforge.renderers.occupancy import OccupancyGrid
from fieldforge.renderers.ray_losses import scale_gradients
from fieldforge.renderers.samples import Samples

Density = Callable[..., Tensor]
"""(N, 3) places in world length -> (N,) density, 1 / length. With ``tell_rays``, (N,) int64 rays come after."""
Radiance = Callable[..., tuple[Tensor, Tensor]]
"""(N, 3) places and (N, 3) unit directions -> (N,) density and (N, C) colour. Rays as for `Density`."""


class Seen(NamedTuple):
    """What is seen along R rays."""

    color: Tensor
    """(R, C)."""
    distance: Tensor
    """(R,) along the ray, in world length: the mean of where the light comes from; infinite where nothing is."""
    opacity: Tensor
    """(R,) in [0, 1]."""
    n_marched: int
    """Samples in occupied cells."""
    n_evaluated: int
    """Samples of which the colour was asked for."""
    samples: Samples | None = None
    """Those, and their weights (N,), where they were to be kept."""
    weights: Tensor | None = None


def render(
    origins: Tensor,
    directions: Tensor,
    radiance: Radiance,
    grid: OccupancyGrid,
    *,
    step: float,
    density: Density | None = None,
    background: Tensor | None = None,
    early_stop: float = 1e-4,
    cone_angle: float = 0.0,
    max_step: float = math.inf,
    near: float = 0.0,
    far: float = math.inf,
    offset: Tensor | None = None,
    gradients_whole_from: float = 0.0,
    keep_samples: bool = False,
    tell_rays: bool = False,
    n_points_at_once: int = 2**18,
) -> Seen:
    """What is seen along rays through a grid.

    Args:
        origins, directions: (R, 3) float32; directions of unit length.
        radiance: density and colour of points; differentiable where a gradient is wanted.
        grid: where something is; every cell of a fresh one is occupied.
        step, cone_angle, max_step, near, far, offset: of the samples, as for `march`.
        density: of points alone; None asks `radiance` at every sample.
        background: (C,) or (R, C) seen through what is left; None is black.
        early_stop: least transmittance in front of a sample that is evaluated; 0 evaluates all.
        gradients_whole_from: the distance below which gradients are scaled down, see
            `fieldforge.renderers.ray_losses.scale_gradients`; 0 scales none.
        keep_samples: whether samples and weights come back, for losses of them.
        tell_rays: `radiance` and `density` take one argument more, (N,) int64, the ray of each point: for times, photos
            and whatever else belongs to a ray.
        n_points_at_once: the most points in one call of `density` or `radiance`.

    Raises:
        TypeError, ValueError: as for `march` and `composite`.

    Differentiable through `radiance` and in the background; and, through the places and directions that `radiance` is
    asked for, in origins and directions, while the intervals on the rays stay where they are.

    Example:
        >>> grid = OccupancyGrid((0, 0, 0), (1, 1, 1), resolution=4)
        >>> glow = lambda points, directions: (torch.full_like(points[:, 0], 2.0), torch.ones_like(points))
        >>> o, d = torch.tensor([[0.5, 0.5, -1.0]]), torch.tensor([[0.0, 0.0, 1.0]])
        >>> render(o, d, glow, grid, step=0.125).opacity
        tensor([0.8647])
    """
    expect_int("n_points_at_once", n_points_at_once, 1)
    samples = march(
        origins.detach(), directions.detach(), grid, step=step, cone_angle=cone_angle, max_step=max_step, near=near,
        far=far, offset=offset,
    )  # fmt: skip
    n_marched = samples.n_samples
    if density is not None and early_stop > 0:
        with torch.no_grad():
            found = density_at(
                samples, origins, directions, density, tell_rays=tell_rays, n_points_at_once=n_points_at_once
            )
            samples = samples.keep(visibility(samples, found, early_stop=early_stop))
    found, color = radiance_at(
        samples, origins, directions, radiance, tell_rays=tell_rays, n_points_at_once=n_points_at_once
    )
    if gradients_whole_from > 0:
        found, color = scale_gradients(samples, gradients_whole_from, found, color)
    rendered = composite(samples, found, color, background=background)
    seen = seen_of(rendered, n_marched, samples.n_samples)
    return seen._replace(samples=samples, weights=rendered.weights) if keep_samples else seen


def density_at(
    samples: Samples,
    origins: Tensor,
    directions: Tensor,
    density: Density,
    *,
    tell_rays: bool = False,
    n_points_at_once: int = 2**18,
) -> Tensor:
    """(N,) density at the middles of samples along rays."""
    parts = [
        density(points, ray) if tell_rays else density(points)
        for points, _, ray in _points(samples, origins, directions, n_points_at_once)
    ]
    return _join(parts, origins)


def radiance_at(
    samples: Samples,
    origins: Tensor,
    directions: Tensor,
    radiance: Radiance,
    *,
    tell_rays: bool = False,
    n_points_at_once: int = 2**18,
) -> tuple[Tensor, Tensor]:
    """(N,) density and (N, C) colour at the middles of samples, seen along their rays."""
    parts = [
        radiance(points, along, ray) if tell_rays else radiance(points, along)
        for points, along, ray in _points(samples, origins, directions, n_points_at_once)
    ]
    return _join([found for found, _ in parts], origins), _join([color for _, color in parts], origins, 3)


def seen_of(rendered: Rendered, n_marched: int, n_evaluated: int) -> Seen:
    """What compositing gives, with the distance as a mean."""
    distance = torch.where(rendered.opacity > 0, rendered.depth / rendered.opacity, math.inf)
    return Seen(rendered.color, distance, rendered.opacity, n_marched, n_evaluated)


def planar_z(distance: Tensor, directions: Tensor, forward: Tensor) -> Tensor:
    """Distance along rays -> distance along the camera's axis, what depth pictures mostly hold.

    Args:
        distance: (R,) along unit directions.
        directions: (R, 3).
        forward: (3,) unit vector, where the camera looks (minus the third column of its rotation).

    Example:
        >>> planar_z(torch.tensor([5.0]), torch.tensor([[0.6, 0.0, -0.8]]), torch.tensor([0.0, 0.0, -1.0]))
        tensor([4.])
    """
    return distance * (directions @ forward.to(directions))


@torch.no_grad()
def render_in_parts(
    rays: Callable[[int, int], tuple[Tensor, ...]],
    n_rays: int,
    see: Callable[..., Seen],
    *,
    n_rays_at_once: int = 2**13,
) -> Iterator[Seen]:
    """A picture in memory that does not grow with it, without gradients.

    Args:
        rays: (first, last) -> origins and directions of the rays [first, last) of the picture, and what else `see`
            takes of them.
        n_rays: of the picture.
        see: `render` with everything but the rays.
        n_rays_at_once: in each part.

    Yields:
        The parts in order.
    """
    expect_int("n_rays_at_once", n_rays_at_once, 1)
    for first in range(0, n_rays, n_rays_at_once):
        yield see(*rays(first, min(n_rays, first + n_rays_at_once)))


def _points(
    samples: Samples, origins: Tensor, directions: Tensor, n_at_once: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Middles of the samples, the directions they are seen along and their rays, some at a time."""
    for first in range(0, samples.n_samples, n_at_once):
        rows = slice(first, first + n_at_once)
        ray = samples.ray_index[rows]
        middle = 0.5 * (samples.t0[rows] + samples.t1[rows])
        along = _rows(directions, ray)
        yield torch.addcmul(_rows(origins, ray), middle[:, None], along), along, ray


def _rows(table: Tensor, index: Tensor) -> Tensor:
    """table[index]; its gradient is added in an order that does not depend on the number of threads."""
    return torch.nn.functional.embedding(index, table) if table.requires_grad else table[index]


def _join(parts: list[Tensor], like: Tensor, *rest: int) -> Tensor:
    if not parts:
        return like.new_empty(0, *rest)
    return parts[0] if len(parts) == 1 else torch.cat(parts)
