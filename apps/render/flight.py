"""Where a video of a scene flies along: around it, in a spiral, through the cameras it was seen from, or by a file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fieldforge.apps.cli.words import UsageError
from fieldforge.apps.render.camera_paths import Flight, read_camera_path
from fieldforge.apps.render.refined import in_its_world
from fieldforge.apps.render.remembered import remembered, remembered_cameras, remembered_up
from fieldforge.apps.scenes import read_scene
from fieldforge.fields.kinds.scene import SceneField
from fieldforge.renderers.cameras import MAX_SIDE, Cameras, paths

PATHS = ("orbit", "spiral", "interpolate")
N_FRAMES = 120
N_BETWEEN = 10
"""Frames from one camera to the next on a path through them."""


def flight_of(
    field: SceneField,
    metadata: Mapping[str, Any],
    *,
    path: str | None = None,
    size: tuple[int, int] | None = None,
    n_frames: int | None = None,
    frames_per_second: float | None = None,
    data: Path | None = None,
    is_video: bool = True,
) -> Flight:
    """The cameras of a video, or of one picture.

    Args:
        field, metadata: of a file. What its header does not say of the photos' cameras is guessed from the box.
        path: one of `PATHS`, or a JSON file as for `read_camera_path`; None is a spiral where the cameras looked the
            same way, and else an orbit.
        size: (width, height) of the pictures; None is the path's, or else the photos'. Videos need even numbers, and
            get the next.
        n_frames: None is as many as the path has: `N_FRAMES`, or `N_BETWEEN` from each camera to the next.
        frames_per_second: None is the path's, or 30.
        data: the photos, whose cameras are then all known; a header remembers some.
        is_video: no picture needs more than the first of the frames.

    Raises:
        UsageError: the path needs cameras that the header does not remember.
        SceneError: the file of a path, or the photos, cannot be used.
    """
    photos = _photo_size(metadata)
    if path is not None and path not in PATHS:
        flight = read_camera_path(Path(path), size=size, size_of_photos=_even(photos, is_video), n_frames=n_frames)
        even = _even(_size(flight.cameras), is_video)
        if even != _size(flight.cameras):
            flight = read_camera_path(Path(path), size=even, n_frames=n_frames)
    else:
        poses = remembered_cameras(metadata) if data is None else _poses(metadata, data)
        flight = _along(path, field, metadata, poses, _even(size or photos, is_video), n_frames if is_video else 1)
    if frames_per_second is None:
        return flight
    return Flight(flight.cameras, frames_per_second, flight.times, flight.notes)


def _along(
    path: str | None,
    field: SceneField,
    metadata: Mapping[str, Any],
    poses: np.ndarray | None,
    size: tuple[int, int],
    n_frames: int | None,
) -> Flight:
    taken = _photo_size(metadata)
    focal = remembered(metadata, "signal.focal", 1.4 * taken[0], least=1e-3, most=1e9) * size[0] / taken[0]
    if path is None:
        path = "spiral" if poses is not None and np.linalg.norm(poses[:, :, 2].mean(0)) > 0.8 else "orbit"
    if path == "orbit":
        return Flight(_orbit(field, metadata, poses, size, focal, n_frames or N_FRAMES))
    if poses is None:
        raise UsageError(
            f"--path {path}: the file does not remember where the photos were taken from; give their folder with --data"
        )
    if path == "spiral":
        side = field.longest_side
        near = remembered(metadata, "signal.near", 0.1 * side, least=1e-9, most=1e12)
        far = remembered(metadata, "signal.far", math.inf, least=near, most=1e12)
        found = paths.spiral(poses, near=near, far=far, n_frames=n_frames or N_FRAMES)
    else:
        ordered = poses[paths.in_short_order(poses)]
        found = paths.interpolate(ordered, n_frames or max(1, N_BETWEEN * (len(poses) - 1)))
    return Flight(paths.along(found, width=size[0], height=size[1], focal=focal))


def _orbit(
    field: SceneField,
    metadata: Mapping[str, Any],
    poses: np.ndarray | None,
    size: tuple[int, int],
    focal: float,
    n_frames: int,
) -> Cameras:
    """Around what the cameras looked at, at their distance and elevation; without cameras, around the box."""
    low, high = (np.array(corner) for corner in (field.low, field.high))
    middle, elevation, up = (low + high) / 2, 25.0, remembered_up(metadata)
    distance = remembered(
        metadata, "signal.distance", 1.4 * field.longest_side, least=0, most=1e6 * field.longest_side
    )  # fmt: skip
    target = None if poses is None else paths.looked_at(poses)
    if poses is not None and target is not None and ((target >= low) & (target <= high)).all():
        away = poses[:, :, 3] - target
        lengths = np.linalg.norm(away, axis=1)
        middle, distance = target, float(np.median(lengths))
        rise = (away @ up) / (np.maximum(lengths, 1e-12) * np.linalg.norm(up))
        elevation = float(np.clip(np.degrees(np.arcsin(np.median(rise).clip(-1, 1))), -60, 60))
    return paths.orbit(
        middle, distance=distance, up=up, elevation=elevation, n_frames=n_frames, width=size[0], height=size[1],
        focal=focal,
    )  # fmt: skip


def cameras_of_photos(metadata: Mapping[str, Any], data: Path | None) -> Cameras | None:
    """Float32 cameras that the training photos were taken with: of their folder, or those that a header remembers, as
    pinholes; None where it remembers none."""
    if data is not None:
        scene = read_scene(data, downscale=int(remembered(metadata, "signal.downscale", 1, least=1, most=64)))
        scene = in_its_world(scene, metadata)
        return scene.cameras.select(scene.of("train")).to(torch.float32)
    poses, (width, height) = remembered_cameras(metadata), _photo_size(metadata)
    if poses is None:
        return None
    focal = remembered(metadata, "signal.focal", 1.4 * width, least=1e-3, most=1e9)
    return paths.along(poses, width=width, height=height, focal=focal)


def _poses(metadata: Mapping[str, Any], data: Path) -> np.ndarray:
    """Of all training photos of a folder."""
    cameras = cameras_of_photos(metadata, data)
    assert cameras is not None
    poses: np.ndarray = cameras.poses.double().numpy()
    return poses


def _photo_size(metadata: Mapping[str, Any]) -> tuple[int, int]:
    width, height = (
        int(remembered(metadata, f"signal.{side}", 400, least=1, most=MAX_SIDE)) for side in ("width", "height")
    )
    return width, height


def _size(cameras: Cameras) -> tuple[int, int]:
    width, height = cameras.sizes[0].tolist()
    return width, height


def _even(size: tuple[int, int], is_video: bool) -> tuple[int, int]:
    return (size[0] + size[0] % 2, size[1] + size[1] % 2) if is_video else size
