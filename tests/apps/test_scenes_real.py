"""Real and rendered scenes: formats agree, what one photo shows is where another photo shows it."""

from __future__ import annotations

import shutil
import struct
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from fieldforge.apps.scenes import Scene, SceneError, colmap, read_scene
from fieldforge.apps.scenes.llff import read_poses_bounds
from fieldforge.renderers.cameras.axes import from_axes


@pytest.fixture
def scenes(shared_data: Path) -> Path:
    folder = shared_data / "scenes"
    if not folder.is_dir():
        pytest.skip("no scenes in shared/data")
    return folder


def sampled(photo: Tensor, pixels: Tensor) -> Tensor:
    """(n, c) colours at places of a picture, between its pixels."""
    height, width, _ = photo.shape
    grid = (pixels / torch.tensor([width, height]) * 2 - 1).float()
    found = torch.nn.functional.grid_sample(photo.movedim(-1, 0)[None], grid[None, :, None], align_corners=False)
    return found[0, :, :, 0].T


# ---- fern: poses_bounds.npy, transforms.json and a COLMAP model of one capture


def with_images_bin(fern: Path, folder: Path) -> Path:
    """The scene with a complete model: images.bin is absent there, and made here from poses_bounds.npy."""
    shutil.copytree(fern / "sparse/0", folder / "sparse/0")
    (folder / "images_8").symlink_to(fern / "images_8")
    poses, _, _ = read_poses_bounds(fern / "poses_bounds.npy")
    content = struct.pack("<Q", len(poses))
    for i, pose in enumerate(poses):
        back = np.linalg.inv(from_axes(pose, "opencv"))
        angle_axis = cv2.Rodrigues(back[:3, :3])[0][:, 0]
        angle = np.linalg.norm(angle_axis)
        quaternion = [np.cos(angle / 2), *(np.sin(angle / 2) * angle_axis / angle)]
        content += struct.pack("<I7dI", i + 1, *quaternion, *back[:3, 3], 1) + f"image{i:03d}.png\0".encode()
        content += struct.pack("<Q", 0)
    (folder / "sparse/0").chmod(0o755)
    (folder / "sparse/0/images.bin").write_bytes(content)
    return folder


def points_of(fern: Path) -> tuple[colmap.Cloud, np.ndarray]:
    """Points, and (m, 21) which image, counted from 1, sees which."""
    cloud = colmap.read_points(fern / "sparse/0/points3D.bin")
    sees = np.zeros((len(cloud.ids), 21), bool)
    for row, seen in zip(sees, cloud.seen_by, strict=True):
        row[seen] = True
    return cloud, sees


def test_three_formats_of_fern_give_the_same_cameras(scenes: Path, tmp_path: Path) -> None:
    llff = read_scene(scenes / "fern/poses_bounds.npy")
    json = read_scene(scenes / "fern/transforms.json")
    model = read_scene(with_images_bin(scenes / "fern", tmp_path))
    assert [scene.format.split(":")[0] for scene in (llff, json, model)] == ["LLFF", "transforms", "COLMAP"]
    for other in (json, model):
        torch.testing.assert_close(other.cameras.poses, llff.cameras.poses, rtol=0, atol=1e-9)
        torch.testing.assert_close(other.cameras.intrinsics, llff.cameras.intrinsics, rtol=1e-12, atol=0)
        assert other.of("test").tolist() == llff.of("test").tolist() == [0, 8, 16]
    assert model.cameras.model == "opencv"  # SIMPLE_RADIAL, k = 0.0198, which LLFF leaves out
    assert model.points is not None
    assert len(model.points) == 10091
    with pytest.raises(SceneError, match=r"images\.txt: there is no such file"):
        read_scene(scenes / "fern/sparse/0/cameras.bin")


def test_points_of_fern_have_the_depths_that_llff_wrote_down(scenes: Path) -> None:
    """LLFF's bounds are the 0.1 and 99.9 percentiles of the planar depths of the points that a view sees."""
    cameras = read_scene(scenes / "fern/poses_bounds.npy").cameras
    _, _, ranges = read_poses_bounds(scenes / "fern/poses_bounds.npy")
    cloud, sees = points_of(scenes / "fern")
    for view in range(len(cameras)):
        is_seen = sees[:, view + 1]
        points = torch.from_numpy(cloud.positions[is_seen])
        _, depth = cameras.project(torch.tensor(view), points)
        np.testing.assert_allclose(np.percentile(depth.numpy(), [0.1, 99.9]), ranges[view], rtol=1e-9)
        assert cameras.sees(torch.tensor(view), points).all()


def test_points_of_fern_have_the_colours_of_the_photos_where_they_land(scenes: Path, tmp_path: Path) -> None:
    """And half a pixel to any side, they fit worse: pixel centres are at one half."""
    scene = read_scene(with_images_bin(scenes / "fern", tmp_path))
    cloud, sees = points_of(scenes / "fern")
    shifts = [(0.0, 0.0), (0.5, 0.0), (-0.5, 0.0), (0.0, 0.5), (0.0, -0.5)]
    misses = {shift: [] for shift in shifts}
    for view in range(0, len(scene.views), 4):
        is_seen = sees[:, view + 1]
        pixels, _ = scene.cameras.project(torch.tensor(view), torch.from_numpy(cloud.positions[is_seen]))
        color = torch.from_numpy(cloud.colors[is_seen]) / 255
        for shift in shifts:
            found = sampled(scene.photos.picture(view), pixels + torch.tensor(shift))
            misses[shift].append((found - color).abs().mean(1))
    means = {shift: float(torch.cat(parts).mean()) for shift, parts in misses.items()}
    assert means[0.0, 0.0] == min(means.values()), means


