"""`.field` files: a fitted field in one safe file.

    save_field("photo.field", field, metadata={"signal": {...}, "metrics": {"psnr": 38.2}})
    field, metadata = load_field("photo.field")

The container (`container.py`: safetensors, checksum, atomic writing) holds the parameters and buffers under their
names in the module, in the types that `storage.py` explains, and in its header

- ``config``: the configuration that rebuilds the field, `Field.config()`;
- ``box``: the field's world box;
- ``metadata``: whatever JSON the caller gives; fits write ``signal`` (resolution, colour space, cameras), ``metrics``
  and ``history``;
- ``software``: the version of fieldforge that wrote it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from fieldforge.fields import container
from fieldforge.fields.container import FieldFileError, Reader, TensorInfo, plain_json
from fieldforge.fields.kinds.base import Box, Field
from fieldforge.fields.storage import STORAGE, Storage, decode, encode, fill, misfit, round_to
from fieldforge.registry import build

__all__ = ["STORAGE", "FieldFileError", "Header", "Storage", "load_field", "read_header", "round_to", "save_field"]

UNSAVED_BYTES = 64 * 2**20
"""Memory a configuration may ask for beyond what its file holds: tables that are computed, not stored."""


@dataclass(frozen=True)
class Header:
    """What a `.field` file says of itself, read without building a module or loading a tensor."""

    path: Path
    n_bytes: int
    format: int
    config: dict[str, Any]
    metadata: dict[str, Any]
    box: Box
    software: dict[str, Any]
    tensors: dict[str, TensorInfo]


def save_field(
    path: str | os.PathLike[str],
    field: Field,
    *,
    metadata: Mapping[str, Any] | None = None,
    dtype: Storage = None,
) -> int:
    """Write a field; the file that was there is replaced in one step or not touched at all.

    Args:
        path: the file; its folder exists.
        field: on any device.
        metadata: JSON values with text keys and finite numbers; a tuple comes back as a list.
        dtype: how parameters are stored: one of `STORAGE`, a table such as {"encoding": "int8", "network":
            "float16"}, or None: as they are.

    Returns:
        The size of the file in bytes. The same field and metadata give the same bytes.

    Raises:
        TypeError, ValueError: metadata that is not JSON, a parameter that is not finite or does not fit `dtype`, or a
            field that its own configuration does not rebuild; nothing is written.
        FieldFileError: the file system refused.
    """
    config = plain_json(field.config(), "config")
    body = {
        "box": [list(corner) for corner in field.box],
        "config": config,
        "metadata": plain_json(metadata or {}, "metadata"),
        "software": software(),
    }
    sources = encode(field, dtype)
    stored = {name: (container.name_of(source.dtype), source.shape) for name, source in sources.items()}
    problem = misfit(stored, skeleton_of(config).state_dict())
    if problem:  # better now than when somebody needs the file
        raise ValueError(f"field: {type(field).__name__}.config() does not rebuild it: {problem}")
    return container.write(path, "field", body, sources)


def load_field(path: str | os.PathLike[str]) -> tuple[Field, dict[str, Any]]:
    """Read a field and its metadata.

    The file may come from anywhere. Before memory is taken for parameters, the checksum is verified, the configuration
    is built without memory (on torch's meta device), and every name, shape and type it asks for is found in the file.
    Nothing is executed, and torch's random state is left as it was.

    Returns:
        The field, on torch's default device, with real parameters in float32, or float64 if they were stored so;
        and the metadata.

    Raises:
        FieldFileError: not a field, damaged, newer than this version, or not what its configuration describes.
    """
    with Reader(path) as reader:
        header = _header(reader)
        reader.verify()
        try:
            skeleton = skeleton_of(header.config)
            problem = _misfit(reader, skeleton, header)
            if problem:
                raise ValueError(f"it does not hold what its configuration describes: {problem}")
            with torch.random.fork_rng(devices=[]):
                field = build_field(header.config)
            asked = skeleton.state_dict()
            if any(reader.tensors[name].dtype == "F64" and asked[name].dtype != torch.float64 for name in asked):
                field = field.double()
            for name, tensor in field.state_dict().items():
                steps = f"{name}:step"
                fill(tensor, decode(reader.pieces(name), reader.tensor(steps) if steps in reader.tensors else None))
        except FieldFileError:
            raise
        except Exception as error:  # what a file asks for may fail in any way a constructor can
            raise FieldFileError(path, f"cannot be loaded: {error or type(error).__name__}") from error
        return field, header.metadata


def read_header(path: str | os.PathLike[str]) -> Header:
    """What a file says of itself. Its tensors and its checksum are not looked at: `load_field` does that.

    Raises:
        FieldFileError: not a field, cut short, or newer than this version.
    """
    with Reader(path) as reader:
        return _header(reader)


def _header(reader: Reader) -> Header:
    body = reader.body
    if reader.kind != "field":
        raise FieldFileError(reader.path, f"is a {reader.kind}, not a finished field; resume the fit that wrote it")
    for key in ("config", "metadata", "software"):
        if not isinstance(body.get(key), dict):
            raise FieldFileError(reader.path, f"has no table {key} in its header; it is damaged")
    box = body.get("box")
    if not isinstance(box, list) or len(box) != 2 or not all(_is_corner(side) for side in box):
        raise FieldFileError(reader.path, "has no box in its header; it is damaged")
    return Header(
        path=reader.path,
        n_bytes=reader.n_bytes,
        format=reader.format,
        config=body["config"],
        metadata=body["metadata"],
        box=(tuple(box[0]), tuple(box[1])),
        software=body["software"],
        tensors=reader.tensors,
    )


def _is_corner(side: Any) -> bool:
    return isinstance(side, list) and all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in side)


def build_field(config: Mapping[str, Any]) -> Field:
    field = build("field", config, generator=torch.Generator("cpu").manual_seed(0))
    if not isinstance(field, Field):
        raise TypeError(f"otype: expected a field, got {type(field).__name__}")
    return field


def skeleton_of(config: Mapping[str, Any]) -> Field:
    """The field without memory: names, shapes and types only."""
    with torch.device("meta"):
        return build_field(config)


def _misfit(reader: Reader, skeleton: Field, header: Header) -> str | None:
    """The first way in which a file does not fit the field that its configuration builds."""
    asked = skeleton.state_dict()
    unsaved = sum(buffer.nbytes for name, buffer in skeleton.named_buffers() if name not in asked)
    if unsaved > UNSAVED_BYTES + reader.n_bytes:
        return f"tables of {unsaved} bytes are more than a file of {reader.n_bytes} bytes may ask for"
    if header.box != skeleton.box:
        return f"box is {header.box}, not {skeleton.box}"
    return misfit({name: (info.dtype, info.shape) for name, info in reader.tensors.items()}, asked)


def software() -> dict[str, str]:
    """What writes this file."""
    try:
        return {"fieldforge": version("fieldforge")}
    except PackageNotFoundError:  # run from a folder, not installed
        return {"fieldforge": "unknown"}
