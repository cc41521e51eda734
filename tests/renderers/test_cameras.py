"""Camera models: pixels to rays and back, against OpenCV's own functions, and where there is no way back."""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from fieldforge.renderers.cameras import MODELS, Cameras, look_at
from fieldforge.renderers.cameras.axes import decompose, from_axes, from_quaternion, from_world_to_camera

LENSES = {
    "pinhole": ("pinhole", []),
    "phone": ("opencv", [0.0578, -0.0805, -0.00098, 0.00016, 0, 0, 0, 0]),
    "barrel": ("opencv", [-0.28, 0.09, 0.001, -0.0015, -0.012, 0, 0, 0]),
    "pincushion": ("opencv", [0.45, 0.3, -0.01, 0.012, 0.2, 0, 0, 0]),
    "rational": ("opencv", [1.2, 0.4, 0.0004, -0.0003, 0.02, 1.5, 0.9, 0.08]),
    "fisheye": ("fisheye", [0.0, 0.0, 0.0, 0.0]),
    "strong fisheye": ("fisheye", [-0.06, 0.02, -0.012, 0.0016]),
    "equirectangular": ("equirectangular", []),
    "orthographic": ("orthographic", []),
}


def cameras(lens: str, n: int = 3, size: tuple[int, int] = (640, 480), focal: float = 410.0) -> Cameras:
    """A few cameras about the origin, each turned and placed differently, with one lens."""
    model, coefficients = LENSES[lens]
    generator = np.random.default_rng(4)
    poses = np.zeros((n, 3, 4))
    poses[:, :, :3] = from_quaternion(generator.normal(size=(n, 4)))
    poses[:, :, 3] = generator.normal(size=(n, 3))
    inside = [focal, focal * 1.02, size[0] / 2 - 3.5, size[1] / 2 + 2.25]
    return Cameras(
        torch.from_numpy(poses),
        torch.tensor([inside] * n, dtype=torch.float64),
        torch.tensor([size] * n),
        model,
        torch.tensor([coefficients] * n, dtype=torch.float64) if MODELS[model] else None,
    )


def somewhere(these: Cameras, n: int = 1000) -> tuple[Tensor, Tensor]:
    """Views and places all over their pictures, corners among them."""
    generator = torch.Generator().manual_seed(1)
    view = torch.randint(len(these), (n,), generator=generator)
    share = torch.rand(n, 2, generator=generator, dtype=torch.float64)
    if these.model != "equirectangular":  # its left and right border are one place, and so is each whole row at a pole
        share[:4] = torch.tensor([[0.0, 0], [1, 0], [0, 1], [1, 1]])
    return view, share * these.sizes[view]


@pytest.mark.parametrize("lens", LENSES)
def test_a_point_on_a_ray_lands_on_its_pixel(lens: str) -> None:
    """Undistortion to 1e-6 px, there and back, corners included: r = 0.99 in the normalised plane."""
    these = cameras(lens)
    view, pixels = somewhere(these)
    origins, directions = these.rays(view, pixels)
    assert directions.isfinite().all()
    torch.testing.assert_close(torch.linalg.vector_norm(directions, dim=1), torch.ones(1000, dtype=torch.float64))
    length = torch.linspace(0.1, 50, 1000, dtype=torch.float64)
    back, depth = these.project(view, origins + length[:, None] * directions)
    assert float((back - pixels).abs().nan_to_num(nan=1.0).max()) < 1e-6
    is_planar = these.model not in ("fisheye", "equirectangular")
    share = these.planar_share(view, pixels) if is_planar else torch.ones(1000, dtype=torch.float64)
    torch.testing.assert_close(depth, length * share)


@pytest.mark.parametrize("lens", ["phone", "barrel", "pincushion", "rational", "fisheye", "strong fisheye"])
def test_points_land_where_opencv_puts_them(lens: str) -> None:
    these = cameras(lens, n=1)
    _, pixels = somewhere(these)
    origins, directions = these.rays(torch.tensor(0), pixels)
    points = origins + 3 * directions
    ours, _ = these.project(torch.tensor(0), points)
    world_to_camera = np.linalg.inv(np.vstack([these.poses[0].numpy() @ np.diag([1, -1, -1, 1]), [0, 0, 0, 1]]))
    fx, fy, cx, cy = these.intrinsics[0].tolist()
    matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    turn, shift = cv2.Rodrigues(world_to_camera[:3, :3])[0], world_to_camera[:3, 3:].copy()
    assert these.distortion is not None
    coefficients = these.distortion[0].numpy()
    if these.model == "fisheye":
        theirs, _ = cv2.fisheye.projectPoints(points.numpy()[:, None], turn, shift, matrix, coefficients)
    else:
        theirs, _ = cv2.projectPoints(points.numpy(), turn, shift, matrix, coefficients)
    np.testing.assert_allclose(ours.numpy(), theirs[:, 0], atol=1e-6)


