"""The fields of a collection as a training set: what cannot be used is left out aloud, and the split is by item."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fieldforge.fields.collection import Collection, CollectionError

SPLIT = 0.8
"""Items whose number in [0, 1) is below are for training; the others are held out."""

AT_LEAST = 8
"""Fields that a training set has."""

N_NAMED = 3
"""Fields that are named of those that were left out."""


@dataclass(frozen=True)
class FieldSet:
    """Vectors of fields, split.

    Attributes:
        collection: where they came from.
        training, held_out: (n, P) and (m, P) float32.
        training_indices, held_out_indices: the number of each in the collection.
        labels: (n,) int64 of the training fields and `label_names`, in order; None where labels are not looked at.
        left_out: a sentence on each field that could not be used.
        digest: sha256 of the training vectors, in order.
    """

    collection: Collection
    training: Tensor
    held_out: Tensor
    training_indices: list[int]
    held_out_indices: list[int]
    labels: Tensor | None
    label_names: list[int | str] | None
    left_out: list[str]
    digest: str


def open_set(
    collection: Collection, *, has_labels: bool = False, at_least: int = AT_LEAST, say: Callable[[str], None] = print
) -> FieldSet:
    """Read a collection for training.

    Args:
        collection: an open one.
        has_labels: whether labels are needed.
        at_least: training fields that are needed.
        say: told what is left out, and why.

    Raises:
        CollectionError: too few fields can be used, or one has no label.
    """
    indices: tuple[list[int], list[int]] = [], []
    rows: tuple[list[Tensor], list[Tensor]] = [], []
    left_out: list[str] = []
    for index, split in enumerate(collection.splits):
        try:
            row = collection.row(index)
        except CollectionError as error:
            left_out.append(error.problem)
            continue
        side = int(split >= SPLIT)
        indices[side].append(index)
        rows[side].append(row)
    for problem in left_out[:N_NAMED]:
        say(f"left out: {problem}")
    if len(left_out) > N_NAMED:
        say(f"left out: {len(left_out) - N_NAMED} more fields; fieldforge collection check names them all")
    if len(rows[0]) < at_least:
        bad = f", as {len(left_out)} cannot be used (first: {left_out[0]})" if left_out else ""
        raise CollectionError(
            collection.path,
            f"has {len(rows[0])} of {len(collection)} fields to train on, and at least {at_least} are needed{bad}; "
            f"fit more (a fifth of the items is held out)",
        )
    names, labels = _labels(collection, indices[0]) if has_labels else (None, None)
    empty = torch.zeros(0, collection.n_parameters)
    training = torch.stack(rows[0])
    held_out = torch.stack(rows[1]) if rows[1] else empty
    digest = hashlib.sha256(training.numpy().tobytes()).hexdigest()
    return FieldSet(collection, training, held_out, *indices, labels, names, left_out, digest)


def _labels(collection: Collection, indices: list[int]) -> tuple[list[int | str], Tensor]:
    """Names of the classes in order, and which class each field is of."""
    found: list[int | str] = []
    for index in indices:
        label = collection.labels[index]
        if label is None:
            raise CollectionError(
                collection.path,
                f"{collection.describe(index)} has no label, which --condition label needs; fit a source with labels, "
                "or train without it",
            )
        found.append(label)
    names: list[int | str] = sorted(set(found), key=lambda name: (isinstance(name, str), name))
    numbers = {name: number for number, name in enumerate(names)}
    return names, torch.tensor([numbers[name] for name in found])
