"""Scenes with `poses_bounds.npy` (LLFF; Mildenhall et al. 2019): one row of 17 numbers for each photo, by name.

Each row is a 3x5 matrix, camera to world with the columns down, right, backward, position and (height, width, focal),
and then the nearest and farthest depth. The world is COLMAP's. Depths are planar.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from fieldforge.apps.scenes.draft import LARGEST, MAX_VIEWS, Draft, Frame, Lens, named
from fieldforge.apps.scenes.files import SUFFIXES, read_bytes, read_header
from fieldforge.apps.scenes.scene import SceneError
from fieldforge.renderers.cameras.axes import from_axes

MAX_BYTES = MAX_VIEWS * 17 * 8 + 2**16


def read_llff(folder: Path, path: Path) -> Draft:
    """A folder with poses_bounds.npy and photos in images, images_4, images_8 or the like."""
    poses, sizes, ranges = read_poses_bounds(path)
    place, photos = find_photos(folder)
    if len(photos) != len(poses):
        raise SceneError(
            f"{path}: has {len(poses)} poses, and {place} has {len(photos)} photos ({named(photos, 3)}); "
            "there has to be one for each, in the order of their names"
        )
    draft = Draft(f"LLFF: {path.name}, photos in {place.name}", box_reason=f"the depths in {path.name}")
    for i, name in enumerate(photos):
        photo = place / name
        header = read_header(photo)
        height, width, focal = sizes[i]
        lens = Lens("pinhole", round(width), round(height), focal, focal, width / 2, height / 2)
        lens = lens.at(header.width, header.height, f"{path}: row {i}: {photo}")
        near, far = ranges[i]
        draft.frames.append(Frame(f"{place.name}/{name}", photo, header, poses[i], lens, ranges=(near, far)))
    return draft


def read_poses_bounds(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n, 4, 4) poses in OpenGL axes; (n, 3) height, width, focal; (n, 2) nearest and farthest planar depth.

    Raises:
        SceneError: not such an array, or numbers in it that cannot be.
    """
    rows = read_npy(path, MAX_BYTES)
    if rows.ndim != 2 or rows.shape[1] != 17 or rows.dtype.kind not in "fiu":
        raise SceneError(f"{path}: expected (n, 17) numbers, got {rows.shape} {rows.dtype}")
    rows = rows.astype(np.float64)
    is_wild = ~(np.abs(rows) <= LARGEST)
    if is_wild.any():
        raise SceneError(f"{path}: row {int(is_wild.any(1).argmax())} holds {rows[is_wild][0]}")
    matrices, ranges = rows[:, :15].reshape(-1, 3, 5), rows[:, 15:]
    sizes = matrices[:, :, 4]
    bad = (sizes <= 0).any(1) | (sizes >= 2**24).any(1) | (ranges[:, 0] <= 0) | (ranges[:, 1] <= ranges[:, 0])
    if bad.any():
        i = int(bad.argmax())
        raise SceneError(
            f"{path}: row {i}: expected height, width and focal above 0 and 0 < near < far, got "
            f"{sizes[i].tolist()} and {ranges[i].tolist()}"
        )
    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    poses[:, :3] = from_axes(matrices[:, :, :4], "llff")
    return poses, sizes, ranges


def read_npy(path: Path, limit: int) -> np.ndarray:
    """The array of an NPY file of at most `limit` bytes.

    Raises:
        SceneError: unreadable, too large, or with objects inside.
    """
    n_bytes = len(read_bytes(path, limit))
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)  # maps only what the file holds
        assert mapped.nbytes <= n_bytes
        return np.array(mapped)
    except Exception as error:
        raise SceneError(f"{path}: is no NPY file that can be read ({' '.join(str(error).split())[:120]})") from error


def photos_in(place: Path) -> list[str]:
    """Names of the pictures in a folder, sorted; hidden ones left out."""
    return sorted(one.name for one in place.iterdir() if one.suffix in SUFFIXES and not one.name.startswith("."))


def photo_folders(folder: Path) -> list[Path]:
    """The folders of photos that exist: `images`, then `images_N`, the least shrunk first."""
    numbered = [
        (int(match[1]), place) for place in folder.iterdir() if (match := re.fullmatch(r"images_(\d{1,4})", place.name))
    ]
    return [place for place in (folder / "images", *(place for _, place in sorted(numbered))) if place.is_dir()]


def find_photos(folder: Path) -> tuple[Path, list[str]]:
    """The first folder of photos that has any, and the names in it, sorted.

    Raises:
        SceneError: there is none.
    """
    for place in photo_folders(folder):
        names = photos_in(place)
        if names:
            return place, names
    raise SceneError(f"{folder}: has no photos in a folder images or images_N")
