"""Scenes in JSON: NeRF-synthetic, D-NeRF, instant-ngp and nerfstudio, which share one family of keys.

`transforms_train.json`, `transforms_val.json` and `transforms_test.json` (Mildenhall et al. 2020; with "time",
Pumarola et al. 2021), or one `transforms.json` (instant-ngp's nerf_loader.cu, nerfstudio's nerfstudio_dataparser.py).
Poses are camera to world in OpenGL axes, and stay as they are written: instant-ngp's scale and offset and nerfstudio's
applied_transform only tell where the box is, or where the world came from.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from fieldforge.apps.scenes.draft import MAX_VIEWS, Draft, Frame, Lens, named
from fieldforge.apps.scenes.files import find_photo, inside, matrix, number, read_header, read_json, short
from fieldforge.apps.scenes.scene import SPLITS, SceneError, Split

_LENS_KEYS = (
    "camera_model", "fl_x", "fl_y", "cx", "cy", "w", "h", "k1", "k2", "k3", "k4", "p1", "p2", "distortion_params",
    "camera_angle_x", "camera_angle_y", "x_fov", "y_fov", "is_fisheye",
)  # fmt: skip
_MODELS = {
    "OPENCV": "opencv", "OPENCV_FISHEYE": "fisheye", "PINHOLE": "pinhole", "SIMPLE_PINHOLE": "pinhole",
    "PERSPECTIVE": "opencv", "SIMPLE_RADIAL": "opencv", "RADIAL": "opencv", "EQUIRECTANGULAR": "equirectangular",
    "ORTHOPHOTO": "orthographic",
}  # fmt: skip
_REFUSED = {
    "ftheta_p0": "f-theta lenses are not implemented",
    "latlong": "instant-ngp's latlong lens is not implemented; use equirectangular",
    "fisheye_crop_radius": "cropped fisheye pictures are not implemented; give masks",
    "enable_ray_loading": "rays out of files are not implemented",
    "from_mitsuba": "Mitsuba's axes are not implemented; convert the poses to OpenGL's",
}


def read_splits(folder: Path) -> Draft:
    """A folder with transforms_train.json and, as far as they exist, the files of the other splits."""
    draft = Draft("")
    found = [split for split in SPLITS if (folder / f"transforms_{split}.json").is_file()]
    for split in found:
        path = folder / f"transforms_{split}.json"
        _add_frames(draft, folder, path, read_json(path), {}, split)
    family = "D-NeRF" if any(frame.time is not None for frame in draft.frames) else "NeRF-synthetic"
    draft.format = f"{family}: {', '.join(f'transforms_{split}.json' for split in found)}"
    return draft


def read_one(folder: Path, path: Path) -> Draft:
    """One transforms.json."""
    content = read_json(path)
    frames = content.get("frames")
    is_nerfstudio = (
        any(key in content for key in ("applied_transform", "orientation_override", "ply_file_path"))
        or any(f"{split}_filenames" in content for split in SPLITS)
        or (isinstance(frames, list) and any(isinstance(frame, dict) and "mask_path" in frame for frame in frames))
    )
    is_ngp = any(key in content for key in ("aabb_scale", "scale", "offset", "aabb"))
    family = "nerfstudio" if is_nerfstudio else "instant-ngp" if is_ngp else "transforms"
    draft = Draft(f"{family}: {path.name}")
    splits: dict[str, Split] = {}
    for split in SPLITS:
        for name in _names(content, f"{split}_filenames", path):
            splits[_flat(name)] = split
    _add_frames(draft, folder, path, content, splits, None)
    if splits:
        without = [frame.name for frame in draft.frames if frame.split is None]
        draft.frames = [frame for frame in draft.frames if frame.split is not None]
        if without:
            draft.notes.append(f"{len(without)} frames are in no list of file names and left out: {named(without)}")
    if "applied_transform" in content or "applied_scale" in content:
        scale = number(f"{path}: applied_scale", content.get("applied_scale", 1.0))
        draft.notes.append(
            f"poses are kept as written; applied_transform and applied_scale {scale:g} were applied before"
        )
    if is_ngp:
        draft.box, draft.box_reason = _ngp_box(content, path)
    return draft


def _names(content: dict[str, Any], key: str, path: Path) -> list[str]:
    names = content.get(key, [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SceneError(f"{path}: {key}: expected a list of file names, got {short(names)}")
    return names


def _flat(name: str) -> str:
    return name.removeprefix("./")


def _ngp_box(content: dict[str, Any], path: Path) -> tuple[np.ndarray, str]:
    """instant-ngp's unit cube, aabb_scale times as large around its middle, back in the file's coordinates."""
    if "aabb" in content:
        return _given_box(content["aabb"], path), f"aabb in {path.name}"
    size = number(f"{path}: aabb_scale", content.get("aabb_scale", 1), low=0, open_low=True)
    scale = number(f"{path}: scale", content.get("scale", 0.33), low=0, open_low=True)
    offset = content.get("offset", [0.5, 0.5, 0.5])
    if not isinstance(offset, list) or len(offset) != 3:
        offset = [offset] * 3
    shift = np.array([number(f"{path}: offset", value) for value in offset])
    # There the axes are y, z, x of the file's; the offset is applied before they are exchanged.
    middle = (0.5 - shift) / scale
    half = size / 2 / scale
    return np.stack([middle - half, middle + half]), f"aabb_scale {size:g} in {path.name}"


def _given_box(corners: Any, path: Path) -> np.ndarray:
    if not isinstance(corners, list) or [len(c) if isinstance(c, list) else 0 for c in corners] != [3, 3]:
        raise SceneError(f"{path}: aabb: expected two corners of three numbers, got {short(corners)}")
    box = np.array([[number(f"{path}: aabb", value) for value in corner] for corner in corners])
    if not (box[0] < box[1]).all():
        raise SceneError(f"{path}: aabb: the first corner has to be the lowest, got {short(corners)}")
    return box


def _add_frames(
    draft: Draft, folder: Path, path: Path, content: dict[str, Any], splits: dict[str, Split], split: Split | None
) -> None:
    for key, why in _REFUSED.items():
        if content.get(key):
            raise SceneError(f"{path}: {key}: {why}")
    frames = content.get("frames")
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        raise SceneError(f"{path}: frames: expected a list of frames, got {short(frames)}")
    if len(frames) > MAX_VIEWS:
        raise SceneError(f"{path}: has {len(frames)} frames, and {MAX_VIEWS} are the most that are read")
    general = {key: content[key] for key in (*_LENS_KEYS, "equirectangular", "orthographic") if key in content}
    for i, frame in enumerate(frames):
        place = f"{path}: frames[{i}]"
        if "transform_matrix_start" in frame:
            raise SceneError(f"{place}: rolling shutters (transform_matrix_start and _end) are not implemented")
        if "transform_matrix" not in frame:
            raise SceneError(f"{place}: has no transform_matrix")
        name = frame.get("file_path")
        photo = find_photo(inside(folder, name, f"{place}: file_path"))
        if photo is None:
            draft.missing.append(str(name))
            continue
        header = read_header(photo)
        keys = {**general, **{key: frame[key] for key in _LENS_KEYS if key in frame}}
        time = number(f"{place}: time", frame["time"]) if frame.get("time") is not None else None
        beside = photo.with_name(f"dynamic_mask_{photo.stem}.png")  # instant-ngp's: 0 where pixels count
        hides = beside.is_file()
        mask = beside if hides else None
        if frame.get("mask_path") is not None:
            mask, hides = inside(folder, frame["mask_path"], f"{place}: mask_path"), False
            if not mask.is_file():
                draft.missing.append(str(frame["mask_path"]))
                continue
        draft.frames.append(
            Frame(
                str(name), photo, header, matrix(f"{place}: transform_matrix", frame["transform_matrix"]),
                _lens(keys, header.width, header.height, place), splits.get(_flat(str(name)), split), time, mask,
                hides,
            )
        )  # fmt: skip


def _lens(keys: dict[str, Any], photo_width: int, photo_height: int, place: str) -> Lens:
    """The lens of one frame, from its own keys over the file's."""
    width = number(f"{place}: w", keys.get("w", photo_width), low=0, open_low=True)
    height = number(f"{place}: h", keys.get("h", photo_height), low=0, open_low=True)
    model = _model(keys, place)
    coefficients = _coefficients(keys, model, place)
    if model == "opencv" and not any(coefficients):
        model, coefficients = "pinhole", ()
    fx, fy = _focal(keys, width, height, model, place)
    cx = number(f"{place}: cx", keys.get("cx", width / 2))
    cy = number(f"{place}: cy", keys.get("cy", height / 2))
    if max(width, height) >= 2**24:
        raise SceneError(f"{place}: w and h: {width:g}x{height:g} is no size of a photo")
    lens = Lens(model, round(width), round(height), fx, fy, cx, cy, coefficients)
    return lens.at(photo_width, photo_height, place)


