"""instant-ngp's snapshots (`.msgpack`, `.ingp`) to fields: pictures, shapes and scenes that were trained there.

A snapshot is the JSON configuration of the networks and a table "snapshot" beside it: the mode, the flat parameters
(those of inference, where an EMA was kept), and of a scene the box, the cells that hold something, the photos' cameras
and the background (testbed.cu, save_snapshot; json_binding.h). What it does not hold: the size of a picture, which has
to be given, and the mesh that a shape was fitted to, so that a shape stays in the unit cube.

A scene stays in instant-ngp's world, in which the smallest cells fill the unit cube. There the axes are y, z, x of the
photos', times "scale", plus "offset" (nerf_loader.h); the header of the field keeps both as ``signal.world``, and
photos of a folder are brought over.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fieldforge.apps.importing import msgpack, vectors
from fieldforge.apps.importing.msgpack import Block
from fieldforge.apps.render.remembered import remember_cameras
from fieldforge.fields.container import FieldFileError
from fieldforge.fields.file import build_field
from fieldforge.fields.kinds.base import Field
from fieldforge.fields.kinds.radiance import RadianceField
from fieldforge.renderers.occupancy import pack_bits

TYPES: dict[str, np.dtype[Any]] = {"float": np.dtype("<f4"), "__half": np.dtype("<f2")}
MODES = {"image": "a picture", "sdf": "a shape", "nerf": "a scene"}
THRESHOLD = 0.01
"""Optical thickness of the shortest step above which a cell holds something, or the mean where that is less."""
SAMPLES_ACROSS = 1024
"""Steps along the diagonal of the unit cube."""
DEFAULT_LOG2 = 15
"""Of a hash table where a configuration is silent, to choose the coarsest resolution by."""
MAX_GRID = 512


@dataclass(frozen=True)
class Imported:
    """A field that was trained elsewhere, what its file's header should say, and what its user should know."""

    field: Field
    metadata: dict[str, Any]
    notes: list[str]
    is_half: bool


class _Table:
    """A table of a stranger's file: each value is looked at before it is used."""

    def __init__(self, path: Path, values: Mapping[str, Any], place: str) -> None:
        self.path, self.values, self.place = path, values, place

    def wrong(self, key: str, what: str) -> FieldFileError:
        return FieldFileError(self.path, f"{self.place}{key}: {what}")

    def table(self, key: str, *, optional: bool = False) -> _Table:
        value = self.values.get(key, {} if optional else None)
        if not isinstance(value, Mapping):
            raise self.wrong(key, f"expected a table, got {_short(value)}")
        return _Table(self.path, value, f"{self.place}{key}.")

    def number(self, key: str, otherwise: float | None = None, *, low: float = -1e9, high: float = 1e9) -> float:
        value = self.values.get(key, otherwise)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise self.wrong(key, f"expected a number from {low:g} to {high:g}, got {_short(value)}")
        return float(value)

    def whole(self, key: str, otherwise: int | None = None, *, low: int, high: int) -> int:
        value = self.number(key, otherwise, low=low, high=high)
        if value != int(value):
            raise self.wrong(key, f"expected a whole number, got {value:g}")
        return int(value)

    def array(self, key: str, shape: tuple[int, ...], otherwise: Any = None) -> np.ndarray:
        value = self.values.get(key, otherwise)
        try:
            found = np.array(value, np.float64)
        except (TypeError, ValueError):
            found = np.zeros(())
        if found.shape != shape or not np.isfinite(found).all() or (np.abs(found) > 1e9).any():
            raise self.wrong(key, f"expected {' x '.join(map(str, shape))} finite numbers, got {_short(value)}")
        return found

    def block(self, key: str) -> Block:
        value = self.values.get(key)
        if not isinstance(value, Block):
            raise self.wrong(key, f"expected a block of bytes, got {_short(value)}")
        return value


