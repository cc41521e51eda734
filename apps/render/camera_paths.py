"""Camera paths in JSON, as other programs write them: nerfstudio's camera_path.json, instant-ngp's, and trajectories
of nerfbaselines.

    flight = read_camera_path(Path("camera_path.json"))

What a file says is checked before memory is taken for it; poses become OpenGL's, camera to world, in the world of the
photos. Keys that change nothing of where the cameras are (keyframes, smoothness, names) are looked past.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fieldforge.apps.render.video import MAX_VIDEO_SIDE
from fieldforge.apps.scenes.draft import Lens, cameras_of, rotations_checked
from fieldforge.apps.scenes.files import number, read_bytes, read_json, short
from fieldforge.apps.scenes.scene import SceneError
from fieldforge.renderers.cameras import Cameras, paths
from fieldforge.renderers.cameras.axes import from_axes, from_quaternion

MAX_FRAMES = 100_000
MAX_BYTES = 128 * 2**20
FORMATS = "nerfstudio's (camera_path), instant-ngp's (path) or nerfbaselines' (frames)"
_STEREO = ("omnidirectional", "vr180")


@dataclass(frozen=True)
class Flight:
    """Cameras one after the other, and how fast.

    Args:
        cameras: float32, one for each frame, all of one size.
        frames_per_second: of a video.
        times: (n,) from 0 to 1 in dynamic scenes, or None.
        notes: what a user should know of it.
    """

    cameras: Cameras
    frames_per_second: float = 30.0
    times: Tensor | None = None
    notes: tuple[str, ...] = ()

    def every(self, n_frames: int) -> Flight:
        """Only so many of the frames, evenly picked, in the same time.

        Raises:
            SceneError: more than there are.
        """
        n = len(self.cameras)
        if n_frames > n:
            raise SceneError(f"frames: the path has {n} of them, and {n_frames} are asked for; it tells no more places")
        chosen = torch.arange(n_frames) * n // n_frames
        times = None if self.times is None else self.times[chosen]
        pace = max(1.0, self.frames_per_second * n_frames / n)
        return Flight(self.cameras.select(chosen), pace, times, self.notes)


def read_camera_path(
    path: Path,
    *,
    size: tuple[int, int] | None = None,
    size_of_photos: tuple[int, int] = (800, 800),
    n_frames: int | None = None,
) -> Flight:
    """A flight from a file; which program wrote it is found by looking.

    Args:
        path: the JSON file.
        size: (width, height) instead of the file's; the field of view from top to bottom stays.
        size_of_photos: of an instant-ngp path, which tells no size, where none is given.
        n_frames: instead of the file's. Of a list of frames as many are picked; between keys as many are made.

    Raises:
        SceneError: not such a file, or something wrong with it; which key, and what would do.
    """
    read_bytes(path, MAX_BYTES)  # says so where it is not there, or too long
    content = read_json(path)
    if "camera_path" in content:
        return _nerfstudio(path, content, size, n_frames)
    if "path" in content:
        return _instant_ngp(path, content, size or size_of_photos, n_frames)
    if "frames" in content:
        return _nerfbaselines(path, content, size, n_frames)
    raise SceneError(f"{path}: is no camera path that is known; expected {FORMATS}")


def _nerfstudio(path: Path, content: dict[str, Any], size: tuple[int, int] | None, n_frames: int | None) -> Flight:
    frames = _list(path, "camera_path", content["camera_path"])
    width, height = size or _size(path, content.get("render_width"), content.get("render_height"), "render_width")
    kind = content.get("camera_type", "perspective")
    if kind in _STEREO:
        raise SceneError(
            f"{path}: camera_type: {kind} is a picture for each eye, which is not implemented; expected perspective, "
            "fisheye or equirectangular"
        )
    if kind not in ("perspective", "fisheye", "equirectangular"):
        raise SceneError(
            f"{path}: camera_type: expected perspective, fisheye or equirectangular, got {short(kind)}"
        )  # fmt: skip
    model = {"perspective": "pinhole"}.get(kind, kind)
    poses, lenses, times = [], list[Lens](), list[float]()
    for i, frame in enumerate(frames):
        place = f"{path}: camera_path[{i}]"
        poses.append(_pose(f"{place}.camera_to_world", frame.get("camera_to_world")))
        focal = 1.0
        if model != "equirectangular":
            focal = _focal(f"{place}.fov", frame.get("fov"), height)
        lenses.append(Lens(model, width, height, focal, focal, width / 2, height / 2))
        if frame.get("render_time") is not None:
            times.append(number(f"{place}.render_time", frame["render_time"]))
    notes = []
    if content.get("crop"):
        notes.append("the crop in it is not applied")
    turned = _back_to_the_files(path, np.stack(poses), notes)
    known = torch.tensor(times, dtype=torch.float64) if len(times) == len(frames) else None
    pace = _pace(path, content, len(frames))
    return _flight(path, turned, lenses, pace, known, notes, n_frames)


def _back_to_the_files(path: Path, poses: np.ndarray, notes: list[str]) -> np.ndarray:
    """From nerfstudio's own coordinates, where its dataparser_transforms.json lies beside the path, to the photos'."""
    beside = path.with_name("dataparser_transforms.json")
    if not beside.is_file():
        return poses
    content = read_json(beside)
    turn = _pose(f"{beside}: transform", content.get("transform"))
    scale = number(f"{beside}: scale", content.get("scale"), low=0, open_low=True)
    rotation = rotations_checked(turn[None], [f"{beside}: transform"], [])[0, :, :3]
    back = poses.copy()
    back[:, :3, :3] = rotation.T @ poses[:, :3, :3]
    back[:, :3, 3] = (poses[:, :3, 3] / scale - turn[:3, 3]) @ rotation
    notes.append(f"{beside.name} beside it leads back from nerfstudio's coordinates")
    return back


def _instant_ngp(path: Path, content: dict[str, Any], size: tuple[int, int], n_frames: int | None) -> Flight:
    """Keys with a cubic B-spline between them, in instant-ngp's cube: x y z there are y z x here, times 0.33 + 0.5."""
    keys = _list(path, "path", content["path"])
    width, height = size
    order = content.get("spline_order", 3)
    if order not in (0, 1, 2, 3):
        raise SceneError(f"{path}: spline_order: expected 0 to 3, got {short(order)}")
    is_cycle = content.get("loop", False) is True
    rows, stamps = list[np.ndarray](), list[float]()
    for i, key in enumerate(keys):
        place = f"{path}: path[{i}]"
        x, y, z, w = _numbers(f"{place}.R", key.get("R"), 4)
        if not 1e-3 < math.hypot(x, y, z, w) < 1e3:
            raise SceneError(f"{place}.R: expected a quaternion x, y, z, w, got {short(key.get('R'))}")
        turn = np.array([w, x, y, z]) / math.hypot(x, y, z, w)
        if rows and rows[-1][3:7] @ turn < 0:  # q and -q are one rotation: take the nearer
            turn = -turn
        fov = number(f"{place}.fov", key.get("fov"))
        rows.append(np.array([*_numbers(f"{place}.T", key.get("T"), 3), *turn, fov]))
        if key.get("timestamp") is not None:
            stamps.append(number(f"{place}.timestamp", key["timestamp"]))
    notes = [f"{path.name}: places are read with instant-ngp's scale of 0.33 and offset of 0.5"]
    if any(number(f"{path}: aperture_size", key.get("aperture_size", key.get("dof", 0.0))) > 0 for key in keys):
        notes.append("apertures are left out: all is in focus")
    seconds = number(f"{path}: duration_seconds", content.get("duration_seconds", 4.0), low=0, open_low=True)
    n = n_frames or max(1, round(min(30 * seconds, MAX_FRAMES)))
    share = np.arange(n) / (n if is_cycle else max(1, n - 1))
    at = share * (len(keys) if is_cycle else len(keys) - 1)
    if not is_cycle and len(stamps) == len(keys) > 1 and (np.diff(stamps) > 0).all():
        at = np.interp(stamps[0] + share * (stamps[-1] - stamps[0]), stamps, np.arange(len(keys)))
    found = paths.b_spline(np.stack(rows), at, order=int(order), is_cycle=is_cycle)
    poses = np.zeros((n, 4, 4))
    poses[:, :3, :3], poses[:, :3, 3], poses[:, 3, 3] = from_quaternion(found[:, 3:7]), found[:, :3], 1
    lenses = [
        Lens("pinhole", width, height, f, f, width / 2, height / 2)
        for f in (_focal(f"{path}: path[{i}].fov", fov, height) for i, fov in enumerate(found[:, 7].tolist()))
    ]
    pace = max(1.0, min(n / seconds, 240.0))
    return _flight(path, from_instant_ngp(poses), lenses, pace, None, notes, None)


