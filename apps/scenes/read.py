"""Read a folder of posed photos, whatever its format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from fieldforge.apps.scenes import bounds as where
from fieldforge.apps.scenes.arrays import open_npz, read_arrays
from fieldforge.apps.scenes.draft import HUGE, Draft, cameras_of, named, rotations_checked, times_checked
from fieldforge.apps.scenes.files import read_photo
from fieldforge.apps.scenes.photos import MEMORY, Photos
from fieldforge.apps.scenes.scene import Bounds, Scene, SceneError, View, hold_out
from fieldforge.apps.scenes.transforms import read_one, read_splits
from fieldforge.renderers.cameras import Cameras

FORMATS = "transforms_train.json, transforms.json or an NPZ file of images, poses and focal"


def read_scene(
    path: str | Path,
    *,
    downscale: int = 1,
    allow_missing: bool = False,
    hold: int = 8,
    memory: int = MEMORY,
) -> Scene:
    """Cameras and pixels of a folder of posed photos; its format is found by looking.

    Args:
        path: the folder, or a file in it that decides which format is meant, or an NPZ file.
        downscale: blocks of so many by so many pixels become one.
        allow_missing: go on without the views whose photos are not there.
        hold: where the files tell no test views, every so-many-th is held out (the first, the ninth, ...); 0 for none.
        memory: bytes of decoded photos that may be kept in memory.

    Raises:
        SceneError: nothing that is known, or something wrong with it; which file, what, and the way out.
    """
    path = Path(path)
    if downscale < 1:
        raise SceneError(f"downscale: expected 1 or more, got {downscale}")
    if path.is_file() and path.suffix == ".npz":
        scene = read_arrays(path, open_npz(path), hold)
        if downscale > 1:
            raise SceneError(f"{path}: downscale is for photos in files; these are arrays")
        return scene
    return _assembled(path, _look(path), downscale, allow_missing, hold, memory)


def _look(path: Path) -> Draft:
    if path.is_file() and path.suffix == ".json":
        return read_one(path.parent, path)
    if not path.is_dir():
        raise SceneError(f"{path}: there is no such folder")
    if (path / "transforms_train.json").is_file():
        return read_splits(path)
    if (path / "transforms.json").is_file():
        return read_one(path, path / "transforms.json")
    raise SceneError(f"{path}: holds no scene that is known; expected {FORMATS}")


def _assembled(path: Path, draft: Draft, downscale: int, allow_missing: bool, hold: int, memory: int) -> Scene:
    frames, notes = draft.frames, draft.notes
    if draft.missing and not allow_missing:
        raise SceneError(
            f"{path}: {len(draft.missing)} photos are missing: {named(draft.missing)}; "
            "go on without them with --allow-missing"
        )
    if draft.missing:
        notes.append(f"{len(draft.missing)} views without a photo are left out: {named(draft.missing)}")
    if not frames:
        raise SceneError(f"{path}: has no view with a photo")
    names = [frame.name for frame in frames]
    poses = rotations_checked(np.stack([frame.pose for frame in frames]), names, notes)
    cameras = cameras_of([frame.lens for frame in frames], poses)
    small = [frame for frame in frames if min(frame.header.width, frame.header.height) < downscale]
    if small:
        raise SceneError(f"{small[0].name}: has less than downscale={downscale} pixels on a side")
    cameras = cameras.downscaled(downscale)
    splits = [frame.split for frame in frames]
    if "test" not in splits and hold and len(frames) > 1:
        free = [i for i, split in enumerate(splits) if split != "val"]
        for i, split in zip(free, hold_out(len(free), hold), strict=True):
            splits[i] = split
        notes.append(f"every {hold}th view is held out for tests, the first of them {names[free[0]]}")
    times = times_checked(frames, notes)
    views = tuple(
        View(frame.name, frame.photo, split or "train", time, frame.mask)
        for frame, split, time in zip(frames, splits, times, strict=True)
    )
    n_channels = 4 if any(frame.header.has_alpha for frame in frames) else 3
    turned = [frame.name for frame in frames if frame.header.is_turned]
    if turned:
        notes.append(f"{len(turned)} photos are turned upright by their EXIF orientation: {named(turned)}")
    files = [frame.photo for frame in frames]
    photos = Photos(
        cameras.sizes.numpy(), n_channels, lambda view: read_photo(files[view], n_channels, downscale), memory=memory
    )
    bounds = _bounds(draft, cameras, n_channels == 4)
    _notice_places(cameras, bounds, notes)
    points = None if draft.points is None else torch.from_numpy(draft.points)
    return Scene(str(path), draft.format, cameras, views, photos, bounds, points, tuple(notes))


def _bounds(draft: Draft, cameras: Cameras, has_alpha: bool) -> Bounds:
    if draft.box is not None:
        return where.given_box(cameras, draft.box, draft.box_reason)
    if all(frame.ranges is not None for frame in draft.frames):
        return where.between_depths(cameras, np.array([frame.ranges for frame in draft.frames]), draft.box_reason)
    if draft.points is not None and len(draft.points) >= 100:
        return where.around_points(cameras, draft.points, f"{len(draft.points)} points of the model")
    if has_alpha:
        return where.around_object(cameras, "an object that all photos show whole, before a transparent background")
    return where.around_cameras(cameras, "a guess from how the cameras stand; more may lie beyond the box")


def _notice_places(cameras: Cameras, bounds: Bounds, notes: list[str]) -> None:
    """Say what about the places of cameras could surprise."""
    places = cameras.positions
    n_outside = int(((places < bounds.box[0]) | (places > bounds.box[1])).any(1).sum())
    if n_outside and not bounds.is_bounded:
        notes.append(f"{n_outside} of {len(cameras)} cameras stand outside the box")
    spread = float((bounds.box[1] - bounds.box[0]).max())
    largest = float(places.abs().max())
    if largest > HUGE * spread:
        notes.append(
            f"coordinates up to {largest:.3g} in a scene of size {spread:.3g} lose digits in float32; "
            "use bounds.to_unit"
        )
