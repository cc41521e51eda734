"""How good the field of a scene is: its held-out views against their photos, and, where somebody rendered the scene and
knows them, against true depths and normals.

`gt_test/NAME.npz` beside the photos holds, for a test view of that name, ``depth`` (height, width), planar z, 0 where
nothing is; and it may hold ``normal`` (height, width, 3) in world axes and ``alpha`` (height, width), 255 where a pixel
is covered whole. All are of the photo's own size: of a fit to smaller ones, the pixel in the middle of each block is
looked at, along its own ray.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from fieldforge.apps.render.normals import picture_normals
from fieldforge.apps.render.pictures import Picture, compare, look
from fieldforge.apps.render.radiance import SceneEye
from fieldforge.apps.scenes.arrays import open_npz
from fieldforge.apps.scenes.scene import Scene, SceneError
from fieldforge.fields.kinds.scene import SceneField
from fieldforge.renderers.cameras import Cameras

MEANING = {
    "psnr": "decibels against the photo",
    "ssim": "structural similarity, 1 for equal pictures",
    "depth_error": "median |z - z'| / z' of planar depths, where the truth has something",
    "depth_within_1": "share of those pixels with less than 1 % of error",
    "depth_within_5": "share with less than 5 %",
    "seen": "share of those pixels where the field is more than half opaque",
    "normal_angle_mean": "degrees between normals, where both see something",
    "normal_angle_median": "the same, median",
}
"""What a figure says, in the order they are printed."""
MAX_TRUTH_BYTES = 2**30
Row = dict[str, float | None]


class Truth(NamedTuple):
    """depth (height, width) planar z, 0 where nothing is; normal (height, width, 3) or None; is_whole (height, width):
    whether a pixel shows one thing only, as far as is known."""

    depth: np.ndarray
    normal: np.ndarray | None
    is_whole: np.ndarray


def evaluate_views(
    field: SceneField,
    eye: SceneEye,
    scene: Scene,
    *,
    split: str = "test",
    downscale: int = 1,
    observe: Callable[[float], None] = lambda share: None,
) -> dict[str, Row]:
    """Figures of each view of a split, by the names of `MEANING`.

    Args:
        field, eye: what is measured, and what looks at it.
        scene: with photos of the size it was fitted to.
        split: whose views.
        downscale: that the scene was read with; truths are not.
        observe: told the share of the work that is done.

    Raises:
        SceneError: no such views, or a truth that does not go with its photo.
    """
    views = scene.of(split).tolist()
    if not views:
        raise SceneError(f"{scene.source}: has no views of the split {split}")
    cameras, rows = scene.cameras.to(torch.float32), dict[str, Row]()
    for number, view in enumerate(views):
        found = compare(scene, view, eye)
        rows[scene.views[view].name] = row = {"psnr": found.psnr, "ssim": found.ssim}
        truth = _truth(scene, view, downscale)
        if truth is not None:
            seen_from = through_middles(cameras, downscale)
            picture = found.picture if seen_from is cameras else look(eye, seen_from, view, time=scene.views[view].time)
            row |= depth_figures(picture, truth)
            if truth.normal is not None:
                normals = picture_normals(field, seen_from, view, picture, time=scene.views[view].time)
                row |= normal_figures(normals, picture, truth)
        observe((number + 1) / len(views))
    return rows


def means_of(rows: dict[str, Row]) -> Row:
    """Means over the views that have a figure."""
    means: Row = {}
    for name in MEANING:
        values = [value for row in rows.values() if (value := row.get(name)) is not None]
        if values:
            means[name] = float(np.mean(values))
    return means


def depth_figures(picture: Picture, truth: Truth) -> Row:
    """Of planar z against planar z; what is not seen at all is infinitely wrong."""
    is_there = truth.depth > 0
    if not is_there.any():
        return {}
    z, expected = picture.planar_z[is_there], truth.depth[is_there]
    error = np.where(np.isfinite(z), np.abs(np.where(np.isfinite(z), z, 0.0) - expected) / expected, np.inf)
    return {
        "depth_error": float(np.median(error)),
        "depth_within_1": float((error < 0.01).mean()),
        "depth_within_5": float((error < 0.05).mean()),
        "seen": float((picture.opacity[is_there] > 0.5).mean()),
    }


def normal_figures(normals: np.ndarray, picture: Picture, truth: Truth) -> Row:
    """Angles in world axes, where both see one thing."""
    assert truth.normal is not None
    lengths = np.linalg.norm(truth.normal, axis=-1)
    both = (truth.depth > 0) & truth.is_whole & (picture.opacity > 0.5) & (lengths > 0.5)
    both &= np.linalg.norm(normals, axis=-1) > 0.5
    if not both.any():
        return {}
    cosine = (normals[both] * truth.normal[both]).sum(-1) / lengths[both]
    angle = np.degrees(np.arccos(cosine.clip(-1, 1)))
    return {"normal_angle_mean": float(angle.mean()), "normal_angle_median": float(np.median(angle))}


def through_middles(cameras: Cameras, downscale: int) -> Cameras:
    """Cameras of pictures that were shrunk, whose rays go through the centre of the middle pixel of each block: of an
    even number, the one to the right of and below the middle."""
    if downscale % 2:
        return cameras
    aside = cameras.intrinsics.new_tensor([0.0, 0.0, 0.5, 0.5]) / downscale
    return replace(cameras, intrinsics=cameras.intrinsics - aside)


def _truth(scene: Scene, view: int, downscale: int) -> Truth | None:
    source = Path(scene.source)
    folder = (source if source.is_dir() else source.parent) / "gt_test"
    path = folder / f"{Path(scene.views[view].name).stem}.npz"
    if scene.views[view].split != "test" or scene.views[view].photo is None or not path.is_file():
        return None
    if scene.cameras.model not in ("pinhole", "opencv"):
        raise SceneError(f"{path}: planar depth is for pinholes, and these cameras are {scene.cameras.model}")
    return read_truth(path, (int(scene.cameras.sizes[view, 1]), int(scene.cameras.sizes[view, 0])), downscale)


def read_truth(path: Path, shape: tuple[int, int], downscale: int = 1) -> Truth:
    """The truth of a view.

    Args:
        path: an NPZ file.
        shape: (height, width) of the picture it is held against.
        downscale: how many times that is smaller than the photo.

    Raises:
        SceneError: unreadable, or of another size.
    """
    arrays = open_npz(path, MAX_TRUTH_BYTES)
    if "depth" not in arrays:
        raise SceneError(f"{path}: has no array 'depth'; it holds {', '.join(arrays) or 'nothing'}")
    depth, normal, alpha = arrays["depth"], arrays.get("normal"), arrays.get("alpha")
    middle = slice(downscale // 2, None, downscale)
    for name, value, more in (("depth", depth, ()), ("normal", normal, (3,)), ("alpha", alpha, ())):
        if value is None:
            continue
        sides = tuple(side // downscale for side in value.shape[:2])
        if value.dtype.kind not in "fu" or sides != shape or value.shape[2:] != more:
            raise SceneError(
                f"{path}: {name}: expected {(*shape, *more)} numbers, or {downscale} times as many a side, got "
                f"{value.shape} {value.dtype}"
            )

    def middles(value: np.ndarray) -> np.ndarray:
        return value[middle, middle][: shape[0], : shape[1]].astype(np.float32)

    found = middles(depth)
    if not np.isfinite(found).all() or found.min(initial=0) < 0:
        raise SceneError(f"{path}: depth: expected finite numbers of at least 0")
    whole = np.ones(shape, bool) if alpha is None else middles(alpha) >= np.iinfo(np.uint8).max
    return Truth(found, None if normal is None else middles(normal), whole)
