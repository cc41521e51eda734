"""Rays and boxes: where a ray enters a box and where it leaves it (Kay & Kajiya 1986, slabs)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fieldforge.backends import choose, provide
from fieldforge.checks import expect_points
from fieldforge.devices import constant
from fieldforge.kernels import cpu_door, cpu_marching

Vector = tuple[float, float, float]


def intersect_box(
    origins: Tensor,
    directions: Tensor,
    low: Sequence[float],
    high: Sequence[float],
    near: float = 0.0,
    far: float = math.inf,
) -> tuple[Tensor, Tensor]:
    """Where rays enter an axis-aligned box and where they leave it.

    Args:
        origins: (N, 3) in world length.
        directions: (N, 3) of any length but 0; t counts in units of it.
        low, high: the corners of the box, low < high on each axis.
        near, far: t is cut to [near, far].

    Returns:
        (t_near, t_far), each (N,). From an origin in the box t_near is `near`. A ray parallel to two faces hits when
        it runs between them or in one of them. A ray that misses has t_far = t_near = near, and so has one that touches
        the box in a single point, whose direction is 0 or which has a number that is not finite.

    Raises:
        TypeError: origins or directions are not floating-point, or differ in dtype.
        ValueError: their shapes differ or are not (N, 3); low is not below high; near and far are not 0 ≤ near ≤ far.

    The plain version is differentiable in origins and directions; it serves where a gradient is asked for.

    Example:
        >>> intersect_box(torch.tensor([[-1.0, 0.5, 0.5]]), torch.tensor([[1.0, 0, 0]]), (0, 0, 0), (1, 1, 1))
        (tensor([1.]), tensor([2.]))
    """
    expect_rays(origins, directions)
    box = expect_box(low, high)
    near, far = expect_span(near, far)
    run = choose(
        "intersect_box",
        origins.device,
        dtype=origins.dtype,
        needs_gradient=torch.is_grad_enabled() and (origins.requires_grad or directions.requires_grad),
    )
    hit: tuple[Tensor, Tensor] = run(origins, directions, *box, near, far)
    return hit


@provide("intersect_box", "reference")
def intersect_slabs(
    origins: Tensor, directions: Tensor, low: Vector, high: Vector, near: float, far: float
) -> tuple[Tensor, Tensor]:
    """The same behind the door: the parts of the ray between the three pairs of planes, and what they share."""
    corner_low, corner_high = (constant(corner, origins.dtype, origins.device) for corner in (low, high))
    is_parallel = directions == 0
    slope = torch.where(is_parallel, 1.0, directions)
    a, b = (corner_low - origins) / slope, (corner_high - origins) / slope
    enter = torch.where(is_parallel, -math.inf, torch.minimum(a, b))
    leave = torch.where(is_parallel, math.inf, torch.maximum(a, b))
    is_between = (~is_parallel | ((corner_low <= origins) & (origins <= corner_high))).all(-1)
    t_near = enter.amax(-1).clamp(min=near)
    t_far = leave.amin(-1).clamp(max=far)
    is_sound = (origins.isfinite() & directions.isfinite()).all(-1) & ~is_parallel.all(-1)
    is_hit = is_sound & is_between & (t_far > t_near)
    return torch.where(is_hit, t_near, near), torch.where(is_hit, t_far, near)


def _refuses(*, dtype: torch.dtype, needs_gradient: bool) -> str | None:
    if dtype != torch.float32:
        return f"the native version takes float32, and these rays are {str(dtype).removeprefix('torch.')}"
    return "the native version has no gradients" if needs_gradient else None


@provide("intersect_box", "cpu", missing=cpu_door.missing, refuses=_refuses, note=cpu_door.description)
def _intersect_on_cpu(
    origins: Tensor, directions: Tensor, low: Vector, high: Vector, near: float, far: float
) -> tuple[Tensor, Tensor]:
    return cpu_marching.intersect_box(origins.detach(), directions.detach(), low, high, near, far)


def expect_rays(origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Require (N, 3) floating-point origins and directions of one dtype on one device."""
    expect_points(origins, 3, name="origins")
    expect_points(directions, 3, name="directions")
    if origins.ndim != 2 or origins.shape != directions.shape:
        raise ValueError(
            f"directions: expected (N, 3) origins and a direction for each, "
            f"got {tuple(origins.shape)} and {tuple(directions.shape)}"
        )
    if origins.dtype != directions.dtype or origins.device != directions.device:
        raise TypeError(
            f"directions: expected {origins.dtype} on {origins.device} like origins, "
            f"got {directions.dtype} on {directions.device}"
        )
    return origins, directions


def expect_box(low: Sequence[float], high: Sequence[float]) -> tuple[Vector, Vector]:
    """Require two corners of three finite numbers each, low below high."""
    corners = tuple(tuple(float(value) for value in corner) for corner in (low, high))
    if any(len(corner) != 3 for corner in corners) or not all(
        math.isfinite(a) and math.isfinite(b) and a < b for a, b in zip(*corners, strict=True)
    ):
        raise ValueError(f"low, high: expected corners of a box, low < high on three axes, got {corners}")
    first, last = corners
    return (first[0], first[1], first[2]), (last[0], last[1], last[2])


def expect_span(near: float, far: float) -> tuple[float, float]:
    """Require 0 ≤ near ≤ far; near is finite."""
    for name, value in (("near", near), ("far", far)):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{name}: expected a number, got {value!r}")
    if not 0 <= near <= far or not math.isfinite(near):
        raise ValueError(f"near, far: expected 0 <= near <= far, got {near} and {far}")
    return float(near), float(far)
