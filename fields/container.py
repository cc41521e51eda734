"""The container under every file fieldforge writes: safetensors, one JSON entry, one checksum, no code.

    8 bytes     N, the length of the header (unsigned, little-endian)
    N bytes     {"__metadata__":{"fieldforge":"{\\"checksum\\":\\"<64 hex digits>\\",\\"format\\":1,...}"},
                 "encoding.table":{"dtype":"F32","shape":[4096,2],"data_offsets":[0,32768]},...}
    the rest    the tensors, end to end, widest type first

Any safetensors reader opens it. Three things are added to that format:

- The metadata holds exactly one key, and the header begins with it, so the checksum always stands at the same place.
  It is the sha256 of the whole file with its own 64 digits read as zeros: a flipped bit anywhere is found.
- The same content gives the same bytes: keys are sorted, and nothing of the clock or the machine is written.
- A file is written beside its old version, re-read, and only then put in its place (`write`).

Reading trusts nothing: see `Reader`. This module knows bytes and tensors; what they mean is said in `file.py`
(fields) and `checkpoint.py` (unfinished fits).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import torch
from torch import Tensor

FORMAT = 1
"""The version written, and the newest that is read."""

MAX_HEADER_BYTES = 16 * 2**20
MAX_JSON_VALUES = 500_000
MAX_JSON_DEPTH = 64
MAX_INTEGER_DIGITS = 100
CHUNK_BYTES = 4 * 2**20
"""How much of a tensor is in flight at a time when reading and writing."""

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "I64": torch.int64,
    "C64": torch.complex64,
    "F32": torch.float32,
    "I32": torch.int32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""The types a file may hold, by safetensors' names, widest first (so that every tensor stays aligned)."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_PREFIX = b'{"__metadata__":{"fieldforge":"{\\"checksum\\":\\"'
_CHECKSUM_AT = 8 + len(_PREFIX)
_ZEROS = b"0" * 64
_STALE_SECONDS = 3600.0

_FOREIGN: tuple[tuple[bytes, str], ...] = (
    (rb"PK[\x03\x05]", "a zip archive, as torch.save and numpy.savez write; fieldforge never unpickles"),
    (rb"\x80[\x00-\x05][}(\]\x8a\x95]", "a Python pickle; fieldforge never unpickles"),
    (rb"\x89HDF", "an HDF5 file"),
    (rb"\x89PNG|\xff\xd8\xff|GIF8|II\*\0|MM\0\*|v/1\x01|BM|RIFF", "a picture or sound; fit it first"),
    (rb"\x93NUMPY", "a NumPy array"),
    (rb"\x1f\x8b|x[\x01\x9c\xda]", "a compressed file"),
    (rb"glTF|ply\r?\n|solid ", "a mesh; fit it first"),
    (rb"\s*[{\[]", "a JSON text"),
)


class FieldFileError(ValueError):
    """A file cannot be read or written; one sentence: the path, what was found, the way out."""

    def __init__(self, path: str | os.PathLike[str], problem: str) -> None:
        self.path = Path(path)
        self.problem = _printable(problem)
        super().__init__(f"{_printable(str(path))}: {self.problem}")


@dataclass(frozen=True)
class TensorInfo:
    """A tensor as the header declares it: safetensors' type name, shape, and bytes [begin, end) of the data."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Source:
    """A tensor to be written: its type and shape, and a function that gives its values in flat CPU pieces."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    pieces: Callable[[], Iterator[Tensor]]

    @classmethod
    def of(
        cls, tensor: Tensor, dtype: torch.dtype | None = None, convert: Callable[[Tensor], Tensor] | None = None
    ) -> Source:
        """A tensor, read when it is written; each piece goes through `convert`, by default a change of type."""
        target = dtype or tensor.dtype
        change = convert or (lambda piece: piece.cpu().to(target))
        return cls(target, tuple(tensor.shape), lambda: map(change, pieces(tensor)))


def name_of(dtype: torch.dtype) -> str:
    """The name of a type in a file.

    Raises:
        TypeError: a file cannot hold it.
    """
    if dtype not in _NAMES:
        raise TypeError(f"a file cannot hold {dtype}; it holds {', '.join(map(str, _NAMES))}")
    return _NAMES[dtype]


def pieces(tensor: Tensor) -> Iterator[Tensor]:
    """A tensor's values in order, as flat detached slices of at most `CHUNK_BYTES` (and whole blocks of 256)."""
    flat = tensor.detach().reshape(-1)
    step = CHUNK_BYTES // 8
    return (flat[begin : begin + step] for begin in range(0, flat.numel(), step))


