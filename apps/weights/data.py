"""Fields as examples: rows, labels, and three parts of a collection that share no item.

What cannot be used is left out aloud. An item's part follows from its name alone, so that all initialisations of it
are on one side, in every run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fieldforge.devices import arrived
from fieldforge.fields.collection import Collection, CollectionError, layout_of
from fieldforge.fields.container import FieldFileError
from fieldforge.fields.file import load_field
from fieldforge.fields.weightspace.model_file import ModelHeader

PARTS = ("training", "validation", "test")
BOUNDS = (0.8, 0.9)
"""Items whose number in [0, 1) is below the first are for training, below the second for validation."""

AT_LEAST = 8
"""Fields that are needed to train on, and to be tested on."""

N_NAMED = 3
"""Fields that are named of those that were left out."""


@dataclass(frozen=True)
class Examples:
    """Some fields of a collection.

    Attributes:
        vectors: (n, P) float32.
        items: (n,) int64, the item of each.
        inits: (n,) int64, which of its initialisations.
        labels: (n,) int64, the class of each, or -1 where it has none.
        indices: their numbers in the collection.
    """

    vectors: Tensor
    items: Tensor
    inits: Tensor
    labels: Tensor
    indices: list[int]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, chosen: Tensor) -> Examples:
        """Those at the places (m,) int64."""
        return Examples(
            self.vectors[chosen], self.items[chosen], self.inits[chosen], self.labels[chosen],
            [self.indices[place] for place in chosen.tolist()],
        )  # fmt: skip

    def on(self, device: torch.device) -> Examples:
        """The same with vectors and labels on a device, for training."""
        return replace(self, vectors=arrived(self.vectors, device), labels=arrived(self.labels, device))

    @property
    def digest(self) -> str:
        """sha256 of the vectors and the labels, in order."""
        return hashlib.sha256(self.vectors.numpy().tobytes() + self.labels.numpy().tobytes()).hexdigest()


@dataclass(frozen=True)
class Parts:
    """A collection in three parts.

    Attributes:
        training, validation, test: its fields.
        classes: names of the labels, in order; empty where nobody asked.
        left_out: a sentence on each field that could not be used.
    """

    training: Examples
    validation: Examples
    test: Examples
    classes: list[int | str]
    left_out: list[str]


def examples_of(
    collection: Collection, classes: Sequence[int | str], say: Callable[[str], None]
) -> tuple[Examples, list[str]]:
    """All fields that can be used, and a sentence on each that cannot.

    Args:
        collection: an open one.
        classes: names of labels; others, and none at all, are -1.
        say: told what is left out, and why.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    rows, indices, left_out = [], [], []
    for index in range(len(collection)):
        try:
            rows.append(collection.row(index))
            indices.append(index)
        except CollectionError as error:
            left_out.append(error.problem)
    for problem in left_out[:N_NAMED]:
        say(f"left out: {problem}")
    if len(left_out) > N_NAMED:
        say(f"left out: {len(left_out) - N_NAMED} more fields; fieldforge collection check names them all")
    labels = [collection.labels[index] for index in indices]
    found = Examples(
        torch.stack(rows) if rows else torch.zeros(0, collection.n_parameters),
        torch.tensor([collection.items[index] for index in indices], dtype=torch.int64),
        torch.tensor([collection.inits[index] for index in indices], dtype=torch.int64),
        torch.tensor([-1 if label is None else numbers.get(label, -1) for label in labels], dtype=torch.int64),
        indices,
    )
    return found, left_out


def open_parts(
    collection: Collection, *, has_labels: bool, say: Callable[[str], None], inits: int | None = None
) -> Parts:
    """Read a collection for training.

    Args:
        collection: an open one.
        has_labels: whether every field needs one.
        say: told what is left out, and why.
        inits: train on the first so many initialisations of each item only; None: on all.

    Raises:
        CollectionError: too few fields or classes, or a field has no label; the message names it.
    """
    classes: list[int | str] = []
    if has_labels:
        for index, label in enumerate(collection.labels):
            if label is not None:
                classes.append(label)
            else:
                raise CollectionError(
                    collection.path, f"{collection.describe(index)} has no label, which a classifier learns; fit a "
                    "source with labels, or use fieldforge weights embed, which needs none",
                )  # fmt: skip
        classes = sorted(set(classes), key=lambda name: (isinstance(name, str), name))
        if len(classes) < 2:
            raise CollectionError(collection.path, f"has one label alone, {classes}; there is nothing to tell apart")
    every, left_out = examples_of(collection, classes, say)
    split = torch.tensor([collection.splits[index] for index in every.indices], dtype=torch.float64)
    part = (split >= BOUNDS[0]).long() + (split >= BOUNDS[1]).long()
    parts = []
    for number, name in enumerate(PARTS):
        is_in = part == number
        if inits is not None and number == 0:
            is_in &= every.inits < inits
        found = every[is_in.nonzero()[:, 0]]
        if len(found) < (AT_LEAST if number != 1 else 1):
            bad = f", as {len(left_out)} cannot be used (first: {left_out[0]})" if left_out else ""
            raise CollectionError(
                collection.path,
                f"has {len(found)} of {len(collection)} fields for {name}, and at least {AT_LEAST} are needed{bad}; "
                "fit more items (eight tenths are for training, a tenth for the test)",
            )
        parts.append(found)
    missing = [name for number, name in enumerate(classes) if not bool((parts[0].labels == number).any())]
    if missing:
        raise CollectionError(
            collection.path, f"has no field of label {missing[0]!r} to train on; fit more items of it"
        )
    return Parts(parts[0], parts[1], parts[2], classes, left_out)


def read_field(path: Path, model: ModelHeader) -> Tensor:
    """The vector (1, P) float32 of a ``.field`` file, as the model reads it.

    Raises:
        FieldFileError: not a field, of another architecture than the model's, or not finite.
    """
    field, _ = load_field(path)
    try:
        layout = layout_of(field.float())
    except ValueError as error:
        raise FieldFileError(path, f"is no field of a collection's kind: {error}") from error
    model.expect_layout(layout, str(path))
    expect_same_activation(field.config(), model, path)
    vector = layout.flatten(field.state_dict()).detach()
    if not bool(torch.isfinite(vector).all()):
        raise FieldFileError(path, "holds numbers that are not finite; fit it again")
    return vector[None]


def expect_same_activation(config: dict[str, Any], model: ModelHeader, path: Path) -> None:
    """The same shapes mean something else behind another activation.

    Raises:
        FieldFileError: the fields compute with another network or encoding than those the model was trained on.
    """
    theirs = model.field_config
    if theirs is None:
        return
    for part in ("otype", "encoding", "network"):
        if config.get(part) != theirs.get(part):
            raise FieldFileError(
                path, f"has another {part} than the fields that {model.path} was trained on: {config.get(part)} "
                f"where these had {theirs.get(part)}; train a model on such fields",
            )  # fmt: skip
