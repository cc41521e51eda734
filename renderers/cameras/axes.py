"""Poses between conventions; here poses are camera to world with OpenGL camera axes. See `renderers/cameras.md`."""

from __future__ import annotations

import numpy as np

_COLUMNS = {
    "opengl": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],  # right, up, backward: Blender, NeRF, instant-ngp, nerfstudio
    "opencv": [[1, 0, 0], [0, -1, 0], [0, 0, -1]],  # right, down, forward: COLMAP, DTU
    "llff": [[0, -1, 0], [1, 0, 0], [0, 0, 1]],  # down, right, backward
}
"""Columns of our axes in terms of the other's: ours = other @ matrix."""


def from_axes(poses: np.ndarray, axes: str) -> np.ndarray:
    """Camera-to-world poses (..., 3 or 4, 4) whose camera axes are "opengl", "opencv" or "llff", in OpenGL's.

    Example:
        >>> from_axes(np.eye(4), "opencv")[:3, :3].tolist()
        [[1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, -1.0]]
    """
    turned = np.array(poses, dtype=np.float64)
    turned[..., :, :3] = turned[..., :, :3] @ np.array(_COLUMNS[axes], dtype=np.float64)
    return turned


def from_world_to_camera(rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """(..., 4, 4) pose of x_camera = rotation @ x_world + translation in OpenCV's axes, as COLMAP writes it."""
    back = np.swapaxes(rotation, -1, -2)
    pose = np.zeros((*rotation.shape[:-2], 4, 4))
    pose[..., :3, :3] = back
    pose[..., :3, 3] = -(back @ translation[..., None])[..., 0]
    pose[..., 3, 3] = 1
    return from_axes(pose, "opencv")


def from_quaternion(wxyz: np.ndarray) -> np.ndarray:
    """(..., 3, 3) rotations of quaternions (..., 4), scalar first, of any length but 0."""
    w, x, y, z = np.moveaxis(wxyz / np.linalg.norm(wxyz, axis=-1, keepdims=True), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def to_quaternion(rotation: np.ndarray) -> np.ndarray:
    """The inverse: (..., 4) unit quaternions, scalar first, of rotations (..., 3, 3).

    Example:
        >>> to_quaternion(np.diag([1.0, -1.0, -1.0])).tolist()
        [0.0, 1.0, 0.0, 0.0]
    """
    m = np.asarray(rotation, np.float64)
    xx, yy, zz = (m[..., i, i] for i in range(3))
    wx, wy, wz = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    xy, xz, yz = m[..., 0, 1] + m[..., 1, 0], m[..., 0, 2] + m[..., 2, 0], m[..., 1, 2] + m[..., 2, 1]
    rows = np.stack(  # 4 q q^T: each row is the quaternion, times one of its numbers
        [
            np.stack([1 + xx + yy + zz, wx, wy, wz], -1),
            np.stack([wx, 1 + xx - yy - zz, xy, xz], -1),
            np.stack([wy, xy, 1 - xx + yy - zz, yz], -1),
            np.stack([wz, xz, yz, 1 - xx - yy + zz], -1),
        ],
        -2,
    )
    largest = np.diagonal(rows, axis1=-2, axis2=-1).argmax(-1)
    found = np.take_along_axis(rows, largest[..., None, None], -2)[..., 0, :]
    unit: np.ndarray = found / np.linalg.norm(found, axis=-1, keepdims=True)
    return unit


def decompose(projection: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intrinsics and pose of a projection matrix (RQ decomposition; Hartley and Zisserman 2004, A4.1.1).

    Args:
        projection: (3, 4) P = K [R | t] in OpenCV's axes, of any scale and sign.

    Returns:
        K (3, 3) upper triangular with a positive diagonal and K[2, 2] = 1, and the (4, 4) pose in OpenGL axes.

    Raises:
        ValueError: the left part of P is singular.
    """
    left = projection[:, :3]
    if not np.isfinite(projection).all() or not abs(np.linalg.det(left)) > 1e-12 * np.linalg.norm(left) ** 3:
        raise ValueError("projection: its left 3x3 part is singular; it is no camera")
    left, last = (left, projection[:, 3]) if np.linalg.det(left) > 0 else (-left, -projection[:, 3])
    turn = np.eye(3)[::-1]
    q, r = np.linalg.qr((turn @ left).T)  # QR of the rows in reverse order is RQ
    inside, rotation = turn @ r.T @ turn, turn @ q.T
    signs = np.diag(np.sign(np.diag(inside)))
    inside, rotation = inside @ signs, signs @ rotation
    return inside / inside[2, 2], from_world_to_camera(rotation, np.linalg.solve(inside, last))
