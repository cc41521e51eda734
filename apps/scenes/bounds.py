"""Where a scene is: a box and two distances, from what the files say or from how the cameras stand."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fieldforge.apps.scenes.scene import Bounds
from fieldforge.renderers.cameras import Cameras


def focus(cameras: Cameras) -> Tensor:
    """(3,) the point closest to all viewing axes, in the sense of least squares; in front of parallel ones."""
    axes, places = cameras.forwards.double(), cameras.positions.double()
    across = torch.eye(3, dtype=torch.float64) - axes[:, :, None] * axes[:, None, :]  # projects along each axis
    # The small share of the identity keeps (nearly) parallel axes from meeting at infinity: then their middle counts.
    total = across.sum(0) + 1e-3 * len(axes) * torch.eye(3, dtype=torch.float64)
    wanted = torch.einsum("nij,nj->i", across, places) + 1e-3 * len(axes) * places.mean(0)
    return torch.linalg.solve(total, wanted)


def reach(cameras: Cameras) -> Tensor:
    """(n,) tangent of half the wider field of view, at most 2 (127 degrees)."""
    if cameras.model in ("equirectangular", "orthographic"):
        return torch.full((len(cameras),), 2.0, dtype=torch.float64)
    half = cameras.sizes / 2 / cameras.intrinsics[:, :2]
    return half.double().max(1).values.clamp(max=2.0)


def around_object(cameras: Cameras, reason: str) -> Bounds:
    """Of an object that every photo shows whole: the box around what all see, and two distances beyond its corners."""
    middle = focus(cameras)
    distance = torch.linalg.vector_norm(cameras.positions.double() - middle, dim=1)
    half = float((distance * reach(cameras)).max()) or 1.0
    corner = half * 3**0.5
    near = max(float(distance.min()) - corner, 0.05 * float(distance.min()), 1e-3 * half)
    return Bounds(torch.stack([middle - half, middle + half]), near, float(distance.max()) + corner, True, reason)


def around_cameras(cameras: Cameras, reason: str) -> Bounds:
    """Of surroundings: the box that holds the cameras and what they look at; more lies beyond it."""
    middle = focus(cameras)
    distance = torch.linalg.vector_norm(cameras.positions.double() - middle, dim=1)
    half = float(distance.max()) or 1.0
    return Bounds(torch.stack([middle - half, middle + half]), 0.05 * half, 100 * half, False, reason)


def between_depths(cameras: Cameras, ranges: np.ndarray, reason: str) -> Bounds:
    """Of views that know their nearest and farthest depth: the box of all those pieces of their pyramids."""
    n = len(cameras)
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    view = torch.arange(n).repeat_interleave(4)
    pixels = (corners.repeat(n, 1)) * cameras.sizes[view]
    origins, directions = cameras.rays(view, pixels)
    share = cameras.planar_share(view, pixels)
    depths = torch.from_numpy(ranges).double()[view]
    ends = [origins + directions * (depths[:, i] / share)[:, None] for i in (0, 1)]
    found = torch.cat(ends).nan_to_num(nan=0.0)
    near, far = 0.9 * float(ranges[:, 0].min()), float((depths[:, 1] / share).nan_to_num(nan=0.0).max())
    return Bounds(torch.stack([found.min(0).values, found.max(0).values]), near, far, True, reason)


def around_points(cameras: Cameras, points: np.ndarray, reason: str) -> Bounds:
    """Of a cloud, less its outermost hundredth on each side; more may lie beyond it."""
    low, high = np.quantile(points, [0.01, 0.99], axis=0)
    margin = 0.1 * (high - low).max()
    box = torch.from_numpy(np.stack([low - margin, high + margin]))
    distance = np.linalg.norm(points[None, :: max(1, len(points) // 2000)] - cameras.positions.numpy()[:, None], axis=2)
    near, far = np.quantile(distance, [0.001, 0.999])
    return Bounds(box, 0.5 * float(near), 2 * float(far), False, reason)


def given_box(cameras: Cameras, box: np.ndarray, reason: str) -> Bounds:
    """A box that the file states."""
    corners = np.stack(np.meshgrid(*box.T, indexing="ij"), -1).reshape(-1, 3)
    distance = np.linalg.norm(corners[None] - cameras.positions.numpy()[:, None], axis=2)
    side = float((box[1] - box[0]).max())
    return Bounds(torch.from_numpy(box.astype(np.float64)), 0.01 * side, float(distance.max()), True, reason)
