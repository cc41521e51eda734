"""MessagePack files of strangers, plain or compressed, without trusting a number in them.

    value = read(path)                      # tables, lists, text, numbers; blocks of bytes as `Block`s
    data = read_block(path, value["params_binary"])

Reading goes through the file once and keeps no block of bytes, only where it is; so nothing is allocated that a caller
has not first held against what it expects. Depth, number of values and length of text are limited, and a compressed
file may not unfold to more than `MAX_BYTES`. The format is the one of msgpack.org's spec.md; timestamps and other
extension types are blocks too.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fieldforge.fields.container import FieldFileError

MAX_BYTES = 4 * 2**30
"""Of a file, unfolded. instant-ngp's largest grids make snapshots of one gigabyte."""
MAX_DEPTH = 32
MAX_VALUES = 2_000_000
MAX_TEXT = 2**16
MAX_ALL_TEXT = 16 * 2**20
_CHUNK = 2**20

_NUMBERS = {
    0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: ">b", 0xD1: ">h", 0xD2: ">i",
    0xD3: ">q",
}  # fmt: skip
_LENGTHS = {
    0xC4: ("block", 1), 0xC5: ("block", 2), 0xC6: ("block", 4), 0xC7: ("extension", 1), 0xC8: ("extension", 2),
    0xC9: ("extension", 4), 0xD9: ("text", 1), 0xDA: ("text", 2), 0xDB: ("text", 4), 0xDC: ("list", 2),
    0xDD: ("list", 4), 0xDE: ("table", 2), 0xDF: ("table", 4),
}  # fmt: skip
_FIXED_EXTENSIONS = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}
_WORDS = {0xC0: None, 0xC2: False, 0xC3: True}


@dataclass(frozen=True)
class Block:
    """Bytes of a file that were not read: where they begin in the unfolded file, and how many they are."""

    begin: int
    n_bytes: int


def read(path: Path) -> Any:
    """The one value of a file.

    Raises:
        FieldFileError: not MessagePack, cut short, or larger or deeper than the limits above.
    """
    with path.open("rb") as file:
        source = _Source(path, file)
        reader = _Reader(source)
        value = reader.value(0)
        if source.more():
            raise FieldFileError(path, f"has more behind its value, from byte {source.at} on; it is no snapshot")
        return value


def read_block(path: Path, block: Block) -> np.ndarray:
    """(n_bytes,) uint8 of a block that `read` found in this file."""
    data = np.empty(block.n_bytes, np.uint8)
    with path.open("rb") as file:
        source = _Source(path, file)
        source.skip(block.begin)
        filled = 0
        while filled < block.n_bytes:
            piece = source.take(min(_CHUNK, block.n_bytes - filled))
            data[filled : filled + len(piece)] = np.frombuffer(piece, np.uint8)
            filled += len(piece)
    return data


