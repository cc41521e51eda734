"""Meshes and clouds from files, what is wrong with them, distances to them, and samples of them."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import trimesh

from fieldforge.apps.shapes import read
from fieldforge.apps.shapes.read import Cloud, Mesh, ShapeError, read_shape
from fieldforge.apps.shapes.samples import RECIPES, Pools, draw
from fieldforge.apps.shapes.surface import Surface
from fieldforge.apps.shapes.truth import Truth, morton_order


def ball(subdivisions: int = 3, radius: float = 2.0, centre: tuple[float, float, float] = (5.0, -1.0, 0.0)) -> Mesh:
    made = trimesh.creation.icosphere(subdivisions, radius)
    return Mesh(np.asarray(made.vertices) + centre, np.asarray(made.faces))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A ball in every format, by extension."""
    made = trimesh.creation.icosphere(2)
    for kind in ("obj", "ply", "stl", "off", "glb"):
        made.export(tmp_path / f"ball.{kind}")
    np.savez(tmp_path / "ball.npz", vertices=made.vertices, faces=made.faces)
    return tmp_path


# ---- reading


@pytest.mark.parametrize("kind", ["obj", "ply", "stl", "off", "glb", "npz"])
def test_a_mesh_is_read_from_each_format(saved: Path, kind: str) -> None:
    mesh = read_shape(saved / f"ball.{kind}")
    assert isinstance(mesh, Mesh)
    surface = Surface.of(mesh)
    assert (surface.health.n_vertices, surface.health.n_faces) == (162, 320)
    assert surface.health.is_closed
    assert not surface.notes


def test_the_content_decides_what_a_file_is(saved: Path) -> None:
    (saved / "ball.stl").rename(saved / "wrong.obj")
    mesh = read_shape(saved / "wrong.obj")
    assert isinstance(mesh, Mesh)
    assert mesh.notes == ["wrong.obj is STL inside, whatever its name says"]


def test_clouds_are_read_with_and_without_normals(tmp_path: Path) -> None:
    points = np.random.default_rng(0).normal(size=(50, 3))
    normals = points / np.linalg.norm(points, axis=1, keepdims=True)
    np.savetxt(tmp_path / "a.xyz", points)
    np.savetxt(tmp_path / "b.xyz", np.column_stack([points, normals]))
    np.save(tmp_path / "c.npy", np.column_stack([points, normals]))
    np.savez(tmp_path / "d.npz", points=points, normals=normals)
    for name, has_normals in (("a.xyz", False), ("b.xyz", True), ("c.npy", True), ("d.npz", True)):
        cloud = read_shape(tmp_path / name)
        assert isinstance(cloud, Cloud)
        np.testing.assert_allclose(cloud.points, points, rtol=1e-6)
        assert (cloud.normals is not None) == has_normals
        if cloud.normals is not None:
            np.testing.assert_allclose(cloud.normals, normals, atol=1e-6)


def ply(n_vertices: int, rest: bytes = b"") -> bytes:
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {n_vertices}\nproperty float x\n"
    return header.encode() + b"property float y\nproperty float z\nend_header\n" + rest


def glb(header: object) -> bytes:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 4)
    chunk = struct.pack("<I4s", len(text), b"JSON") + text
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunk)) + chunk


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("empty.obj", b"", "is neither of OBJ, PLY"),
        ("text.obj", b"hello world\n", "is neither of OBJ, PLY"),
        ("picture.ply", b"\x89PNG\r\n\x1a\n" + bytes(99), "is neither of OBJ, PLY"),
        ("no_faces.obj", b"o nothing\n", "no faces and no points"),
        ("index.off", b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 7\n", "index.off"),
        ("huge.ply", ply(10**12), "announces at least 12,000,000,000,000 bytes"),
        ("short.ply", ply(10, bytes(60)), "announces at least 120 bytes, and 72 follow|announces at least"),
        (
            "bomb.glb",
            glb({"accessors": [{"count": 10**13, "componentType": 5126, "type": "VEC3"}]}),
            "more than any mesh",
        ),
        ("outside.gltf", json.dumps({"buffers": [{"uri": "/etc/passwd", "byteLength": 9}]}).encode(), "another file"),
        (
            "cut.stl",
            b"exported".ljust(80) + struct.pack("<I", 3) + bytes(101),
            "announces 3 triangles, which take 234 b",
        ),
        ("ragged.xyz", b"1 2 3\n4 5\n", "same number of columns"),
        ("flat.xyz", b"1 2\n3 4\n", "expected columns x y z"),
    ],
)
def test_a_hostile_or_broken_file_is_one_sentence(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ShapeError, match=message) as caught:
        read_shape(tmp_path / name)
    assert name in str(caught.value)