# ---- fox: a phone's lens


def epipolar_misses(scene: Scene, first: int, second: int) -> np.ndarray:
    """Pixels between matched features of the second photo and the plane of the first one's rays."""
    finder = cv2.SIFT_create(1500)
    found = []
    for view in (first, second):
        grey = cv2.cvtColor((scene.photos.picture(view).numpy() * 255).astype(np.uint8), cv2.COLOR_RGB2GRAY)
        found.append(finder.detectAndCompute(grey, None))
    pairs = cv2.BFMatcher().knnMatch(found[0][1], found[1][1], k=2)
    good = [one for one, other in pairs if one.distance < 0.7 * other.distance]
    # OpenCV's features have pixel centres at whole numbers.
    here = torch.tensor([found[0][0][match.queryIdx].pt for match in good], dtype=torch.float64) + 0.5
    there = torch.tensor([found[1][0][match.trainIdx].pt for match in good], dtype=torch.float64) + 0.5
    origin, ray = scene.cameras.rays(torch.tensor(first), here)
    other, seen = scene.cameras.rays(torch.tensor(second), there)
    normal = torch.nn.functional.normalize(torch.linalg.cross(other - origin, ray), dim=1)
    angle = torch.asin((normal * seen).sum(1).abs())
    return (angle * scene.cameras.intrinsics[second, 0]).numpy()


def test_features_of_fox_lie_on_each_others_epipolar_planes(scenes: Path) -> None:
    scene = read_scene(scenes / "fox")
    misses = np.concatenate([epipolar_misses(scene, first, first + 1) for first in range(0, 40, 16)])
    assert len(misses) > 200
    assert np.median(misses) < 0.3
    assert scene.cameras.model == "opencv"
    assert scene.masks is None
    view, pixels = torch.tensor(0), torch.rand(500, 2, dtype=torch.float64) * scene.cameras.sizes[0]
    origins, directions = scene.cameras.rays(view, pixels)
    assert float((scene.cameras.project(view, origins + directions)[0] - pixels).abs().max()) < 1e-6


# ---- lego


def test_lego_of_the_arrays_is_lego_of_the_folder(scenes: Path) -> None:
    small, whole = read_scene(scenes / "lego_tiny100.npz"), read_scene(scenes / "lego", downscale=4)
    assert [len(whole.of(split)) for split in ("train", "val", "test")] == [100, 5, 25]
    first = torch.arange(105)
    torch.testing.assert_close(whole.cameras.poses[first], small.cameras.poses, rtol=0, atol=1e-5)
    torch.testing.assert_close(whole.cameras.intrinsics[first], small.cameras.intrinsics, rtol=1e-5, atol=0)
    assert small.cameras.sizes.tolist() == whole.cameras.sizes[first].tolist()
    picture = whole.photos.picture(7)
    over_black = picture[..., :3] * picture[..., 3:]
    assert float((over_black - small.photos.picture(7)).abs().mean()) < 1 / 255


# ---- rendered scenes: the true depth of one view is that of the next


@pytest.mark.parametrize(
    ("name", "most"), [("render_materials", 0.002), ("render_yard360", 0.008), ("render_shelf_ff", 0.005)]
)
def test_true_depths_of_two_views_are_of_one_world(name: str, most: float, scenes: Path) -> None:
    """Depth is planar: taken for ray length, the same depths miss by far more."""
    scene = read_scene(scenes / name)
    tests = {scene.views[int(i)].name.split("/")[-1].removesuffix(".png"): int(i) for i in scene.of("test")}
    files = sorted((scenes / name / "gt_test").glob("*.npz"), key=lambda path: int(path.stem[2:]))
    errors: dict[bool, list[Tensor]] = {True: [], False: []}
    for here, there in pairwise(files):
        depth, other = (torch.from_numpy(np.load(path)["depth"]).double() for path in (here, there))
        first, second = torch.tensor(tests[here.stem]), torch.tensor(tests[there.stem])
        y, x = (depth > 0).nonzero().T
        pixels = torch.stack([x, y], 1)
        origins, directions = scene.cameras.rays(first, pixels)
        for is_planar in (True, False):
            length = depth[y, x] / (scene.cameras.planar_share(first, pixels) if is_planar else 1)
            points = origins + directions * length[:, None]
            points = points[scene.cameras.sees(second, points)]
            landed, expected = scene.cameras.project(second, points)
            column, row = landed.long().clamp(min=0).T
            known = other[row.clamp(max=len(other) - 1), column.clamp(max=other.shape[1] - 1)]
            if not is_planar:
                expected = torch.linalg.vector_norm(points - scene.cameras.positions[second], dim=1)
            errors[is_planar].append(((known - expected).abs() / expected)[known > 0])
    planar, ray = (float(torch.cat(errors[is_planar]).median()) for is_planar in (True, False))
    assert planar < most
    assert ray > 3 * planar


def test_times_of_the_dynamic_scene(scenes: Path) -> None:
    scene = read_scene(scenes / "render_dynamic")
    assert scene.format.startswith("D-NeRF")
    assert scene.times is not None
    assert (float(scene.times.min()), float(scene.times.max())) == (0.0, 1.0)
    assert scene.has_alpha