def _model(keys: dict[str, Any], place: str) -> str:
    if keys.get("is_fisheye"):
        return "fisheye"
    for flag in ("equirectangular", "orthographic"):
        if keys.get(flag):
            return flag
    named_model = keys.get("camera_model", "OPENCV")
    if not isinstance(named_model, str) or named_model.upper() not in _MODELS:
        raise SceneError(f"{place}: camera_model: expected one of {', '.join(_MODELS)}, got {short(named_model)}")
    return _MODELS[named_model.upper()]


def _coefficients(keys: dict[str, Any], model: str, place: str) -> tuple[float, ...]:
    order = ("k1", "k2", "k3", "k4", "p1", "p2")  # nerfstudio's distortion_params
    listed = keys.get("distortion_params")
    if listed is not None:
        if not isinstance(listed, list) or len(listed) > 6:
            raise SceneError(f"{place}: distortion_params: expected k1, k2, k3, k4, p1, p2, got {short(listed)}")
        keys = {**keys, **dict(zip(order, listed, strict=False))}
    k1, k2, k3, k4, p1, p2 = (number(f"{place}: {key}", keys.get(key, 0.0)) for key in order)
    if model == "fisheye":
        return k1, k2, k3, k4
    if model != "opencv":
        return ()
    if k4:
        raise SceneError(
            f"{place}: k4: {k4:g} without a fisheye means r^8 to nerfstudio and a denominator to OpenCV; undistort the "
            "photos first"
        )
    return k1, k2, p1, p2, k3


def _focal(keys: dict[str, Any], width: float, height: float, model: str, place: str) -> tuple[float, float]:
    if model == "equirectangular":
        return 1.0, 1.0
    found: dict[str, float] = {}
    for axis, side in (("x", width), ("y", height)):
        if keys.get(f"fl_{axis}") is not None:
            found[axis] = number(f"{place}: fl_{axis}", keys[f"fl_{axis}"], low=0, open_low=True)
            continue
        for key, unit in ((f"camera_angle_{axis}", 1.0), (f"{axis}_fov", math.pi / 180)):
            if keys.get(key) is not None and axis not in found:
                angle = number(f"{place}: {key}", keys[key], low=0, open_low=True) * unit
                if angle >= math.pi:
                    raise SceneError(f"{place}: {key}: expected less than half a turn, got {keys[key]:g}")
                found[axis] = side / 2 / math.tan(angle / 2)
    if not found:
        raise SceneError(f"{place}: the focal length is absent; give fl_x (pixels) or camera_angle_x (radians)")
    fx = found.get("x", found.get("y", 0.0))
    return fx, found.get("y", fx)