# ---------------------------------------------------------------------------------------------------- writing


def write(path: str | os.PathLike[str], kind: str, body: Mapping[str, Any], tensors: Mapping[str, Source]) -> int:
    """Write a container whole or not at all.

    The bytes go to a temporary file in the same folder, reach the disk (fsync), are read back and verified, and then
    take the name `path` in one step. Whatever goes wrong before that step (disk full, an exception, Ctrl-C, the
    process killed), the file that was there is untouched.

    Args:
        path: the file; a symbolic link is followed; an existing file keeps its permissions.
        kind: what the container holds ("field", "checkpoint").
        body: JSON values with string keys; the keys checksum, format and kind are taken.
        tensors: by name.

    Returns:
        Bytes written.

    Raises:
        TypeError, ValueError: `body` is not JSON, or a tensor's type or name is not one that a file can hold.
        FieldFileError: the file system refused; the old file is whole.
    """
    # realpath: replacing a symbolic link would leave its target stale
    target = Path(os.path.realpath(path))
    header, order = _header(kind, body, tensors)
    try:
        with replacing(target) as file:
            digest = hashlib.sha256()

            def put(block: Any) -> None:
                file.write(block)
                digest.update(block)

            put(header)
            for name in order:
                for piece in tensors[name].pieces():
                    put(_bytes_of(piece))
            n_bytes = file.tell()
            file.seek(_CHECKSUM_AT)
            file.write(digest.hexdigest().encode())
            file.flush()
            os.fsync(file.fileno())
            with Reader(Path(file.name)) as written:
                written.verify()
                if written.checksum != digest.hexdigest():
                    raise FieldFileError(path, "could not be read back as it was written; check the disk")
    except OSError as error:
        why = "its folder does not exist" if not target.parent.is_dir() else error.strerror or str(error)
        raise FieldFileError(path, f"could not be written ({why}); nothing that was there has changed") from error
    except FieldFileError as error:
        raise FieldFileError(path, f"was not written: what was to take its place {error.problem}") from error
    return n_bytes