def test_a_comment_in_any_encoding_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.obj").write_bytes(b"# caf\xe9\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    assert isinstance(read_shape(tmp_path / "a.obj"), Mesh)


@pytest.mark.parametrize("kind", ["obj", "ply", "stl", "off"])
def test_faces_without_room_in_memory_are_refused_before_they_are_read(
    saved: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read, "MAX_FACES", 319)
    monkeypatch.setattr(read, "_parse", lambda *arguments: pytest.fail("it was read"))
    with pytest.raises(ShapeError, match="has 320 faces, and 319 is the most"):
        read_shape(saved / f"ball.{kind}")


def test_the_refusal_says_how_much_memory_is_needed_and_how_much_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "_free_memory", lambda: 3 * 2**30)
    read.expect_room(3_000_000, "ten.ply")
    with pytest.raises(ShapeError, match=r"ten.ply: has 10,000,000 faces, which take about 9.3 GiB .* 3.0 GiB of mem"):
        read.expect_room(10_000_000, "ten.ply")


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "evil.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ShapeError, match=r"allow_pickle|Object arrays"):
        read_shape(tmp_path / "evil.npy")


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("points.npy", bytes(2**20))
    data = bytearray(stream.getvalue())
    for signature, offset in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        at = data.find(signature)
        data[at + offset : at + offset + 4] = struct.pack("<I", 0xFFFFFFFE)
    (tmp_path / "bomb.npz").write_bytes(bytes(data))
    with pytest.raises(ShapeError, match=r"cannot be read|unpacks to"):
        read_shape(tmp_path / "bomb.npz")


# ---- what is wrong with a mesh


def test_an_open_mesh_is_counted_not_refused() -> None:
    mesh = ball()
    health = Surface.of(Mesh(mesh.vertices, mesh.faces[1:])).health
    assert not health.is_closed
    assert health.sentence() == "3 boundary edges"


def test_faces_that_look_inward_are_turned() -> None:
    mesh = ball()
    surface = Surface.of(Mesh(mesh.vertices, mesh.faces[:, ::-1]))
    assert surface.health.is_inside_out
    assert Truth(surface.vertices, surface.faces).distance(np.array([[0.5, 0.5, 0.5]]))[0] < 0


def test_flipped_and_doubled_faces_are_counted() -> None:
    mesh = ball()
    flipped = mesh.faces.copy()
    flipped[0] = flipped[0, ::-1]
    assert Surface.of(Mesh(mesh.vertices, flipped)).health.n_inconsistent_edges == 3
    doubled = np.concatenate([mesh.faces, mesh.faces[:1]])
    assert Surface.of(Mesh(mesh.vertices, doubled)).health.n_non_manifold_edges == 3


def test_faces_without_area_or_number_are_dropped() -> None:
    mesh = ball()
    vertices = np.concatenate([mesh.vertices, [[np.nan, 0, 0]]])
    faces = np.concatenate([mesh.faces, [[0, 0, 1], [0, 1, len(vertices) - 1]]])
    health = Surface.of(Mesh(vertices, faces)).health
    assert (health.n_dropped, health.n_faces) == (2, len(mesh.faces))


