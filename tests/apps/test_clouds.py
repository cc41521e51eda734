"""Clouds of points: read, given normals, measured, fitted, and compared with."""

from __future__ import annotations

import importlib.util
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from fieldforge.apps.cli import main
from fieldforge.apps.fit.shape.job import cloud_advice, fit_shape
from fieldforge.apps.shapes import points as points_module
from fieldforge.apps.shapes import quality
from fieldforge.apps.shapes.cloud import PointSurface
from fieldforge.apps.shapes.points import PointTruth, WindingLattice, estimated_normals
from fieldforge.apps.shapes.read import Cloud, ShapeError, read_shape

SMALL = [
    "encoding.n_levels=5", "encoding.log2_hashmap_size=13", "encoding.per_level_scale=1.6", "fit.batch_size=4096",
    "fit.pool_size=16384", "network.n_neurons=32",
]  # fmt: skip


def _load_reference() -> ModuleType:
    path = Path(__file__).parents[1] / "reference" / "shape_losses.py"
    spec = importlib.util.spec_from_file_location("reference_shape_losses", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reference = _load_reference()


def ball(n: int = 3000, *, radius: float = 0.4, middle: float = 0.5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Points on a sphere and their normals."""
    normals = np.random.default_rng(seed).normal(size=(n, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return middle + radius * normals, normals


def torus(n: int = 6000, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Radii 0.3 and 0.12, in the middle of the unit cube."""
    u, v = np.random.default_rng(seed).random((2, n)) * 2 * np.pi
    ring = np.stack([np.cos(u), np.sin(u), np.zeros(n)], 1)
    normals = np.cos(v)[:, None] * ring + np.sin(v)[:, None] * [0, 0, 1]
    return 0.5 + 0.3 * ring + 0.12 * normals, normals


def torus_distance(x: np.ndarray) -> np.ndarray:
    y = x - 0.5
    return np.hypot(np.hypot(y[:, 0], y[:, 1]) - 0.3, y[:, 2]) - 0.12


@pytest.fixture(autouse=True, scope="module")
def _few_points() -> Iterator[None]:
    """Measured on few points: these fits are about what happens, not about the last digit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quality, "IOU_POINTS", 2**17)
        yield


# ---- what points tell of their surface


def test_distances_to_points_on_a_torus() -> None:
    truth = PointTruth(*torus())
    x = np.random.default_rng(1).random((20_000, 3))
    exact = torus_distance(x)
    found = truth.distance(x)
    assert np.abs(found - exact).mean() < 1e-3  # the points are 0.01 apart
    assert np.abs(found - exact).max() < 0.01
    clear = np.abs(exact) > 2e-3
    np.testing.assert_array_equal(found[clear] < 0, exact[clear] < 0)
    np.testing.assert_allclose(truth.unsigned_distance(x), np.abs(exact), atol=0.01)
    np.testing.assert_array_equal(truth.is_inside(x), found < 0)
    assert truth.agreement() > 0.99
    assert truth.areas.sum() == pytest.approx(4 * np.pi**2 * 0.3 * 0.12, rel=0.15)


def test_close_to_the_surface_it_is_the_average_of_planes() -> None:
    points, normals = ball(500)
    truth = PointTruth(points, normals)
    x, _ = ball(20, radius=0.405, seed=5)
    expected = [
        reference.moving_planes(one, truth.vertices, truth.normals, truth.areas, points_module.N_NEAREST) for one in x
    ]
    np.testing.assert_allclose(truth.distance(x), expected, atol=1e-12)


def test_the_lattice_holds_the_winding_number() -> None:
    points, normals = torus(3000)
    areas = np.full(len(points), 4 * np.pi**2 * 0.3 * 0.12 / len(points))
    lattice = WindingLattice(points)
    lattice.set(normals * areas[:, None])
    x = np.random.default_rng(2).random((60, 3))
    x = x[np.abs(torus_distance(x)) > 3 / points_module.LATTICE]
    expected = [reference.winding_number(one, points, normals, areas) for one in x]
    np.testing.assert_allclose(lattice.at(x), expected, atol=0.02)
    lattice.turn()
    np.testing.assert_allclose(lattice.at(x), -np.array(expected), atol=0.02)


def test_normals_are_found_from_the_points() -> None:
    points, normals = torus()
    other, out = ball(3000, radius=0.05, middle=0.5)  # a piece of its own, in the hole
    found = estimated_normals(np.concatenate([points, other]))
    cosine = np.einsum("ij,ij->i", found, np.concatenate([normals, out]))
    assert (cosine > 0.9).mean() > 0.995
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1)


def test_normals_that_look_inward_are_turned() -> None:
    points, normals = ball()
    surface = PointSurface.of(Cloud(points, -normals))
    truth = surface.truth()
    assert truth.is_inside(np.full((1, 3), 0.5))[0]
    np.testing.assert_array_equal(surface.normals, normals)
    assert any("looked inward" in note for note in surface.notes)


def test_what_cannot_be_used_is_dropped_and_counted() -> None:
    points, normals = ball(100)
    points = np.concatenate([points, points[:7], [[np.nan, 0, 0], [0, np.inf, 0], [1e300, 0, 0]]])
    normals = np.concatenate([normals, normals[:7], np.ones((3, 3))])
    normals[0] = 0
    surface = PointSurface.of(Cloud(points, normals))
    assert len(surface.vertices) == 100  # the point whose normal is 0 is there twice, once with a normal
    assert any("4 points dropped" in note for note in surface.notes)
    assert any("6 points were there twice" in note for note in surface.notes)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.zeros((0, 3)), "has 0 different"),
        (np.ones((1, 3)), "all its points are at the same place"),
        (np.ones((500, 3)), "all its points are at the same place"),
        (np.full((500, 3), np.nan), "has 0 different"),
        (np.eye(3), "has 3 different finite points, and a surface takes 32"),
    ],
)
def test_what_is_no_surface_is_refused(points: np.ndarray, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        PointSurface.of(Cloud(points))


def test_points_far_from_the_origin_are_warned_of() -> None:
    points, normals = ball(500, radius=0.5, middle=1e6)
    assert any("float32 steps" in note for note in PointSurface.of(Cloud(points, normals)).notes)


def test_too_many_points_are_thinned_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fieldforge.apps.shapes.cloud.MOST_POINTS", 400)
    surface = PointSurface.of(Cloud(*ball(1000)))
    assert len(surface.vertices) == len(surface.normals) == 400
    assert any("400 of its 1,000 points" in note for note in surface.notes)


# ---- files


def las(points: np.ndarray, *, minor: int = 2, point_format: int = 0, extra: int = 0, flags: int = 0) -> bytes:
    """A LAS file as the specification has it."""
    record = (20, 28, 26, 34, 57, 63, 30, 36, 38, 59, 67)[point_format] + extra
    size = 375 if minor == 4 else 235 if minor == 3 else 227
    low, scale = points.min(0), 1e-4
    header = bytearray(size)
    header[:4] = b"LASF"
    header[24:26] = bytes([1, minor])
    struct.pack_into("<HII", header, 94, size, size, 0)
    struct.pack_into("<BHI", header, 104, point_format | flags, record, 0 if minor == 4 else len(points))
    struct.pack_into("<6d", header, 131, scale, scale, scale, *low)
    if minor == 4:
        struct.pack_into("<Q", header, 247, len(points))
    rows = np.zeros((len(points), record), np.uint8)
    rows[:, :12] = np.round((points - low) / scale).astype("<i4").view(np.uint8).reshape(-1, 12)
    return bytes(header) + rows.tobytes()


@pytest.mark.parametrize(("minor", "point_format", "extra"), [(0, 0, 0), (2, 3, 0), (3, 5, 4), (4, 6, 0), (4, 10, 1)])
def test_las_is_read(tmp_path: Path, minor: int, point_format: int, extra: int) -> None:
    points = np.random.default_rng(0).normal(size=(77, 3)) * 100 + 5e5
    path = tmp_path / "scan.las"
    path.write_bytes(las(points, minor=minor, point_format=point_format, extra=extra))
    cloud = read_shape(path)
    assert isinstance(cloud, Cloud)
    np.testing.assert_allclose(cloud.points, points, atol=1e-4)
    assert cloud.normals is None


def changed(data: bytes, at: int, form: str, *values: float) -> bytes:
    code = bytearray(data)
    struct.pack_into(form, code, at, *values)
    return bytes(code)


GOOD = las(np.random.default_rng(0).normal(size=(20, 3)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (GOOD[:200], "227 bytes, and there are 200"),
        (GOOD[:-1], "announces 20 points of 20 bytes"),
        (changed(GOOD, 107, "<I", 2**32 - 1), "announces 4,294,967,295 points"),
        (changed(changed(GOOD, 25, "<B", 4), 247, "<Q", 2**63) + bytes(200), "announces 9,223,372,036,854,775,808"),
        (changed(GOOD, 96, "<I", 2**31), "cut short"),
        (changed(GOOD, 96, "<I", 0), "cut short"),
        (changed(GOOD, 104, "<B", 0x80), "compressed"),
        (changed(GOOD, 104, "<B", 11), "point format 11"),
        (changed(GOOD, 105, "<H", 8), "takes 20 bytes a point, the header says 8"),
        (changed(GOOD, 25, "<B", 7), "version 1.7"),
        (changed(GOOD, 131, "<d", float("nan")), "no finite numbers"),
    ],
)
def test_a_damaged_las_is_one_sentence(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "bad.las"
    path.write_bytes(data)
    with pytest.raises(ShapeError, match=message) as caught:
        read_shape(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_normals_of_a_ply_are_read(tmp_path: Path, form: str) -> None:
    points, normals = ball(40)
    columns = np.concatenate([points, normals], 1)
    header = f"ply\nformat {form} 1.0\nelement vertex 40\n"
    header += "".join(f"property float {name}\n" for name in ("x", "y", "z", "nx", "ny", "nz")) + "end_header\n"
    body = columns.astype(">f4" if "big" in form else "<f4").tobytes()
    if form == "ascii":
        body = "".join(" ".join(map(str, row)) + "\n" for row in columns).encode()
    (tmp_path / "x.ply").write_bytes(header.encode() + body)
    cloud = read_shape(tmp_path / "x.ply")
    assert isinstance(cloud, Cloud)
    assert cloud.normals is not None
    np.testing.assert_allclose(cloud.normals, normals, atol=1e-6)
    np.testing.assert_allclose(cloud.points, points, atol=1e-6)


def test_texts_may_have_comments(tmp_path: Path) -> None:
    (tmp_path / "x.xyz").write_text("# made by hand\n// X Y Z\n1 2 3\n\n4, 5; 6  # last\n")
    cloud = read_shape(tmp_path / "x.xyz")
    assert isinstance(cloud, Cloud)
    np.testing.assert_array_equal(cloud.points, [[1, 2, 3], [4, 5, 6]])


# ---- fits


@pytest.mark.parametrize("has_normals", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_torus_of_points_is_learnt(has_normals: bool) -> None:
    """In its own units, to a hundredth of its size, in a second or two."""
    points, normals = torus()
    world = Cloud(100 * points + 7, normals if has_normals else None)
    result = fit_shape(world, overrides=SMALL, steps=200, progress="quiet")
    x = np.random.default_rng(1).random((5000, 3)) * [0.8, 0.8, 0.24] + [0.1, 0.1, 0.38]
    found = result.field.distance(torch.from_numpy(100 * x + 7)).detach().numpy()
    assert np.abs(found - 100 * torus_distance(x)).mean() < 0.5
    assert result.iou > 0.95
    assert result.summary()["points"] == len(points)
    assert any("estimated" in note for note in result.notes) == (not has_normals)


def test_an_open_cloud_is_said_to_be_open() -> None:
    random = np.random.default_rng(0)
    sheet = PointSurface.of(Cloud(np.column_stack([random.random((2000, 2)), np.zeros(2000)])))
    assert any("--kind udf fits it" in note for note in cloud_advice(sheet, sheet.truth(), "sdf"))
    assert not cloud_advice(sheet, sheet.truth(), "udf")
    closed = PointSurface.of(Cloud(*torus()))
    assert not cloud_advice(closed, closed.truth(), "sdf")


def test_an_unsigned_field_of_points_needs_no_inside() -> None:
    random = np.random.default_rng(0)
    sheet = np.column_stack([random.random((3000, 2)), np.zeros(3000)])
    result = fit_shape(Cloud(sheet), kind="udf", overrides=SMALL, steps=200, progress="quiet")
    x = random.random((2000, 3)) * [0.8, 0.8, 0.4] + [0.1, 0.1, -0.2]
    found = result.field.distance(torch.from_numpy(x)).detach().numpy()
    assert np.abs(found - np.abs(x[:, 2])).mean() < 0.025
    assert np.isnan(result.iou)
    exact = PointSurface.of(Cloud(sheet))
    far = exact.truth().unsigned_distance(exact.cube.to_unit(x)) * exact.cube.side
    np.testing.assert_allclose(far, np.abs(x[:, 2]), atol=0.015)  # the points are 0.018 apart


@pytest.mark.parametrize(("preset", "has_normals"), [("siren", True), ("igr", True), ("igr", False)])
def test_surface_losses_find_a_ball(preset: str, has_normals: bool) -> None:
    """From a sphere of another size, without a single distance; of IGR's also without normals."""
    points, normals = ball(2000, radius=2.0, middle=1.0)
    overrides = ["network.n_neurons=32", "network.n_hidden_layers=2", "fit.batch_size=1020", "fit.sphere=0.25"]
    if not has_normals:
        overrides.append("loss.normals=0")
    result = fit_shape(Cloud(points, normals), preset=preset, overrides=overrides, steps=150, progress="quiet")
    x, _ = ball(500, radius=1.5, middle=1.0, seed=4)
    distance = result.field.distance(torch.from_numpy(x)).detach().numpy()
    assert np.abs(distance + 0.5).mean() < 0.15
    assert result.iou > 0.9
    assert result.training_step.startswith("PyTorch, as the loss")


def test_points_and_a_field_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    points, normals = ball(12_000, radius=2.0, middle=1.0)
    np.save(tmp_path / "ball.npy", np.concatenate([points, normals], 1))
    np.savetxt(tmp_path / "bare.xyz", points)
    field = str(tmp_path / "ball.field")
    options = [part for override in SMALL for part in ("--set", override)]
    assert main(["fit", "shape", str(tmp_path / "ball.npy"), "-o", field, "--steps", "150", *options]) == 0
    assert "12,000 points fitted" in capsys.readouterr().out
    for name in ("ball.npy", "bare.xyz"):
        assert main(["evaluate", field, str(tmp_path / name), "--resolution", "48", "--points", "12000", "--json"]) == 0
        figures = json.loads(capsys.readouterr().out)
        assert figures["f_score_0.01"] > 0.9
        assert figures["points_to_surface"] < 0.003 < figures["surface_to_points"]
        assert figures["chamfer"] == pytest.approx((figures["points_to_surface"] + figures["surface_to_points"]) / 2)
        assert figures["stray"] < 0.05
        assert ("normal_consistency" in figures) == (name == "ball.npy")
        assert sum(figures["gradient_norm_histogram"]) == pytest.approx(1, abs=1e-4)
    assert main(["evaluate", field, str(tmp_path / "ball.npy"), "--resolution", "48", "--points", "2000"]) == 0


def test_a_resumed_seed_draws_the_same_surface_samples() -> None:
    points, normals = ball(200)
    fits = [
        fit_shape(Cloud(points, normals), preset="igr", overrides=["network.n_neurons=16", "fit.batch_size=170"],
                  steps=3, seed=seed, progress="quiet")
        for seed in (0, 0, 1)
    ]  # fmt: skip
    one, same, other = [torch.cat([p.flatten() for p in fit.field.parameters()]) for fit in fits]
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