def from_instant_ngp(poses: np.ndarray, scale: float = 0.33, offset: float = 0.5) -> np.ndarray:
    """(n, 4, 4) poses in instant-ngp's cube, OpenCV axes, to (n, 4, 4) in the photos' world with OpenGL axes."""
    moved = poses.copy()
    moved[:, :3] = poses[:, [2, 0, 1]]  # its rows are y, z, x of the file's
    moved[:, :3, 3] = (moved[:, :3, 3] - offset) / scale
    return from_axes(moved, "opencv")


def _nerfbaselines(path: Path, content: dict[str, Any], size: tuple[int, int] | None, n_frames: int | None) -> Flight:
    """OpenCV axes, a pose and intrinsics for each frame."""
    frames = _list(path, "frames", content["frames"])
    shape = content.get("image_size")
    if not isinstance(shape, list) or len(shape) != 2:
        raise SceneError(f"{path}: image_size: expected [width, height], got {short(shape)}")
    width, height = _size(path, shape[0], shape[1], "image_size")
    kind = content.get("camera_model", "pinhole")
    if kind not in ("pinhole", "opencv", "opencv_fisheye"):
        raise SceneError(f"{path}: camera_model: expected pinhole, opencv or opencv_fisheye, got {short(kind)}")
    model = {"opencv_fisheye": "fisheye"}.get(kind, kind)
    poses, lenses = [], list[Lens]()
    for i, frame in enumerate(frames):
        place = f"{path}: frames[{i}]"
        poses.append(_pose(f"{place}.pose", frame.get("pose")))
        fx, fy, cx, cy = _numbers(f"{place}.intrinsics", frame.get("intrinsics"), 4)
        if min(fx, fy) <= 0:
            raise SceneError(f"{place}.intrinsics: expected focal lengths above 0, got {fx:g} and {fy:g}")
        if size is not None:
            factor = size[1] / height
            fx, fy = fx * factor, fy * factor
            cx, cy = size[0] / 2 + (cx - width / 2) * factor, size[1] / 2 + (cy - height / 2) * factor
        given = frame.get("distortion_parameters")
        bent = tuple(_numbers(f"{place}.distortion_parameters", given, None)) if given else ()
        if len(bent) > 8:
            raise SceneError(f"{place}.distortion_parameters: expected at most 8 numbers, got {len(bent)}")
        lenses.append(Lens(model, *(size or (width, height)), fx, fy, cx, cy, bent))
    pace = _pace(path, content, len(frames))
    return _flight(path, from_axes(np.stack(poses), "opencv"), lenses, pace, None, [], n_frames)


