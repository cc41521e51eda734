"""HDF5 files of fit-a-nef and neural-field-arena (Papa et al., CVPR 2024), in and out.

    params        (N, P) float32, a field a row
    param_config  (1,) text, JSON: [[name, shape], ...] in the order in which parameters lie in a row
    labels        (N,) integers, where every field has one
    fieldforge    (1,) text, JSON: what fields are and what is known of each; ours, others leave it out

What is written by others says nothing of what its fields are: the configuration is given. Flax keeps matrices as
(inputs, outputs) and calls them kernels; they are turned, and layers are taken in the order of their numbers. Where on
a picture its coordinates lie is for the configuration's encoding to say.
"""

from __future__ import annotations

import importlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fieldforge.fields.collection import COLUMNS, Collection, CollectionError, layout_of
from fieldforge.fields.container import parse_json, replacing
from fieldforge.fields.file import build_field
from fieldforge.fields.shards import write_collection
from fieldforge.fields.weightspace.layout import Layout

MAX_BYTES = 2**36
MAX_JSON_VALUES = 50_000_000
SLICE = 4096


def export_hdf5(fields: Collection, path: Path) -> None:
    """Write all fields of a collection; the file that was there is replaced in one step.

    Raises:
        RuntimeError: h5py is not installed.
        CollectionError: a field cannot be read.
    """
    h5py = _h5py()
    about = {key: fields.body[key] for key in fields.body.keys() - {"shards", "format", "n_fields", "identity"}}
    columns = {name: fields.column(name) for name in COLUMNS if name != "digest"}
    with replacing(path) as beside:
        with h5py.File(beside, "w", libver="earliest", track_order=True) as file:
            params = file.create_dataset("params", (len(fields), fields.n_parameters), "<f4", track_times=False)
            for first in range(0, len(fields), SLICE):
                numbers = range(first, min(len(fields), first + SLICE))
                params[first : numbers.stop] = fields.rows(numbers).numpy()
            _put_text(h5py, file, "param_config", fields.layout.to_json())
            if all(type(label) is int for label in fields.labels):
                file.create_dataset("labels", data=np.array(fields.labels, np.int64), track_times=False)
            _put_text(h5py, file, "fieldforge", json.dumps({**about, "fields": columns}, sort_keys=True))
        beside.flush()


def import_hdf5(path: Path, folder: Path, config: Mapping[str, Any] | None = None) -> Collection:
    """Make a collection of what such a file holds.

    Args:
        path: the file.
        folder: a new one, or an empty one.
        config: what the fields are, as `Field.config()` says it; needed where the file does not say.

    Raises:
        RuntimeError: h5py is not installed.
        CollectionError: the file is damaged, or does not fit the configuration; or the folder holds something.
    """
    h5py = _h5py()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CollectionError(folder, "is not empty; name a new folder")
    try:
        with h5py.File(path, "r") as file:
            params = _dataset(h5py, file, "params", path)
            stored = parse_json(_text(h5py, file, "param_config", path), MAX_JSON_VALUES)
            n, width = _expect_rows(params, path)
            labels = _labels(h5py, file, n, path)
            about = parse_json(_text(h5py, file, "fieldforge", path), MAX_JSON_VALUES) if "fieldforge" in file else {}
            rows = torch.empty(n, width)
            for first in range(0, n, SLICE):
                rows[first : first + SLICE] = torch.from_numpy(params[first : first + SLICE].astype(np.float32))
    except CollectionError:
        raise
    except Exception as error:  # a reader of HDF5 may fail in any way on a damaged file
        raise CollectionError(path, f"is no HDF5 file of fields that can be read ({error})") from error
    if not isinstance(about, dict) or (config is None and not isinstance(about.get("field"), dict)):
        raise CollectionError(path, "does not say what its fields are; give their configuration with --config")
    whole = dict(config) if config is not None else about["field"]
    try:
        field = build_field(whole)
        layout = layout_of(field)
        rows = rows[:, _order(stored, layout, path)]
    except CollectionError:
        raise
    except Exception as error:
        raise CollectionError(path, f"does not fit its configuration: {error or type(error).__name__}") from error
    body = {"init": {"policy": "unknown"}, "quality": "unknown"} | {
        key: about[key] for key in about.keys() - {"fields"} if config is None
    }
    body |= {"field": field.config(), "layout": layout.pairs()}
    try:
        write_collection(folder, body, rows, _columns(about.get("fields"), n, labels, config is None))
    except (TypeError, ValueError) as error:
        raise CollectionError(path, f"cannot be made a collection: {error}") from error
    return Collection(folder)


def _h5py() -> Any:
    try:
        return importlib.import_module("h5py")
    except ImportError as error:
        raise RuntimeError("HDF5 files need h5py: pip install h5py") from error


