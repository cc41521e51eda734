"""Damaged shape files: mutations of small valid files of every format.

Each gives a Mesh or a Cloud, which is cleaned or refused in turn, or a ShapeError that begins with the file's name:
never another exception, a crash of a parser, or a hang.
"""

from __future__ import annotations

import io
import random
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import trimesh

from fieldforge.apps.shapes.cloud import PointSurface
from fieldforge.apps.shapes.read import Cloud, ShapeError, read_shape
from fieldforge.apps.shapes.surface import Surface


def valid_files() -> dict[str, bytes]:
    made = trimesh.creation.icosphere(0)
    points = np.random.default_rng(0).normal(size=(60, 3))
    normals = points / np.linalg.norm(points, axis=1, keepdims=True)
    columns = np.concatenate([points, normals], 1)
    files = {f"mesh.{kind}": _bytes(made.export(file_type=kind)) for kind in ("obj", "ply", "stl", "off", "glb")}
    names = "".join(f"property float {name}\n" for name in ("x", "y", "z", "nx", "ny", "nz"))
    header = "ply\nformat {} 1.0\nelement vertex 60\n" + names + "end_header\n"
    text = "".join(" ".join(f"{value:.6g}" for value in row) + "\n" for row in columns)
    files["cloud.ply"] = header.format("binary_little_endian").encode() + columns.astype("<f4").tobytes()
    files["text.ply"] = (header.format("ascii") + text).encode()
    files["cloud.xyz"] = text.encode()
    for name, arrays in (("cloud.npz", {"points": points, "normals": normals}), ("array.npy", columns)):
        stream = io.BytesIO()
        if isinstance(arrays, dict):
            np.savez(stream, **arrays)
        else:
            np.save(stream, arrays)
        files[name] = stream.getvalue()
    las = bytearray(227)
    las[:4], las[24:26] = b"LASF", bytes([1, 2])
    struct.pack_into("<HII", las, 94, 227, 227, 0)
    struct.pack_into("<BHI", las, 104, 0, 20, 60)
    struct.pack_into("<6d", las, 131, 1e-3, 1e-3, 1e-3, 0, 0, 0)
    rows = np.zeros((60, 5), "<i4")
    rows[:, :3] = points * 1000
    files["scan.las"] = bytes(las) + rows.tobytes()
    return files


def _bytes(data: str | bytes) -> bytes:
    return data.encode() if isinstance(data, str) else data


def mutated(data: bytes, chance: random.Random) -> bytes:
    code = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 5))):
        at = chance.randrange(len(code))
        match chance.randrange(6):
            case 0:
                code[at] = chance.randrange(256)
            case 1:
                del code[at : at + chance.choice((1, 7, 100))]
            case 2:
                code[at:at] = bytes(chance.randrange(256) for _ in range(chance.choice((1, 4, 30))))
            case 3:
                code[at : at + 4] = struct.pack("<I", chance.choice((0, 1, 2**16, 2**31 - 1, 2**32 - 1)))
            case 4:
                code[at : at + 8] = struct.pack("<d", chance.choice((float("nan"), float("inf"), 1e300, 0.0, -1.0)))
            case 5:  # numbers of headers and texts
                code[at : at + 1] = chance.choice((b"9", b"-", b"nan ", b"1e999 ", b"99999999999 "))
        code = code or bytearray(b"\0")
    return bytes(code)


def run(first: int, count: int, folder: Path) -> tuple[int, int]:
    files = valid_files()
    names = sorted(files)
    n_read = n_refused = 0
    for seed in range(first, first + count):
        name = names[seed % len(names)]
        path = folder / name
        path.write_bytes(mutated(files[name], random.Random(seed)))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a parser's doubts about damaged numbers
                shape = read_shape(path)
            if isinstance(shape, Cloud):
                assert shape.points.shape == (len(shape.points), 3), seed
                assert shape.normals is None or shape.normals.shape == shape.points.shape, seed
                surface = PointSurface.of(shape)
            else:
                surface = Surface.of(shape)
            assert np.isfinite(surface.vertices).all(), seed
            n_read += 1
        except ShapeError as error:
            n_refused += 1
            if not str(error).startswith(str(path)):
                pytest.fail(f"mutation {seed} of {name}: {error}")
        except BaseException as error:
            raise AssertionError(f"mutation {seed} of {name}: {type(error).__name__}: {error}") from error
    return n_read, n_refused


def test_damaged_shapes_give_a_shape_or_a_sentence(tmp_path: Path) -> None:
    n_read, n_refused = run(0, 240, tmp_path)
    assert n_read > 40
    assert n_refused > 60


@pytest.mark.slow
def test_thousands_of_damaged_shapes_give_a_shape_or_a_sentence(tmp_path: Path) -> None:
    n_read, n_refused = run(240, 6000, tmp_path)
    assert n_read > 1000
    assert n_refused > 1500
