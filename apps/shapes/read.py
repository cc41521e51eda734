"""Read meshes and point clouds: OBJ, PLY, STL, OFF, GLB, glTF, XYZ, NPY, NPZ, LAS.

    shape = read_shape("bunny.obj")     # a Mesh or a Cloud

Files come from strangers: what a header announces is compared with the size of the file before memory is taken,
materials and files that a file refers to are never opened, and nothing is unpickled. The content decides what a file
is, not its name.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import struct
import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fieldforge.apps.shapes.las import is_las, read_las

MAX_FACES = 20_000_000
MAX_BYTES = 4 * 2**30
FORMATS = "OBJ, PLY, STL, OFF, GLB, XYZ, NPY, NPZ or LAS"
BYTES_PER_FACE = 1000
"""Memory for reading, cleaning and the two search trees of a fit (its own and its worker's), at their height: measured
on tori of 0.5, 1 and 10 million faces, where an OFF file takes the most."""


class ShapeError(ValueError):
    """A mesh or a cloud cannot be used; the message says which file, why, and what would do."""


@dataclass
class Mesh:
    """Triangles as they were read.

    Attributes:
        vertices: (n, 3) float64.
        faces: (m, 3) int64.
        source: what to call it.
        sha256: of the file.
        notes: what a user should know of the reading.
    """

    vertices: np.ndarray
    faces: np.ndarray
    source: str = "mesh"
    sha256: str = ""
    notes: list[str] = field(default_factory=list)


@dataclass
class Cloud:
    """Points of a surface as they were read: (n, 3) float64, and unit normals (n, 3) or None."""

    points: np.ndarray
    normals: np.ndarray | None = None
    source: str = "cloud"
    sha256: str = ""
    notes: list[str] = field(default_factory=list)


def read_shape(path: str | Path) -> Mesh | Cloud:
    """Read a mesh or a point cloud.

    Raises:
        ShapeError: unreadable, not a shape, more than the limits allow, or nothing in it.
    """
    path = Path(path)
    try:
        n_bytes = path.stat().st_size
        if path.is_dir():
            raise ShapeError(f"{path}: is a folder; name a file of {FORMATS}")
        if n_bytes > MAX_BYTES:
            raise ShapeError(
                f"{path}: has {n_bytes / 2**30:.1f} GiB, and {MAX_BYTES / 2**30:.0f} GiB is the most that is read"
            )
        data = path.read_bytes()
    except OSError as error:
        raise ShapeError(f"{path}: {error.strerror or error}") from error
    return shape_of_bytes(data, path.suffix.lower(), str(path))


def shape_of_bytes(data: bytes, suffix: str, source: str) -> Mesh | Cloud:
    """The same of what a file holds.

    Args:
        data: all of it.
        suffix: of its name, ".obj"; decides only between texts that look alike.
        source: what to call it.

    Raises:
        ShapeError: not a shape, more than the limits allow, or nothing in it.
    """
    kind = _kind(data, suffix)
    if kind is None:
        if suffix == ".stl" and len(data) >= 84:
            announced = struct.unpack_from("<I", data, 80)[0]
            raise ShapeError(
                f"{source}: announces {announced:,} triangles, which take {84 + 50 * announced:,} bytes in an STL "
                f"file, and it has {len(data):,}; it is cut short or no STL file"
            )
        raise ShapeError(f"{source}: is neither of {FORMATS}; it begins with {data[:16]!r}")
    expect_room(_n_faces(data, kind), source)
    shape = _parse(data, kind, source)
    shape.source, shape.sha256 = source, hashlib.sha256(data).hexdigest()
    if suffix.lstrip(".") not in _NAMES[kind]:
        shape.notes.append(f"{Path(source).name} is {kind.upper()} inside, whatever its name says")
    return shape


def expect_room(n_faces: int, source: str) -> None:
    """Refuse more faces than the limit, or than there is memory for, before the memory is asked for.

    Raises:
        ShapeError: with the figure.
    """
    if n_faces > MAX_FACES:
        raise ShapeError(
            f"{source}: has {n_faces:,} faces, and {MAX_FACES:,} is the most that is fitted; simplify it first"
        )
    free, need = _free_memory(), n_faces * BYTES_PER_FACE
    if free is not None and n_faces > 100_000 and need > free:
        raise ShapeError(
            f"{source}: has {n_faces:,} faces, which take about {need / 2**30:.1f} GiB to read and to search, and "
            f"{free / 2**30:.1f} GiB of memory are free; simplify it first"
        )


def _free_memory() -> int | None:
    """Bytes that can be had without swapping; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return None


def _n_faces(data: bytes, kind: str) -> int:
    """Faces that a file announces, or has lines for; 0 where only reading it tells."""
    if kind == "ply":
        found = re.search(rb"element +face +(\d+)", data[:65536])
    elif kind == "off":
        found = re.search(rb"OFF\s+(?:#[^\n]*\n\s*)*\d+\s+(\d+)", data[:65536])
    elif kind == "stl":
        binary = struct.unpack_from("<I", data, 80)[0] if len(data) >= 84 else 0
        return binary if 84 + 50 * binary == len(data) else data.count(b"endfacet")
    else:
        return data.count(b"\nf ") if kind == "obj" else 0
    return int(found.group(1)) if found else 0


_NAMES = {
    "obj": ("obj",),
    "ply": ("ply",),
    "stl": ("stl",),
    "off": ("off",),
    "glb": ("glb",),
    "gltf": ("gltf",),
    "xyz": ("xyz", "txt", "csv", "pts", "asc"),
    "npy": ("npy",),
    "npz": ("npz",),
    "las": ("las",),
}


def _kind(data: bytes, suffix: str) -> str | None:
    """What the bytes are; the suffix decides only between texts that look alike."""
    head = data[:512].lstrip()
    if data[:3] == b"ply":
        return "ply"
    if data[:4] == b"glTF":
        return "glb"
    if data[:6] == b"\x93NUMPY":
        return "npy"
    if data[:2] == b"PK":
        return "npz"
    if is_las(data):
        return "las"
    if re.match(rb"(ST)?C?N?4?n?OFF\b", head):
        return "off"
    if len(data) >= 84 and 84 + 50 * struct.unpack_from("<I", data, 80)[0] == len(data):
        return "stl"
    if head[:5] == b"solid" and b"facet" in data[:4096]:
        return "stl"
    if head[:1] == b"{":
        return "gltf"
    if b"\0" in data[:65536]:
        return None
    # a comment may be in any encoding; what counts is ASCII in all of these texts
    lines = data[:65536].decode("ascii", "replace").splitlines()
    lines = [line for line in (re.split("#|//", line)[0].strip() for line in lines) if line]
    if any(re.match(r"(v|vn|vt|f|o|g|usemtl|mtllib|s)\s", line) for line in lines[:64]):
        return "obj"
    if lines and all(re.fullmatch(r"[-+0-9.eE,;\s]+", line) for line in lines[:16]):
        return "xyz"
    return None


def _parse(data: bytes, kind: str, source: str) -> Mesh | Cloud:
    try:
        if kind == "xyz":
            return _cloud_of(_text_columns(data, source), source)
        if kind == "las":
            return _cloud_of(read_las(data), source)
        if kind in ("npy", "npz"):
            return _arrays(data, kind, source)
        if kind == "ply":
            _expect_ply_fits(data, source)
        elif kind in ("glb", "gltf"):
            _expect_gltf_fits(data, kind, source)
        return _by_trimesh(data, kind, source)
    except ShapeError:
        raise
    except MemoryError as error:
        raise ShapeError(f"{source}: there is not memory enough to read it") from error
    except Exception as error:  # a reader may fail in any way on a damaged file
        raise ShapeError(f"{source}: cannot be read as {kind.upper()}: {error or type(error).__name__}") from error


def _by_trimesh(data: bytes, kind: str, source: str) -> Mesh | Cloud:
    """trimesh parses; without a resolver it opens no other file."""
    import trimesh

    if kind in ("obj", "off"):
        data = data.decode("utf-8", "replace").encode()  # in comments and names any encoding may stand
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of texture coordinates, which nobody here looks at
        loaded: Any = trimesh.load(
            io.BytesIO(data), file_type=kind, process=False, maintain_order=True, skip_materials=True, resolver=None
        )
    if isinstance(loaded, trimesh.Scene):
        pieces = [piece for piece in loaded.dump() if isinstance(piece, trimesh.Trimesh)]
        loaded = trimesh.util.concatenate(pieces) if pieces else trimesh.Trimesh()
    vertices = np.asarray(getattr(loaded, "vertices", np.empty((0, 3))), np.float64).reshape(-1, 3)
    if isinstance(loaded, trimesh.PointCloud) or not len(getattr(loaded, "faces", ())):
        if not len(vertices):
            raise ShapeError(f"{source}: has no faces and no points; is it the right file?")
        normals = _ply_normals(loaded, len(vertices))
        return Cloud(vertices, normals, notes=["it has no faces: taken for a point cloud"] if kind != "ply" else [])
    faces = np.asarray(loaded.faces, np.int64)
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise ShapeError(
            f"{source}: faces name vertex {int(faces.max())}, and there are {len(vertices):,}; it is damaged"
        )
    return Mesh(vertices, faces)


def _ply_normals(loaded: Any, n: int) -> np.ndarray | None:
    """nx, ny, nz of a PLY cloud, which trimesh keeps among its raw columns."""
    raw = getattr(loaded, "metadata", {}).get("_ply_raw", {}).get("vertex", {}).get("data")
    # one array with named columns of a binary file, a table of arrays of a text
    names = raw.keys() if isinstance(raw, dict) else getattr(getattr(raw, "dtype", None), "names", None) or ()
    if raw is None or not {"nx", "ny", "nz"} <= set(names):
        return None
    return _unit(np.stack([np.asarray(raw[name], np.float64).reshape(n) for name in ("nx", "ny", "nz")], 1))


def _text_columns(data: bytes, source: str) -> np.ndarray:
    text = data.decode("utf-8", "replace").translate(str.maketrans(",;", "  "))
    lines = [line.split("#")[0].split("//")[0].strip() for line in text.splitlines()]
    lines = [line for line in lines if line]
    if lines and re.fullmatch(r"\d+", lines[0]):
        lines = lines[1:]  # .pts and some .xyz begin with a count
    width = len(lines[0].split()) if lines else 0
    try:
        return np.array([line.split() for line in lines], np.float64).reshape(len(lines), width)
    except ValueError as error:
        raise ShapeError(
            f"{source}: expected the same number of columns in every line, x y z [nx ny nz]: {error}"
        ) from None


def _cloud_of(columns: np.ndarray, source: str) -> Cloud:
    if columns.ndim != 2 or columns.shape[1] < 3 or not len(columns):
        raise ShapeError(f"{source}: expected columns x y z or x y z nx ny nz, got an array of shape {columns.shape}")
    notes = []
    normals = None
    if columns.shape[1] >= 6 and np.allclose(np.linalg.norm(columns[:1000, 3:6], axis=1), 1, atol=0.05):
        normals = _unit(columns[:, 3:6])
    elif columns.shape[1] > 3:
        notes.append(f"columns after the third are no unit normals; {columns.shape[1] - 3} of them are left out")
    return Cloud(np.ascontiguousarray(columns[:, :3]), normals, notes=notes)


def _arrays(data: bytes, kind: str, source: str) -> Mesh | Cloud:
    """An array (n, 3) or (n, 6); or an archive with points [normals], or vertices and faces."""
    if kind == "npy":
        return _cloud_of(_array(data, source), source)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        total = sum(entry.file_size for entry in archive.infolist())
        if total > MAX_BYTES:
            raise ShapeError(
                f"{source}: unpacks to {total / 2**30:.1f} GiB, and {MAX_BYTES / 2**30:.0f} GiB is the most"
            )
        arrays = {
            entry.filename.removesuffix(".npy"): _array(archive.read(entry), source)
            for entry in archive.infolist()
            if entry.filename.endswith(".npy")
        }
    if {"vertices", "faces"} <= arrays.keys():
        vertices, faces = arrays["vertices"], arrays["faces"]
        if vertices.ndim != 2 or vertices.shape[1] != 3 or faces.ndim != 2 or faces.shape[1] != 3:
            raise ShapeError(
                f"{source}: expected vertices (n, 3) and faces (m, 3), got {vertices.shape} and {faces.shape}"
            )
        faces = faces.astype(np.int64)
        if len(faces) and (faces.min() < 0 or faces.max() >= len(vertices)):
            raise ShapeError(f"{source}: faces name vertices that are not there; it is damaged")
        return Mesh(vertices.astype(np.float64), faces)
    if "points" in arrays:
        normals = arrays.get("normals")
        if normals is not None and normals.shape != arrays["points"].shape:
            raise ShapeError(f"{source}: expected as many normals as points, got {normals.shape}")
        cloud = _cloud_of(arrays["points"].astype(np.float64), source)
        cloud.normals = None if normals is None else _unit(normals.astype(np.float64))
        return cloud
    raise ShapeError(
        f"{source}: expected arrays points [normals], or vertices and faces; found {', '.join(arrays) or 'none'}"
    )


def _array(data: bytes, source: str) -> np.ndarray:
    array = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    if not np.issubdtype(array.dtype, np.number) or np.issubdtype(array.dtype, np.complexfloating):
        raise ShapeError(f"{source}: expected numbers, got an array of {array.dtype}")
    return array if np.issubdtype(array.dtype, np.integer) else array.astype(np.float64)


def _unit(normals: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.divide(normals, lengths, out=np.zeros_like(normals), where=lengths > 0)


_PLY_SIZES = {
    "char": 1, "uchar": 1, "int8": 1, "uint8": 1, "short": 2, "ushort": 2, "int16": 2, "uint16": 2,
    "int": 4, "uint": 4, "int32": 4, "uint32": 4, "float": 4, "float32": 4, "double": 8, "float64": 8,
}  # fmt: skip


def _expect_ply_fits(data: bytes, source: str) -> None:
    """What the header announces is in the file: each property of each element takes a byte at the least."""
    end = data.find(b"end_header", 0, 65536)
    if end < 0:
        raise ShapeError(f"{source}: the PLY header does not end; it is damaged")
    count, least, is_binary = 0, 0, b"ascii" not in data[:end]
    for line in data[:end].decode("latin-1").splitlines():
        words = line.split()
        if words[:1] == ["element"]:
            count = int(words[2]) if len(words) > 2 and words[2].isdigit() else -1
            if count < 0:
                raise ShapeError(f"{source}: the PLY header says {line!r}; it is damaged")
        elif words[:1] == ["property"] and len(words) > 2:
            width = _PLY_SIZES.get(words[2] if words[1] == "list" else words[1], 1)
            least += count * (width if is_binary else 2)
    if least > len(data) - end:
        raise ShapeError(
            f"{source}: the PLY header announces at least {least:,} bytes, and {len(data) - end:,} follow; "
            "it is cut short"
        )


def _expect_gltf_fits(data: bytes, kind: str, source: str) -> None:
    """Accessors of a glTF ask for no more numbers than a mesh of the largest size has."""
    text = data[20 : 20 + struct.unpack_from("<I", data, 12)[0]] if kind == "glb" and len(data) >= 20 else data
    header = json.loads(text)
    counts = [accessor.get("count", 0) for accessor in header.get("accessors", ()) if isinstance(accessor, dict)]
    if (
        not all(isinstance(count, int) and 0 <= count <= 3 * MAX_FACES for count in counts)
        or sum(counts) > 12 * MAX_FACES
    ):
        raise ShapeError(
            f"{source}: asks for {max(counts, default=0):,} numbers in one array, more than any mesh that is read"
        )
    if any("uri" in buffer and not str(buffer["uri"]).startswith("data:") for buffer in header.get("buffers", ())):
        raise ShapeError(f"{source}: keeps its numbers in another file, which is not opened; save it as one GLB file")
