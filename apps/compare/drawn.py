"""Signals that are nobody's, beside the drawn picture of `dead_leaves.py`: a sound, a film, a shape.

Learning rates are tuned on them, so that the signal of a comparison stays unseen. The same numbers every time.
"""

from __future__ import annotations

import numpy as np

from fieldforge.apps.compare.dead_leaves import dead_leaves
from fieldforge.apps.shapes.read import Mesh
from fieldforge.apps.sounds import Clip
from fieldforge.apps.videos import Film


def plucked(sample_rate: int = 8000, seconds: float = 2.0, seed: int = 0) -> Clip:
    """Plucked strings one after another (Karplus and Strong 1983): noise in a loop that is averaged at each turn, whose
    high partials fade first."""
    random = np.random.Generator(np.random.PCG64(seed))
    n = round(sample_rate * seconds)
    sound = np.zeros(n)
    for start in range(0, n, n // 6):
        period = round(sample_rate / random.uniform(90, 600))
        loop = random.uniform(-1, 1, period)
        turns = [loop]
        for _ in range((n - start) // period):
            loop = 0.498 * (loop + np.roll(loop, 1))
            turns.append(loop)
        sound[start:] += np.concatenate(turns)[: n - start]
    return Clip.from_array((sound / np.abs(sound).max()).astype(np.float32), sample_rate, name="plucked strings")


def drifting_leaves(side: int = 48, n_frames: int = 16, seed: int = 0) -> Film:
    """Two drawn pictures, one before the other behind a disc, that drift apart."""
    back, front = (dead_leaves(side + 2 * n_frames, seed + number).pixels for number in range(2))
    y, x = np.mgrid[:side, :side]
    is_front = np.hypot(x - side / 2, y - side / 2)[..., None] < side / 3
    frames = [
        np.where(is_front, front[2 * i : 2 * i + side, :side], back[:side, i : i + side]) for i in range(n_frames)
    ]
    return Film.from_array(np.ascontiguousarray(np.stack(frames)), 12.0)


def knot(n_along: int = 240, n_around: int = 40) -> Mesh:
    """A tube along a trefoil knot, with ribs: closed, thin in places, detailed in others."""
    t = np.linspace(0, 2 * np.pi, n_along, endpoint=False)
    around = np.linspace(0, 2 * np.pi, n_around, endpoint=False)
    line = np.stack([np.sin(t) + 2 * np.sin(2 * t), np.cos(t) - 2 * np.cos(2 * t), -np.sin(3 * t)], -1)
    tangent = np.stack([np.cos(t) + 4 * np.cos(2 * t), -np.sin(t) + 4 * np.sin(2 * t), -3 * np.cos(3 * t)], -1)
    tangent /= np.linalg.norm(tangent, axis=-1, keepdims=True)
    side = np.cross(tangent, [0.0, 0.0, 1.0])
    side /= np.linalg.norm(side, axis=-1, keepdims=True)
    up = np.cross(side, tangent)
    radius = (0.35 + 0.08 * np.sin(24 * t))[:, None, None]
    ring = np.cos(around)[:, None] * side[:, None] + np.sin(around)[:, None] * up[:, None]
    vertices = (line[:, None] + radius * ring).reshape(-1, 3)
    i, j = (axis.ravel() for axis in np.mgrid[:n_along, :n_around])
    corner = [((i + a) % n_along) * n_around + (j + b) % n_around for a, b in ((0, 0), (1, 0), (1, 1), (0, 1))]
    faces = np.concatenate([np.stack([corner[a], corner[b], corner[c]], -1) for a, b, c in ((0, 1, 2), (0, 2, 3))])
    return Mesh(vertices, faces)
