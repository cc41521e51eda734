"""Checkpoints: the last two states of a fit that is not finished, beside the field it will become.

    checkpoints = Checkpoints("photo.field")             # photo.field.ckpt-a and photo.field.ckpt-b
    checkpoints.save(1000, tensors, {"learning_rate": 1e-3})
    last = checkpoints.load_latest()                     # the newest that is whole, or None
    checkpoints.remove()                                 # the field is written

Same container as `.field` files (`container.py`): no pickle, atomic, sealed by a checksum. Each save replaces the older
of the two, so a whole one is always there. Tensors come back bit for bit, also those that are not finite.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from fieldforge.checks import expect_int
from fieldforge.fields import container
from fieldforge.fields.container import FieldFileError, Reader, Source


@dataclass(frozen=True)
class Checkpoint:
    """A state that was saved.

    ``step``, ``tensors`` (on the CPU) and ``state`` as given to `Checkpoints.save`; ``path``, the file; ``serial``, the
    number of the save; ``notice``, one sentence if a file beside it, perhaps newer, was damaged and passed over.
    """

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]
    path: Path
    serial: int
    notice: str | None = None


class Checkpoints:
    """The two checkpoint files that belong to a field file.

    Args:
        path: where the finished field will be; the checkpoints stand beside it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        base = Path(path)
        self.paths = tuple(base.with_name(f"{base.name}.ckpt-{letter}") for letter in "ab")
        self._last: tuple[Path, int] | None = None

    def save(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
        """Write a checkpoint over the older of the two; returns its path.

        Args:
            step: how many steps of the fit are done.
            tensors: parameters, moments, random states: any type in `container.DTYPES`, any shape, any device.
            state: JSON values with text keys and finite numbers.

        Raises:
            TypeError, ValueError: a tensor or a value that a file cannot hold; nothing is written.
            FieldFileError: the file system refused; both files are as they were.
        """
        path, serial = self._next()
        body = {"step": expect_int("step", step, 0), "serial": serial, "state": container.plain_json(state, "state")}
        container.write(path, "checkpoint", body, {name: Source.of(tensor) for name, tensor in tensors.items()})
        self._last = path, serial
        return path

    def load_latest(self) -> Checkpoint | None:
        """The newest checkpoint whose checksum is right; None if there is none.

        Raises:
            FieldFileError: there are checkpoints, and every one is damaged.
        """
        damaged: list[FieldFileError] = []
        serials: dict[Path, int] = {}
        for path in filter(os.path.lexists, self.paths):
            try:
                with _open(path) as reader:
                    serials[path] = reader.body["serial"]
            except FieldFileError as error:
                damaged.append(error)
        for path in sorted(serials, key=lambda path: -serials[path]):
            try:
                checkpoint = _load(path)
            except FieldFileError as error:
                damaged.append(error)
                continue
            return replace(checkpoint, notice=_notice(damaged, checkpoint))
        if damaged:
            raise FieldFileError(damaged[0].path, f"{damaged[0].problem}; no other checkpoint can stand in")
        return None

    def remove(self) -> None:
        """Delete both files, if they are there."""
        for path in self.paths:
            path.unlink(missing_ok=True)
        self._last = None

    def _next(self) -> tuple[Path, int]:
        """Where the next checkpoint goes: not over the newest that is whole."""
        newest, serial = self._last or max(self._whole(), key=lambda item: item[1], default=(self.paths[1], 0))
        return next(path for path in self.paths if path != newest), serial + 1

    def _whole(self) -> Iterator[tuple[Path, int]]:
        for path in self.paths:
            with suppress(FieldFileError), _open(path) as reader:
                reader.verify()
                yield path, reader.body["serial"]


def _open(path: Path) -> Reader:
    reader = Reader(path)
    step, serial, state = (reader.body.get(key) for key in ("step", "serial", "state"))
    is_sound = type(step) is int and type(serial) is int and isinstance(state, dict) and step >= 0
    if reader.kind != "checkpoint" or not is_sound:
        reader.close()
        raise FieldFileError(path, f"is not a checkpoint but a {reader.kind}, or damaged")
    return reader


def _load(path: Path) -> Checkpoint:
    with _open(path) as reader:
        reader.verify()
        tensors = {name: reader.tensor(name) for name in reader.tensors}
        return Checkpoint(reader.body["step"], tensors, reader.body["state"], path, reader.body["serial"])


def _notice(damaged: list[FieldFileError], used: Checkpoint) -> str | None:
    if not damaged:
        return None
    return f"{damaged[0]}; going on from step {used.step} in {used.path.name}"
