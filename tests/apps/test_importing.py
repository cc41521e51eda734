"""Networks trained elsewhere. The files are made here, by tests/reference/snapshots.py, from their documentation."""

from __future__ import annotations

import json
import random
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference import snapshots
from reference.snapshots import GRID, N_NERF, NERF, nerf_snapshot, network, random_vector, snapshot_of, write

from fieldforge.apps.cli import main
from fieldforge.apps.images import read_image
from fieldforge.apps.importing import msgpack
from fieldforge.apps.importing.snapshot import import_snapshot, morton, with_resolutions
from fieldforge.apps.render.radiance import eye_of
from fieldforge.fields.file import FieldFileError, load_field
from fieldforge.fields.kinds.image import ImageField
from fieldforge.fields.kinds.radiance import RadianceField
from fieldforge.registry import ConfigError

N = 8


def density_grid() -> np.ndarray:
    """Cells of a ball, and nothing else."""
    axis = (np.arange(N) + 0.5) / N - 0.5
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    return np.where(x**2 + y**2 + (z - 0.1) ** 2 < 0.1, 0.5, 0.0)


def image_snapshot(**more: Any) -> dict[str, Any]:
    """Of a picture: 2 coordinates, 6 levels of 2 features... see GRID."""
    rows = 2 * sum(snapshots.level_sizes("Hash", 2, 2, 6, 4, 2.0))
    vector = random_vector(16 * 16 * 2 + rows)
    return snapshot_of({"encoding": GRID, "network": network(16, 1)}, "image", vector, **more)


