"""Pictures and meshes of fitted shapes: smooth outlines, nothing lost on the way, and old files whole when stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh

from fieldforge.apps import mesh as mesh_app
from fieldforge.apps.cli import main
from fieldforge.apps.mesh import SLOPE, extract
from fieldforge.apps.render import command, shape
from fieldforge.apps.render.shape import MODES, VIEWS, orbit, render_shape, render_strips
from fieldforge.apps.render.traced import N_BLOCKS, TracedShape
from fieldforge.fields.file import load_field
from fieldforge.fields.kinds.shape import OccupancyField, SDFField, ShapeField, UDFField
from fieldforge.renderers.isosurface import BLOCK, isosurface
from fieldforge.renderers.marching_cubes import marching_cubes

SMALL = [
    "encoding.n_levels=5", "encoding.log2_hashmap_size=13", "encoding.per_level_scale=1.6", "fit.batch_size=4096",
    "fit.pool_size=16384", "network.n_neurons=32",
]  # fmt: skip
RADIUS = 0.3
PARTS: dict[str, Any] = {"encoding": "Identity", "network": {"otype": "MLP", "n_neurons": 16}}


def sphere(unit: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vector_norm(unit - 0.5, dim=-1) - RADIUS


class Ball(SDFField):
    def level_in_cube(self, unit: torch.Tensor) -> torch.Tensor:
        return sphere(unit)


class CloudyBall(OccupancyField):
    def level_in_cube(self, unit: torch.Tensor) -> torch.Tensor:
        return 0.5 - torch.sigmoid(-100 * sphere(unit))


class Shell(UDFField):
    def level_in_cube(self, unit: torch.Tensor) -> torch.Tensor:
        return sphere(unit).abs()


class Frame(SDFField):
    """A box that reaches into the corners of the cube."""

    def level_in_cube(self, unit: torch.Tensor) -> torch.Tensor:
        return (unit - 0.5).abs().max(-1).values - 0.47


def test_all_of_a_shape_is_in_the_picture_and_little_else() -> None:
    for field, least in ((Frame(**PARTS), 0.4), (Ball(**PARTS), 0.6)):
        camera = orbit(*VIEWS["iso"], size=(48, 64), radius=TracedShape(field).radius)
        seen = render_shape(field, camera, "depth")[..., 3] > 0
        assert not seen[[0, -1]].any()
        assert not seen[:, [0, -1]].any()
        assert seen[8:-8].mean() > least


BALLS = [Ball(**PARTS), CloudyBall(**PARTS), Shell(**PARTS)]


@pytest.fixture(scope="module")
def ball(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a ball of radius 10, fitted for a moment."""
    folder = tmp_path_factory.mktemp("fitted")
    trimesh.creation.icosphere(4, 10.0).export(folder / "ball.obj")
    options = [part for override in SMALL for part in ("--set", override)]
    assert main(["fit", "shape", str(folder / "ball.obj"), "--steps", "150", "--quiet", *options]) == 0
    return folder / "ball.field"


# ---- pictures


@pytest.mark.parametrize("field", BALLS, ids=lambda field: field.otype)
def test_normals_and_outline_of_every_kind_are_those_of_a_ball(field: ShapeField) -> None:
    camera = orbit(0.0, 0.0, size=(81, 81))
    picture = render_shape(field, camera, "normals")
    radius = RADIUS + (0.001 if not field.is_signed else 0)
    distance = 0.55 / np.sin(np.radians(17.5))
    y, x = np.mgrid[:81, :81] - 40.0
    on_ball = camera.focal * np.tan(np.arcsin(radius / distance))
    rings = np.hypot(x, y)
    coverage = picture[..., 3]
    assert coverage[rings < on_ball - 1].min() == 1
    assert coverage[rings > on_ball + 1].max() == 0
    assert coverage.sum() == pytest.approx(np.pi * on_ball**2, rel=0.02)  # a hit within a fifth of a pixel is one
    assert set(np.unique(coverage)) == {0.0, 0.25, 0.5, 0.75, 1.0}  # the outline is smooth
    # in the middle of the ball its normal looks at the camera; at half the radius it is turned by what asin says
    normal = picture[..., :3] * 2 - 1
    np.testing.assert_allclose(normal[40, 40], [0, 0, 1], atol=0.02)
    origins, directions = (part.numpy().astype(np.float64).reshape(81, 81, 3) for part in camera.rays())
    from_centre = origins - 0.5
    along = (from_centre * directions).sum(-1)
    under = along**2 - (from_centre**2).sum(-1) + radius**2
    point = from_centre + (-along - np.sqrt(under.clip(0)))[..., None] * directions
    sure = rings < 0.95 * on_ball
    np.testing.assert_allclose(normal[sure], point[sure] / radius, atol=0.05)