def _put_text(h5py: Any, file: Any, name: str, text: str) -> None:
    file.create_dataset(name, (1,), h5py.special_dtype(vlen=str), track_times=False)[0] = text


def _dataset(h5py: Any, file: Any, name: str, path: Path) -> Any:
    """A dataset that lies in this very file: no link leads out of it."""
    if name not in file:
        raise CollectionError(path, f"has no dataset {name}; it holds {', '.join(list(file)[:10]) or 'nothing'}")
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise CollectionError(path, f"{name} is a link to somewhere else; such files are not followed")
    found = file[name]
    if not isinstance(found, h5py.Dataset) or found.external or found.is_virtual:
        raise CollectionError(path, f"{name} is no dataset of this file itself")
    return found


def _text(h5py: Any, file: Any, name: str, path: Path) -> str:
    found = _dataset(h5py, file, name, path)
    if found.shape not in ((), (1,)):
        raise CollectionError(path, f"{name}: expected one text, got shape {found.shape}")
    value = found[()] if found.shape == () else found[0]
    return value.decode() if isinstance(value, bytes) else str(value)


def _expect_rows(params: Any, path: Path) -> tuple[int, int]:
    if len(params.shape) != 2 or 0 in params.shape or params.dtype.kind != "f":
        raise CollectionError(path, f"params: expected (N, P) floats, got {params.shape} {params.dtype}")
    n, width = int(params.shape[0]), int(params.shape[1])
    if 8 * n * width > min(MAX_BYTES, 1100 * path.stat().st_size):
        raise CollectionError(path, f"params: {n} x {width} numbers are more than a file of this size may hold")
    return n, width


def _labels(h5py: Any, file: Any, n: int, path: Path) -> list[int] | None:
    if "labels" not in file:
        return None
    found = _dataset(h5py, file, "labels", path)
    if math.prod(found.shape) != n or found.dtype.kind not in "iu":
        raise CollectionError(path, f"labels: expected {n} integers, got {found.shape} {found.dtype}")
    return [int(label) for label in np.asarray(found[()]).reshape(-1)]


def _order(stored: Any, layout: Layout, path: Path) -> Tensor:
    """(P,) where each of our numbers lies in a row of theirs."""
    try:
        theirs = Layout.from_json(stored)
    except ValueError as error:
        raise CollectionError(path, f"param_config: {str(error).removeprefix('layout: ')}") from error
    if theirs.n_parameters != layout.n_parameters:
        raise CollectionError(
            path, f"its fields have {theirs.n_parameters} numbers, the configuration's {layout.n_parameters}"
        )
    places = theirs.unflatten(torch.arange(theirs.n_parameters, dtype=torch.float64))
    if list(layout.shapes) != list(theirs.shapes):
        places = _by_layers(places, path)
    parts = []
    for name, shape in layout.tensors:
        if name not in places or tuple(places[name].shape) != shape:
            found = tuple(places[name].shape) if name in places else "nothing"
            raise CollectionError(path, f"param_config: {name} is {found}, not {shape}")
        parts.append(places[name].reshape(-1))
    return torch.cat(parts).long()


def _by_layers(places: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Kernels and biases, as Flax names them, as the weights and biases of an MLP."""
    layers: dict[str, dict[str, Tensor]] = {}
    for name, place in places.items():
        module, _, part = name.rpartition(".")
        if part not in ("kernel", "weight", "bias"):
            raise CollectionError(path, f"param_config: {name} is neither a kernel, a weight nor a bias")
        layers.setdefault(module, {})[part] = place

    def number(module: str) -> tuple[float, str]:
        digits = re.findall(r"\d+", module)
        return (float(digits[-1]) if digits and "output" not in module else math.inf), module

    found = {}
    for index, module in enumerate(sorted(layers, key=number)):
        for part, place in layers[module].items():
            name = f"network.layers.{index}.{'bias' if part == 'bias' else 'weight'}"
            found[name] = place.mT if part == "kernel" else place
    return found


def _columns(stored: Any, n: int, labels: list[int] | None, is_ours: bool) -> dict[str, list[Any]]:
    if is_ours and isinstance(stored, dict) and stored.keys() == COLUMNS.keys() - {"digest"}:
        return stored
    return {
        "name": [f"{number:0{max(5, len(str(n - 1)))}d}" for number in range(n)],
        "item": list(range(n)),
        "init": [0] * n,
        "init_seed": [0] * n,
        "attempt": [0] * n,
        "label": [None] * n if labels is None else list(labels),
        "quality": [None] * n,
        "source_sha256": [""] * n,
        "split": [number / n for number in range(n)],
        "own": [None] * n,
    }
