"""Lens distortion as OpenCV defines it, and its inverse.

Radial and tangential ("opencv"), for a point (a, b) = (x/z, y/z) of the normalised plane, r^2 = a^2 + b^2:

    radial = (1 + k1 r^2 + k2 r^4 + k3 r^6) / (1 + k4 r^2 + k5 r^4 + k6 r^6)
    a' = a radial + 2 p1 a b + p2 (r^2 + 2 a^2)
    b' = b radial + p1 (r^2 + 2 b^2) + 2 p2 a b

Equidistant ("fisheye", Kannala and Brandt 2006), for a direction at the angle t from the axis:

    t' = t (1 + k1 t^2 + k2 t^4 + k3 t^6 + k4 t^8)

Both fold back where their slope reaches 0: beyond that radius (or angle) two directions share a pixel. The inverse is
the branch before the fold; places that this branch never reaches have none, and get NaN.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

_RADIAL_STEPS = 14
_PLANE_STEPS = 6


def radial_limit(coefficients: Tensor) -> Tensor:
    """Largest radius of the normalised plane that the opencv model can undo; infinite without a fold.

    Args:
        coefficients: (n, 8) k1, k2, p1, p2, k3, k4, k5, k6. The tangential part is left out of account.

    Returns:
        (n,) in the coefficients' dtype.
    """
    limits = []
    for k1, k2, _, _, k3, k4, k5, k6 in coefficients.detach().cpu().double().tolist():
        above, below = np.poly1d([k3, k2, k1, 1.0]), np.poly1d([k6, k5, k4, 1.0])  # in s = r^2
        s = np.poly1d([2.0, 0.0])
        slope = above * below + s * (above.deriv() * below - above * below.deriv())  # of r above/below, times below^2
        limits.append(math.sqrt(min(_first_positive_root(slope), _first_positive_root(below))))
    return torch.tensor(limits, dtype=coefficients.dtype, device=coefficients.device)


def angle_limit(coefficients: Tensor) -> Tensor:
    """Largest angle (radians, at most pi) that the fisheye model can undo; `coefficients` (n, 4) k1..k4."""
    limits = []
    for k1, k2, k3, k4 in coefficients.detach().cpu().double().tolist():
        slope = np.poly1d([9 * k4, 7 * k3, 5 * k2, 3 * k1, 1.0])  # in t^2
        limits.append(min(math.pi, math.sqrt(_first_positive_root(slope))))
    return torch.tensor(limits, dtype=coefficients.dtype, device=coefficients.device)


def _first_positive_root(polynomial: np.poly1d) -> float:
    roots = polynomial.roots
    real = [root.real for root in roots if abs(root.imag) <= 1e-9 * max(1.0, abs(root)) and root.real > 0]
    return min(real, default=math.inf)


def distort(a: Tensor, b: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
    """Where the opencv model puts (a, b) of the normalised plane; `coefficients` (n, 8), a and b (n,)."""
    k1, k2, p1, p2, k3, k4, k5, k6 = coefficients.unbind(-1)
    s = a * a + b * b
    radial = (1 + s * (k1 + s * (k2 + s * k3))) / (1 + s * (k4 + s * (k5 + s * k6)))
    return (
        a * radial + 2 * p1 * a * b + p2 * (s + 2 * a * a),
        b * radial + p1 * (s + 2 * b * b) + 2 * p2 * a * b,
    )


def undistort(a: Tensor, b: Tensor, coefficients: Tensor, limit: Tensor) -> tuple[Tensor, Tensor]:
    """The point that the opencv model puts at (a, b); NaN where there is none before the fold.

    Args:
        a, b: (n,) distorted places of the normalised plane.
        coefficients: (n, 8).
        limit: (n,) of `radial_limit`.

    The radius is found first, by Newton steps kept between bounds, then the point, by Newton steps in the plane.
    Differentiable in all but the limit: the last step carries the gradient of the inverse function.
    """
    with torch.no_grad():
        wanted = torch.hypot(a, b)
        k1, k2, _, _, k3, k4, k5, k6 = coefficients.unbind(-1)

        def value_and_slope(r: Tensor) -> tuple[Tensor, Tensor]:
            s = r * r
            above, below = 1 + s * (k1 + s * (k2 + s * k3)), 1 + s * (k4 + s * (k5 + s * k6))
            d_above, d_below = k1 + s * (2 * k2 + 3 * s * k3), k4 + s * (2 * k5 + 3 * s * k6)
            ratio = above / below
            return r * ratio, ratio + 2 * s * (d_above - ratio * d_below) / below

        radius = _invert(value_and_slope, wanted, limit)
        # Where the radius has no inverse the tangential part may still give one: begin at the limit.
        radius = torch.where(radius.isnan(), limit.clamp(max=1e3), radius)
        scale = torch.where(wanted > 0, radius / wanted, torch.ones_like(wanted))
        x, y = a * scale, b * scale
        for _ in range(_PLANE_STEPS):
            new_x, new_y, _ = _plane_step(x, y, a, b, coefficients)
            moved = torch.maximum((new_x - x).abs(), (new_y - y).abs())
            x, y = new_x, new_y
            if bool((moved <= 8 * torch.finfo(x.dtype).eps * (1 + wanted)).all()):
                break
    x, y, determinant = _plane_step(x, y, a, b, coefficients)
    with torch.no_grad():
        back_a, back_b = distort(x, y, coefficients)
        miss = torch.hypot(back_a - a, back_b - b)
        tolerance = 64 * torch.finfo(a.dtype).eps * (1 + wanted)
        # A point beyond the radial limit is on the other branch; where the tangential part moves the fold outwards, the
        # sliver in between is given up, so that rays exist just where points land.
        is_good = (miss <= tolerance) & (determinant > 0) & (torch.hypot(x, y) <= limit * (1 + 1e-9))
    nan = torch.full_like(x, math.nan)
    return torch.where(is_good, x, nan), torch.where(is_good, y, nan)


def _plane_step(x: Tensor, y: Tensor, a: Tensor, b: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One Newton step towards distort(x, y) = (a, b), and the determinant of the slope where it began."""
    k1, k2, p1, p2, k3, k4, k5, k6 = coefficients.detach().unbind(-1)
    u, v = x.detach(), y.detach()
    s = u * u + v * v
    above, below = 1 + s * (k1 + s * (k2 + s * k3)), 1 + s * (k4 + s * (k5 + s * k6))
    radial = above / below
    bend = (k1 + s * (2 * k2 + 3 * s * k3) - radial * (k4 + s * (2 * k5 + 3 * s * k6))) / below  # d radial / d s
    xx = radial + 2 * u * u * bend + 2 * p1 * v + 6 * p2 * u
    xy = 2 * u * v * bend + 2 * p1 * u + 2 * p2 * v
    yy = radial + 2 * v * v * bend + 6 * p1 * v + 2 * p2 * u
    determinant = xx * yy - xy * xy
    at_x, at_y = distort(x, y, coefficients)
    miss_x, miss_y = a - at_x, b - at_y
    return (
        x + (yy * miss_x - xy * miss_y) / determinant,
        y + (xx * miss_y - xy * miss_x) / determinant,
        determinant,
    )


