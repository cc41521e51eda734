"""Collections: many fields of one shape in one folder, as data to learn from.

    fields = Collection("digits/")
    fields[17]                     # an ordinary field
    fields.rows([3, 1, 4])         # (3, P) float32: parameters, flat
    fields.labels, fields.qualities

A collection is a folder:

- ``index.json``: the configuration that all fields share, how parameters lie in a row (`layout`: name and shape in
  order, fit-a-nef's param_config), how they began, and for each field its name, label, quality, source and seeds
  (`COLUMNS`). It begins with its own sha256.
- ``shard-00000.safetensors``, ...: a tensor ``params`` (n, P) float32 each, a row for each field; the containers of
  `container.py`, which any safetensors reader opens. Each is complete in itself, so that a fit that was killed goes on.
- ``start.safetensors``: the numbers that fields began with, if they were the same for all.

A field is read without the rest: its row is mapped from its shard and checked against its digest in the index. Reading
trusts nothing, as `.field` files do not. A shard that is absent or damaged takes only its own fields with it. This
module reads; `shards.py` writes.
"""

from __future__ import annotations

import copy
import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fieldforge.fields.container import FieldFileError, Reader, parse_json
from fieldforge.fields.file import UNSAVED_BYTES, build_field, skeleton_of
from fieldforge.fields.kinds.base import Field
from fieldforge.fields.weightspace.layout import Layout

FORMAT = 1
INDEX, START = "index.json", "start.safetensors"
MAX_INDEX_BYTES = 2**30
MAX_INDEX_VALUES = 50_000_000
CHECKSUM_AT = len('{"checksum":"')

OWN = {"low", "side"}
"""Keys of the configuration that a field may have to itself: its place in the world."""

COLUMNS: dict[str, tuple[type, ...]] = {
    "name": (str,),  # of the item: a file, or its number
    "item": (int,),  # its number in the source; all fields of an item fall on the same side of a split
    "init": (int,),  # which of its initialisations
    "init_seed": (int,),  # of the numbers the field began with
    "attempt": (int,),  # 0; more where it was fitted again
    "label": (int, str, type(None)),
    "quality": (float, int, type(None)),
    "source_sha256": (str,),  # of the item's content
    "split": (float, int),  # uniform in [0, 1), from the item's name: below 0.8 is a training set, say
    "own": (dict, type(None)),  # keys of the configuration that are this field's own
    "digest": (str,),  # the first 16 hexadecimal digits of the sha256 of its row
}
"""What is known of each field -> the types it may have."""


class CollectionError(FieldFileError):
    """A collection, or a field in it, cannot be used; one sentence: which, what was found, the way out."""


def layout_of(field: Field) -> Layout:
    """How the parameters of a field lie in a row.

    Raises:
        ValueError: it holds numbers that are no float32 parameters.
    """
    state, parameters = field.state_dict(), dict(field.named_parameters())
    for name, tensor in state.items():
        if tensor.dtype != torch.float32 or name not in parameters:
            raise ValueError(f"{name}: expected float32 parameters, as a collection holds, got {tensor.dtype}")
    return Layout.of(state)


def digest_of(row: np.ndarray) -> str:
    """What the index remembers of a row (P,) float32."""
    return hashlib.sha256(np.ascontiguousarray(row, "<f4").tobytes()).hexdigest()[:16]


