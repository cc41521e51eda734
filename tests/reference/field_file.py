"""The `.field` container, read and sealed by the definition in plain Python; and files made to do harm with it."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

ZEROS = "0" * 64


def parse(raw: bytes) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """A file -> (inner JSON, tensor table, data)."""
    n_header = int.from_bytes(raw[:8], "little")
    table = json.loads(raw[8 : 8 + n_header])
    metadata = table.pop("__metadata__")
    assert list(metadata) == ["fieldforge"]
    return json.loads(metadata["fieldforge"]), table, raw[8 + n_header :]


def checksum(raw: bytes) -> str:
    """sha256 of the file with the digits that it states read as zeros."""
    stated = parse(raw)[0]["checksum"].encode()
    assert raw.count(stated) == 1
    return hashlib.sha256(raw.replace(stated, ZEROS.encode())).hexdigest()


def seal(inner: dict[str, Any] | str, table: dict[str, Any], data: bytes) -> bytes:
    """A file with a right checksum, whatever is in it; `inner` may also be the text after the checksum's comma."""
    rest = inner if isinstance(inner, str) else json.dumps({k: v for k, v in inner.items() if k != "checksum"})[1:]
    text = '{"checksum":"' + ZEROS + '",' + rest
    header = json.dumps({"__metadata__": {"fieldforge": text}, **table}, separators=(",", ":")).encode()
    raw = bytearray(len(header).to_bytes(8, "little") + header + data)
    at = raw.index(ZEROS.encode())
    raw[at : at + 64] = hashlib.sha256(raw).hexdigest().encode()
    return bytes(raw)


def deep(depth: int) -> Any:
    """An encoding in an encoding in an encoding ..."""
    value: Any = {"otype": "Identity"}
    for _ in range(depth):
        value = {"otype": "Composite", "nested": [value]}
    return value


HOSTILE: list[Any] = [
    *(0, -1, 1, 7, 64, 10**9, 10**12, 2**63, 10**90, True, None, 1e308, -1e308, 1e-308),
    *("", "HashGrid", "ImageField", "__class__", "os.system", "\x1b[2J", "x" * 100_000, "../../etc/passwd"),
    *([], {}, [[]] * 1000, {"__class__": "os.system", "args": ["false"]}, {"otype": "Composite", "nested": []}),
    *(deep(3), deep(20), deep(200), {"otype": "HashGrid", "n_levels": 10**9}, [10**12] * 4, [0.0, "a"]),
    *({"otype": "HashGrid", "log2_hashmap_size": 30}, {"otype": "MLP", "n_neurons": 10**6, "n_hidden_layers": 1000}),
    *({"otype": "Frequency", "n_frequencies": 10**9}, {"otype": "RandomFourier", "n_frequencies": 10**9}),
    *({"otype": "DenseGrid", "base_resolution": 2**20}, {"otype": "Identity", "scale": 1e300}),
]


def mutations(raw: bytes, seed: int, n: int) -> Iterator[tuple[str, bytes]]:
    """`n` files near a valid one: (what was done, bytes)."""
    dice = random.Random(seed)
    for _ in range(n):
        change = dice.choice([*_CRUDE, *_SEALED, *_SEALED])
        if change in _CRUDE:
            yield change.__name__, change(raw, dice)
        else:
            inner, table, data = parse(raw)
            what, sealed = change(inner, table, data, dice)
            yield f"{change.__name__}: {what[:200]}", sealed


def _flip(raw: bytes, dice: random.Random) -> bytes:
    at = dice.randrange(len(raw)) if dice.random() < 0.5 else dice.randrange(min(len(raw), 1500))
    return raw[:at] + bytes([raw[at] ^ 1 << dice.randrange(8)]) + raw[at + 1 :]


def _truncate(raw: bytes, dice: random.Random) -> bytes:
    return raw[: dice.randrange(len(raw))]


def _splice(raw: bytes, dice: random.Random) -> bytes:
    a, b, to = (*sorted(dice.randrange(len(raw)) for _ in range(2)), dice.randrange(len(raw)))
    cut = raw[a:b] if dice.random() < 0.7 else dice.randbytes(b - a)
    return raw[:to] + cut + raw[to + dice.choice([0, len(cut)]) :]


def _length(raw: bytes, dice: random.Random) -> bytes:
    length = dice.choice([0, 1, 7, len(raw), 2**24, 2**31, 2**63, 2**64 - 1, dice.getrandbits(64)])
    return length.to_bytes(8, "little") + raw[8:]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of a JSON tree."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(pairs):
        yield value, key
        yield from _places(item)


def _edit_config(inner: Any, table: Any, data: bytes, dice: random.Random) -> tuple[str, bytes]:
    places = [*_places(inner["config"]), (inner, "config"), *_places(inner)]
    where, key = dice.choice(places)
    value = dice.choice(HOSTILE)
    where[key] = value
    return f"{key} = {value!r}", seal(inner, table, data)


def _add_or_drop(inner: Any, table: Any, data: bytes, dice: random.Random) -> tuple[str, bytes]:
    tables = [inner, table, *[w[k] for w, k in [*_places(inner), *_places(table)] if isinstance(w[k], dict)]]
    where = dice.choice(tables)
    if where and dice.random() < 0.5:
        key = dice.choice(list(where))
        del where[key]
    else:
        key = dice.choice(["__class__", "otype", "n_levels", "format", "x" * 1000, "__metadata__ "])
        where[key] = dice.choice(HOSTILE)
    return key, seal(inner, table, data)


def _edit_table(inner: Any, table: Any, data: bytes, dice: random.Random) -> tuple[str, bytes]:
    where, key = dice.choice(list(_places(table)))
    value = dice.choice([*HOSTILE, "F64", "I8", "C64", "BOOL", [0, len(data)], [10**9, 10**9], [0, 10**18], [4, 0]])
    where[key] = value
    return f"{key} = {value!r}", seal(inner, table, data)


def _edit_data(inner: Any, table: Any, data: bytes, dice: random.Random) -> tuple[str, bytes]:
    changed = bytearray(data)
    for _ in range(dice.randrange(1, 9)):
        at = dice.randrange(len(data))
        changed[at : at + 4] = dice.choice([b"\0\0\xc0\x7f", b"\xff\xff\xff\xff", b"\0\0\x80\x7f", dice.randbytes(4)])
    return "numbers", seal(inner, table, bytes(changed[: len(data)]))


def _edit_text(inner: Any, table: Any, data: bytes, dice: random.Random) -> tuple[str, bytes]:
    text = json.dumps({k: v for k, v in inner.items() if k != "checksum"})[1:]
    at = dice.randrange(len(text))
    bits = ["[" * 5000, "[]," * 200_000, '"a":1,"a":2,', "1e999", "NaN", "9" * 5000, '"\\ud800"', "}", "\0", "{}", '"']
    bit = dice.choice(bits)
    return bit, seal(text[:at] + bit + text[at:], table, data)


def _foreign(raw: bytes, dice: random.Random) -> bytes:
    starts = [b"PK\x03\x04", b"\x80\x04\x95", b"\x89HDF\r\n\x1a\n", b"\x89PNG\r\n\x1a\n", b"\x93NUMPY", b"{}", b""]
    return dice.choice(starts) + dice.choice([raw, dice.randbytes(200), b""])


_CRUDE: list[Callable[[bytes, random.Random], bytes]] = [_flip, _truncate, _splice, _length, _foreign]
_SEALED: list[Callable[..., tuple[str, bytes]]] = [_edit_config, _add_or_drop, _edit_table, _edit_data, _edit_text]