@pytest.mark.parametrize("mode", MODES)
def test_strips_do_not_show(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    camera = orbit(30.0, 20.0, size=(50, 41))
    whole = render_shape(BALLS[0], camera, mode)
    monkeypatch.setattr(shape, "_RAYS", 150)
    strips = list(render_strips(TracedShape(BALLS[0]), camera, mode))
    assert len(strips) == 14
    np.testing.assert_allclose(np.concatenate(strips), whole, atol=1e-5)


def test_curvature_is_red_on_a_ball_and_blue_in_a_hollow() -> None:
    class Hollow(SDFField):
        def level_in_cube(self, unit: torch.Tensor) -> torch.Tensor:
            return torch.maximum(-sphere(unit), (unit[..., 2] - 0.5).abs() - 0.4).where(unit[..., 2] < 0.55, 1.0)

    camera = orbit(0.0, 0.0, size=(21, 21))
    bulge = render_shape(BALLS[0], camera, "curvature")[10, 10]
    hollow = render_shape(Hollow(**PARTS), camera, "curvature")[10, 10]
    assert bulge[0] > bulge[2] + 0.02
    assert hollow[2] > hollow[0] + 0.02


def test_shadows_darken_what_lies_behind_and_nothing_else() -> None:
    class Pair(SDFField):
        """A ball before a wall, seen from the front; light comes from the upper left, behind the camera."""

        def level_in_cube(self, unit: torch.Tensor) -> torch.Tensor:
            ball = torch.linalg.vector_norm(unit - torch.tensor([0.5, 0.5, 0.7]), dim=-1) - 0.12
            return torch.minimum(ball, unit[..., 2] - 0.3)

    camera = orbit(0.0, 0.0, size=(101, 101))
    plain = render_shape(Pair(**PARTS), camera)
    shaded = render_shape(Pair(**PARTS), camera, shadows=True)
    darker = (plain - shaded)[..., :3].mean(-1)
    assert darker.min() > -0.01
    y, x = np.nonzero(darker > 0.1)
    assert 50 < len(x) < 0.2 * darker.size
    assert x.mean() > 55  # to the right of the ball and below it
    assert y.mean() > 55
    assert np.abs(darker[:30, :30]).max() < 0.01
    with pytest.raises(ValueError, match="shadows: are thrown in mode 'clay'"):
        next(render_strips(TracedShape(BALLS[0]), camera, "depth", shadows=True))


def test_an_empty_field_is_an_empty_picture() -> None:
    class Nothing(SDFField):
        def level_in_cube(self, unit: torch.Tensor) -> torch.Tensor:
            return torch.ones_like(unit[..., 0])

    for mode in MODES:
        assert render_shape(Nothing(**PARTS), orbit(0.0, 0.0, size=(9, 9)), mode).max() == 0


def test_a_picture_asks_few_points_of_a_ray() -> None:
    asked = 0

    class Counted(SDFField):
        def level_in_cube(self, unit: torch.Tensor) -> torch.Tensor:
            nonlocal asked
            asked += len(unit)
            return sphere(unit)

    shape = TracedShape(Counted(**PARTS))
    assert shape.cells.cells.shape == (1, *(N_BLOCKS,) * 3)
    asked = 0
    list(render_strips(shape, orbit(*VIEWS["iso"], size=(300, 300)), "depth"))
    assert asked < 4 * 300 * 300


# ---- meshes of fitted fields


def by_place(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(m, 9) corners of triangles in an order that does not depend on who made them."""
    corners = np.round(vertices[faces], 9)
    first = np.lexsort(corners.transpose(2, 0, 1)[::-1], axis=1)[:, 0]
    turned = np.stack([corners[np.arange(len(corners)), (first + k) % 3] for k in range(3)], 1).reshape(-1, 9)
    return turned[np.lexsort(turned.T[::-1])]


def test_coarse_to_fine_finds_every_triangle_of_a_fitted_field(ball: Path) -> None:
    field, _ = load_field(ball)
    n = 128
    found = isosurface(field.level_in_cube, ((0.0,) * 3, (1.0,) * 3), resolution=n, is_distance=True, slope=SLOPE)
    blocks = np.stack(np.meshgrid(*(np.arange(n // BLOCK),) * 3, indexing="ij"), -1).reshape(-1, 3)
    axis = torch.from_numpy((np.arange(n + 1) * (1.0 / n)).astype(np.float32))
    with torch.no_grad():
        rows = [field.level_in_cube(torch.cartesian_prod(x[None], axis, axis)) for x in axis]
    lattice = torch.stack(rows).view(n + 1, n + 1, n + 1)
    windows = lattice.unfold(0, BLOCK + 1, BLOCK).unfold(1, BLOCK + 1, BLOCK).unfold(2, BLOCK + 1, BLOCK)
    values = windows.reshape(-1, *(BLOCK + 1,) * 3).numpy()
    vertices, faces = marching_cubes(values, blocks * BLOCK, np.full(3, n + 1))
    assert len(found.faces) == len(faces) > 10_000
    np.testing.assert_allclose(by_place(found.vertices, found.faces), by_place(vertices / n, faces), atol=1e-6)


@pytest.mark.slow
def test_a_fine_mesh_of_a_fitted_field_asks_near_its_surface_alone(ball: Path) -> None:
    """A ball that fills its cube has more surface than most bodies; evaluations grow with that, not with the cells."""
    field, _ = load_field(ball)
    surface = extract(field, resolution=512)  # type: ignore[arg-type]
    cells_met = 4 * np.pi * (10.0 / field.side * 512) ** 2  # type: ignore[attr-defined]
    assert surface.n_evaluated < 25 * cells_met
    assert surface.n_evaluated < 0.15 * surface.n_cells


def test_a_level_out_of_range_is_said_in_the_units_of_the_mesh(ball: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mesh", str(ball), "-o", str(ball.parent / "x.ply"), "--level", "50", "--resolution", "32"]) == 2
    said = capsys.readouterr().err
    assert "level: 50 is nowhere in the box" in said
    low, high = (float(word) for word in said.rsplit("from ", 1)[1].split(" to "))
    assert -11 < low < -4  # a ball of radius 10, fitted for a moment
    assert 4 < high < 12
    assert not (ball.parent / "x.ply").exists()


def test_a_mesh_without_memory_for_it_is_refused(
    ball: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert mesh_app.free_memory() is None or mesh_app.free_memory() > 2**20  # type: ignore[operator]
    monkeypatch.setattr(mesh_app, "free_memory", lambda: 2**20)
    assert main(["mesh", str(ball), "-o", str(ball.parent / "x.ply"), "--resolution", "64"]) == 2
    assert "should do" in capsys.readouterr().err


# ---- stopped, and refused


@pytest.mark.parametrize("name", ["old.ply", "old.png", "old.mp4"])
def test_an_interrupt_leaves_the_old_file_whole(name: str, ball: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name.endswith("mp4"):
        pytest.importorskip("av")
    path = ball.parent / name
    path.write_bytes(b"what was there")

    def interrupted(share: float) -> None:
        raise KeyboardInterrupt

    class Bar:
        def __enter__(self) -> Callable[[float], None]:
            return interrupted

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(mesh_app, "progress_bar", lambda *_, **__: Bar())
    monkeypatch.setattr(command, "progress_bar", lambda *_, **__: Bar())
    options = ["--resolution", "32"] if name.endswith("ply") else ["--size", "32x32"]
    before = set(path.parent.iterdir())
    assert main(["mesh" if name.endswith("ply") else "render", str(ball), "-o", str(path), *options]) == 130
    assert path.read_bytes() == b"what was there"
    assert set(path.parent.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "x.png", "--size", "100000x100000"], "--size 100000x100000: pictures of shapes are 1x1 to 65536x65536"),
        (["-o", "x.png", "--size", "0x5"], "--size 0x5"),
        (["-o", "x.mp4", "--size", "8000x8000"], "videos of shapes are 1x1 to 4096x4096"),
        (["-o", "x.png", "--normals", "--shadows"], "--shadows: belong to --clay, not to --normals"),
    ],
)
def test_pictures_that_cannot_be_are_refused(
    arguments: list[str], message: str, ball: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ball.parent)
    assert main(["render", str(ball), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (ball.parent / arguments[1]).exists()
