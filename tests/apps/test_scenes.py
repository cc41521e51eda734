"""Scenes from files: one scene in every format, and what may be wrong with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scene_files
import torch
from PIL import Image
from scene_files import FOCAL, HEIGHT, WIDTH, WRITERS, N, instant_ngp, nerf_synthetic, write_json

from fieldforge.apps import cli
from fieldforge.apps.scenes import SceneError, describe, read_scene


def edited(path: Path, edit: Callable[[dict[str, Any]], Any]) -> Path:
    """A JSON file after a change."""
    content = json.loads(path.read_text())
    edit(content)
    return write_json(path, content)


@pytest.mark.parametrize("format", WRITERS)
def test_one_scene_is_the_same_in_every_format(format: str, tmp_path: Path) -> None:
    scene = read_scene(WRITERS[format](tmp_path / "scene"))
    assert scene.format.startswith(format)
    np.testing.assert_allclose(scene.cameras.poses.numpy(), scene_files.poses()[:, :3], atol=1e-6)
    expected = torch.tensor([[FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2]] * N, dtype=torch.float64)
    torch.testing.assert_close(scene.cameras.intrinsics, expected)
    assert scene.cameras.sizes.tolist() == [[WIDTH, HEIGHT]] * N
    assert scene.cameras.model == "pinhole"
    wanted = scene_files.pictures(4 if scene.has_alpha else 3)
    for view in range(N):
        np.testing.assert_array_equal((scene.photos.picture(view) * 255).round().numpy(), wanted[view])
    assert scene.of("train", "val", "test").tolist() == list(range(N))
    assert len(scene.of("test")) == 2
    assert scene.masks is None
    assert scene.counts(torch.tensor([0]), torch.tensor([[0, 0]])) is None


def test_given_splits_are_kept_and_otherwise_every_eighth_view_is_held_out(tmp_path: Path) -> None:
    given = read_scene(scene_files.nerfstudio(tmp_path / "a"))
    assert [given.of(split).tolist() for split in ("train", "val", "test")] == [[0, 1, 2, 3, 4, 5], [6], [7, 8]]
    made = read_scene(instant_ngp(tmp_path / "b"))
    assert made.of("test").tolist() == [0, 8]
    assert "one view in 8 is held out" in made.notes[0]
    assert len(read_scene(tmp_path / "b", hold=0).of("test")) == 0
    (tmp_path / "a/transforms.json").unlink()
    val_only = nerf_synthetic(tmp_path / "c")
    (val_only / "transforms_test.json").unlink()
    assert read_scene(val_only).of("test").tolist() == [6]


def test_of_several_formats_the_first_is_read_and_a_file_can_be_named(tmp_path: Path) -> None:
    scene_files.colmap_text(instant_ngp(tmp_path))
    scene = read_scene(tmp_path)
    assert scene.format.startswith("instant-ngp")
    assert scene.notes[0] == "there is sparse/0/images.txt too; name that file to read it instead"
    assert read_scene(tmp_path / "sparse/0/images.txt").format.startswith("COLMAP")


def test_a_description_says_what_was_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = describe(read_scene(scene_files.colmap_text(tmp_path, "SIMPLE_RADIAL 12 10 11 6 5 0.1")))
    assert cli.main(["info", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == lines
    assert lines == [
        f"{tmp_path}: COLMAP: sparse/0/images.txt, photos in images",
        "9 views: 7 train, 2 test; 12x10 RGB, opencv, focal length 11.0 px",
        "box (-4.47, -4.46, -4.46) to (4.47, 4.48, 4.47), rays from 0.223 to 447: a guess from how the cameras stand; "
        "more may lie beyond the box",
        "9 photos of 12x10: 0.0 MB decoded; kept as bytes in memory",
        "1 points of a COLMAP model",
        "note: one view in 8 is held out for tests, the first of them p00.png",
    ]


# ---- lenses


def test_keys_of_a_frame_go_before_those_of_the_file(tmp_path: Path) -> None:
    path = instant_ngp(tmp_path, k1=0.1, p2=0.01) / "transforms.json"
    edited(path, lambda content: content["frames"][2].update(fl_x=22.0, k1=0.2))
    scene = read_scene(tmp_path)
    assert scene.cameras.model == "opencv"
    assert scene.cameras.distortion is not None
    assert scene.cameras.intrinsics[1:3, 0].tolist() == [FOCAL, 22.0]
    assert scene.cameras.distortion[1:3, :5].tolist() == [[0.1, 0, 0, 0.01, 0], [0.2, 0, 0, 0.01, 0]]


@pytest.mark.parametrize(
    ("keys", "model", "coefficients"),
    [
        ({"camera_model": "OPENCV_FISHEYE", "k1": 0.1, "k4": 0.01}, "fisheye", [0.1, 0, 0, 0.01]),
        ({"is_fisheye": True, "k2": 0.1}, "fisheye", [0, 0.1, 0, 0]),
        ({"distortion_params": [0.1, 0.2, 0, 0, 0.03, 0.04]}, "opencv", [0.1, 0.2, 0.03, 0.04, 0, 0, 0, 0]),
        ({"camera_model": "EQUIRECTANGULAR"}, "equirectangular", None),
        ({"equirectangular": True}, "equirectangular", None),
        ({"camera_model": "ORTHOPHOTO"}, "orthographic", None),
    ],
)
def test_lenses_of_transforms(keys: dict[str, Any], model: str, coefficients: Any, tmp_path: Path) -> None:
    cameras = read_scene(instant_ngp(tmp_path, **keys)).cameras
    assert cameras.model == model
    assert (None if cameras.distortion is None else cameras.distortion[0].tolist()) == coefficients


@pytest.mark.parametrize(
    ("model", "expected", "coefficients"),
    [
        ("SIMPLE_PINHOLE 12 10 11 6 5", "pinhole", None),
        ("SIMPLE_RADIAL 12 10 11 6 5 0.1", "opencv", [0.1, 0, 0, 0, 0, 0, 0, 0]),
        ("RADIAL 12 10 11 6 5 0.1 0.2", "opencv", [0.1, 0.2, 0, 0, 0, 0, 0, 0]),
        ("OPENCV 12 10 11 11 6 5 0.1 0.2 0.3 0.4", "opencv", [0.1, 0.2, 0.3, 0.4, 0, 0, 0, 0]),
        ("FULL_OPENCV 12 10 11 11 6 5 1 2 3 4 5 6 7 8", "opencv", [1, 2, 3, 4, 5, 6, 7, 8]),
        ("OPENCV_FISHEYE 12 10 11 11 6 5 0.1 0.2 0.3 0.4", "fisheye", [0.1, 0.2, 0.3, 0.4]),
        ("RADIAL_FISHEYE 12 10 11 6 5 0.1 0.2", "fisheye", [0.1, 0.2, 0, 0]),
    ],
)
def test_lenses_of_colmap(model: str, expected: str, coefficients: Any, tmp_path: Path) -> None:
    cameras = read_scene(scene_files.colmap_text(tmp_path, model)).cameras
    assert cameras.model == expected
    assert cameras.intrinsics[0].tolist() == [11, 11, 6, 5]
    assert (None if cameras.distortion is None else cameras.distortion[0].tolist()) == coefficients


def test_photos_of_colmap_may_lie_in_folders_of_their_own(tmp_path: Path) -> None:
    scene_files.colmap_text(tmp_path)
    (tmp_path / "images").rename(tmp_path / "left")
    (tmp_path / "images").mkdir()
    (tmp_path / "left").rename(tmp_path / "images/left")
    listed = tmp_path / "sparse/0/images.txt"
    listed.write_text(listed.read_text().replace(" p0", " left/p0"))
    assert read_scene(tmp_path).views[3].name == "left/p03.png"
    listed.write_text(listed.read_text().replace(" left/p0", " ../p0"))
    with pytest.raises(SceneError, match=r"'\.\./p00\.png' leads out of"):
        read_scene(tmp_path)


def test_the_field_of_view_gives_the_focal_length(tmp_path: Path) -> None:
    def only_angle(content: dict[str, Any]) -> None:
        del content["fl_x"], content["fl_y"]
        content["x_fov"] = 90.0
        content["camera_angle_y"] = 2 * np.arctan(HEIGHT / 2 / 8)

    edited(instant_ngp(tmp_path) / "transforms.json", only_angle)
    torch.testing.assert_close(
        read_scene(tmp_path).cameras.intrinsics[0, :2], torch.tensor([6.0, 8.0], dtype=torch.float64)
    )


def test_photos_of_another_size_bring_the_camera_to_theirs(tmp_path: Path) -> None:
    """As with a folder images_8 beside poses for the full size; one row or column may be rounded away."""
    path = instant_ngp(tmp_path) / "transforms.json"
    edited(path, lambda content: content.update(w=49, h=40, fl_x=44.0, fl_y=44.0, cx=24.0, cy=20.0))
    cameras = read_scene(tmp_path).cameras
    torch.testing.assert_close(
        cameras.intrinsics[0], torch.tensor([44 * 12 / 49, 11, 24 * 12 / 49, 5], dtype=torch.float64)
    )
    edited(path, lambda content: content.update(w=40, h=49))
    with pytest.raises(SceneError, match="not the same picture at two sizes"):
        read_scene(tmp_path)


def test_pixels_that_no_ray_reaches_do_not_count(tmp_path: Path) -> None:
    scene = read_scene(instant_ngp(tmp_path, k1=-0.6))
    assert "beyond where the opencv distortion can be undone" in " ".join(scene.notes)
    pixels = torch.tensor([[0, 0], [6, 5]])
    view = torch.tensor([3, 3])
    counts = scene.counts(view, pixels)
    assert counts is not None
    assert counts.tolist() == [False, True]
    assert scene.cameras.has_ray(view, pixels).tolist() == [False, True]


# ---- masks, times, boxes


def test_masks_of_nerfstudio_keep_and_those_of_instant_ngp_hide(tmp_path: Path) -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[4:, 5:] = 255
    path = instant_ngp(tmp_path) / "transforms.json"
    Image.fromarray(mask).save(tmp_path / "images/mask.png")
    Image.fromarray(mask).save(tmp_path / "images/dynamic_mask_p03.png")
    edited(path, lambda content: content["frames"][2].update(mask_path="images/mask.png"))
    for downscale, outside, inside in ((1, [4, 4], [5, 4]), (2, [2, 2], [3, 2])):
        scene = read_scene(tmp_path, downscale=downscale)
        view, pixels = torch.tensor([2, 2, 3, 3, 4]), torch.tensor([outside, inside, outside, inside, outside])
        counts = scene.counts(view, pixels)
        assert counts is not None
        # A block that is masked in part does not count, whichever way.
        assert counts.tolist() == [False, True, downscale == 1, False, True]


def test_times_are_read_and_brought_to_one(tmp_path: Path) -> None:
    path = instant_ngp(tmp_path) / "transforms.json"

    def number(content: dict[str, Any]) -> None:
        for i, frame in enumerate(content["frames"]):
            frame["time"] = i * 3

    edited(path, number)
    times = read_scene(tmp_path).times
    assert times is not None
    torch.testing.assert_close(times, torch.arange(N, dtype=torch.float64) / (N - 1))
    edited(path, lambda content: content["frames"][4].pop("time"))
    with pytest.raises(SceneError, match=r"images/p04.png: has no time, and 8 other views have one"):
        read_scene(tmp_path)


def test_boxes_come_from_the_files_where_they_say(tmp_path: Path) -> None:
    ngp = read_scene(instant_ngp(tmp_path / "ngp", offset=[0.5, 0.5, 0.8])).bounds
    expected = torch.tensor([[-1 / 0.33] * 3, [1 / 0.33] * 3], dtype=torch.float64)
    expected[:, 2] -= 0.3 / 0.33
    torch.testing.assert_close(ngp.box, expected)
    corners = torch.cat([ngp.box, torch.ones(2, 1, dtype=torch.float64)], 1) @ ngp.to_unit.T
    torch.testing.assert_close(corners[:, :3], torch.tensor([[0.0] * 3, [1.0] * 3], dtype=torch.float64))
    sphere = read_scene(scene_files.dtu(tmp_path / "dtu")).bounds
    assert sphere.box.tolist() == [[-1.5, -2, -2], [2.5, 2, 2]]
    depths = read_scene(scene_files.llff(tmp_path / "llff")).bounds
    assert depths.near < 2
    assert depths.far > 7
    given = read_scene(instant_ngp(tmp_path / "aabb", aabb=[[0, 0, 0], [1, 2, 3]])).bounds
    assert given.box.tolist() == [[0, 0, 0], [1, 2, 3]]


def test_an_object_before_nothing_is_boxed_by_what_all_photos_show(tmp_path: Path) -> None:
    bounds = read_scene(nerf_synthetic(tmp_path)).bounds
    torch.testing.assert_close(bounds.box.sum(0), torch.zeros(3, dtype=torch.float64), atol=0.3, rtol=0)
    half = float((bounds.box[1] - bounds.box[0]).max()) / 2
    assert half == pytest.approx(np.linalg.norm(scene_files.poses()[0, :3, 3]) * WIDTH / 2 / FOCAL, rel=0.05)
    assert bounds.is_bounded


# ---- what may be wrong


ROW = "transform_matrix"
BAD: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no focal length": (lambda c: [c.pop("fl_x"), c.pop("fl_y")], "focal length is absent; give fl_x"),
    "focal length 0": (lambda c: c.update(fl_x=0), r"frames\[0\]: fl_x: expected a finite number above 0, got 0"),
    "focal length a word": (lambda c: c.update(fl_x="11"), "fl_x: expected a number, got '11'"),
    "angle of a whole turn": (lambda c: [c.pop("fl_x"), c.update(camera_angle_x=4)], "less than half a turn"),
    "no frames": (lambda c: c.update(frames=[]), "has no view with a photo"),
    "frames a number": (lambda c: c.update(frames=7), "frames: expected a list of frames, got 7"),
    "a frame a list": (lambda c: c.update(frames=[[]]), "frames: expected a list of frames"),
    "no matrix": (lambda c: c["frames"][3].pop("transform_matrix"), r"frames\[3\]: has no transform_matrix"),
    "a matrix of words": (lambda c: c["frames"][0].update(transform_matrix=["a"] * 4), "expected a number, got 'a'"),
    "a matrix of 2 rows": (lambda c: c["frames"][0].update(transform_matrix=[[1, 0, 0, 0]] * 2), "4 rows of 4 numbers"),
    "a matrix null": (lambda c: c["frames"][0].update(transform_matrix=None), "4 rows of 4 numbers, got None"),
    "NaN": (lambda c: c["frames"][5][ROW][1].__setitem__(1, float("nan")), "finite number, got nan"),
    "infinity": (lambda c: c["frames"][5][ROW][1].__setitem__(3, float("inf")), "finite number, got inf"),
    "a number of 400 digits": (lambda c: c.update(cx=10**400), "cx: expected a finite number"),
    "a scaled pose": (
        lambda c: c["frames"][4].update(transform_matrix=(np.diag([2.0, 2, 2, 1])).tolist()),
        r"images/p04.png: its pose is not a rotation: its columns have lengths 2, 2, 2 and the determinant is 8",
    ),
    "a mirrored pose": (
        lambda c: c["frames"][4].update(transform_matrix=(np.diag([1.0, 1, -1, 1])).tolist()),
        r"p04.png: its pose mirrors",
    ),
    "a path upwards": (lambda c: c["frames"][1].update(file_path="../../etc/passwd"), "leads out of"),
    "a path upwards in disguise": (lambda c: c["frames"][1].update(file_path="images/../../x.png"), "leads out of"),
    "a path from the root": (lambda c: c["frames"][1].update(file_path="/etc/passwd"), "leads out of"),
    "a path of Windows": (lambda c: c["frames"][1].update(file_path="C:\\x.png"), "leads out of"),
    "a path that is a number": (lambda c: c["frames"][1].update(file_path=3), "expected the name of a file, got 3"),
    "a mask upwards": (lambda c: c["frames"][1].update(mask_path="../mask.png"), "mask_path: '../mask.png' leads out"),
    "an unknown lens": (lambda c: c.update(camera_model="FISHEYE624"), "camera_model: expected one of OPENCV"),
    "mixed lenses": (lambda c: c["frames"][1].update(is_fisheye=True), "fisheye and pinhole lenses in one scene"),
    "k4 of an unknown meaning": (lambda c: c.update(k4=0.1), "k4: 0.1 without a fisheye"),
    "a rolling shutter": (lambda c: c["frames"][0].update(transform_matrix_start=[]), "rolling shutters"),
    "a size that cannot be": (lambda c: c.update(w=1e12, h=1e12), "no size of a photo"),
    "a negative aabb_scale": (lambda c: c.update(aabb_scale=-1), "aabb_scale: expected a finite number above 0"),
    "an aabb upside down": (lambda c: c.update(aabb=[[1, 1, 1], [0, 2, 2]]), "aabb: the first corner"),
    "file names a word": (lambda c: c.update(train_filenames="all"), "train_filenames: expected a list"),
    "all views for tests": (
        lambda c: c.update(test_filenames=[frame["file_path"] for frame in c["frames"]]), "none is left to train on",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_bad_files_are_refused_by_name(what: str, tmp_path: Path) -> None:
    edit, message = BAD[what]
    edited(instant_ngp(tmp_path) / "transforms.json", edit)
    with pytest.raises(SceneError, match=message):
        read_scene(tmp_path)


@pytest.mark.parametrize("text", ["", "[1]", "{", "nonsense", "[" * 100_000, '{"frames": NaN}'])
def test_what_is_not_a_json_object_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "transforms.json").write_text(text)
    with pytest.raises(SceneError, match=r"transforms\.json: "):
        read_scene(tmp_path)


def test_missing_photos_are_named_and_can_be_left_out(tmp_path: Path) -> None:
    folder = instant_ngp(tmp_path)
    for i in (2, 5):
        (folder / f"images/p{i:02d}.png").unlink()
    with pytest.raises(SceneError, match=r"2 of 9 photos are missing: images/p02.png, images/p05.png; go on without"):
        read_scene(folder)
    scene = read_scene(folder, allow_missing=True)
    assert len(scene.views) == 7
    assert "2 views without a photo are left out" in scene.notes[0]


def test_photos_that_do_not_match_their_poses_are_counted(tmp_path: Path) -> None:
    (scene_files.llff(tmp_path) / "images_4/p03.png").unlink()
    with pytest.raises(SceneError, match=r"has 9 poses, and .*images_4 has 8 photos"):
        read_scene(tmp_path)


def test_a_damaged_photo_is_named(tmp_path: Path) -> None:
    photo = instant_ngp(tmp_path) / "images/p04.png"
    photo.write_bytes(photo.read_bytes()[:60])
    with pytest.raises(SceneError, match=r"p04\.png: "):
        read_scene(tmp_path).photos.load()
    photo.write_text("not a photo")
    with pytest.raises(SceneError, match=r"p04\.png: is not a picture"):
        read_scene(tmp_path)


def test_a_pose_a_little_off_becomes_the_nearest_rotation(tmp_path: Path) -> None:
    path = instant_ngp(tmp_path) / "transforms.json"
    row = scene_files.poses()[4, 0]
    edited(path, lambda c: c["frames"][4][ROW].__setitem__(0, [row[0] + 2e-3, *row[1:]]))
    scene = read_scene(tmp_path)
    assert "the nearest rotations are used" in scene.notes[0]
    turn = scene.cameras.poses[4, :, :3]
    torch.testing.assert_close(turn.T @ turn, torch.eye(3, dtype=torch.float64))


def test_photos_of_several_sizes_make_one_scene(tmp_path: Path) -> None:
    folder = instant_ngp(tmp_path)
    large = np.random.default_rng(0).integers(0, 256, (2 * HEIGHT, 2 * WIDTH, 3), dtype=np.uint8)
    Image.fromarray(large).save(folder / "images/p01.png")
    scene = read_scene(folder)
    assert scene.cameras.sizes[:3].tolist() == [[WIDTH, HEIGHT], [2 * WIDTH, 2 * HEIGHT], [WIDTH, HEIGHT]]
    assert scene.cameras.intrinsics[1].tolist() == [2 * FOCAL, 2 * FOCAL, WIDTH, HEIGHT]
    view, pixels = torch.tensor([1, 2, 1]), torch.tensor([[23, 19], [11, 9], [0, 3]])
    expected = np.stack([large[19, 23], scene_files.pictures()[2, 9, 11], large[3, 0]])
    np.testing.assert_array_equal((scene.photos.gather(view, pixels) * 255).round().numpy(), expected)


def test_one_view_and_huge_coordinates_are_told(tmp_path: Path) -> None:
    path = instant_ngp(tmp_path) / "transforms.json"

    def one_far_away(content: dict[str, Any]) -> None:
        content["frames"] = content["frames"][:1]
        content["frames"][0]["transform_matrix"][0][3] = 1e9

    edited(path, one_far_away)
    scene = read_scene(tmp_path)
    assert "depth cannot be known" in scene.notes[0]
    assert scene.of("train").tolist() == [0]
    assert "1 of 1 cameras stand outside the box" in scene.notes[1]
    assert "lose digits in float32" in scene.notes[2]


def test_links_in_the_folder_may_lead_out(tmp_path: Path) -> None:
    folder = instant_ngp(tmp_path / "scene")
    (folder / "images").rename(tmp_path / "elsewhere")
    (folder / "images").symlink_to(tmp_path / "elsewhere")
    assert len(read_scene(folder).views) == N


def test_folders_without_a_scene_are_refused_with_what_would_do(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match=r"holds no scene that is known; expected transforms_train\.json"):
        read_scene(tmp_path)
    with pytest.raises(SceneError, match="there is no such folder"):
        read_scene(tmp_path / "nowhere")
    (tmp_path / "notes.md").write_text("hello")
    with pytest.raises(SceneError, match="is no scene that is known"):
        read_scene(tmp_path / "notes.md")


def test_arrays_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    good = {"images": scene_files.pictures(), "poses": scene_files.poses(), "focal": np.float64(11)}
    bad = [
        ({"poses": good["poses"][:4]}, r"poses: expected \(9, 4, 4\) numbers, got \(4, 4, 4\)"),
        ({"images": good["images"].astype(np.float32)}, "floats have to be from 0 to 1"),
        ({"focal": np.zeros(3)}, "focal: expected one number above 0"),
        ({"images": np.zeros((9, 0, 4, 3), np.uint8)}, "images: expected"),
        ({"poses": np.array([None] * 9, dtype=object)}, "is no NPZ file that can be read"),
    ]
    for change, message in bad:
        np.savez(tmp_path / "bad.npz", **{**good, **change})
        with pytest.raises(SceneError, match=message):
            read_scene(tmp_path / "bad.npz")
    np.savez(tmp_path / "floats.npz", **{**good, "images": good["images"] / np.float32(255)})
    picture = read_scene(tmp_path / "floats.npz").photos.picture(2) * 255
    np.testing.assert_array_equal(picture.round().numpy(), good["images"][2])


def test_a_bad_scene_is_data_and_not_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith(f"fieldforge: {tmp_path}: holds no scene that is known")