def test_beyond_the_fold_there_is_no_ray_and_no_pixel() -> None:
    """With k1 = -0.3 alone the picture folds at r = sqrt(1 / 0.9), which lies 0.703 focal lengths from the centre."""
    these = Cameras(
        torch.eye(4, dtype=torch.float64)[None, :3],
        torch.tensor([[100.0, 100, 100, 100]], dtype=torch.float64),
        torch.tensor([[200, 200]]),
        "opencv",
        torch.tensor([[-0.3, 0, 0, 0, 0, 0, 0, 0]], dtype=torch.float64),
    )
    zero = torch.tensor(0)
    fold = math.sqrt(1 / 0.9)
    edge = fold * (1 - 0.3 * fold**2) * 100
    places = torch.tensor([[100 + edge - 1e-3, 100], [100 + edge + 1e-3, 100], [0, 0]], dtype=torch.float64)
    assert these.has_ray(zero, places).tolist() == [True, False, False]
    assert these.rays(zero, places)[1].isnan().any(1).tolist() == [False, True, True]
    points = torch.tensor([[fold - 1e-6, 0, -1], [fold + 1e-6, 0, -1], [1.8, 0, -1], [0, 0, 1]], dtype=torch.float64)
    assert these.project(zero, points)[0].isnan().any(1).tolist() == [False, True, True, True]
    assert these.sees(zero, points).tolist() == [True, False, False, False]


def test_a_fisheye_sees_behind_itself_up_to_its_limit() -> None:
    these = replace(cameras("fisheye", n=1, focal=150.0), poses=torch.eye(4, dtype=torch.float64)[None, :3])
    angle = torch.tensor([1.0, 2.0, 3.0, 3.1], dtype=torch.float64)
    points = torch.stack([angle.sin(), torch.zeros(4, dtype=torch.float64), -angle.cos()], -1)
    pixels, _ = these.project(torch.tensor(0), points)
    torch.testing.assert_close(pixels[:, 0] - these.intrinsics[0, 2], 150 * angle)


def test_an_equirectangular_picture_goes_once_around() -> None:
    these = replace(cameras("equirectangular", n=1), poses=torch.eye(4, dtype=torch.float64)[None, :3])
    places = torch.tensor([[320.0, 240], [480, 240], [0, 240], [640, 240], [17, 0]], dtype=torch.float64)
    _, directions = these.rays(torch.tensor(0), places)
    expected = [[0.0, 0, -1], [1, 0, 0], [0, 0, 1], [0, 0, 1], [0, 1, 0]]
    torch.testing.assert_close(directions, torch.tensor(expected, dtype=torch.float64), atol=1e-12, rtol=0)


def test_orthographic_rays_are_parallel_and_start_on_a_plane() -> None:
    these = cameras("orthographic", n=1, focal=100.0)
    origins, directions = these.rays(torch.tensor(0), torch.tensor([[10.0, 20.0], [110.0, 20.0]]))
    torch.testing.assert_close(directions[0], these.forwards[0])
    torch.testing.assert_close(directions[0], directions[1])
    torch.testing.assert_close(origins[1] - origins[0], these.poses[0, :, 0])


@pytest.mark.parametrize("lens", ["pinhole", "barrel", "strong fisheye", "equirectangular", "orthographic"])
def test_a_whole_picture_is_its_pixels_by_their_centres(lens: str) -> None:
    """Integers are pixels and floats are places; the table of a distorted lens holds the same rays."""
    these = cameras(lens, size=(31, 17), focal=20.0)
    view = torch.full((2 * 31,), 1)
    y, x = torch.meshgrid(torch.arange(5, 7), torch.arange(31), indexing="ij")
    pixels = torch.stack([x.reshape(-1), y.reshape(-1)], -1)
    for whole, ours in zip(these.picture_rays(1, 5, 7), these.rays(view, pixels), strict=True):
        torch.testing.assert_close(whole, ours, rtol=0, atol=0)
    for table, solved in zip(these.rays(view, pixels), these.rays(view, pixels + 0.5), strict=True):
        torch.testing.assert_close(table, solved, rtol=0, atol=1e-12)


def test_shrinking_a_picture_keeps_its_rays() -> None:
    """Also where the lens differs between views and sizes do not divide."""
    these = cameras("barrel", size=(41, 29), focal=20.0)
    small = these.downscaled(4)
    assert small.sizes[0].tolist() == [10, 7]
    places = torch.tensor([[1.0, 2.0], [7.5, 3.25]], dtype=torch.float64)
    torch.testing.assert_close(these.rays(torch.tensor(1), places * 4)[1], small.rays(torch.tensor(1), places)[1])


