"""COLMAP sparse models: cameras, images and points3D, as .bin or .txt (colmap.github.io/format.html).

Poses are world to camera in OpenCV axes; pixel centres are at one half, as here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fieldforge.apps.scenes.draft import LARGEST, MAX_VIEWS, Draft, Frame, Lens
from fieldforge.apps.scenes.files import inside, read_bytes, read_header
from fieldforge.apps.scenes.llff import photo_folders
from fieldforge.apps.scenes.scene import SceneError
from fieldforge.renderers.cameras.axes import from_quaternion, from_world_to_camera

MAX_BYTES = 4 * 2**30

# number: name, model here, and which parameters: f or fx fy, cx cy, then coefficients by their place
_MODELS: dict[int, tuple[str, str, int, tuple[int, ...]]] = {
    0: ("SIMPLE_PINHOLE", "pinhole", 1, ()),
    1: ("PINHOLE", "pinhole", 2, ()),
    2: ("SIMPLE_RADIAL", "opencv", 1, (0,)),
    3: ("RADIAL", "opencv", 1, (0, 1)),
    4: ("OPENCV", "opencv", 2, (0, 1, 2, 3)),
    5: ("OPENCV_FISHEYE", "fisheye", 2, (0, 1, 2, 3)),
    6: ("FULL_OPENCV", "opencv", 2, (0, 1, 2, 3, 4, 5, 6, 7)),
    8: ("SIMPLE_RADIAL_FISHEYE", "fisheye", 1, (0,)),
    9: ("RADIAL_FISHEYE", "fisheye", 1, (0, 1)),
}
_OTHERS = {7: "FOV", 10: "THIN_PRISM_FISHEYE", 11: "RAD_TAN_THIN_PRISM_FISHEYE"}
_NUMBERS = {name: number for number, (name, *_) in _MODELS.items()} | {name: n for n, name in _OTHERS.items()}


@dataclass(frozen=True)
class Posed:
    """One image of a model: its name, camera number, (4, 4) pose in OpenGL axes, (m, 2) pixels and (m,) point ids."""

    name: str
    camera: int
    pose: np.ndarray
    pixels: np.ndarray
    point_ids: np.ndarray


@dataclass(frozen=True)
class Cloud:
    """Points of a model: (m,) ids, (m, 3) positions, (m, 3) uint8 colours, and who saw each: image ids."""

    ids: np.ndarray
    positions: np.ndarray
    colors: np.ndarray
    seen_by: list[np.ndarray]


def model_folder(folder: Path) -> Path | None:
    """Where below a scene's folder a complete model lies, or None."""
    for place in (folder / "sparse/0", folder / "colmap/sparse/0", folder / "sparse", folder):
        if all(any((place / f"{what}.{end}").is_file() for end in ("bin", "txt")) for what in ("cameras", "images")):
            return place
    return None


def read_colmap(folder: Path, model: Path) -> Draft:
    """A sparse model, with the photos, by their names in it, in images or images_N below the folder, or in it."""
    lenses = read_cameras(either(model, "cameras"))
    posed = read_images(either(model, "images"))
    place = next(iter(photo_folders(folder)), folder)
    end = either(model, "images").suffix
    draft = Draft(f"COLMAP: {model.relative_to(folder) / f'images{end}'}, photos in {place.name}")
    for number, image in sorted(posed.items(), key=lambda item: item[1].name):
        if image.camera not in lenses:
            raise SceneError(f"{model}: image {number} ({image.name}) has camera {image.camera}, which does not exist")
        photo = inside(place, image.name, f"{model}: image {number}")
        if not photo.is_file():
            draft.missing.append(image.name)
            continue
        header = read_header(photo)
        lens = lenses[image.camera].at(header.width, header.height, str(photo))
        draft.frames.append(Frame(image.name, photo, header, image.pose, lens))
    if any((model / f"points3D.{end}").is_file() for end in ("bin", "txt")):
        draft.points = read_points(either(model, "points3D")).positions
    return draft


def either(folder: Path, what: str) -> Path:
    """The binary file of a model if there is one, else the text."""
    binary = folder / f"{what}.bin"
    return binary if binary.is_file() else folder / f"{what}.txt"