def _header(kind: str, body: Mapping[str, Any], tensors: Mapping[str, Source]) -> tuple[bytes, list[str]]:
    """The first bytes of the file with a checksum of zeros, and the order of the tensors in it."""
    inner = {**plain_json(body, "header"), "format": FORMAT, "kind": kind}
    sealed = '{"checksum":"' + _ZEROS.decode() + '",' + _dumps(inner)[1:]
    if "__metadata__" in tensors:
        raise ValueError("tensors: the name __metadata__ is taken by the format")
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    outer: dict[str, Any] = {"__metadata__": {"fieldforge": sealed}}
    begin = 0
    for name in order:
        source = tensors[name]
        end = begin + math.prod(source.shape) * source.dtype.itemsize
        outer[name] = {"dtype": name_of(source.dtype), "shape": list(source.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(outer, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, order


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file beside `path` that takes its place if the block ends well, and is removed if it does not."""
    with suppress(OSError):  # what a killed process left; a living writer touches its file all the time
        for left in path.parent.glob(f".{_glob_escape(path.name)}.????????.tmp"):
            if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                left.unlink()
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    if path.is_dir():
        raise IsADirectoryError(0, "a folder has that name", str(path))
    try:
        with open(temporary, "x+b") as file:
            with suppress(OSError):
                os.chmod(temporary, stat.S_IMODE(path.stat().st_mode))
            yield file
        os.replace(temporary, path)
    finally:  # after the replacement there is nothing left to remove
        with suppress(FileNotFoundError):
            os.unlink(temporary)
    with suppress(OSError, AttributeError):  # not every system lets a folder be synced
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def plain_json(value: Any, where: str, depth: int = 0) -> Any:
    """A copy of `value` made of dict, list, str, int, float, bool and None only (tuples become lists).

    Raises:
        TypeError: something else is in it; the message says where.
        ValueError: a number is not finite, a text is not Unicode, or it is nested deeper than a file may be.
    """
    if depth > MAX_JSON_DEPTH - 4:
        raise ValueError(f"{where[:200]}: nested more than {MAX_JSON_DEPTH - 4} deep")
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{where}: expected text for a key, got {key!r}")
        return {str(key): plain_json(item, f"{where}.{key}", depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(item, f"{where}[{index}]", depth + 1) for index, item in enumerate(value)]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where}: expected a finite number, got {value}; None can stand for it")
        return float(value)
    if isinstance(value, str):
        if not _is_unicode(value):
            raise ValueError(f"{where}: expected Unicode text, got {value!r}")
        return str(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        if abs(value) >= 10**MAX_INTEGER_DIGITS:
            raise ValueError(f"{where}: expected an integer of at most {MAX_INTEGER_DIGITS} digits")
        return int(value)
    raise TypeError(f"{where}: expected text, numbers, lists or tables, got {type(value).__name__}")


def _dumps(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _bytes_of(piece: Tensor) -> memoryview:
    return piece.resolve_conj().resolve_neg().contiguous().view(torch.uint8).numpy().data


# ---------------------------------------------------------------------------------------------------- reading


class Reader:
    """An open container whose header has been checked; a context manager.

    Before anything is allocated for it, the header's length, JSON size and depth are bounded, keys may not repeat,
    every type is one of `DTYPES`, and the declared tensors must cover the data exactly: no gap, no overlap, no byte
    more or less than the file has. Nothing in the file is ever executed.

    Attributes: ``path``, ``n_bytes`` (of the file), ``kind``, ``format``, ``checksum``, ``body`` (the JSON without
    those three), ``tensors`` (name -> TensorInfo).

    Raises:
        FieldFileError: the file is missing, foreign, damaged, or written by a newer version.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            # opened without blocking, so that a named pipe is refused instead of waited for
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "not a path"
            raise FieldFileError(path, f"cannot be opened ({why})") from None
        self._file = os.fdopen(descriptor, "rb") if not stat.S_ISDIR(os.fstat(descriptor).st_mode) else None
        if self._file is None:
            os.close(descriptor)
            self._fail("is a folder, not a .field file")
        try:
            with self._said_in_one_sentence():
                self._open()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the file."""
        if self._file is not None:
            self._file.close()

    @contextmanager
    def _said_in_one_sentence(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._fail(f"cannot be read ({error.strerror or error}); check the disk")

    def _fail(self, problem: str) -> NoReturn:
        raise FieldFileError(self.path, problem)

    def _read(self, begin: int, n_bytes: int) -> bytes:
        assert self._file is not None
        self._file.seek(begin)
        return self._file.read(n_bytes)

    def _open(self) -> None:
        assert self._file is not None
        status = os.fstat(self._file.fileno())
        if not stat.S_ISREG(status.st_mode):
            self._fail("is a device or a pipe, not a .field file")
        self.n_bytes = status.st_size
        if self.n_bytes == 0:
            self._fail("is empty; it was never written to the end, use a copy or fit again")
        start = self._read(0, _CHECKSUM_AT)
        n_header = int.from_bytes(start[:8], "little")
        begins_well = start[8:] == _PREFIX[: len(start) - 8] and len(start) > 8
        if not begins_well:
            self._refuse_foreign(start, n_header)
        if n_header > MAX_HEADER_BYTES:
            self._fail(f"declares a header of {n_header} bytes (at most {MAX_HEADER_BYTES}); it is damaged")
        if 8 + n_header > self.n_bytes or n_header < len(_PREFIX) + 64:
            self._fail("is cut short within its header; use a copy or fit again")
        self.data_start = 8 + n_header
        raw = self._read(8, n_header)
        outer = self._json(raw)
        checksum = raw[len(_PREFIX) : len(_PREFIX) + 64]
        if not re.fullmatch(rb"[0-9a-f]{64}", checksum):
            self._fail("has no valid checksum; it is damaged, use a copy or fit again")
        self.checksum = checksum.decode()
        metadata = outer.pop("__metadata__")  # the prefix put it there
        if set(metadata) != {"fieldforge"} or not isinstance(metadata["fieldforge"], str):
            self._fail("has metadata that fieldforge did not write")
        inner = self._json(metadata["fieldforge"])
        del inner["checksum"]
        self.format = self._version(inner.pop("format", None))
        kind = inner.pop("kind", None)
        if not isinstance(kind, str):
            self._fail("does not say what it holds; its header is damaged")
        self.kind: str = kind
        self.body: dict[str, Any] = inner
        self.tensors = self._table(outer)

    def _refuse_foreign(self, start: bytes, n_header: int) -> NoReturn:
        if 0 < n_header <= self.n_bytes - 8 and start[8:9] == b"{":
            self._fail("is a safetensors file that fieldforge did not write, or its first bytes are damaged")
        for pattern, description in _FOREIGN:
            if re.match(pattern, start, re.DOTALL):
                self._fail(f"is {description}; it is not a .field file")
        self._fail("is not a .field file")

    def _json(self, text: bytes | str) -> dict[str, Any]:
        """Parse an object within the limits on length, number of values, depth, digits; keys may not repeat."""
        try:
            value = parse_json(text)
        except (ValueError, RecursionError) as error:
            why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
            self._fail(f"has a header that is damaged ({why}); use a copy or fit again")
        if not isinstance(value, dict):
            self._fail("has a header that is not a table; it is damaged")
        return value

    def _version(self, version: Any) -> int:
        if isinstance(version, bool) or not isinstance(version, int) or version < 1:
            self._fail(f"states no format version (got {_short(version)}); its header is damaged")
        if version > FORMAT:
            self.verify()  # one flipped bit also makes a 3 of a 1
            self._fail(
                f"was written by a newer version (format {_short(version)}), "
                f"this one reads up to {FORMAT}; upgrade fieldforge"
            )
        return version

    def _table(self, entries: dict[str, Any]) -> dict[str, TensorInfo]:
        table = {name: self._info(name, entry) for name, entry in entries.items()}
        end = 0
        for name, info in sorted(table.items(), key=lambda item: (item[1].begin, item[1].end)):
            if info.begin != end:
                self._fail(f"leaves a gap or an overlap before tensor {_short(name)}; its header is damaged")
            end = info.end
        held = self.n_bytes - self.data_start
        if end > held:
            self._fail(f"is cut short: it declares {end} bytes of tensors and holds {held}; use a copy or fit again")
        if end < held:
            self._fail(f"has {held - end} bytes too many at its end; it is damaged, use a copy or fit again")
        return table

    def _info(self, name: str, entry: Any) -> TensorInfo:
        what = f"declares tensor {_short(name)}"
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            self._fail(f"{what} without exactly a dtype, shape and data_offsets; its header is damaged")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in DTYPES:
            self._fail(f"{what} of type {_short(dtype)}; known: {', '.join(DTYPES)}")
        if not _are_counts(shape) or len(shape) > 16 or math.prod(max(size, 1) for size in shape) > 2**60:
            self._fail(f"{what} with an impossible shape {_short(shape)}")
        if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
            self._fail(f"{what} at impossible offsets {_short(offsets)}")
        n_bytes = math.prod(shape) * DTYPES[dtype].itemsize
        if n_bytes != offsets[1] - offsets[0]:
            self._fail(f"{what} {_short(shape)} of {n_bytes} bytes in a place of {offsets[1] - offsets[0]}")
        return TensorInfo(dtype, tuple(shape), offsets[0], offsets[1])

    def verify(self) -> None:
        """Read the whole file and compare its checksum.

        Raises:
            FieldFileError: a bit differs from what was written.
        """
        assert self._file is not None
        with self._said_in_one_sentence():
            digest = hashlib.sha256(self._read(0, _CHECKSUM_AT) + _ZEROS)
            self._file.seek(_CHECKSUM_AT + 64)
            while block := self._file.read(CHUNK_BYTES):
                digest.update(block)
        if digest.hexdigest() != self.checksum:
            self._fail("is damaged: its checksum does not match its content; use a copy or fit again")

    def pieces(self, name: str, n_values: int | None = None) -> Iterator[Tensor]:
        """The values of a tensor as flat CPU tensors of its stored type, `n_values` at a time.

        Raises:
            FieldFileError: the file became shorter meanwhile, or a true/false value is neither.
        """
        assert self._file is not None
        info = self.tensors[name]
        dtype = DTYPES[info.dtype]
        step = (n_values or CHUNK_BYTES // 8) * dtype.itemsize
        for begin in range(info.begin, info.end, step):
            block = torch.empty(min(step, info.end - begin), dtype=torch.uint8)
            with self._said_in_one_sentence():
                self._file.seek(self.data_start + begin)
                if self._file.readinto(block.numpy().data) != len(block):
                    self._fail("became shorter while it was read")
            if dtype == torch.bool and bool((block > 1).any()):
                self._fail(f"holds a true/false value in {_short(name)} that is neither; it is damaged")
            yield block.view(dtype)

    def tensor(self, name: str) -> Tensor:
        """A whole tensor, on the CPU, in its stored type."""
        info = self.tensors[name]
        result = torch.empty(info.shape, dtype=DTYPES[info.dtype], device="cpu")
        flat, begin = result.view(-1), 0
        for piece in self.pieces(name):
            flat[begin : begin + len(piece)] = piece
            begin += len(piece)
        return result


def parse_json(text: bytes | str, most_values: int = MAX_JSON_VALUES) -> Any:
    """Parse what a stranger wrote: limits on the number of values, depth and digits; keys may not repeat.

    Raises:
        ValueError, RecursionError: it is no such JSON.
    """
    comma, bracket, brace = (b",", b"[", b"{") if isinstance(text, bytes) else (",", "[", "{")
    n_values = text.count(comma) + text.count(bracket) + text.count(brace)  # type: ignore[arg-type]
    if n_values > most_values:
        raise ValueError(f"{n_values} values, at most {most_values} are read")
    value = json.loads(
        text if isinstance(text, str) else text.decode(),
        object_pairs_hook=_unique,
        parse_int=_bounded_int,
        parse_float=_finite_float,
        parse_constant=_finite_float,
    )
    _check_tree(value)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key stands twice in one table")
    return table


def _bounded_int(digits: str) -> int:
    if len(digits) > MAX_INTEGER_DIGITS + 1:
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)


def _finite_float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"a number that is not finite: {digits[:20]}")
    return value


def _check_tree(value: Any) -> None:
    """Bound the depth and refuse text that is not Unicode (half of a surrogate pair)."""
    stack = [(value, 1)]
    while stack:
        item, depth = stack.pop()
        if depth > MAX_JSON_DEPTH:
            raise ValueError(f"nested more than {MAX_JSON_DEPTH} deep")
        if isinstance(item, dict):
            stack.extend((child, depth + 1) for pair in item.items() for child in pair)
        elif isinstance(item, list):
            stack.extend((child, depth + 1) for child in item)
        elif isinstance(item, str) and not _is_unicode(item):
            raise ValueError("text that is not Unicode")


def _is_unicode(text: str) -> bool:
    return text.isascii() or not re.search("[\ud800-\udfff]", text)


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 2**60 for value in values
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _printable(text: str) -> str:
    """What a file says must not steer a terminal: control characters become '?', and a message stays short."""
    text = "".join(letter if letter.isprintable() else " " if letter == "\n" else "?" for letter in text)
    return text if len(text) <= 500 else f"{text[:497]}..."


def _glob_escape(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)