def bend_angle(angle: Tensor, coefficients: Tensor) -> Tensor:
    """t' of the fisheye model; angle (n,) in radians, `coefficients` (n, 4)."""
    k1, k2, k3, k4 = coefficients.unbind(-1)
    s = angle * angle
    return angle * (1 + s * (k1 + s * (k2 + s * (k3 + s * k4))))


def straighten_angle(bent: Tensor, coefficients: Tensor, limit: Tensor) -> Tensor:
    """The angle t whose t' is `bent`; NaN where there is none up to the limit. Differentiable like `undistort`."""

    def slope_at(angle: Tensor) -> Tensor:
        k1, k2, k3, k4 = coefficients.detach().unbind(-1)
        s = angle * angle
        return 1 + s * (3 * k1 + s * (5 * k2 + s * (7 * k3 + s * 9 * k4)))

    with torch.no_grad():
        angle = _invert(lambda t: (bend_angle(t, coefficients), slope_at(t)), bent.detach(), limit)
    slope = slope_at(angle)
    # At the fold itself the slope is 0, and the angle is as good as it gets.
    return angle + torch.where(slope > 1e-9, (bent - bend_angle(angle, coefficients)) / slope, torch.zeros_like(bent))


def _invert(value_and_slope: object, wanted: Tensor, limit: Tensor) -> Tensor:
    """Solve f(r) = wanted for 0 <= r <= limit, where f rises from f(0) = 0; NaN where f stays below."""
    assert callable(value_and_slope)
    low, high = torch.zeros_like(wanted), limit.expand_as(wanted).clone()
    reach = torch.where(high.isinf(), torch.full_like(high, math.inf), value_and_slope(high)[0])
    r = torch.minimum(wanted, high)
    for _ in range(_RADIAL_STEPS):
        value, slope = value_and_slope(r)
        is_low = value < wanted
        low, high = torch.where(is_low, r, low), torch.where(is_low, high, r)
        step = r + (wanted - value) / slope
        middle = torch.where(high.isinf(), 2 * low + 1, (low + high) / 2)
        is_inside = (step >= low) & (step <= high)
        step = torch.where(is_inside, step, middle)
        is_done = bool(((step - r).abs() <= 8 * torch.finfo(r.dtype).eps * step).all())
        r = step
        if is_done:
            break
    return torch.where(wanted <= reach * (1 + 4 * torch.finfo(wanted.dtype).eps), r, torch.full_like(r, math.nan))
