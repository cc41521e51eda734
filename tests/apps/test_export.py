"""Scenes to clouds and meshes: a ball whose colours are known, in a field that was never trained."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

from fieldforge.apps.cli import main
from fieldforge.apps.export.box import EmptyBoxError
from fieldforge.apps.export.cloud import PATIENCE, cloud_of
from fieldforge.apps.export.surface import dense_box, surface_of
from fieldforge.apps.render.radiance import SceneEye
from fieldforge.apps.shapes.read import Cloud, read_shape
from fieldforge.apps.shapes.write import write_cloud
from fieldforge.fields.file import save_field
from fieldforge.fields.kinds.radiance import RadianceField
from fieldforge.renderers.cameras import paths
from fieldforge.renderers.volume import Seen

RADIUS, LEVEL = 0.6, 30.0
WHOLE = ((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
NETWORK = {"otype": "MLP", "n_neurons": 16, "n_hidden_layers": 1}


class Ball(RadianceField):
    """Half as dense at its radius as inside; red where x is above 0, blue elsewhere."""

    def density(self, points: Tensor) -> Tensor:
        return 2 * LEVEL * torch.sigmoid(60 * (RADIUS - points.norm(dim=-1)))

    def radiance(self, points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        return self.density(points), _colors(points)


class BallEye(SceneEye):
    """Sees the ball as a solid one, a quarter covered by a white background."""

    background = torch.ones(3)

    def __call__(self, origins: Tensor, directions: Tensor, times: Tensor | None = None) -> Seen:
        nearest = -(origins * directions).sum(-1)
        under = RADIUS**2 - (origins.square().sum(-1) - nearest**2)
        t = nearest - under.clamp(min=0).sqrt()
        hit = (under > 0) & (t > 0)
        color = 0.75 * _colors(origins + t[:, None] * directions) + 0.25
        color = torch.where(hit[:, None], color, self.background)
        return Seen(color, torch.where(hit, t, math.inf), 0.75 * hit.float(), 0, 0)


def _colors(points: Tensor) -> Tensor:
    is_red = (points[..., :1] > 0).float()
    return torch.cat([is_red, torch.zeros_like(is_red), 1 - is_red], -1)


@pytest.fixture(scope="module")
def ball() -> Ball:
    torch.manual_seed(0)
    return Ball(encoding="Identity", network=NETWORK, rgb_network=NETWORK)


@pytest.mark.parametrize("has_cameras", [True, False])
def test_points_lie_where_rays_end(has_cameras: bool, ball: Ball) -> None:
    cameras = paths.orbit(
        (0, 0, 0), distance=3, up=(0, 0, 1), elevation=20, n_frames=9, width=20, height=20, focal=20
    )  # fmt: skip
    shares: list[float] = []
    cloud = cloud_of(
        ball, BallEye(), cameras if has_cameras else None, n=5000, box=WHOLE, level=0.9 * LEVEL, observe=shares.append
    )  # fmt: skip
    assert cloud.points.shape == cloud.normals.shape == cloud.colors.shape == (5000, 3)
    assert np.allclose(np.linalg.norm(cloud.points, axis=1), RADIUS, atol=1e-3)
    assert ((cloud.normals * cloud.points).sum(1) / RADIUS).mean() > 0.999
    is_red = cloud.points[:, 0] > 1e-4
    assert (cloud.colors[is_red] == [255, 0, 0]).all()  # none of the white background is left
    assert 0 < is_red.mean() < 1
    assert shares == sorted(shares)
    assert shares[-1] == 1
    again = cloud_of(ball, BallEye(), cameras if has_cameras else None, n=5000, box=WHOLE, level=0.9 * LEVEL)
    assert np.array_equal(again.points, cloud.points)


def test_an_empty_box_is_an_error_with_the_box_that_would_do(ball: Ball) -> None:
    corner = ((0.8, 0.8, 0.8), (0.9, 0.9, 0.9))
    with pytest.raises(EmptyBoxError, match=f"of {PATIENCE:,} rays") as cloud:
        cloud_of(ball, BallEye(), None, n=10, box=corner, level=0.9 * LEVEL)
    with pytest.raises(EmptyBoxError, match="--crop") as mesh:
        surface_of(ball, BallEye(), box=corner, level=LEVEL, resolution=16)
    for error in (cloud.value, mesh.value):
        assert error.other is not None
        low, high = np.array(error.other)
        assert (low < -0.9 * RADIUS).all()
        assert (high < 1.2 * RADIUS).all()
        assert len(cloud_of(ball, BallEye(), None, n=10, box=error.other, level=0.9 * LEVEL).points) == 10
    with pytest.raises(EmptyBoxError, match="a lower --level"):
        surface_of(ball, BallEye(), box=WHOLE, level=1e6, resolution=16)
    assert dense_box(ball, 1e6) is None


def test_a_mesh_is_closed_where_the_box_holds_it_and_open_where_it_is_cut(ball: Ball) -> None:
    surface, colors = surface_of(ball, BallEye(), box=WHOLE, level=LEVEL, resolution=32)
    assert surface.n_open_edges == 0
    assert np.allclose(np.linalg.norm(surface.vertices, axis=1), RADIUS, atol=0.005)
    mesh = trimesh.Trimesh(surface.vertices, surface.faces, process=False)
    assert mesh.volume == pytest.approx(4 / 3 * math.pi * RADIUS**3, rel=0.02)  # triangles look outward
    far = np.abs(surface.vertices[:, 0]) > 0.05
    assert (colors[far] == np.where(surface.vertices[far, :1] > 0, [255, 0, 0], [0, 0, 255])).all()
    half, _ = surface_of(ball, BallEye(), box=((0.0, -1.0, -1.0), (1.0, 1.0, 1.0)), level=LEVEL, resolution=32)
    assert half.n_open_edges > 0
    assert half.vertices[:, 0].min() >= 0


@pytest.mark.parametrize("n", [0, 1, 17])
def test_a_cloud_in_a_file_is_the_cloud(n: int, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    points, normals = generator.normal(size=(2, n, 3)).astype(np.float32)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    colors = generator.integers(0, 256, (n, 3)).astype(np.uint8)
    write_cloud(tmp_path / "x.ply", points, normals, colors)
    assert (tmp_path / "x.ply").stat().st_size < 400 + 27 * n
    if n:
        found = trimesh.load(tmp_path / "x.ply")
        assert np.array_equal(np.asarray(found.colors)[:, :3].reshape(n, 3), colors)
        read = read_shape(tmp_path / "x.ply")
        assert isinstance(read, Cloud)
        assert np.array_equal(read.points, points)
        assert read.normals is not None
        assert np.allclose(read.normals, normals, atol=1e-6)


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    plain = RadianceField(encoding="Identity", network=NETWORK, rgb_network=NETWORK, occupancy=8)
    field = tmp_path / "x.field"
    save_field(field, plain, metadata={"run": {"fit": {"samples_across": 16}}})
    middle = float(plain.density(torch.zeros(1, 3)).detach())
    for output, options in (
        ("cloud.ply", ["--n", "50", "--level", "0.001"]),
        ("my_mesh.ply", ["--resolution", "9", "--level", str(middle)]),
        ("x.glb", ["--resolution", "9", "--level", str(middle), "--crop=-0.5,-0.5,-0.5,0.5,0.5,0.5"]),
    ):
        assert main(["export", str(field), "-o", str(tmp_path / output), *options]) == 0
        printed = capsys.readouterr().out
        assert ("points with normals" if output == "cloud.ply" else "vertices with colours") in printed
    mesh = trimesh.load(tmp_path / "my_mesh.ply")
    assert len(np.unique(np.asarray(mesh.visual.vertex_colors), axis=0)) > 1
    for output, options, sentence in (
        ("x.txt", [], "expected a name that ends in"),
        ("x.obj", ["--to", "cloud"], "goes to a .ply file"),
        ("mesh.ply", ["--n", "3"], "is of clouds"),
        ("x.ply", ["--to", "cloud", "--resolution", "3"], "is of meshes"),
        ("x.ply", ["--crop", "1,1,1,0,2,2"], "each X1 above X0"),
        ("x.ply", ["--crop", "1,1"], "expected X0,Y0,Z0"),
        ("mesh.ply", ["--level", "1e9"], "a lower --level"),
    ):
        try:
            code = main(["export", str(field), "-o", str(tmp_path / output), *options])
        except SystemExit as stopped:
            code = int(str(stopped.code))
        assert code == 2
        assert sentence in capsys.readouterr().err
