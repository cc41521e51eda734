"""From what a format's reader found to a Scene: missing photos, poses, splits, pixels, masks, bounds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import torch

from fieldforge.apps.scenes import bounds as where
from fieldforge.apps.scenes.draft import (
    HUGE,
    LARGEST,
    Draft,
    Frame,
    cameras_of,
    named,
    rotations_checked,
    times_checked,
)
from fieldforge.apps.scenes.files import read_mask, read_photo
from fieldforge.apps.scenes.photos import Photos
from fieldforge.apps.scenes.scene import Bounds, Scene, SceneError, Split, View, hold_out
from fieldforge.renderers.cameras import MODELS, Cameras


def assemble(path: Path, draft: Draft, *, downscale: int, allow_missing: bool, hold: int, memory: int) -> Scene:
    """The scene of a draft; arguments as in `read_scene`.

    Raises:
        SceneError: photos are missing, poses are no rotations, nothing is left to train on, or the like.
    """
    frames, notes = draft.frames, draft.notes
    _expect_photos(path, draft, allow_missing)
    names = [frame.name for frame in frames]
    poses = rotations_checked(np.stack([frame.pose for frame in frames]), names, notes)
    whole = cameras_of([frame.lens for frame in frames], poses)
    small = [frame.name for frame in frames if min(frame.header.width, frame.header.height) < downscale]
    if small:
        raise SceneError(f"{small[0]}: has less than downscale={downscale} pixels on a side")
    cameras = whole.downscaled(downscale)
    times = times_checked(frames, notes)
    splits = _splits(path, frames, hold, notes)
    views = tuple(
        View(frame.name, frame.photo, split, time, frame.mask)
        for frame, split, time in zip(frames, splits, times, strict=True)
    )
    n_channels = 4 if any(frame.header.has_alpha for frame in frames) else 3
    _notice_photos(frames, notes)
    files = [frame.photo for frame in frames]
    photos = Photos(
        cameras.sizes.numpy(), n_channels, lambda view: read_photo(files[view], n_channels, downscale), memory=memory
    )
    masks = _masks(frames, cameras, downscale, memory, notes)
    return Scene(
        str(path), draft.format, cameras, views, photos, _bounds(draft, cameras, n_channels == 4), masks,
        None if draft.points is None else torch.from_numpy(draft.points), tuple(notes),
    )  # fmt: skip


def _expect_photos(path: Path, draft: Draft, allow_missing: bool) -> None:
    if draft.missing and not allow_missing:
        raise SceneError(
            f"{path}: {len(draft.missing)} of {len(draft.missing) + len(draft.frames)} photos are missing: "
            f"{named(draft.missing)}; go on without them with --allow-missing"
        )
    if draft.missing:
        draft.notes.append(f"{len(draft.missing)} views without a photo are left out: {named(draft.missing)}")
    if not draft.frames:
        raise SceneError(f"{path}: has no view with a photo")


def _splits(path: Path, frames: list[Frame], hold: int, notes: list[str]) -> list[Split]:
    """What each view is for; where no tests are given, val views or every so-many-th view are for tests."""
    splits: list[Split] = [frame.split or "train" for frame in frames]
    if "test" not in splits and "val" in splits:
        splits = ["test" if split == "val" else split for split in splits]
        notes.append("no test views are given; the val views are used for tests")
    elif "test" not in splits and hold and len(frames) > 1:
        splits = hold_out(len(frames), hold)
        notes.append(f"one view in {hold} is held out for tests, the first of them {frames[0].name}")
    if "train" not in splits:
        raise SceneError(f"{path}: all {len(frames)} views are for tests, and none is left to train on")
    if splits.count("train") == 1:
        notes.append("there is one view to train on: colours can be fitted, depth cannot be known")
    return splits


def _notice_photos(frames: list[Frame], notes: list[str]) -> None:
    turned = [frame.name for frame in frames if frame.header.is_turned]
    if turned:
        notes.append(f"{len(turned)} photos are turned upright by their EXIF orientation: {named(turned)}")
    n_alpha = sum(frame.header.has_alpha for frame in frames)
    if 0 < n_alpha < len(frames):
        notes.append(f"{n_alpha} of {len(frames)} photos have alpha; the others are taken for opaque")
    sizes = Counter((frame.header.width, frame.header.height) for frame in frames)
    if len(sizes) > 1:
        listed = [f"{n} of {width}x{height}" for (width, height), n in sizes.most_common()]
        notes.append(f"photos have {len(sizes)} sizes: {named(listed)}")


def _masks(frames: list[Frame], cameras: Cameras, downscale: int, memory: int, notes: list[str]) -> Photos | None:
    """What of each photo counts, where masks or the lens leave something out."""
    n_masks = sum(frame.mask is not None for frame in frames)
    blind = _blind_share(cameras)
    if blind:
        notes.append(
            f"{100 * blind:.2g} % of the pixels lie beyond where the {cameras.model} distortion can be undone, and are "
            "left out"
        )
    if n_masks:
        notes.append(f"{n_masks} of {len(frames)} views have a mask of pixels to leave out")
    if not n_masks and not blind:
        return None

    def decode(view: int) -> np.ndarray:
        width, height = cameras.sizes[view].tolist()
        counts = np.full((height, width, 1), 255, np.uint8)
        frame = frames[view]
        if frame.mask is not None:
            header = frame.header
            counts = read_mask(frame.mask, header.width, header.height, downscale, frame.mask_hides)
        if blind:
            counts &= _seen(cameras, view, height, width)
        return counts

    return Photos(cameras.sizes.numpy(), 1, decode, memory=memory)


def _seen(cameras: Cameras, view: int, height: int, width: int) -> np.ndarray:
    """(height, width, 1) uint8: 255 for pixels that have a ray."""
    rows = [cameras.picture_rays(view, row, min(row + 64, height))[1][:, 0].isfinite() for row in range(0, height, 64)]
    return torch.cat(rows).numpy().astype(np.uint8).reshape(height, width, 1) * 255


def _blind_share(cameras: Cameras) -> float:
    """The share of pixels without a ray, looked for on a grid that includes the borders."""
    if not MODELS[cameras.model]:
        return 0.0
    lenses = torch.cat([cameras.intrinsics, cameras.distortion, cameras.sizes.double()], 1)  # type: ignore[list-item]
    _, which = torch.unique(lenses, dim=0, return_inverse=True)
    firsts = [int((which == lens).nonzero()[0, 0]) for lens in range(min(int(which.max()) + 1, 64))]
    n_blind = n_all = 0
    for view in firsts:
        width, height = cameras.sizes[view].tolist()
        x = torch.linspace(0, width - 1, min(width, 101)).round().long()
        y = torch.linspace(0, height - 1, min(height, 101)).round().long()
        pixels = torch.cartesian_prod(x, y)
        n_blind += int((~cameras.select([view]).has_ray(torch.tensor(0), pixels.double() + 0.5)).sum())
        n_all += len(pixels)
    return n_blind / n_all


def _bounds(draft: Draft, cameras: Cameras, has_alpha: bool) -> Bounds:
    """The best that the files give, or else a guess; says on the way what of the cameras' places could surprise."""
    if draft.box is None and all(frame.ranges is not None for frame in draft.frames):
        ranges = np.array([frame.ranges for frame in draft.frames])
        return _noticed(where.between_depths(cameras, ranges, draft.box_reason), cameras, draft.notes, inside=False)
    if draft.box is not None:
        low, high = draft.box
        if not (np.abs(draft.box).max() <= LARGEST and (high - low).min() > 1e-9 * np.abs(draft.box).max()):
            raise SceneError(f"{draft.box_reason}: says a box from {low} to {high}, in which nothing fits")
        found = where.given_box(cameras, draft.box, draft.box_reason)
    elif draft.points is not None and len(draft.points) >= 100:
        found = where.around_points(cameras, draft.points, f"{len(draft.points)} points of the model")
    elif has_alpha:
        reason = "an object that all photos show whole, before a transparent background"
        return _noticed(where.around_object(cameras, reason), cameras, draft.notes, inside=False)
    else:
        reason = "a guess from how the cameras stand; more may lie beyond the box"
        found = where.around_cameras(cameras, reason)
    return _noticed(found, cameras, draft.notes, inside=True)


def _noticed(bounds: Bounds, cameras: Cameras, notes: list[str], *, inside: bool) -> Bounds:
    places = cameras.positions
    n_outside = int(((places < bounds.box[0]) | (places > bounds.box[1])).any(1).sum())
    if inside and n_outside:
        notes.append(f"{n_outside} of {len(cameras)} cameras stand outside the box")
    spread, largest = float((bounds.box[1] - bounds.box[0]).max()), float(places.abs().max())
    if largest > HUGE * spread:
        notes.append(
            f"coordinates up to {largest:.3g} in a scene of size {spread:.3g} lose digits in float32; train in the "
            "coordinates of bounds.to_unit"
        )
    return bounds