@pytest.mark.parametrize(
    ("vertices", "faces", "message"),
    [
        (np.zeros((3, 3)), [[0, 1, 2]], "none of its 1 faces has a finite area"),
        (np.full((3, 3), np.nan), [[0, 1, 2]], "none of its 1 faces has a finite area"),
        (np.eye(3), np.empty((0, 3), int), "has no faces"),
    ],
)
def test_what_has_no_surface_is_refused(vertices: np.ndarray, faces: object, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        Surface.of(Mesh(vertices, np.asarray(faces)))


def test_one_triangle_is_a_surface() -> None:
    surface = Surface.of(Mesh(np.eye(3), np.array([[0, 1, 2]])))
    assert surface.health.n_boundary_edges == 3


def test_coordinates_far_from_the_origin_are_warned_of() -> None:
    far = ball(centre=(1e6, 0.0, 0.0), radius=0.5)
    assert any("float32 steps" in note for note in Surface.of(far).notes)
    assert not Surface.of(ball()).notes


def test_the_cube_has_room_around_the_shape() -> None:
    surface = Surface.of(ball())
    assert surface.vertices.min() == pytest.approx(0.05 / 1.1, abs=1e-3)
    np.testing.assert_allclose(surface.cube.to_world(surface.vertices).mean(0), (5, -1, 0), atol=1e-6)


# ---- distances


@pytest.mark.parametrize("is_solid", [True, False])
def test_distances_to_a_ball(is_solid: bool) -> None:
    surface = Surface.of(ball(5))
    truth = Truth(surface.vertices, surface.faces, is_solid=is_solid)
    assert truth.sides_by_faces == is_solid
    points = np.random.default_rng(0).random((5000, 3))
    radius = 2.0 / surface.cube.side
    expected = np.linalg.norm(points - 0.5, axis=1) - radius
    np.testing.assert_allclose(truth.distance(points), expected, atol=2e-3 * radius)
    np.testing.assert_allclose(truth.unsigned_distance(points), np.abs(expected), atol=2e-3 * radius)
    clear = np.abs(expected) > 1e-3
    np.testing.assert_array_equal(truth.is_inside(points)[clear], expected[clear] < 0)


def test_a_hole_does_not_turn_the_inside_out() -> None:
    mesh = ball(4)
    is_kept = mesh.vertices[mesh.faces].mean(1)[:, 2] < 1.9
    surface = Surface.of(Mesh(mesh.vertices, mesh.faces[is_kept]))
    truth = Truth(surface.vertices, surface.faces)
    assert truth.is_inside(np.array([[0.5, 0.5, 0.45]]))[0]
    assert not truth.is_inside(np.array([[0.5, 0.5, 0.99]]))[0]


def test_of_overlapping_shells_the_union_is_inside() -> None:
    one, two = ball(3), ball(3, centre=(6.0, -1.0, 0.0))
    both = Mesh(
        np.concatenate([one.vertices, two.vertices]), np.concatenate([one.faces, two.faces + len(one.vertices)])
    )
    surface = Surface.of(both)
    truth = Truth(surface.vertices, surface.faces, is_solid=True)
    assert not truth.sides_by_faces  # it looked, and the nearest faces lie
    points = surface.cube.to_unit(np.array([[5.5, -1.0, 0.0], [6.9, -1.0, 0.0], [3.1, -1.0, 0.0]]))
    assert truth.is_inside(points).all()


def test_surface_samples_lie_on_the_surface_with_its_normals() -> None:
    surface = Surface.of(ball(4))
    truth = Truth(surface.vertices, surface.faces)
    points, normals = truth.sample_surface(2000, np.random.default_rng(0))
    assert truth.unsigned_distance(points).max() < 1e-7
    outward = (points - 0.5) / np.linalg.norm(points - 0.5, axis=1, keepdims=True)
    assert np.einsum("ij,ij->i", normals, outward).min() > 0.99


def test_the_order_of_a_curve_visits_every_point_once() -> None:
    points = np.random.default_rng(0).normal(size=(999, 3))
    assert sorted(morton_order(points)) == list(range(999))
    steps = np.linalg.norm(np.diff(points[morton_order(points)], axis=0), axis=1).mean()
    assert steps < 0.5 * np.linalg.norm(np.diff(points, axis=0), axis=1).mean()


# ---- samples


@pytest.mark.parametrize("name", list(RECIPES))
def test_every_recipe_gives_true_distances(name: str) -> None:
    surface = Surface.of(ball(4))
    truth = Truth(surface.vertices, surface.faces)
    points, distance = draw(truth, RECIPES[name], 4000, (0, 1))
    assert points.shape == (4000, 3)
    assert points.dtype == distance.dtype == np.float32
    assert points.min() >= 0
    assert points.max() <= 1
    np.testing.assert_allclose(distance, truth.distance(points.astype(np.float64)), atol=1e-6)
    share = (np.abs(distance) < 1e-7).mean()
    assert share == pytest.approx(RECIPES[name].surface, abs=0.02)


def test_shares_of_a_recipe_sum_to_one() -> None:
    for name, recipe in RECIPES.items():
        assert recipe.surface + sum(share for share, _, _ in recipe.near) + recipe.uniform == pytest.approx(1), name


def test_a_worker_makes_the_same_pools_as_we_do(monkeypatch: pytest.MonkeyPatch) -> None:
    surface = Surface.of(ball(2))

    def pools() -> Pools:
        return Pools(surface.vertices, surface.faces, is_solid=True, recipe="layers", n=500, seed=3)

    ahead = pools()
    try:
        found = [ahead.get(number) for number in (0, 1, 5)]
        assert ahead._worker is not None
        ahead._worker.kill()  # as if the system had killed it
        ahead._worker.wait()
        found.append(ahead.get(6))
    finally:
        ahead.close()
    monkeypatch.setattr(Pools, "_start", lambda self: None)
    alone = pools()
    for number, (points, distance) in zip((0, 1, 5, 6), found, strict=True):
        again = alone.get(number)
        np.testing.assert_array_equal(points, again[0])
        np.testing.assert_array_equal(distance, again[1])
    alone.close()