def _flight(
    path: Path,
    poses: np.ndarray,
    lenses: list[Lens],
    pace: float,
    times: Tensor | None,
    notes: list[str],
    n_frames: int | None,
) -> Flight:
    names = [f"{path}: frame {i}" for i in range(len(poses))]
    cameras = cameras_of(lenses, rotations_checked(poses, names, notes)).to(torch.float32)
    flight = Flight(cameras, pace, times, tuple(notes))
    return flight if n_frames is None else flight.every(n_frames)


def _list(path: Path, key: str, value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value or not all(isinstance(one, dict) for one in value):
        raise SceneError(f"{path}: {key}: expected a list of at least one camera, got {short(value)}")
    if len(value) > MAX_FRAMES:
        raise SceneError(f"{path}: {key}: has {len(value)} cameras, and {MAX_FRAMES} are the most that are read")
    return value


def _size(path: Path, width: Any, height: Any, key: str) -> tuple[int, int]:
    sides = number(f"{path}: {key}", width), number(f"{path}: {key}", height)
    if not all(1 <= side <= MAX_VIDEO_SIDE and side == int(side) for side in sides):
        raise SceneError(
            f"{path}: {key}: expected 1x1 to {MAX_VIDEO_SIDE}x{MAX_VIDEO_SIDE} pixels, got {sides[0]:g}x{sides[1]:g}"
        )
    return int(sides[0]), int(sides[1])


def _focal(place: str, fov: Any, height: int) -> float:
    """Pixels, from degrees between top and bottom."""
    angle = number(place, fov)
    if not 0.01 <= angle <= 179.9:
        raise SceneError(f"{place}: expected 0.01 to 179.9 degrees from top to bottom, got {angle:g}")
    return height / 2 / math.tan(math.radians(angle) / 2)


def _pace(path: Path, content: dict[str, Any], n_frames: int) -> float:
    """Frames a second."""
    if content.get("seconds") is not None:
        pace = n_frames / number(f"{path}: seconds", content["seconds"], low=1e-3)
    else:
        pace = number(f"{path}: fps", content.get("fps", 30.0), low=0, open_low=True)
    return min(max(pace, 1.0), 240.0)


def _numbers(place: str, value: Any, n: int | None) -> list[float]:
    if not isinstance(value, list) or len(value) != (len(value) if n is None else n):
        raise SceneError(f"{place}: expected {'a list of' if n is None else n} numbers, got {short(value)}")
    return [number(place, one) for one in value]


def _pose(place: str, value: Any) -> np.ndarray:
    """(4, 4) of 12 or 16 numbers, in rows or in one list."""
    if isinstance(value, list) and len(value) in (3, 4) and all(isinstance(row, list) for row in value):
        value = [entry for row in value for entry in row]
    if not isinstance(value, list) or len(value) not in (12, 16):
        raise SceneError(f"{place}: expected 12 or 16 numbers, row by row, got {short(value)}")
    rows = np.array(_numbers(place, value[:12], 12)).reshape(3, 4)
    return np.concatenate([rows, [[0.0, 0.0, 0.0, 1.0]]])
