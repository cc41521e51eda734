"""Damaged scenes: each is read or refused with a SceneError, and takes no memory that its file does not fill."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scene_files
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fieldforge.apps.scenes import SceneError, read_scene
from fieldforge.apps.scenes.arrays import open_npz
from fieldforge.apps.scenes.colmap import read_cameras, read_images, read_points

FUZZ = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10**30) | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
KEYS = [
    "fl_x", "fl_y", "cx", "cy", "w", "h", "k1", "k4", "p1", "camera_model", "camera_angle_x", "aabb_scale", "scale",
    "offset", "aabb", "frames", "train_filenames", "test_filenames", "applied_scale", "distortion_params", "is_fisheye",
]  # fmt: skip
FRAME_KEYS = ["file_path", "transform_matrix", "time", "mask_path", "fl_x", "k1", "camera_model"]


def reads_or_refuses(path: Path) -> None:
    try:
        scene = read_scene(path, allow_missing=True)
    except SceneError:
        return
    assert scene.cameras.poses.isfinite().all()
    assert scene.bounds.box.isfinite().all()
    assert 0 < scene.bounds.near < scene.bounds.far < np.inf


@FUZZ
@given(key=st.sampled_from(KEYS), frame_key=st.sampled_from(FRAME_KEYS), value=JUNK, in_frame=st.booleans())
def test_junk_in_transforms(tmp_path: Path, key: str, frame_key: str, value: Any, in_frame: bool) -> None:
    if not (tmp_path / "images").exists():
        scene_files.instant_ngp(tmp_path)
        (tmp_path / "transforms.json").rename(tmp_path / "good.json")
    content = json.loads((tmp_path / "good.json").read_text())
    if in_frame:
        content["frames"][3][frame_key] = value
    else:
        content[key] = value
    scene_files.write_json(tmp_path / "transforms.json", content)
    reads_or_refuses(tmp_path / "transforms.json")


@pytest.mark.parametrize("what", ["cameras", "images", "points3D"])
def test_cut_and_flipped_colmap_files(what: str, tmp_path: Path) -> None:
    place = scene_files.colmap_binary(tmp_path) / "sparse/0"
    good = (place / f"{what}.bin").read_bytes()
    generator = np.random.default_rng(0)
    read = {"cameras": read_cameras, "images": read_images, "points3D": read_points}[what]
    assert len(read(place / f"{what}.bin").ids if what == "points3D" else read(place / f"{what}.bin")) > 0  # type: ignore[union-attr, arg-type]
    for end in [*range(0, min(len(good), 120)), *generator.integers(0, len(good), 40)]:
        (place / "cut.bin").write_bytes(good[:end])
        with pytest.raises(SceneError, match=r"cut\.bin: "):
            read(place / "cut.bin")
    for _ in range(100):
        bad = bytearray(good)
        for at in generator.integers(0, len(bad), 3):
            bad[at] = generator.choice([0, 1, 127, 255, bad[at] ^ (1 << int(generator.integers(8)))])
        (place / f"{what}.bin").write_bytes(bad)
        reads_or_refuses(tmp_path)


@FUZZ
@given(
    what=st.sampled_from(["cameras", "images", "points3D"]),
    line=st.integers(0, 6),
    word=st.integers(0, 12),
    value=st.sampled_from(["", "nan", "inf", "-1", "1e400", "99999999999999999999", "x", "0 0", "../up.png", "\0"]),
)
def test_junk_in_colmap_text(tmp_path: Path, what: str, line: int, word: int, value: str) -> None:
    if not (tmp_path / "sparse").exists():
        scene_files.colmap_text(tmp_path)
        for name in ("cameras", "images", "points3D"):
            (tmp_path / f"sparse/0/{name}.txt").rename(tmp_path / f"{name}.good")
    for name in ("cameras", "images", "points3D"):
        lines = [line.split(" ") for line in (tmp_path / f"{name}.good").read_text().split("\n")]
        if name == what and line < len(lines) and word < len(lines[line]):
            lines[line][word] = value
        (tmp_path / f"sparse/0/{name}.txt").write_text("\n".join(" ".join(words) for words in lines))
    reads_or_refuses(tmp_path)


def test_counts_that_the_file_cannot_hold_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    for what, read in (("cameras", read_cameras), ("images", read_images), ("points3D", read_points)):
        path = tmp_path / f"{what}.bin"
        path.write_bytes(struct.pack("<Q", 2**40) + b"\0" * 200)
        with pytest.raises(SceneError, match="announces 1099511627776 entries"):
            read(path)


def test_junk_in_poses_bounds(tmp_path: Path) -> None:
    scene_files.llff(tmp_path)
    good = np.load(tmp_path / "poses_bounds.npy")
    generator = np.random.default_rng(1)
    for value in (np.nan, np.inf, -1.0, 0.0, 1e300, 3.0):
        for column in range(17):
            bad = good.copy()
            bad[generator.integers(9), column] = value
            np.save(tmp_path / "poses_bounds.npy", bad)
            reads_or_refuses(tmp_path)
    for array in (np.zeros((0, 17)), np.zeros(17), np.array([["x"] * 17]), np.zeros((9, 17), complex)):
        np.save(tmp_path / "poses_bounds.npy", array)
        with pytest.raises(SceneError, match=r"poses_bounds\.npy"):
            read_scene(tmp_path)
    header = b"\x93NUMPY\x01\x00" + struct.pack("<H", 118)
    text = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 17), }"
    (tmp_path / "poses_bounds.npy").write_bytes(header + text.ljust(117) + b"\n")
    with pytest.raises(SceneError, match="no NPY file"):
        read_scene(tmp_path)


def test_archives_that_unfold_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", b"\0" * 2**20)
    with pytest.raises(SceneError, match=r"holds 0\.0 GB out of 0\.0 MB; that is too much"):
        open_npz(tmp_path / "bomb.npz", limit=2**19)
    with pytest.raises(SceneError, match="has no array 'poses'"):
        read_scene(tmp_path / "bomb.npz")
    for content in (b"", b"PK\3\4", b"hello"):
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(SceneError, match="no NPZ file"):
            read_scene(tmp_path / "bad.npz")


def test_junk_in_projection_matrices(tmp_path: Path) -> None:
    scene_files.dtu(tmp_path)
    good = dict(np.load(tmp_path / "cameras_sphere.npz"))
    generator = np.random.default_rng(2)
    for _ in range(60):
        key = list(good)[generator.integers(len(good))]
        bad = good[key].copy()
        bad[generator.integers(4), generator.integers(4)] = generator.choice([np.nan, np.inf, 0, -1e9, 1e300, 3])
        np.savez(tmp_path / "cameras_sphere.npz", **{**good, key: bad})
        reads_or_refuses(tmp_path)
    for name, value in (("a word", np.array("x")), ("a cube", np.zeros((4, 4, 4))), ("zeros", np.zeros((4, 4)))):
        np.savez(tmp_path / "cameras_sphere.npz", **{**good, "world_mat_1": value})
        with pytest.raises(SceneError, match="world_mat_1"):
            read_scene(tmp_path)
        assert name
