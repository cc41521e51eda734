"""Writing collections: shards as they are finished, then the index; see `collection.py` for what lies on disk."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fieldforge.fields import container
from fieldforge.fields.collection import (
    CHECKSUM_AT,
    COLUMNS,
    FORMAT,
    INDEX,
    START,
    CollectionError,
    digest_of,
)
from fieldforge.fields.container import FieldFileError, Reader, Source, plain_json
from fieldforge.fields.weightspace.layout import Layout

MAX_SHARD_FIELDS = 4096

Columns = dict[str, list[Any]]


@dataclass(frozen=True)
class Shard:
    """A shard as it lies on disk.

    Attributes:
        path: the file.
        rows: (n, P) float32.
        columns: of `COLUMNS`, n entries each.
        begins_at: where in the file the first row begins.
    """

    path: Path
    rows: Tensor
    columns: Columns
    begins_at: int


def shard_path(folder: Path, number: int) -> Path:
    """The file of a shard."""
    return folder / f"shard-{number:05d}.safetensors"


def write_shard(path: Path, rows: Tensor, columns: Mapping[str, Sequence[Any]], identity: str) -> Columns:
    """Write one shard whole or not at all; the same rows and columns give the same bytes.

    Args:
        path: see `shard_path`.
        rows: (n, P) float32.
        columns: those of `COLUMNS` but the digest, which is taken here.
        identity: what the fields depend on; a fit that is resumed goes on only with its own shards.

    Returns:
        The columns with the digest.

    Raises:
        ValueError: a column has another length or type.
        FieldFileError: the file system refused.
    """
    rows = rows.detach().contiguous()
    found: Columns = {name: list(columns[name]) for name in COLUMNS if name != "digest"}
    found["digest"] = [digest_of(row) for row in rows.numpy()]
    for name, column in found.items():
        if len(column) != len(rows) or not {type(value) for value in column} <= set(COLUMNS[name]):
            raise ValueError(f"{name}: expected {len(rows)} values of {COLUMNS[name]}, got {column[:3]}")
    body = {"columns": found, "identity": identity}
    container.write(path, "shard", body, {"params": Source.of(rows)})
    return found


def read_shard(path: Path, identity: str, n: int, layout: Layout) -> Shard:
    """A shard, verified.

    Args:
        path: the file.
        identity, n, layout: what it has to be.

    Raises:
        FieldFileError: damaged.
        CollectionError: not of this collection.
    """
    with Reader(path) as reader:
        reader.verify()
        info = reader.tensors.get("params")
        columns = reader.body.get("columns")
        if reader.kind != "shard" or reader.body.get("identity") != identity:
            raise CollectionError(path, "is of another collection; --restart discards what is there")
        if info is None or info.dtype != "F32" or info.shape != (n, layout.n_parameters):
            raise FieldFileError(path, f"does not hold {n} fields of {layout.n_parameters} numbers")
        if not isinstance(columns, dict) or columns.keys() != COLUMNS.keys():
            raise FieldFileError(path, "does not say what its fields are; it is damaged")
        if any(not isinstance(column, list) or len(column) != n for column in columns.values()):
            raise FieldFileError(path, "does not say what each of its fields is; it is damaged")
        return Shard(path, reader.tensor("params"), columns, reader.data_start + info.begin)


def write_start(folder: Path, rows: Tensor, identity: str) -> None:
    """Write the numbers (K, P) that all fields began with."""
    container.write(folder / START, "start", {"identity": identity}, {"params": Source.of(rows.detach())})


def write_index(folder: Path, body: Mapping[str, Any], shards: Sequence[Shard]) -> None:
    """Write the index of the shards that are there, in their order, whole or not at all.

    Args:
        folder: of the collection.
        body: field, layout, init, quality, n_fields (how many there will be) and whatever else describes the whole.
        shards: those that are finished; their rows are not looked at.

    Raises:
        TypeError, ValueError: `body` is not JSON.
        FieldFileError: the file system refused.
    """
    columns: Columns = {name: [] for name in COLUMNS}
    for shard in shards:
        for name, column in columns.items():
            column += shard.columns[name]
    whole = plain_json(body, "index") | {
        "format": FORMAT,
        "shards": [[shard.path.name, len(shard.columns["name"]), shard.begins_at] for shard in shards],
        "fields": plain_json(columns, "fields"),
    }
    inner = json.dumps(whole, sort_keys=True, separators=(",", ":"), allow_nan=False)
    text = ('{"checksum":"' + "0" * 64 + '",' + inner[1:]).encode()
    digest = hashlib.sha256(text).hexdigest().encode()
    try:
        with container.replacing(folder / INDEX) as file:
            file.write(text[:CHECKSUM_AT] + digest + text[CHECKSUM_AT + 64 :])
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise FieldFileError(folder / INDEX, f"could not be written ({error.strerror or error})") from error


def write_collection(
    folder: Path, body: Mapping[str, Any], rows: Tensor, columns: Mapping[str, Sequence[Any]], n_in_shard: int = 1024
) -> None:
    """Write a whole collection whose fields are in memory (one that was imported, or generated).

    Args:
        folder: made if it is not there.
        body: as for `write_index`; n_fields is filled in.
        rows: (n, P) float32.
        columns: as for `write_shard`.
        n_in_shard: fields in a file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    identity = hashlib.sha256(np.ascontiguousarray(rows.numpy()).tobytes()).hexdigest()
    shards = []
    layout = Layout.from_json(body["layout"])
    for number, first in enumerate(range(0, len(rows), n_in_shard)):
        part = slice(first, first + n_in_shard)
        path = shard_path(folder, number)
        write_shard(path, rows[part], {name: column[part] for name, column in columns.items()}, identity)
        shard = read_shard(path, identity, len(rows[part]), layout)
        shards.append(Shard(path, torch.empty(0), shard.columns, shard.begins_at))
    write_index(folder, {**body, "n_fields": len(rows)}, shards)
