"""Scenes in one NPZ file: images, poses and focal, as in NeRF's tiny_nerf_data.npz."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from fieldforge.apps.scenes.bounds import around_object
from fieldforge.apps.scenes.draft import Lens, cameras_of, rotations_checked
from fieldforge.apps.scenes.files import shrink
from fieldforge.apps.scenes.photos import Photos
from fieldforge.apps.scenes.scene import Scene, SceneError, Split, View, hold_out

MAX_BYTES = 8 * 2**30
N_TRAIN = 100  # tiny_nerf's notebook trains on the first hundred and tests on what follows


def open_npz(path: Path, limit: int = MAX_BYTES) -> dict[str, np.ndarray]:
    """The arrays of an NPZ file; what its headers announce is compared with the file first.

    Raises:
        SceneError: unreadable, too large, or with objects inside.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            n_bytes = sum(member.file_size for member in archive.infolist())
            stored = path.stat().st_size
        if n_bytes > limit or n_bytes > max(2**26, 1100 * stored):
            raise SceneError(f"{path}: holds {n_bytes / 1e9:.1f} GB out of {stored / 1e6:.1f} MB; that is too much")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except SceneError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise all kinds of things about damaged files
        raise SceneError(f"{path}: is no NPZ file that can be read ({' '.join(str(error).split())[:120]})") from error


def read_arrays(path: Path, arrays: dict[str, Any], downscale: int, hold: int) -> Scene:
    """A scene out of images (n, h, w, 3 or 4), poses (n, 4, 4) and focal ().

    The first 100 views are for training and the rest for tests, as in tiny_nerf's notebook; up to 100 views, every
    `hold`-th is for tests. The photos are taken to show an object whole, seen by cameras around it.

    Raises:
        SceneError: arrays that are absent or do not go together.
    """
    for name in ("images", "poses", "focal"):
        if name not in arrays:
            raise SceneError(f"{path}: has no array {name!r}; it holds {', '.join(arrays) or 'nothing'}")
    images, poses, focal = np.asarray(arrays["images"]), np.asarray(arrays["poses"]), np.asarray(arrays["focal"])
    if images.ndim != 4 or images.shape[3] not in (3, 4) or 0 in images.shape:
        raise SceneError(f"{path}: images: expected (n, height, width, 3 or 4), got {images.shape}")
    n, height, width, _ = images.shape
    if downscale > min(height, width):
        raise SceneError(f"{path}: images have less than downscale={downscale} pixels on a side")
    if poses.shape not in ((n, 4, 4), (n, 3, 4)) or poses.dtype.kind not in "fiu":
        raise SceneError(f"{path}: poses: expected ({n}, 4, 4) numbers, got {poses.shape} {poses.dtype}")
    if focal.size != 1 or focal.dtype.kind not in "fiu" or not 0 < float(focal.reshape(())) < np.inf:
        raise SceneError(f"{path}: focal: expected one number above 0, got {focal.shape} {focal.dtype}")
    if images.dtype != np.uint8:
        images = _as_bytes(images, path)
    notes: list[str] = []
    names = [f"images[{i}]" for i in range(n)]
    length = float(focal.reshape(()))
    lens = Lens("pinhole", width, height, length, length, width / 2, height / 2)
    cameras = cameras_of([lens] * n, rotations_checked(poses.astype(np.float64), names, notes)).downscaled(downscale)
    photos = Photos.from_array(images if downscale == 1 else np.stack([shrink(image, downscale) for image in images]))
    views = tuple(View(name, None, split) for name, split in zip(names, _splits(n, hold), strict=True))
    return Scene(
        str(path), "tiny_nerf arrays: images, poses, focal", cameras, views, photos,
        around_object(cameras, "an object that all photos show whole"), notes=tuple(notes),
    )  # fmt: skip


def _splits(n: int, hold: int) -> list[Split]:
    if n > N_TRAIN:
        return [*["train"] * N_TRAIN, *["test"] * (n - N_TRAIN)]  # type: ignore[list-item]
    return hold_out(n, hold)


def _as_bytes(images: np.ndarray, path: Path) -> np.ndarray:
    if images.dtype.kind != "f":
        raise SceneError(f"{path}: images: expected uint8, or floats from 0 to 1, got {images.dtype}")
    if not np.isfinite(images).all() or images.min() < -1e-3 or images.max() > 1 + 1e-3:
        raise SceneError(f"{path}: images: floats have to be from 0 to 1, got {images.min():g} to {images.max():g}")
    return np.rint(images.clip(0, 1) * 255).astype(np.uint8)
