"""Scenes with `cameras*.npz` (DTU as IDR and NeuS pack it): world_mat_0, scale_mat_0, ...; photos in `image`.

world_mat is the projection K [R | t] in OpenCV axes with pixel centres at whole numbers; scale_mat carries the unit
sphere, inside which the object is, to the world. The world stays as it is; scale_mat gives the box.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fieldforge.apps.scenes.arrays import open_npz
from fieldforge.apps.scenes.draft import LARGEST, Draft, Frame, Lens, named
from fieldforge.apps.scenes.files import read_header
from fieldforge.apps.scenes.llff import photos_in
from fieldforge.apps.scenes.scene import SceneError
from fieldforge.renderers.cameras.axes import decompose

NAMES = ("cameras_sphere.npz", "cameras_large.npz", "cameras.npz")
MAX_BYTES = 2**28
MOST_SKEW = 1e-3  # of the focal length


def read_dtu(folder: Path, path: Path) -> Draft:
    """A folder with cameras_sphere.npz or the like and one photo for each world_mat, in the order of their names."""
    arrays = open_npz(path, MAX_BYTES)
    numbers = sorted(int(key[10:]) for key in arrays if key.startswith("world_mat_") and key[10:].isdigit())
    if not numbers:
        raise SceneError(f"{path}: has no world_mat_0, world_mat_1, ...; it holds {named(list(arrays))}")
    place = next((folder / name for name in ("image", "images", "rgb") if (folder / name).is_dir()), None)
    if place is None:
        raise SceneError(f"{folder}: has no folder image with the photos")
    photos = [place / name for name in photos_in(place)]
    if len(photos) != len(numbers):
        raise SceneError(f"{path}: has {len(numbers)} cameras, and {place} has {len(photos)} photos")
    draft = Draft(f"DTU/NeuS: {path.name}, photos in {place.name}")
    spheres = []
    for number, photo in zip(numbers, photos, strict=True):
        header = read_header(photo)
        inside, pose = _camera(path, f"world_mat_{number}", arrays)
        if abs(inside[0, 1]) > MOST_SKEW * inside[0, 0]:
            raise SceneError(f"{path}: world_mat_{number}: has a skew of {inside[0, 1]:.3g}, which no camera here has")
        lens = Lens(
            "pinhole", header.width, header.height, float(inside[0, 0]), float(inside[1, 1]), float(inside[0, 2]) + 0.5,
            float(inside[1, 2]) + 0.5,
        )  # fmt: skip
        draft.frames.append(Frame(f"{place.name}/{photo.name}", photo, header, pose, lens))
        if f"scale_mat_{number}" in arrays:
            spheres.append(_matrix(path, f"scale_mat_{number}", arrays))
    if (folder / "mask").is_dir():
        draft.notes.append("the folder mask is not used")
    if spheres:
        if any(not np.allclose(sphere, spheres[0]) for sphere in spheres):
            draft.notes.append("scale_mat differs between views; the first is used")
        half = np.abs(spheres[0][:3, :3]).sum(1)
        draft.box = np.stack([spheres[0][:3, 3] - half, spheres[0][:3, 3] + half])
        draft.box_reason = f"the unit sphere of scale_mat in {path.name}"
    return draft


def _matrix(path: Path, key: str, arrays: dict[str, np.ndarray]) -> np.ndarray:
    value = arrays[key]
    if value.shape not in ((4, 4), (3, 4)) or value.dtype.kind not in "fiu":
        raise SceneError(f"{path}: {key}: expected 4x4 numbers, got {value.shape} {value.dtype}")
    if not (np.abs(value) <= LARGEST).all():
        raise SceneError(f"{path}: {key}: holds {value[~(np.abs(value) <= LARGEST)][0]}")
    return value.astype(np.float64)


def _camera(path: Path, key: str, arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    try:
        return decompose(_matrix(path, key, arrays)[:3])
    except SceneError:
        raise
    except ValueError as error:
        raise SceneError(f"{path}: {key}: {error}") from error