class _Bytes:
    """Numbers out of a binary file, in order; what is beyond its end is a SceneError."""

    def __init__(self, path: Path) -> None:
        self.path, self.data, self.at = path, read_bytes(path, MAX_BYTES), 0

    def take(self, layout: struct.Struct) -> tuple[Any, ...]:
        self.expect(layout.size)
        found: tuple[Any, ...] = layout.unpack_from(self.data, self.at)
        self.at += layout.size
        return found

    def count(self, bytes_each: int, most: int = 2**31) -> int:
        """A count of things of at least so many bytes, which have to be there."""
        n = int(self.take(_COUNT)[0])
        if n > most or n * bytes_each > len(self.data) - self.at:
            raise SceneError(
                f"{self.path}: announces {n} entries of {bytes_each} bytes or more at byte {self.at}, and has "
                f"{len(self.data) - self.at} bytes left; it is damaged or of another version"
            )
        return n

    def array(self, dtype: np.dtype, n: int) -> np.ndarray:
        self.expect(dtype.itemsize * n)
        found = np.frombuffer(self.data, dtype, n, self.at)
        self.at += found.nbytes
        return found

    def text(self) -> str:
        end = self.data.find(b"\0", self.at, self.at + 4096)
        if end < 0:
            raise SceneError(f"{self.path}: a name at byte {self.at} does not end; the file is damaged")
        text = self.data[self.at : end].decode("utf-8", "replace")
        self.at = end + 1
        return text

    def expect(self, n_bytes: int) -> None:
        if self.at + n_bytes > len(self.data):
            raise SceneError(f"{self.path}: ends at byte {len(self.data)}, in the middle of an entry; get it again")


_COUNT, _CAMERA = struct.Struct("<Q"), struct.Struct("<iiQQ")
_IMAGE, _POINT = struct.Struct("<I7dI"), struct.Struct("<Q3d3BdQ")
_SEEN = np.dtype([("pixel", "<f8", 2), ("point", "<i8")])
_TRACK = np.dtype([("image", "<u4"), ("index", "<u4")])