class _Source:
    """A file's bytes in order, unfolded where it is compressed (zlib or gzip, told by its first two bytes)."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file, self.at = path, file, 0
        head = file.read(2)
        file.seek(0)
        is_zlib = len(head) == 2 and head[0] & 0x0F == 8 and (head[0] << 8 | head[1]) % 31 == 0 and head[0] < 0x80
        self.unfold = zlib.decompressobj(wbits=47) if is_zlib or head == b"\x1f\x8b" else None
        self.buffer = b""
        self.used = 0
        self.pending = b""

    def take(self, n: int) -> bytes:
        """Exactly n bytes, n at most a chunk."""
        found = self.buffer[self.used : self.used + n]
        self.used += len(found)
        while len(found) < n:
            self._fill()
            piece = self.buffer[: n - len(found)]
            self.used = len(piece)
            found += piece
        self.at += n
        return found

    def skip(self, n: int) -> None:
        end = self.at + n
        while self.at < end:
            if self.used == len(self.buffer):
                self._fill()
            here = min(end - self.at, len(self.buffer) - self.used)
            self.used += here
            self.at += here

    def more(self) -> bool:
        """Whether bytes are left."""
        if self.used < len(self.buffer):
            return True
        try:
            self._fill()
        except _EndError:
            return False
        return True

    def _fill(self) -> None:
        """The next piece into the buffer, which is empty; never an empty one."""
        if self.at + _CHUNK > MAX_BYTES + 2 * _CHUNK:
            raise FieldFileError(self.path, f"is more than {MAX_BYTES // 2**30} GiB, more than any snapshot")
        piece = b""
        while not piece:
            if self.unfold is None:
                piece = self.file.read(_CHUNK)
                if not piece:
                    raise _EndError(self.path, self.at)
                continue
            if self.unfold.eof:
                raise _EndError(self.path, self.at)
            folded = self.pending or self.file.read(2**16)
            try:
                piece = self.unfold.decompress(folded, _CHUNK)
            except zlib.error as error:
                raise FieldFileError(self.path, f"is damaged: {error}") from None
            self.pending = self.unfold.unconsumed_tail
            if not folded and not piece:
                raise _EndError(self.path, self.at)
        self.buffer, self.used = piece, 0


class _EndError(FieldFileError):
    def __init__(self, path: Path, at: int) -> None:
        super().__init__(path, f"ends after {at} bytes, in the middle of a value; it is cut short or no snapshot")


class _Reader:
    def __init__(self, source: _Source) -> None:
        self.source, self.n_values, self.n_text = source, 0, 0

    def value(self, depth: int) -> Any:
        self.n_values += 1
        if depth > MAX_DEPTH or self.n_values > MAX_VALUES:
            what = f"{MAX_DEPTH} tables deep" if depth > MAX_DEPTH else f"{MAX_VALUES:,} values"
            raise self._wrong(f"is more than {what}")
        code = self.source.take(1)[0]
        if code < 0x80 or code >= 0xE0:
            return code if code < 0x80 else code - 0x100
        if code in _WORDS:
            return _WORDS[code]
        if code in _NUMBERS:
            form = _NUMBERS[code]
            return struct.unpack(form, self.source.take(struct.calcsize(form)))[0]
        if code < 0xC0:
            kind, n = (("table", code & 15), ("list", code & 15), ("text", code & 31), ("text", code & 31))[
                (code - 0x80) >> 4
            ]
        elif code in _FIXED_EXTENSIONS:
            kind, n = "extension", _FIXED_EXTENSIONS[code]
        elif code in _LENGTHS:
            kind, width = _LENGTHS[code]
            n = int.from_bytes(self.source.take(width), "big")
        else:
            raise self._wrong(f"has the byte {code:#x}, which begins no value")
        if kind == "text":
            return self._text(n)
        if kind in ("block", "extension"):
            return self._block(n, has_type=kind == "extension")
        return self._list(n, depth) if kind == "list" else self._table(n, depth)

    def _text(self, n: int) -> str:
        self.n_text += n
        if n > MAX_TEXT or self.n_text > MAX_ALL_TEXT:
            raise self._wrong(f"has a text of {n} bytes, and {self.n_text} of text so far")
        try:
            return self.source.take(n).decode()
        except UnicodeDecodeError:
            raise self._wrong("has a text that is not UTF-8") from None

    def _block(self, n: int, *, has_type: bool) -> Block:
        if has_type:
            self.source.take(1)
        begin = self.source.at
        if begin + n > MAX_BYTES:
            raise self._wrong(f"has a block of {n} bytes")
        self.source.skip(n)
        return Block(begin, n)

    def _list(self, n: int, depth: int) -> list[Any]:
        return [self.value(depth + 1) for _ in range(n)]

    def _table(self, n: int, depth: int) -> dict[str, Any]:
        table: dict[str, Any] = {}
        for _ in range(n):
            key = self.value(depth + 1)
            if not isinstance(key, str) or key in table:
                raise self._wrong("has a table whose keys are no text, or stand there twice")
            table[key] = self.value(depth + 1)
        return table

    def _wrong(self, what: str) -> FieldFileError:
        return FieldFileError(self.source.path, f"{what} (byte {self.source.at}); it is damaged or no snapshot")