class Collection(Sequence[Field]):
    """An open collection.

    Args:
        path: its folder.
        allow_incomplete: open also what an interrupted fit left; the fields that are there.

    Attributes:
        path, body: the folder, and the whole index without its columns.
        config: what all fields share, `Field.config()`.
        layout: how parameters lie in a row; `n_parameters`: numbers in it.
        names, items, inits, labels, qualities, splits: a list each, one entry a field; `column` gives the others.

    Raises:
        CollectionError: no collection, damaged, unfinished, or written by a newer version.
    """

    def __init__(self, path: str | os.PathLike[str], *, allow_incomplete: bool = False) -> None:
        self.path = Path(path)
        body = self._read_index()
        columns = body.pop("fields", None)
        if isinstance(body.get("format"), int) and body["format"] > FORMAT:
            self._fail(f"was written by a newer version (format {body['format']}); upgrade fieldforge")
        for key, kind in (("field", dict), ("init", dict), ("quality", str), ("n_fields", int), ("shards", list)):
            if not isinstance(body.get(key), kind) or isinstance(body[key], bool):
                self._fail(f"has no {key} in its index that can be used; the index is damaged")
        self.body: dict[str, Any] = body
        self.config: dict[str, Any] = body["field"]
        self.layout = self._layout(body.get("layout"))
        self.n_parameters = self.layout.n_parameters
        self._shards = [self._shard(entry) for entry in body["shards"]]
        self._begins = np.cumsum([0, *(n for _, n, _ in self._shards)])
        self._columns = self._checked_columns(columns, int(self._begins[-1]))
        if len(self) < body["n_fields"] and not allow_incomplete:
            self._fail(f"holds {len(self)} of {body['n_fields']} fields; repeat its fit with --resume to go on")
        self._maps: dict[int, np.ndarray] = {}
        self._template: Field | None = None

    @property
    def names(self) -> list[str]:
        """Of the item of each field."""
        return self.column("name")

    @property
    def items(self) -> list[int]:
        """Number of the item of each field."""
        return self.column("item")

    @property
    def inits(self) -> list[int]:
        """Which initialisation of its item each field is."""
        return self.column("init")

    @property
    def labels(self) -> list[int | str | None]:
        """Of each field."""
        return self.column("label")

    @property
    def qualities(self) -> list[float | None]:
        """Of each field, in the figure that `body["quality"]` names; None where it is not finite."""
        return self.column("quality")

    @property
    def splits(self) -> list[float]:
        """A number in [0, 1) of each field, equal for fields of one item."""
        return self.column("split")

    def column(self, name: str) -> list[Any]:
        """One of `COLUMNS`, an entry a field."""
        return self._columns[name]

    def __len__(self) -> int:
        return len(self._columns["name"])

    def __getitem__(self, index: int) -> Field:  # type: ignore[override]
        """A field as an ordinary one, on the CPU.

        Raises:
            IndexError: there is no field of that number.
            CollectionError: it is damaged, not finite, or its shard is absent; the message names it.
        """
        index = self._number(index)
        row = self.row(index)
        own = self._columns["own"][index]
        try:
            if own:
                if own.keys() - OWN:  # a whole configuration of its own could ask for any memory
                    raise ValueError(f"only {' and '.join(sorted(OWN))} may be its own, got {', '.join(own)}")
                field = build_field({**self.config, **own})
            else:
                if self._template is None:
                    self._template = build_field(self.config)
                named = dict(self._template.named_parameters())
                parts = {name: nn.Parameter(part.clone()) for name, part in self.layout.unflatten(row).items()}
                # a copy in which these parameters stand for the template's: twice as quick as filling them in
                return copy.deepcopy(self._template, {id(named[name]): part for name, part in parts.items()})
            field.load_state_dict(self.layout.unflatten(row))
        except Exception as error:  # what an index asks for may fail in any way a constructor can
            self._fail(f"{self.describe(index)} cannot be loaded: {error or type(error).__name__}")
        return field

    def __iter__(self) -> Iterator[Field]:
        return (self[index] for index in range(len(self)))

    def row(self, index: int) -> Tensor:
        """The parameters of a field, (P,) float32, without reading the others.

        Raises:
            IndexError, CollectionError: as for a field.
        """
        index = self._number(index)
        shard = int(np.searchsorted(self._begins, index, "right")) - 1
        row = np.array(self._map(shard, index)[index - self._begins[shard]])
        if digest_of(row) != self._columns["digest"][index]:
            self._fail(f"{self.describe(index)} is damaged: its numbers are not those that were written; "
                       "--resume fits its shard anew, the others can be used")  # fmt: skip
        if not np.isfinite(row).all():
            self._fail(f"{self.describe(index)} holds numbers that are not finite; leave it out or fit it again")
        return torch.from_numpy(row)

    def rows(self, indices: Iterable[int] | None = None) -> Tensor:
        """Parameters of several fields, (n, P) float32; None: of all.

        Raises:
            IndexError, CollectionError: as for a field.
        """
        chosen = list(range(len(self)) if indices is None else indices)
        found = torch.empty(len(chosen), self.n_parameters)
        for place, index in enumerate(chosen):
            found[place] = self.row(index)
        return found

    def parameters(self, index: int) -> dict[str, Tensor]:
        """The parameters of a field by name."""
        return self.layout.unflatten(self.row(index))

    def start(self) -> Tensor | None:
        """(K, P) the numbers that the k-th fields of all items began with; None where each began with its own.

        Raises:
            CollectionError: the file is damaged.
        """
        path = self.path / START
        return None if self.body["init"].get("policy") == "random" or not path.exists() else read_start(path)[0]

    def describe(self, index: int) -> str:
        """'field 17 (name, initialisation 2)' for messages."""
        which = f", initialisation {self.inits[index]}" if self.inits[index] else ""
        return f"field {index} ({self.names[index]}{which})"

    def problems(self) -> list[str]:
        """Read all of it; a sentence on each field that cannot be used, or one on all of a shard."""
        found = []
        for shard, (file, n, _) in enumerate(self._shards):
            try:
                self._map(shard, int(self._begins[shard]))
            except CollectionError as error:
                found.append(f"{error.problem} ({n} fields: shard {file})")
                continue
            for index in range(int(self._begins[shard]), int(self._begins[shard + 1])):
                try:
                    self.row(index)
                except CollectionError as error:
                    found.append(error.problem)
        return found

    def _number(self, index: int) -> int:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index: there are {len(self)} fields in {self.path}, got {index}")
        return index % len(self)

    def _fail(self, problem: str) -> Any:
        raise CollectionError(self.path, problem)

    def _map(self, shard: int, index: int) -> np.ndarray:
        """The rows of a shard, mapped, not read."""
        if shard not in self._maps:
            file, n, offset = self._shards[shard]
            path = self.path / file
            try:
                status = path.stat()
                if not stat.S_ISREG(status.st_mode):
                    self._fail(f"{self.describe(index)} cannot be read: {file} is no regular file")
                if status.st_size != offset + n * self.n_parameters * 4:
                    self._fail(f"{self.describe(index)} cannot be read: {file} has {status.st_size} bytes, not those "
                               "of its fields; --resume fits it anew")  # fmt: skip
                self._maps[shard] = np.memmap(path, "<f4", "r", offset, (n, self.n_parameters))
            except OSError as error:
                self._fail(f"{self.describe(index)} cannot be read: {file}: {error.strerror or error}; "
                           "--resume fits it anew")  # fmt: skip
        return self._maps[shard]

    def _read_index(self) -> dict[str, Any]:
        path = self.path / INDEX
        try:
            if not self.path.is_dir():
                self._fail("is not the folder of a collection")
            if not path.exists():
                self._fail(f"holds no {INDEX}; it is no collection")
            if not path.is_file() or path.stat().st_size > MAX_INDEX_BYTES:
                self._fail(f"has an {INDEX} that is no file of at most {MAX_INDEX_BYTES} bytes")
            text = path.read_bytes()
        except OSError as error:
            self._fail(f"cannot be read ({error.strerror or error})")
        if not re.match(rb'\{"checksum":"[0-9a-f]{64}",', text):
            self._fail(f"has an {INDEX} that fieldforge did not write")
        checksum = text[CHECKSUM_AT : CHECKSUM_AT + 64]
        zeros = text[:CHECKSUM_AT] + b"0" * 64 + text[CHECKSUM_AT + 64 :]
        if hashlib.sha256(zeros).hexdigest().encode() != checksum:
            self._fail(f"has a damaged {INDEX}: its checksum does not match; --resume writes it anew from the shards")
        try:
            body = parse_json(text, MAX_INDEX_VALUES)
        except (ValueError, RecursionError) as error:
            self._fail(f"has a damaged {INDEX} ({error})")
        del body["checksum"]
        found: dict[str, Any] = body
        return found

    def _layout(self, stored: Any) -> Layout:
        """The layout that the index states, if it is the one that its configuration builds."""
        try:
            skeleton = skeleton_of(self.config)
            layout: Layout = layout_of(skeleton)
            unsaved = sum(buffer.nbytes for buffer in skeleton.buffers())
        except Exception as error:
            self._fail(f"has a configuration that cannot be built: {error or type(error).__name__}")
        if layout.pairs() != stored:
            self._fail("has a layout that is not the one of its configuration; the index is damaged")
        if unsaved > UNSAVED_BYTES:
            self._fail(f"asks for tables of {unsaved} bytes beside its parameters")
        return layout

    def _shard(self, entry: Any) -> tuple[str, int, int]:
        """(file, fields, where the first row begins)."""
        if not isinstance(entry, list) or [type(part) for part in entry] != [str, int, int]:
            self._fail("has a list of shards that is damaged")
        file, n, offset = entry
        if not re.fullmatch(r"shard-\d{5,9}\.safetensors", file) or n < 1 or not 0 < offset < 2**40:
            self._fail(f"names a shard that cannot be one ({entry})")
        return file, n, offset

    def _checked_columns(self, columns: Any, n: int) -> dict[str, list[Any]]:
        if not isinstance(columns, dict) or columns.keys() != COLUMNS.keys():
            self._fail(f"has columns that are not {', '.join(COLUMNS)}; the index is damaged")
        for name, kinds in COLUMNS.items():
            column = columns[name]
            if not isinstance(column, list) or len(column) != n:
                self._fail(f"has a column {name} that is not one entry for each of its {n} fields")
            if not {type(value) for value in column} <= set(kinds):
                self._fail(f"has a column {name} with values of another type")
        found: dict[str, list[Any]] = columns
        return found


def read_start(path: Path) -> tuple[Tensor, Mapping[str, Any]]:
    """Starting numbers (K, P), and the header of their file.

    Raises:
        CollectionError: the file is damaged.
    """
    with Reader(path) as reader:
        info = reader.tensors.get("params")
        if reader.kind != "start" or info is None or info.dtype != "F32" or len(info.shape) != 2:
            raise CollectionError(path, f"is a {reader.kind}, not where the fields of a collection began")
        reader.verify()
        return reader.tensor("params"), reader.body