def _lines(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Where (file and line) and the words of each line, comments left out."""
    for i, line in enumerate(read_bytes(path, MAX_BYTES).decode("utf-8", "replace").splitlines()):
        if not line.startswith("#"):
            yield f"{path}: line {i + 1}", line.split()


def _floats(place: str, words: list[str]) -> list[float]:
    try:
        return [float(word) for word in words]
    except ValueError:
        raise SceneError(f"{place}: expected numbers, got {' '.join(words)[:60]!r}") from None


def _ints(place: str, words: list[str]) -> list[int]:
    if not all(word.isdecimal() and len(word) < 19 for word in words):
        raise SceneError(f"{place}: expected whole numbers of at least 0, got {' '.join(words)[:60]!r}")
    return [int(word) for word in words]


def read_cameras(path: Path) -> dict[int, Lens]:
    """Lenses by their number."""
    found: dict[int, Lens] = {}
    if path.suffix == ".txt":
        for place, words in _lines(path):
            if words:
                if len(words) < 5:
                    raise SceneError(f"{place}: expected a camera of 5 words or more, got {len(words)}")
                number, width, height = _ints(place, [words[0], *words[2:4]])
                model = _NUMBERS.get(words[1], -1)
                found[number] = _lens(place, model, width, height, _floats(place, words[4:]))
        return found
    file = _Bytes(path)
    for _ in range(file.count(_CAMERA.size, MAX_VIEWS)):
        number, model, width, height = (int(value) for value in file.take(_CAMERA))
        place = f"{path}: camera {number}"
        parameters = file.array(np.dtype("<f8"), _n_parameters(place, model)).tolist()
        found[number] = _lens(place, model, width, height, parameters)
    return found


def _n_parameters(place: str, model: int) -> int:
    if model not in _MODELS:
        names = ", ".join(name for name, *_ in _MODELS.values())
        raise SceneError(f"{place}: model {_OTHERS.get(model, model)} is not implemented; {names} are; undistort first")
    _, _, n_focal, where = _MODELS[model]
    return n_focal + 2 + len(where)


def _lens(place: str, model: int, width: int, height: int, parameters: list[float]) -> Lens:
    n = _n_parameters(place, model)
    _, name, n_focal, where = _MODELS[model]
    if len(parameters) != n or not np.isfinite(parameters).all():
        raise SceneError(f"{place}: expected {n} finite parameters, got {parameters[:12]}")
    focal, (cx, cy) = parameters[:n_focal], parameters[n_focal : n_focal + 2]
    if min(focal) <= 0 or not (0 < width < 2**24 and 0 < height < 2**24):
        raise SceneError(f"{place}: expected a size and a focal length above 0, got {width}x{height} and {focal}")
    coefficients = dict(zip(where, parameters[n_focal + 2 :], strict=True))
    if not any(coefficients.values()) and name == "opencv":
        return Lens("pinhole", width, height, focal[0], focal[-1], cx, cy)
    listed = tuple(coefficients.get(i, 0.0) for i in range(8 if name == "opencv" else 4 if name == "fisheye" else 0))
    return Lens(name, width, height, focal[0], focal[-1], cx, cy, listed)


def read_images(path: Path) -> dict[int, Posed]:
    """Posed images by their number."""
    found: dict[int, Posed] = {}
    if path.suffix == ".txt":
        lines = list(_lines(path))
        while lines and not lines[-1][1] and len(lines) % 2:
            lines.pop()
        for (place, words), (_, seen) in zip(lines[::2], [*lines[1::2], ("", [])], strict=False):
            if len(words) < 10:
                raise SceneError(f"{place}: expected an image of 10 words, got {len(words)}; each image has two lines")
            numbers = np.array(_floats(place, seen), dtype=np.float64)
            if numbers.size % 3 or not (np.abs(numbers) < 2**53).all():
                raise SceneError(f"{place}: the next line: expected x, y, point in threes, got {' '.join(seen)[:60]!r}")
            numbers = numbers.reshape(-1, 3)
            number, camera = _ints(place, [words[0], words[8]])
            pose = _pose(place, np.array(_floats(place, words[1:8])))
            found[number] = Posed(" ".join(words[9:]), camera, pose, numbers[:, :2], numbers[:, 2].astype(np.int64))
        return found
    file = _Bytes(path)
    for _ in range(file.count(_IMAGE.size + 9, MAX_VIEWS)):
        number, *values, camera = file.take(_IMAGE)
        name = file.text()
        places = file.array(_SEEN, file.count(_SEEN.itemsize))
        pose = _pose(f"{path}: image {number}", np.array(values))
        found[number] = Posed(name, camera, pose, places["pixel"], places["point"])
    return found


def _pose(place: str, values: np.ndarray) -> np.ndarray:
    if not (np.abs(values) <= LARGEST).all() or not 0.5 < np.linalg.norm(values[:4]) < 2:
        raise SceneError(f"{place}: expected a unit quaternion and a translation, got {values.tolist()}")
    return from_world_to_camera(from_quaternion(values[:4]), values[4:])


def read_points(path: Path) -> Cloud:
    """The points of a model; those that are not finite are left out."""
    ids: list[int] = []
    rows: list[tuple[float, ...]] = []
    seen_by: list[np.ndarray] = []
    if path.suffix == ".txt":
        for place, words in _lines(path):
            if words:
                if len(words) < 8:
                    raise SceneError(f"{place}: expected a point of 8 words or more, got {len(words)}")
                ids.append(_ints(place, words[:1])[0])
                rows.append(tuple(_floats(place, words[1:7])))
                seen_by.append(np.array(_ints(place, words[8::2]), dtype=np.int64))
    else:
        file = _Bytes(path)
        for _ in range(file.count(_POINT.size)):
            number, *values, _, n_seen = file.take(_POINT)
            ids.append(int(number))
            rows.append(tuple(values))
            seen_by.append(file.array(_TRACK, int(n_seen))["image"].astype(np.int64))
    table = np.array(rows, dtype=np.float64).reshape(-1, 6)
    good = np.asarray((np.abs(table) <= LARGEST).all(1))
    colors = table[good, 3:].clip(0, 255).astype(np.uint8)
    kept = [seen for seen, is_good in zip(seen_by, good, strict=True) if is_good]
    return Cloud(np.array(ids, dtype=np.uint64)[good], table[good, :3], colors, kept)