@pytest.mark.parametrize("compression", ["", "zlib", "gzip"])
def test_a_snapshot_is_read_plain_and_compressed(compression: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.ingp", image_snapshot(), compression=compression)
    field = import_snapshot(path, size=(8, 6)).field
    plain = import_snapshot(write(tmp_path / "b.msgpack", image_snapshot()), size=(8, 6)).field
    points = torch.rand(5, 2) * 6
    assert torch.equal(field(points), plain(points))


def test_a_picture_renders_as_its_vector_says(tmp_path: Path) -> None:
    value = image_snapshot()
    source = write(tmp_path / "a.ingp", value, compression="zlib")
    assert main(["import", str(source), "-o", str(tmp_path / "a.field"), "--size", "6x4", "--quiet"]) == 0
    output = str(tmp_path / "a.exr")
    assert main(["render", str(tmp_path / "a.field"), "-o", output, "--quiet", "--backend", "reference"]) == 0
    field, metadata = load_field(tmp_path / "a.field")
    assert isinstance(field, ImageField)
    assert metadata["run"]["trained_with"] == "instant-ngp"
    vector = np.frombuffer(value["snapshot"]["params_binary"], np.float16)
    table = vector[512:].astype(np.float64).reshape(-1, 2).tolist()
    keys: dict[str, Any] = {key: GRID[key] for key in GRID if key not in ("otype", "n_features_per_level")}
    for x, y in [(0, 0), (5, 3), (2, 1)]:
        place = [(x + 0.5) / 6, (y + 0.5) / 4]
        features, _, _ = snapshots.grid_point(
            place, table, kind="Hash", **keys, interpolation="Linear", is_float32=False
        )
        expected = snapshots.mlp(vector, [*features, *[0.0] * 12], [(16, 16), (16, 16)])[:3]
        found = field.color(torch.tensor([[x + 0.5, y + 0.5]])).detach().numpy()[0]
        np.testing.assert_allclose(found, expected, atol=1e-5)
    picture = read_image(tmp_path / "a.exr")
    assert (picture.width, picture.height) == (6, 4)


def test_a_shape_is_a_distance_in_the_unit_cube(tmp_path: Path) -> None:
    vector = random_vector(16 * 16 * 2 + snapshots.N_GRID).astype(np.float32)
    path = write(tmp_path / "a.msgpack", snapshot_of({"encoding": GRID, "network": network(16, 1)}, "sdf", vector))
    found = import_snapshot(path)
    assert found.field.otype == "SDFField"
    assert found.field.box == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert main(["import", str(path), "-o", str(tmp_path / "a.field"), "--quiet"]) == 0
    picture = str(tmp_path / "a.png")
    assert main(["render", str(tmp_path / "a.field"), "-o", picture, "--size", "16x16", "--quiet"]) == 0


def ray(origin: list[float], toward: list[float]) -> tuple[np.ndarray, np.ndarray]:
    start, way = np.array(origin), np.array(toward) - np.array(origin)
    return start, way / np.linalg.norm(way)


RAYS = [
    ray([0.5, 0.5, 2.0], [0.5, 0.5, 0.5]),
    ray([-0.5, 0.3, 0.2], [0.55, 0.5, 0.6]),
    ray([0.5, -1, 0.5], [0.9, 0, 0.5]),
]


def through_the_vector(vector: np.ndarray, origin: np.ndarray, direction: np.ndarray) -> tuple[np.ndarray, float]:
    """Colour and opacity along a ray, in steps of sqrt(3) / 1024 from where it enters the unit cube, in float64."""
    with np.errstate(divide="ignore"):
        sides = np.sort(np.stack([(0 - origin) / direction, (1 - origin) / direction]), axis=0)
    begin, end, step = max(0.0, sides[0].max()), sides[1].min(), np.sqrt(3) / 1024
    occupied = density_grid() > 0.01
    color, left = np.zeros(3), 1.0
    for k in range(int((end - begin) / step) + 1):
        middle = begin + (k + 0.5) * step
        place = origin + middle * direction
        cell = np.floor(place * N).astype(int)
        if middle >= end or (cell < 0).any() or (cell >= N).any() or not occupied[tuple(cell)]:
            continue
        density, seen = snapshots.nerf_at(vector, place, direction)
        share = left * (1 - np.exp(-density * step))
        color, left = color + share * seen, left - share
    return color + left * np.array([0.2, 0.4, 0.6]), 1 - left


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_a_scene_renders_as_its_vector_says(backend: str, tmp_path: Path) -> None:
    from fieldforge.backends import use_backend

    vector = random_vector(N_NERF)
    found = import_snapshot(write(tmp_path / "a.ingp", nerf_snapshot(vector, density_grid()), compression="zlib"))
    origins = torch.tensor(np.stack([one[0] for one in RAYS]), dtype=torch.float32)
    directions = torch.tensor(np.stack([one[1] for one in RAYS]), dtype=torch.float32)
    with use_backend(backend):
        assert isinstance(found.field, RadianceField)
        seen = eye_of(found.field, found.metadata)(origins, directions)
    opacities = []
    for index, one in enumerate(RAYS):
        color, opacity = through_the_vector(vector, *one)
        np.testing.assert_allclose(seen.color[index].numpy(), color, atol=2e-3)
        np.testing.assert_allclose(float(seen.opacity[index]), opacity, atol=2e-3)
        opacities.append(opacity)
    assert max(opacities) > 0.3
    assert min(opacities) == 0


def test_a_scene_goes_to_a_file_and_to_a_picture(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ingp", nerf_snapshot(random_vector(N_NERF), density_grid()), compression="zlib")
    assert main(["import", str(path), "-o", str(tmp_path / "a.field"), "--quiet"]) == 0
    field, metadata = load_field(tmp_path / "a.field")
    assert isinstance(field, RadianceField)
    assert field.occupancy == N
    signal = metadata["signal"]
    assert (signal["width"], signal["height"], signal["focal"]) == (40, 30, 50.0)
    assert signal["cameras"][0][:3] == [0.5, -1.0, 0.5]
    picture = str(tmp_path / "a.png")
    assert main(["render", str(tmp_path / "a.field"), "-o", picture, "--path", "interpolate", "--quiet"]) == 0
    assert (read_image(tmp_path / "a.png").width, read_image(tmp_path / "a.png").height) == (40, 30)
    assert main(["info", str(tmp_path / "a.field")]) == 0


def test_cells_outside_the_crop_are_empty(tmp_path: Path) -> None:
    crop = {"render_aabb": {"min": [0.0, 0.0, 0.0], "max": [0.5, 1.0, 1.0]}}
    value = nerf_snapshot(random_vector(N_NERF), np.ones((N, N, N)) * 0.5, **crop)
    field = import_snapshot(write(tmp_path / "a.msgpack", value)).field
    assert isinstance(field, RadianceField)
    from fieldforge.apps.render.radiance import occupancy_of

    cells = occupancy_of(field).cells[0]
    assert bool(cells[: N // 2].all())
    assert not bool(cells[N // 2 :].any())


def test_interleaved_bits() -> None:
    n = 16
    place = morton(n)
    assert sorted(place.flatten().tolist()) == list(range(n**3))
    assert place[1, 0, 0] == 1
    assert place[0, 1, 0] == 2
    assert place[0, 0, 1] == 4
    assert place[15, 15, 15] == n**3 - 1


def test_what_instant_ngp_fills_in() -> None:
    filled = with_resolutions({"otype": "HashGrid", "n_levels": 16, "log2_hashmap_size": 19}, 3, 2048.0)
    assert filled["base_resolution"] == 64  # 1 << 19 / 3
    assert filled["per_level_scale"] == pytest.approx(32 ** (1 / 15), rel=1e-6)
    assert with_resolutions({"otype": "Frequency"}, 3, 2048.0) == {"otype": "Frequency"}


def test_parameters_go_out_and_come_back(tmp_path: Path) -> None:
    path = write(tmp_path / "a.msgpack", image_snapshot())
    assert main(["import", str(path), "-o", str(tmp_path / "a.field"), "--size", "6x4", "--quiet"]) == 0
    assert main(["export", str(tmp_path / "a.field"), "-o", str(tmp_path / "a.npy"), "--quiet"]) == 0
    vector = np.load(tmp_path / "a.npy")
    original = np.frombuffer(image_snapshot()["snapshot"]["params_binary"], np.float16).astype(np.float32)
    matrices = original[:512].reshape(2, 16, 16).copy()
    matrices[0, :, 4:] = 0  # reads nothing but zeros
    matrices[1, 3:] = 0  # nobody reads
    np.testing.assert_array_equal(vector, np.concatenate([matrices.reshape(-1), original[512:]]))
    again = ["import", str(tmp_path / "a.npy"), "--config", str(tmp_path / "a.json"), "--kind", "image", "--size",
             "6x4", "-o", str(tmp_path / "b.field"), "--quiet"]  # fmt: skip
    assert main(again) == 0
    points = torch.rand(5, 2) * 4
    assert torch.equal(load_field(tmp_path / "a.field")[0](points), load_field(tmp_path / "b.field")[0](points))


def test_a_scene_goes_out_as_instant_ngp_keeps_it(tmp_path: Path) -> None:
    vector = random_vector(N_NERF)
    path = write(tmp_path / "a.msgpack", nerf_snapshot(vector, density_grid()))
    assert main(["import", str(path), "-o", str(tmp_path / "a.field"), "--quiet"]) == 0
    field, _ = load_field(tmp_path / "a.field")
    assert main(["export", str(tmp_path / "a.field"), "--to", "tcnn", "-o", str(tmp_path / "a.npy"), "--quiet"]) == 0
    found = np.load(tmp_path / "a.npy")
    place, direction = np.array([0.4, 0.5, 0.6]), np.array([0.6, 0.0, 0.8])
    for one, other in zip(snapshots.nerf_at(found, place, direction), snapshots.nerf_at(vector, place, direction),
                          strict=True):  # fmt: skip
        np.testing.assert_allclose(one, other, rtol=1e-5)
    assert set(json.loads((tmp_path / "a.json").read_text())) == set(NERF)
    assert field.otype == "RadianceField"


# ---- what is wrong with a file


def altered(value: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return value | {"snapshot": value["snapshot"] | changes}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": 0}, "version before 1"),
        ({"mode": "volume"}, "snapshot.mode: expected one of image, sdf, nerf, got 'volume'"),
        ({"n_params": 7}, "snapshot.params_binary: expected 7 numbers"),
        ({"params_binary": "text"}, "snapshot.params_binary: expected a block of bytes"),
        ({"params_type": "double"}, "snapshot.params_type: expected one of float, __half"),
        ({"density_grid_size": 7}, "density_grid_size: expected a power of two"),
        ({"density_grid_size": 16}, "density_grid_binary: expected 1 cubes of 16"),
        ({"background_color": [1, 2]}, "background_color: expected 4 finite numbers"),
        ({"nerf": {"aabb_scale": 3}}, "aabb_scale: expected a power of two"),
        ({"nerf": {"dataset": {"n_extra_learnable_dims": 4}}}, "vectors of photos"),
        ({"up_dir": [1e300, 0, 0]}, "up_dir: expected 3 finite numbers"),
    ],
)
def test_a_wrong_scene_is_refused_by_name(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    value = altered(nerf_snapshot(random_vector(N_NERF), density_grid()), **changes)
    with pytest.raises(FieldFileError, match=said):
        import_snapshot(write(tmp_path / "a.msgpack", value))


def test_a_vector_of_another_length_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    value = image_snapshot()
    value["encoding"] = GRID | {"log2_hashmap_size": 24, "n_levels": 16, "base_resolution": 512}
    path = write(tmp_path / "a.msgpack", value)
    tracemalloc.start()
    with pytest.raises(ConfigError, match=r"asks for [0-9,]+ numbers"):
        import_snapshot(path, size=(8, 6))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6


def test_a_bomb_takes_no_memory(tmp_path: Path) -> None:
    """64 megabytes of zeros in 64 kilobytes: read past, in pieces."""
    fold = zlib.compressobj()
    head = b"\x81\xa8snapshot\x81\xa1x\xc6" + (64 * 2**20).to_bytes(4, "big")
    data = fold.compress(head) + b"".join(fold.compress(bytes(2**20)) for _ in range(64)) + fold.flush()
    path = tmp_path / "a.ingp"
    path.write_bytes(data)
    tracemalloc.start()
    value = msgpack.read(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert value["snapshot"]["x"].n_bytes == 64 * 2**20
    assert peak < 10e6


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "ends after 0 bytes"),
        (b"\x91" * 100 + b"\xc0", "tables deep"),
        (b"\xdd\xff\xff\xff\xff", "ends after 5 bytes"),
        (b"\xc6\xff\xff\xff\xff", "block of 4294967295 bytes|ends after"),
        (b"\xdb\xff\xff\xff\xff", "text of 4294967295 bytes"),
        (b"\xa2\xff\xff", "not UTF-8"),
        (b"\x82\xa1a\x01\xa1a\x02", "twice"),
        (b"\x81\x01\x02", "keys are no text"),
        (b"\xc1", "begins no value"),
        (b"\x01\x02", "has more behind its value"),
        (b"x\x9cgarbage", "is damaged"),
        (b"\x80", "has no table snapshot"),
    ],
)
def test_hostile_bytes(data: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.ingp"
    path.write_bytes(data)
    with pytest.raises(FieldFileError, match=said):
        import_snapshot(path)


def test_damaged_snapshots_are_read_or_refused(tmp_path: Path) -> None:
    """Bytes flipped, cut and doubled anywhere in a file: one sentence or a field, never another exception."""
    data, draw = snapshots.pack(nerf_snapshot(random_vector(N_NERF), density_grid()[:4, :4, :4])), random.Random(0)
    path = tmp_path / "a.msgpack"
    n_refused = 0
    end_of_tables = len(data)
    for round_ in range(120):
        broken = bytearray(data)
        for _ in range(draw.randint(1, 4)):
            at = draw.randrange(end_of_tables)
            choice = draw.randrange(4)
            if choice == 0:
                broken[at % len(broken)] = draw.randrange(256)
            elif choice == 1:
                del broken[at:]
            elif choice == 2:
                broken[at % max(1, len(broken)) : at] = bytes(draw.randrange(256) for _ in range(draw.randint(1, 8)))
            else:
                broken[at % max(1, len(broken))] ^= 1 << draw.randrange(8)
            if not broken:
                break
        path.write_bytes(bytes(broken) if round_ % 2 else zlib.compress(bytes(broken)))
        try:
            import_snapshot(path)
        except (FieldFileError, ConfigError):
            n_refused += 1
    assert n_refused > 40


def test_words_that_do_not_go_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.msgpack", image_snapshot())
    out = str(tmp_path / "a.field")
    for words, said in [
        (["import", str(path), "-o", out], "give --size"),
        (["import", str(path), "-o", out, "--size", "4x4", "--kind", "image"], "--kind: is of vectors"),
        (["import", str(tmp_path / "a.txt"), "-o", out], "expected a snapshot"),
        (["import", str(tmp_path / "a.npy"), "-o", out], "give --config FILE.json"),
    ]:
        assert main(words) != 0
        assert said in capsys.readouterr().err