@pytest.mark.parametrize("lens", ["pinhole", "barrel", "strong fisheye", "orthographic"])
def test_rays_and_projections_have_derivatives_in_every_parameter(lens: str) -> None:
    these = cameras(lens, n=1, size=(64, 48), focal=40.0)
    view, pixels = torch.tensor([0, 0]), torch.tensor([[3.0, 4.0], [33.0, 20.0]], dtype=torch.float64)
    origins, directions = these.rays(view, pixels)
    points = (origins + 2 * directions).detach().requires_grad_()
    leaves = [these.poses.clone().requires_grad_(), these.intrinsics.clone().requires_grad_()]
    leaves += [] if these.distortion is None else [these.distortion.clone().requires_grad_()]

    def with_leaves(poses: Tensor, intrinsics: Tensor, *coefficients: Tensor) -> Cameras:
        distortion = coefficients[0] if coefficients else None
        return replace(these, poses=poses, intrinsics=intrinsics, distortion=distortion)

    assert torch.autograd.gradcheck(lambda *all: with_leaves(*all).rays(view, pixels), leaves)
    assert torch.autograd.gradcheck(
        lambda points, *all: with_leaves(*all).project(view, points), [points, *leaves], atol=1e-4
    )


def test_no_rays_and_no_cameras_work() -> None:
    these = cameras("barrel")
    nothing = torch.zeros(0, dtype=torch.int64)
    assert these.rays(nothing, torch.zeros(0, 2))[1].shape == (0, 3)
    assert these.project(nothing, torch.zeros(0, 3, dtype=torch.float64))[0].shape == (0, 2)
    assert len(these.select([])) == 0


def test_float32_rays_stay_within_a_hundredth_of_a_pixel() -> None:
    for lens in LENSES:
        these = cameras(lens)
        view, pixels = somewhere(these)
        _, exact = these.rays(view, pixels)
        _, rough = these.to(torch.float32).rays(view, pixels.float())
        assert rough.dtype == torch.float32
        worst = float(torch.linalg.vector_norm(rough - exact, dim=1).max())
        assert worst * 410 < 1e-2, f"{lens}: {worst * 410} px"


def test_wrong_shapes_are_told_by_name() -> None:
    these = cameras("barrel")
    with pytest.raises(ValueError, match=r"distortion: expected \(3, 8\) for 3 opencv cameras, got \(3, 4\)"):
        replace(these, distortion=torch.zeros(3, 4))
    with pytest.raises(ValueError, match="model: expected one of pinhole"):
        replace(these, model="pinhol")
    with pytest.raises(ValueError, match="sizes: expected int64"):
        replace(these, sizes=these.sizes.float())


def test_a_single_camera_is_a_batch_of_one() -> None:
    one = look_at((1.0, -3.0, 0.5), (0.0, 0.0, 0.0), width=5, height=4)
    torch.testing.assert_close(one.rays(1, 3)[1], one.cameras().picture_rays(0)[1][5:15])
    pixels, depth = one.cameras().project(torch.tensor(0), torch.zeros(1, 3))
    torch.testing.assert_close(pixels, torch.tensor([[2.5, 2.0]]))
    torch.testing.assert_close(depth, torch.tensor([math.sqrt(10.25)]))


# ---- axes


def test_axes_of_other_systems_name_the_same_camera() -> None:
    """A camera that looks along +x with z up, as OpenGL, OpenCV and LLFF write it."""
    right, up, back = np.array([0, -1, 0]), np.array([0, 0, 1]), np.array([-1, 0, 0])
    ours = np.stack([right, up, back, [1, 2, 3]], 1)
    np.testing.assert_array_equal(from_axes(np.stack([right, -up, -back, [1, 2, 3]], 1), "opencv"), ours)
    np.testing.assert_array_equal(from_axes(np.stack([-up, right, back, [1, 2, 3]], 1), "llff"), ours)
    np.testing.assert_array_equal(from_axes(ours, "opengl"), ours)


@pytest.mark.parametrize("scale", [1.0, -3.7])
def test_a_projection_matrix_comes_apart_into_what_it_was_made_of(scale: float) -> None:
    generator = np.random.default_rng(2)
    inside = np.array([[500.0, 0, 320], [0, 480, 200], [0, 0, 1]])
    rotation, shift = from_quaternion(generator.normal(size=4)), generator.normal(size=3)
    found, pose = decompose(scale * inside @ np.column_stack([rotation, shift]))
    np.testing.assert_allclose(found, inside, atol=1e-9)
    np.testing.assert_allclose(pose, from_world_to_camera(rotation, shift), atol=1e-12)
    with pytest.raises(ValueError, match="singular"):
        decompose(np.ones((3, 4)))


def test_quaternions_turn_as_they_should() -> None:
    half = math.sqrt(0.5)
    np.testing.assert_allclose(from_quaternion(np.array([half, 0, 0, half])) @ [1, 0, 0], [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(from_quaternion(np.array([2.0, 0, 0, 0])), np.eye(3))
