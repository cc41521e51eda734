"""Flights through scenes: camera paths of other programs, cameras that a file remembers, normals that are seen."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fieldforge.apps.cli import main
from fieldforge.apps.images import read_image
from fieldforge.apps.render.camera_paths import Flight, read_camera_path
from fieldforge.apps.render.flight import flight_of
from fieldforge.apps.render.normals import density_normals, picture_normals
from fieldforge.apps.render.pictures import look
from fieldforge.apps.render.radiance import SceneEye
from fieldforge.apps.render.remembered import N_CAMERAS, remember_cameras, remembered_cameras
from fieldforge.apps.scenes import SceneError
from fieldforge.fields.file import save_field
from fieldforge.fields.kinds.radiance import RadianceField
from fieldforge.renderers.cameras import Cameras, paths
from fieldforge.renderers.cameras.axes import to_quaternion
from fieldforge.renderers.volume import Seen

SIDE, RADIUS = 40, 0.7


def ring(n: int) -> np.ndarray:
    cameras = paths.orbit((0, 0, 0), distance=3, up=(0, 0, 1), elevation=20, n_frames=n, width=8, height=8, focal=8)
    return cameras.poses.double().numpy()


def square(poses: np.ndarray) -> np.ndarray:
    return np.concatenate([poses, np.tile([[[0.0, 0.0, 0.0, 1.0]]], (len(poses), 1, 1))], 1)


def nerfstudio(poses: np.ndarray, **more: Any) -> dict[str, Any]:
    frames = [{"camera_to_world": pose.reshape(-1).tolist(), "fov": 60.0, "aspect": 1} for pose in square(poses)]
    return {"render_width": 32, "render_height": 24, "fps": 24, "seconds": 2, "camera_path": frames, **more}


def instant_ngp(poses: np.ndarray, **more: Any) -> dict[str, Any]:
    """Into its cube as its source has it: y and z of the camera turned, 0.33 x + 0.5, rows y z x."""
    moved = poses * np.array([1.0, -1.0, -1.0, 1.0])
    moved[:, :, 3] = 0.33 * moved[:, :, 3] + 0.5
    moved = moved[:, [1, 2, 0]]
    turns = to_quaternion(moved[:, :, :3])[:, [1, 2, 3, 0]]
    keys = [
        {"R": turn.tolist(), "T": pose[:, 3].tolist(), "fov": 60.0, "slice": 0.0, "scale": 1.0, "aperture_size": 0.0}
        for turn, pose in zip(turns, moved, strict=True)
    ]  # fmt: skip
    return {"path": keys, "duration_seconds": 2.0, "spline_order": 1, "loop": False, "time": 0.0, **more}


def nerfbaselines(poses: np.ndarray, **more: Any) -> dict[str, Any]:
    turned = poses * np.array([1.0, -1.0, -1.0, 1.0])
    frames = [{"pose": pose.reshape(-1).tolist(), "intrinsics": [20.0, 21.0, 16.0, 12.0]} for pose in turned]
    head = {"format": "nerfbaselines-v1", "camera_model": "pinhole", "image_size": [32, 24], "fps": 12}
    return {**head, "frames": frames, **more}


def flight_from(folder: Path, content: Any, **options: Any) -> Flight:
    path = folder / "camera_path.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_camera_path(path, **options)


@pytest.mark.parametrize("write", [nerfstudio, instant_ngp, nerfbaselines])
def test_paths_of_other_programs_stand_where_they_stood(write: Any, tmp_path: Path) -> None:
    flight = flight_from(tmp_path, write(ring(5)), size_of_photos=(32, 24))
    n = len(flight.cameras)
    assert n == (60 if write is instant_ngp else 5)
    picked = flight.cameras.poses[[0, -1]].numpy()
    assert np.allclose(picked, ring(5)[[0, -1]], atol=1e-5)
    assert flight.cameras.sizes.unique(dim=0).tolist() == [[32, 24]]
    focal = 12 / math.tan(math.radians(30)) if write is not nerfbaselines else 21.0
    assert float(flight.cameras.intrinsics[0, 1]) == pytest.approx(focal)
    assert flight.frames_per_second == pytest.approx({nerfstudio: 2.5, instant_ngp: 30, nerfbaselines: 12}[write])


def test_another_size_shows_the_same_from_top_to_bottom(tmp_path: Path) -> None:
    for write in (nerfstudio, nerfbaselines):
        small, large = (flight_from(tmp_path, write(ring(2)), size=size).cameras for size in (None, (96, 72)))
        for place in (0.0, 0.3, 1.0):
            rows = [cameras.sizes[:1] * place for cameras in (small, large)]
            first, second = (
                cameras.rays(torch.tensor([1]), row.float())[1]
                for cameras, row in zip((small, large), rows, strict=True)
            )
            torch.testing.assert_close(first, second)


def test_lenses_and_times_of_a_path_are_kept(tmp_path: Path) -> None:
    ahead = nerfstudio(ring(3), camera_type="equirectangular")
    ahead["camera_path"][1]["render_time"] = 0.5
    sphere = flight_from(tmp_path, ahead)
    assert (sphere.cameras.model, sphere.times) == ("equirectangular", None)
    for i, frame in enumerate(ahead["camera_path"]):
        frame["render_time"] = i / 2
    timed = flight_from(tmp_path, ahead)
    assert timed.times is not None
    assert timed.times.tolist() == [0, 0.5, 1]
    _, directions = sphere.cameras.picture_rays(0)
    assert float(directions.sum(0).norm()) < 0.2 * len(directions)  # all around
    assert flight_from(tmp_path, nerfstudio(ring(3), camera_type="fisheye")).cameras.model == "fisheye"
    bent = nerfbaselines(ring(3), camera_model="opencv")
    for frame in bent["frames"]:
        frame["distortion_parameters"] = [0.1, 0.0, 0.0, 0.0]
    assert float(flight_from(tmp_path, bent).cameras.distortion[0, 0]) == pytest.approx(0.1)  # type: ignore[index]


def test_nerfstudios_own_coordinates_lead_back_to_the_photos(tmp_path: Path) -> None:
    turn, move, scale = square(ring(1))[0, :3, :3], np.array([0.3, -0.2, 0.9]), 0.25
    (tmp_path / "dataparser_transforms.json").write_text(
        json.dumps({"transform": np.concatenate([turn, move[:, None]], 1).tolist(), "scale": scale})
    )
    there = ring(4).copy()
    there[:, :, 3] = scale * (there[:, :, 3] @ turn.T + move)
    there[:, :, :3] = turn @ there[:, :, :3]
    flight = flight_from(tmp_path, nerfstudio(there))
    assert np.allclose(flight.cameras.poses.numpy(), ring(4), atol=1e-5)
    assert any("dataparser_transforms" in note for note in flight.notes)


def test_fewer_frames_are_picked_and_more_are_not_made_up(tmp_path: Path) -> None:
    flight = flight_from(tmp_path, nerfstudio(ring(9)), n_frames=3)
    assert np.allclose(flight.cameras.poses.numpy(), ring(9)[[0, 3, 6]], atol=1e-6)
    assert flight.frames_per_second == pytest.approx(1.5)
    with pytest.raises(SceneError, match="has 9 of them"):
        flight_from(tmp_path, nerfstudio(ring(9)), n_frames=10)
    assert len(flight_from(tmp_path, instant_ngp(ring(9)), n_frames=7).cameras) == 7


def _with(content: dict[str, Any], *keys: Any, value: Any) -> dict[str, Any]:
    place: Any = content
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    return content


HOSTILE: list[tuple[Any, str]] = [
    ("[" * 100_000, "is not JSON"),
    ([], "JSON object"),
    ({}, "no camera path that is known"),
    (nerfstudio(ring(1)[:0]), "at least one camera"),
    ({"camera_path": [3]}, "at least one camera"),
    (nerfstudio(ring(2), render_width=10**9), "1x1 to 4096x4096"),
    (nerfstudio(ring(2), render_height=0), "1x1 to"),
    (nerfstudio(ring(2), render_height="8"), "expected a number"),
    (nerfstudio(ring(2), camera_type="omnidirectional"), "a picture for each eye"),
    (nerfstudio(ring(2), camera_type=["x"]), "camera_type: expected"),
    (nerfstudio(ring(2), seconds=0), "seconds"),
    (_with(nerfstudio(ring(2)), "camera_path", 1, "fov", value=180), r"camera_path\[1\].fov"),
    (_with(nerfstudio(ring(2)), "camera_path", 1, "fov", value=None), r"camera_path\[1\].fov"),
    (_with(nerfstudio(ring(2)), "camera_path", 1, "camera_to_world", value=[1] * 15), "12 or 16 numbers"),
    (_with(nerfstudio(ring(2)), "camera_path", 1, "camera_to_world", value=[2] * 16), "not a rotation"),
    (_with(nerfstudio(ring(2)), "camera_path", 0, "camera_to_world", 3, value=1e400), "finite number"),
    (_with(instant_ngp(ring(2)), "path", 0, "R", value=[0, 0, 0, 0]), "a quaternion"),
    (_with(instant_ngp(ring(2)), "path", 0, "T", value=[0, 0]), "expected 3 numbers"),
    (_with(instant_ngp(ring(2)), "path", 0, "T", 0, value=1e300), "pose holds"),
    (instant_ngp(ring(2), spline_order=9), "spline_order"),
    (instant_ngp(ring(2), duration_seconds=-1), "duration_seconds"),
    (nerfbaselines(ring(2), image_size=[1]), "image_size"),
    (nerfbaselines(ring(2), camera_model="full"), "camera_model"),
    (_with(nerfbaselines(ring(2)), "frames", 0, "intrinsics", value=[0, 1, 1, 1]), "above 0"),
]


@pytest.mark.parametrize(("content", "sentence"), HOSTILE)
def test_files_that_are_no_paths_are_one_sentence(content: Any, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(SceneError, match=sentence):
        flight_from(tmp_path, content)


def test_a_header_remembers_a_few_cameras_and_strange_ones_are_looked_past() -> None:
    kept = remember_cameras(ring(100))
    assert len(kept) == N_CAMERAS
    assert len(json.dumps(kept)) < 3000
    back = remembered_cameras({"signal": {"cameras": kept}})
    assert back is not None
    assert np.allclose(back, ring(100)[np.arange(32) * 100 // 32], atol=1e-4)
    row = [0, 0, 0, 1, 0, 0, 0]
    not_rows: list[Any] = [None, 3, [], [row] * 1000, [{}]]
    not_poses: list[list[Any]] = [row[:6], ["0"] * 7, [0] * 7, [*row[:6], True], [1e99, *row[1:]], [math.nan] * 7]
    for strange in (*not_rows, *([one] for one in not_poses)):
        assert remembered_cameras({"signal": {"cameras": strange}}) is None


# ---- of a field


class Ball(RadianceField):
    """Dense in a ball, white."""

    def density(self, points: Tensor) -> Tensor:
        return 60 * torch.sigmoid(60 * (RADIUS - points.norm(dim=-1)))


@pytest.fixture(scope="module")
def plain() -> RadianceField:
    network = {"otype": "MLP", "n_neurons": 16, "n_hidden_layers": 1}
    torch.manual_seed(0)
    return RadianceField(encoding="Identity", network=network, rgb_network=network, occupancy=8)


class BallEye(SceneEye):
    """Sees a white ball."""

    background = torch.zeros(3)

    def __call__(self, origins: Tensor, directions: Tensor, times: Tensor | None = None) -> Seen:
        nearest = -(origins * directions).sum(-1)
        under = RADIUS**2 - (origins.square().sum(-1) - nearest**2)
        hit = under > 0
        distance = torch.where(hit, nearest - under.clamp(min=0).sqrt(), math.inf)
        return Seen(torch.ones(len(origins), 3), distance, hit.float(), 0, 0)


def test_normals_of_a_ball_point_outward(plain: RadianceField) -> None:
    field = Ball(encoding="Identity", network=plain.network, rgb_network=plain.rgb_network)
    cameras = paths.orbit(
        (0, 0, 0), distance=3, up=(0, 0, 1), elevation=20, n_frames=3, width=SIDE, height=SIDE, focal=SIDE
    )  # fmt: skip
    picture = look(BallEye(), cameras, 1)
    normals = torch.from_numpy(picture_normals(field, cameras, 1, picture)).view(-1, 3)
    origins, directions = cameras.picture_rays(1)
    is_seen = torch.from_numpy(picture.opacity).view(-1) > 0
    points = origins[is_seen] + torch.from_numpy(picture.distance).view(-1)[is_seen, None] * directions[is_seen]
    cosine = (normals[is_seen] * points / RADIUS).sum(-1).clamp(-1, 1)
    assert torch.rad2deg(torch.acos(cosine)).mean() < 2.0  # 26 taps know no more directions
    assert (normals[~is_seen] == 0).all()
    assert density_normals(lambda points: points[:, 0], torch.zeros(0, 3), 0.1).shape == (0, 3)
    even = density_normals(lambda points: torch.ones(len(points)), torch.zeros(5, 3), 0.1)
    assert (even == 0).all()


def test_a_lens_that_shows_nothing_in_its_corners_is_seen_through_where_it_does() -> None:
    pose = torch.tensor([[[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 3]]])
    fold = torch.tensor([[-0.3, 0, 0, 0, 0, 0, 0, 0.0]])
    cameras = Cameras(pose, torch.tensor([[16.0, 16, 16, 16]]), torch.tensor([[32, 32]]), "opencv", fold)
    picture = look(BallEye(), cameras, 0)
    assert not np.isnan(picture.color).any()
    assert (picture.opacity[0, 0], picture.opacity[16, 16]) == (0, 1)
    assert picture.planar_z[16, 16] == pytest.approx(3 - RADIUS, abs=0.01)


@pytest.mark.parametrize("path", ["interpolate", "orbit", None])
def test_a_flight_starts_where_photos_were_taken(path: str | None, plain: RadianceField) -> None:
    signal = {"width": 21, "height": 10, "focal": 20.0, "cameras": remember_cameras(ring(6)), "up": [0, 0, 1]}
    flight = flight_of(plain, {"signal": signal}, path=path)
    assert flight.cameras.sizes[0].tolist() == [22, 10]
    assert len(flight.cameras) == (50 if path == "interpolate" else 120)
    torch.testing.assert_close(flight.cameras.poses[0], torch.from_numpy(ring(6)[0]).float(), atol=1e-4, rtol=0)


def test_the_commands(plain: RadianceField, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("av")
    import av

    field, path = tmp_path / "x.field", tmp_path / "path.json"
    save_field(field, plain, metadata={"signal": {"width": 20, "height": 16}})
    path.write_text(json.dumps(nerfstudio(ring(4), camera_type="equirectangular")))
    for options in (["--path", str(path), "--fps", "5"], ["--frames", "4", "--normals"], ["--frames", "4", "--depth"]):
        assert main(["render", str(field), "-o", str(tmp_path / "x.mp4"), *options]) == 0
        with av.open(str(tmp_path / "x.mp4")) as film:
            rate = film.streams.video[0].average_rate
            frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
        assert len(frames) == 4
        assert frames[0].shape == ((24, 32, 3) if "--path" in options else (16, 20, 3))
        assert rate == (5 if "--path" in options else 30)
    picture = tmp_path / "x.png"
    assert main(["render", str(field), "-o", str(picture), "--path", str(path), "--normals", "--quiet"]) == 0
    assert read_image(picture).pixels.shape == (24, 32, 3)
    capsys.readouterr()
    film = str(tmp_path / "y.mp4")
    for output, options, sentence in (
        (film, ["--path", "spiral"], "give their folder with --data"),
        (film, ["--path", "spyral"], "did you mean spiral"),
        (film, ["--path", str(tmp_path / "no.json")], "there is no such file"),
        (film, ["--size", "99999x2"], "1x1 to 4096x4096"),
        (film, ["--clay"], "there is colour, --depth and --normals"),
        (film, ["--data", str(tmp_path)], "give --split"),
        (str(picture), ["--frames", "3"], "is of videos"),
    ):
        try:
            code = main(["render", str(field), "-o", output, *options])
        except SystemExit as stopped:
            code = int(str(stopped.code))
        assert code in (1, 2)
        assert sentence in capsys.readouterr().err
    assert not Path(film).exists()