def import_snapshot(path: Path, *, size: tuple[int, int] | None = None) -> Imported:
    """Read a snapshot.

    Args:
        path: of a file that instant-ngp wrote, compressed or not.
        size: width and height of a picture, which no snapshot holds.

    Raises:
        FieldFileError: not a snapshot, damaged, or of something that is not read here; says what.
        ConfigError: its configuration cannot be built, or asks for another number of parameters.
        ValueError: a picture without a size, or the size of what is no picture.
    """
    config = msgpack.read(path)
    if not isinstance(config, Mapping) or not isinstance(config.get("snapshot"), Mapping):
        raise FieldFileError(path, "has no table snapshot; it is no snapshot of instant-ngp")
    snapshot = _Table(path, config["snapshot"], "snapshot.")
    if snapshot.number("version", 0) < 1:
        raise FieldFileError(path, "is of a version before 1, which instant-ngp no longer reads either; save it anew")
    mode = snapshot.values.get("mode", "nerf" if "nerf" in snapshot.values else None)
    mode = mode.lower() if isinstance(mode, str) else mode
    if not isinstance(mode, str) or mode not in MODES:
        raise snapshot.wrong("mode", f"expected one of {', '.join(MODES)}, got {_short(mode)}")
    if mode == "image" and size is None:
        raise ValueError(f"{path}: a snapshot does not hold the size of its picture; give --size WIDTHxHEIGHT")
    if mode != "image" and size is not None:
        raise ValueError(f"--size: is of pictures, and {path} holds {MODES[mode]}")
    if mode == "nerf":
        return _scene(config, snapshot)
    return _plain(config, snapshot, mode, size or (1, 1))


