"""Paths of cameras: around something, in a spiral before it, smoothly from one known camera to the next.

Poses are (n, 3, 4) float64 NumPy arrays, camera to world, columns right, up, backward, position.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from fieldforge.checks import expect_float, expect_int
from fieldforge.renderers.cameras.axes import from_quaternion, to_quaternion
from fieldforge.renderers.cameras.batch import Cameras

_FINE = 32
"""Places between two keys at which the length of a path is measured."""


def orbit(
    middle: Any,
    *,
    distance: float,
    up: Any,
    elevation: float,
    n_frames: int,
    width: int,
    height: int,
    focal: float,
    azimuth: float = 0.0,
) -> Cameras:
    """Cameras on a circle around a point, all looking at it.

    Args:
        middle, up: three numbers in world axes.
        distance: from the middle.
        elevation: degrees above the plane through it, under 90.
        n_frames: one for each camera.
        width, height, focal: in pixels.
        azimuth: degrees to the right of the front, of the first camera. The front is +z, or -y where z points up.

    Returns:
        Pinholes in float32.

    Example:
        >>> orbit((0, 0, 0), distance=2, up=(0, 1, 0), elevation=0, n_frames=1, width=4, height=4, focal=4).positions
        tensor([[0., 0., 2.]])
    """
    expect_int("n_frames", n_frames, 1)
    up, middle = _unit(np.asarray(up, np.float64)), np.asarray(middle, np.float64)
    front = np.array([0.0, -1.0, 0.0] if np.abs(up).argmax() == 2 else [0.0, 0.0, 1.0])
    front = _unit(front - (front @ up) * up)
    side = np.cross(up, front)
    angle = math.radians(azimuth) + np.arange(n_frames)[:, None] * (2 * math.pi / n_frames)
    tilt = math.radians(expect_float("elevation", elevation, -89.99, 89.99))
    backward = math.cos(tilt) * (np.cos(angle) * front + np.sin(angle) * side) + math.sin(tilt) * up
    return along(toward(middle + distance * backward, backward, up), width=width, height=height, focal=focal)


def spiral(poses: np.ndarray, *, near: float, far: float, n_frames: int, n_turns: int = 2) -> np.ndarray:
    """A spiral about the mean of cameras that look the same way (LLFF, Mildenhall et al. 2019).

    Args:
        poses: of those cameras.
        near, far: between which depths there is something to see; `far` may be infinite.
        n_frames: poses wanted.
        n_turns: an even number closes the spiral.

    All look at the point that lies ahead of the mean camera at the mean of near and far in 1 / depth, weighted 1 to 3
    (of 0.9 near and 5 far), and move as far as 90 % of the cameras did along each axis.

    Raises:
        ValueError: the cameras do not look the same way.
    """
    mean_backward = poses[:, :, 2].mean(0)
    if not len(poses) or np.linalg.norm(mean_backward) < 0.8:
        raise ValueError(
            "path: a spiral is for cameras that look the same way, and these look all around; take orbit or interpolate"
        )
    mean = toward(poses[:, :, 3].mean(0)[None], mean_backward[None], poses[:, :, 1].sum(0))[0]
    turn, place = mean[:, :3], mean[:, 3]
    focus = 1 / (0.25 / (0.9 * expect_float("near", near, 0.0, open_low=True)) + 0.75 / (5 * far))
    reach = np.percentile(np.abs((poses[:, :, 3] - place) @ turn), 90, axis=0)
    angle = np.arange(n_frames)[:, None] * (2 * math.pi * n_turns / n_frames)
    moved = np.concatenate([np.cos(angle), -np.sin(angle), -np.sin(0.5 * angle)], 1) * reach
    places = place + moved @ turn.T
    return toward(places, places - (place - focus * turn[:, 2]), turn[:, 1])


def interpolate(poses: np.ndarray, n_frames: int, *, is_cycle: bool = False) -> np.ndarray:
    """A smooth path through poses at an even pace.

    Places follow a centripetal Catmull-Rom spline (Yuksel et al. 2011), which makes no loops; directions the same
    spline of unit quaternions, normalised. Poses that repeat the one before are left out.

    Args:
        poses: (k, 3, 4) keys, in their order.
        n_frames: poses wanted; the first is the first key, the last the last one (or, of a cycle, just before it).
        is_cycle: come back to the first key.
    """
    expect_int("n_frames", n_frames, 1)
    turns = to_quaternion(poses[:, :, :3])
    for i in range(1, len(turns)):  # q and -q are one rotation: take the nearer
        turns[i] *= 1.0 if turns[i] @ turns[i - 1] >= 0 else -1.0
    scale = _spread(poses)
    keys = np.concatenate([poses[:, :, 3], scale * turns], 1)
    if is_cycle:
        closing = keys[:1].copy()
        closing[:, 3:] *= 1.0 if turns[0] @ turns[-1] >= 0 else -1.0
        keys = np.concatenate([keys, closing])
    step = np.linalg.norm(np.diff(keys, axis=0), axis=1)
    is_new = np.concatenate([[True], step > 1e-9 * scale])
    keys, step = keys[is_new], step[is_new[1:]]
    if len(keys) == 1:
        return np.repeat(poses[:1], n_frames, 0)
    knots = np.concatenate([[0.0], np.sqrt(step).cumsum()])
    fine = np.append(knots[:-1, None] + np.diff(knots)[:, None] * (np.arange(_FINE) / _FINE), knots[-1])
    path = _catmull_rom(keys, knots, fine, is_cycle)
    length = np.concatenate([[0.0], np.linalg.norm(np.diff(path, axis=0), axis=1).cumsum()])
    wanted = np.linspace(0, length[-1], n_frames, endpoint=not is_cycle)
    found = _catmull_rom(keys, knots, np.interp(wanted, length, fine), is_cycle)
    return np.concatenate([from_quaternion(found[:, 3:]), found[:, :3, None]], 2)


def b_spline(keys: np.ndarray, at: np.ndarray, *, order: int = 3, is_cycle: bool = False) -> np.ndarray:
    """A uniform B-spline of order 0 to 3 (steps, lines, parabolas, cubics); of 2 and 3 it passes the keys nearby.

    Args:
        keys: (k, c).
        at: (n,) in keys: 1.5 is half way between the second and the third.
        order: of the pieces.
        is_cycle: after the last key comes the first; else the ends are repeated.
    """
    base = np.floor(at + (0.5 if order == 2 else 0.0)).astype(np.int64)
    t = at - base + (0.5 if order == 2 else 0.0)
    if order == 0:
        weights, first = [np.ones_like(t)], 0
    elif order == 1:
        weights, first = [1 - t, t], 0
    elif order == 2:
        weights, first = [0.5 * (1 - t) ** 2, 0.5 + t * (1 - t), 0.5 * t**2], -1
    else:
        cubes = [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]
        weights, first = [cube / 6 for cube in cubes], -1
    places = base[:, None] + first + np.arange(len(weights))
    places = places % len(keys) if is_cycle else places.clip(0, len(keys) - 1)
    summed: np.ndarray = (np.stack(weights, 1)[..., None] * keys[places]).sum(1)
    return summed


def in_short_order(poses: np.ndarray) -> np.ndarray:
    """(n,) an order of poses in which neighbours are near: as given where that is short, else from each to its
    nearest, with crossings undone (2-opt)."""
    points = np.concatenate([poses[:, :, 3], _spread(poses) * poses[:, :, 2]], 1)
    apart = np.linalg.norm(points[:, None] - points[None], axis=-1)
    given = np.arange(len(points))
    order, left = [0], set(range(1, len(points)))
    while left:
        order.append(min(left, key=lambda i: apart[order[-1], i]))
        left.remove(order[-1])
    best = np.array(order, np.int64)
    for _ in range(8):
        before = best.copy()
        for i in range(1, len(best) - 1):
            j = np.arange(i + 1, len(best))  # turn the piece from i to j round
            after = best[np.minimum(j + 1, len(best) - 1)]
            gain = apart[best[i - 1], best[i]] - apart[best[i - 1], best[j]]
            gain = gain + np.where(j + 1 < len(best), apart[best[j], after] - apart[best[i], after], 0.0)
            if len(j) and gain.max() > 1e-9 * apart.max():
                end = int(j[gain.argmax()]) + 1
                best[i:end] = best[i:end][::-1]
        if (before == best).all():
            break
    lengths = [apart[path[:-1], path[1:]].sum() for path in (given, best)]
    return given if lengths[0] <= 1.2 * lengths[1] else best


def looked_at(poses: np.ndarray) -> np.ndarray | None:
    """(3,) the point nearest to all viewing axes; None where they are too parallel to have one."""
    axes = poses[:, :, 2]
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]
    normal = across.mean(0)
    if len(poses) < 2 or np.linalg.eigvalsh(normal)[0] < 0.02:
        return None
    return np.linalg.solve(normal, (across @ poses[:, :, 3:]).mean(0)[:, 0])


def toward(places: np.ndarray, backward: np.ndarray, up: np.ndarray) -> np.ndarray:
    """(n, 3, 4) poses at (n, 3) places, looking against (n, 3) `backward`, with (3,) `up` upward in the picture."""
    backward = _unit(backward)
    right = np.cross(up, backward)
    if not (np.linalg.norm(right, axis=-1) > 1e-9 * np.linalg.norm(up)).all():
        raise ValueError("path: a camera looks along the direction that is to be up")
    right = _unit(right)
    return np.stack([right, np.cross(backward, right), backward, places], -1)


def along(poses: np.ndarray, *, width: int, height: int, focal: float) -> Cameras:
    """Pinholes of one lens at poses, in float32."""
    lens = torch.tensor([[focal, focal, width / 2, height / 2]], dtype=torch.float32)
    return Cameras(
        torch.from_numpy(np.ascontiguousarray(poses, np.float32)),
        lens.expand(len(poses), 4),
        torch.tensor([[width, height]]).expand(len(poses), 2),
    )


def _catmull_rom(keys: np.ndarray, knots: np.ndarray, at: np.ndarray, is_cycle: bool) -> np.ndarray:
    """(n, c) values at (n,) parameters of the cubic with keys (k, c) at knots (k,), by its slopes at the keys."""
    width = np.diff(knots)[:, None]
    slope = np.diff(keys, axis=0) / width
    if is_cycle:  # the last key is the first (of a quaternion, perhaps its negative)
        same = np.concatenate([np.ones(3), np.full(4, np.sign(keys[0, 3:] @ keys[-1, 3:]) or 1.0)])
        inner = (slope[:-1] * width[1:] + slope[1:] * width[:-1]) / (width[1:] + width[:-1])
        seam = (slope[-1] * same * width[0] + slope[0] * width[-1]) / (width[0] + width[-1])
        slopes = np.concatenate([seam[None], inner, (seam * same)[None]])
    else:
        inner = (slope[:-1] * width[1:] + slope[1:] * width[:-1]) / (width[1:] + width[:-1])
        ends = (2 * slope[:1] - inner[:1], 2 * slope[-1:] - inner[-1:]) if len(inner) else (slope, slope)  # parabolas
        slopes = np.concatenate([ends[0], inner, ends[1]])
    piece = (np.searchsorted(knots, at, side="right") - 1).clip(0, len(keys) - 2)
    h = width[piece]
    t = ((at - knots[piece])[:, None] / h).clip(0, 1)
    a, b, c, d = keys[piece], keys[piece + 1], slopes[piece] * h, slopes[piece + 1] * h
    value: np.ndarray = a + t * c + t**2 * (3 * (b - a) - 2 * c - d) + t**3 * (2 * (a - b) + c + d)
    return value


def _spread(poses: np.ndarray) -> float:
    """How far apart cameras stand, as a length: what a turn of one radian counts as."""
    places = poses[:, :, 3]
    return float(np.linalg.norm(places - places.mean(0), axis=1).mean()) or 1.0


def _unit(vectors: np.ndarray) -> np.ndarray:
    unit: np.ndarray = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return unit