def _parameters(snapshot: _Table) -> tuple[Block, np.dtype[Any], int]:
    """Where they are, of what type, and how many."""
    block, name = snapshot.block("params_binary"), snapshot.values.get("params_type", "__half")
    if not isinstance(name, str) or name not in TYPES:
        raise snapshot.wrong("params_type", f"expected one of {', '.join(TYPES)}, got {_short(name)}")
    dtype = TYPES[name]
    n = snapshot.whole("n_params", block.n_bytes // dtype.itemsize, low=0, high=2**31)
    if n * dtype.itemsize != block.n_bytes:
        raise snapshot.wrong("params_binary", f"expected {n} numbers of type {name}, got {block.n_bytes} bytes")
    return block, dtype, n


def _vector(path: Path, block: Block, dtype: np.dtype[Any]) -> Tensor:
    """(n,) float32, in the machine's own order of bytes."""
    vector = torch.from_numpy(msgpack.read_block(path, block).view(dtype).astype(np.float32))
    if not bool(torch.isfinite(vector).all()):
        raise FieldFileError(path, "snapshot.params_binary: has numbers that are not finite; the training had diverged")
    return vector


def _plain(config: Mapping[str, Any], snapshot: _Table, mode: str, size: tuple[int, int]) -> Imported:
    """A picture or a shape: one network."""
    path = snapshot.path
    n_inputs, n_outputs = (2, 3) if mode == "image" else (3, 1)
    sections, notes = vectors.checked(config, ("encoding", "network"))
    sections["encoding"] = with_resolutions(
        sections["encoding"], n_inputs, max(size) / 2 if mode == "image" else 2048.0
    )
    block, dtype, n = _parameters(snapshot)
    model = vectors.model_of(sections, n_inputs, n_outputs, n)
    parts = {"encoding": model.encoding, "network": model.network}
    if mode == "image":
        field = build_field({"otype": "ImageField", "width": size[0], "height": size[1], **parts})
    else:
        field = build_field({"otype": "SDFField", "low": [0.0, 0.0, 0.0], "side": 1.0, **parts})
        notes.append("A snapshot does not say where the mesh was; the shape is in the unit cube.")
    vectors.fill_model(_vector(path, block, dtype), field.encoding, field.network, model)  # type: ignore[arg-type]
    signal = {"kind": "image", "width": size[0], "height": size[1]} if mode == "image" else {"kind": "shape"}
    return Imported(field, {"signal": signal, "run": _run(snapshot)}, notes, dtype.itemsize == 2)


def _scene(config: Mapping[str, Any], snapshot: _Table) -> Imported:
    """A radiance field, with its cells and its cameras."""
    path = snapshot.path
    nerf = snapshot.table("nerf", optional=True)
    dataset = nerf.table("dataset", optional=True)
    if dataset.number("n_extra_learnable_dims", 0) or dataset.values.get("has_light_dirs"):
        raise dataset.wrong("n_extra_learnable_dims", "vectors of photos and lights are not read; train without them")
    n_cascades = _cascades(nerf, dataset)
    sections, notes = vectors.checked(config, ("encoding", "network", "dir_encoding", "rgb_network"))
    sections["encoding"] = with_resolutions(sections["encoding"], 3, 2048.0 * 2 ** (n_cascades - 1))
    outputs = _Table(path, config["network"], "network.").whole("n_output_dims", 16, low=1, high=256)
    block, dtype, n = _parameters(snapshot)
    model = vectors.radiance_of(sections, outputs, n)
    cells = _cells(snapshot, nerf, n_cascades)
    is_hdr = bool(dataset.values.get("is_hdr", False))
    for key in ("network", "rgb_network"):
        last = getattr(model, key)["output_activation"]
        if last != "None":
            raise FieldFileError(path, f"{key}.output_activation: is {_short(last)}, and instant-ngp adds its own")
    side, middle = 2.0 ** (n_cascades - 1), 0.5
    field = build_field({
        "otype": "RadianceField", "low": [middle - side / 2] * 3, "high": [middle + side / 2] * 3,
        "encoding": model.encoding, "network": model.network, "dir_encoding": model.dir_encoding,
        "rgb_network": model.rgb_network | {"output_activation": "Exponential" if is_hdr else "Sigmoid"},
        "n_geometry": model.n_geometry, "density_scale": side, "color_space": "linear" if is_hdr else "srgb",
        "background": _background(snapshot, is_hdr), "occupancy": 0 if cells is None else cells.shape[1],
        "n_cascades": n_cascades,
    })  # fmt: skip
    assert isinstance(field, RadianceField)
    vectors.fill_radiance(_vector(path, block, dtype), field, model)
    if cells is not None:
        field.bricks.copy_(pack_bits(cells))
    else:
        notes.append("The snapshot has no density grid; the field is asked anew where something is.")
    fit = {"samples_across": SAMPLES_ACROSS, "cone_angle": 0.0 if n_cascades == 1 else 1 / 256}
    metadata = {"signal": _signal(snapshot, dataset), "run": {"fit": fit} | _run(snapshot)}
    return Imported(field, metadata, notes, dtype.itemsize == 2)


def with_resolutions(encoding: Mapping[str, Any], n_inputs: int, finest: float) -> dict[str, Any]:
    """A grid's configuration with what instant-ngp fills in where it is silent (testbed.cu, reset_network).

    Args:
        encoding: of a snapshot, in which these are not kept.
        n_inputs: coordinates.
        finest: resolution that the finest level should have.
    """
    filled = dict(encoding)
    if not str(encoding.get("otype", "")).lower().endswith("grid"):
        return filled
    n_levels = encoding.get("n_levels", 16)
    log2_size = max(1, min(int(encoding.get("log2_hashmap_size", DEFAULT_LOG2)), 30))
    base = encoding.get("base_resolution") or 2 ** (log2_size // n_inputs)
    filled["base_resolution"] = base
    if not encoding.get("per_level_scale"):
        growth = np.log(np.float32(finest) / np.float32(base)) / np.float32(max(1, n_levels - 1))
        filled["per_level_scale"] = float(np.exp(growth, dtype=np.float32)) if n_levels > 1 else 2.0
    return filled


def _cascades(nerf: _Table, dataset: _Table) -> int:
    scale = nerf.number("aabb_scale", dataset.number("aabb_scale", 1, low=1, high=128), low=1, high=128)
    if scale != 2 ** round(math.log2(scale)):
        raise nerf.wrong("aabb_scale", f"expected a power of two from 1 to 128, got {scale:g}")
    return round(math.log2(scale)) + 1


def _cells(snapshot: _Table, nerf: _Table, n_cascades: int) -> Tensor | None:
    """(n_cascades, n, n, n) bool: which cells hold something; None where the snapshot says nothing of it."""
    if "density_grid_binary" not in snapshot.values or snapshot.block("density_grid_binary").n_bytes == 0:
        return None
    n, block = snapshot.whole("density_grid_size", 128, low=4, high=MAX_GRID), snapshot.block("density_grid_binary")
    if n & (n - 1):
        raise snapshot.wrong("density_grid_size", f"expected a power of two, got {n}")
    if block.n_bytes != 2 * n_cascades * n**3:
        raise snapshot.wrong(
            "density_grid_binary",
            f"expected {n_cascades} cubes of {n} cells a side in float16, which aabb_scale asks for, got "
            f"{block.n_bytes} bytes",
        )
    found = msgpack.read_block(snapshot.path, block).view("<f2").astype(np.float32).reshape(n_cascades, n**3)
    found = np.nan_to_num(found, nan=0.0, posinf=np.inf)
    threshold = min(THRESHOLD, float(np.maximum(found[0], 0).mean(dtype=np.float64)))
    cells = torch.from_numpy((found > threshold)[:, morton(n)])  # (n_cascades, n, n, n)
    return cells & _in_crop(snapshot, n, n_cascades)


def morton(n: int) -> np.ndarray:
    """(n, n, n) int64: where the cell x, y, z of a cube stands, whose bits are interleaved with those of x last.

    Example:
        >>> morton(2).tolist()
        [[[0, 4], [2, 6]], [[1, 5], [3, 7]]]
    """
    spread = np.zeros(n, np.int64)
    for bit in range((n - 1).bit_length()):
        spread |= (np.arange(n) >> bit & 1) << 3 * bit
    return spread[:, None, None] | spread[None, :, None] << 1 | spread[None, None, :] << 2


def _in_crop(snapshot: _Table, n: int, n_cascades: int) -> Tensor:
    """(n_cascades, n, n, n) bool: whether a cell reaches into what instant-ngp shows, its render_aabb."""
    inside = torch.ones(n_cascades, n, n, n, dtype=torch.bool)
    turned = snapshot.array("render_aabb_to_local", (3, 3), np.eye(3).tolist())
    if "render_aabb" not in snapshot.values or not np.allclose(turned, np.eye(3)):
        return inside
    box = snapshot.table("render_aabb")
    low, high = (box.array(key, (3,)) for key in ("min", "max"))
    for cascade in range(n_cascades):
        edges = 0.5 + (np.arange(n + 1) / n - 0.5) * 2.0**cascade
        for axis in range(3):
            reaches = torch.from_numpy((edges[1:] > low[axis]) & (edges[:-1] < high[axis]))
            inside[cascade] &= reaches.view([n if axis == other else 1 for other in range(3)])
    return inside


def _background(snapshot: _Table, is_linear: bool) -> list[float] | None:
    if "background_color" not in snapshot.values:
        return None
    color = snapshot.array("background_color", (4,))
    srgb = (color[:3] * color[3]).clip(0, 1)
    if is_linear:
        srgb = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return [float(f"{value:.6g}") for value in srgb]


def _signal(snapshot: _Table, dataset: _Table) -> dict[str, Any]:
    """What the header of a scene's file keeps of its photos."""
    signal: dict[str, Any] = {"kind": "scene", "up": snapshot.array("up_dir", (3,), [0.0, 1.0, 0.0]).tolist()}
    if "scale" in dataset.values and "offset" in dataset.values:
        signal["world"] = {
            "scale": dataset.number("scale", low=1e-6, high=1e6), "offset": dataset.array("offset", (3,)).tolist(),
            "axes": [0, 1, 2] if dataset.values.get("from_mitsuba") else [1, 2, 0],
        }  # fmt: skip
    rows, about = dataset.values.get("xforms"), dataset.values.get("metadata")
    if not isinstance(rows, list) or not rows or not isinstance(about, list) or len(about) != len(rows):
        return signal
    poses = []
    for index, row in enumerate(rows):
        table = _Table(dataset.path, row if isinstance(row, Mapping) else {}, f"{dataset.place}xforms[{index}].")
        pose = table.array("start", (3, 4)) * np.array([1.0, -1.0, -1.0, 1.0])  # OpenCV's axes to OpenGL's
        if np.abs(pose[:, :3] @ pose[:, :3].T - np.eye(3)).max() < 1e-2:
            poses.append(pose)
    first = _Table(dataset.path, about[0] if isinstance(about[0], Mapping) else {}, f"{dataset.place}metadata[0].")
    width, height = first.array("resolution", (2,)).tolist()
    if poses and width >= 1 and height >= 1:
        focal = float(first.array("focal_length", (2,))[0])
        signal |= {"width": int(width), "height": int(height), "focal": focal, "n_photos": len(rows),
                   "cameras": remember_cameras(np.stack(poses))}  # fmt: skip
    return signal


def _run(snapshot: _Table) -> dict[str, Any]:
    return {"trained_with": "instant-ngp", "training_step": snapshot.whole("training_step", 0, low=0, high=2**40)}


def _short(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) < 60 else f"{text[:57]}..."
