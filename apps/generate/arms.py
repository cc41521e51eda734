"""What a model of weights is compared with: the sides of the collection, and sets of samples made in simple ways."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fieldforge.apps.generate.data import SPLIT
from fieldforge.apps.generate.sample import sample_rows
from fieldforge.fields.collection import Collection, CollectionError
from fieldforge.fields.weightspace.generators.base import Generator
from fieldforge.fields.weightspace.layout import Layout
from fieldforge.registry import build

CAP = 400
MOST, FEWEST = 2000, 10
MAX_NUMBERS = 2**28
"""Numbers of the training set that are looked at: 1 GiB."""
MAX_COVARIANCE = 8000
"""Parameters up to which the full-covariance Gaussian is fitted: some minutes."""


@dataclass(frozen=True)
class Sides:
    """A collection in parts; no item is in two of them.

    Attributes:
        training: (n, P) rows; `training_numbers` are theirs in the collection, `training_items` their items.
        reference: (m, P) held-out rows, one of an item.
        held_out: (m, P) more of these; fewer rows or none where the collection has no more.
        left_out: sentences on fields that cannot be used.
        notes: what else the reader should know.
    """

    training: Tensor
    training_numbers: list[int]
    training_items: list[int]
    reference: Tensor
    reference_numbers: list[int]
    held_out: Tensor
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Arm:
    """Sets of samples made in one way, one for each seed.

    Attributes:
        name: what to call it.
        what: in a few words, how they are made.
        rows: (n, P) of each seed.
        is_reference: these are the references, so there is nothing to compare their quality with.
    """

    name: str
    what: str
    rows: list[Tensor]
    is_reference: bool = False


def sides_of(
    fields: Collection,
    n: int | None = None,
    seed: int = 0,
    observe: Callable[[float], None] = lambda share: None,
    *,
    cap: int = CAP,
) -> Sides:
    """Split a collection by item.

    Args:
        fields: the collection; fields of it that are damaged are left out and said so.
        n: references wanted; None: as many as there are, up to `cap`.
        seed: of which held-out items are the references.
        observe: told the share of fields that are read.

    Raises:
        ValueError: too few items are left on a side.
    """
    rows: dict[int, Tensor] = {}
    left_out, notes = [], []
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(fields), generator=generator).tolist()
    is_training = [split < SPLIT for split in fields.splits]
    n_room, n_training, used = MAX_NUMBERS // max(1, fields.n_parameters), 0, set[int]()
    for done, number in enumerate(order):
        if is_training[number]:
            n_training += 1
            if n_training > n_room:
                continue
        elif fields.items[number] in used:
            continue
        try:
            rows[number] = fields.row(number)
        except CollectionError as error:
            left_out.append(error.problem)
        else:
            used.add(fields.items[number])
        observe((done + 1) / len(order))
    if n_training > n_room:
        notes.append(f"{n_room:,} of {n_training:,} training fields are looked at; copies of others are not found")
    training = sorted(number for number in rows if is_training[number])
    others = [number for number in order if number in rows and not is_training[number]]
    wanted = min(cap, len(others)) if n is None else n
    least = max(FEWEST, n or 0)
    for side, count in (("training", len(training)), ("held-out", len(others))):
        if count < least:
            raise ValueError(
                f"{fields.path}: expected at least {least} {side} items (split below {SPLIT} is training), "
                f"got {count}; {'ask for fewer with -n' if n else 'fit a larger collection'}"
            )

    def rows_of(numbers: list[int]) -> Tensor:
        return torch.stack([rows[number] for number in numbers]) if numbers else torch.zeros(0, fields.n_parameters)

    more = others[wanted : 2 * wanted] if len(others) >= 2 * wanted else []
    return Sides(
        rows_of(training), training, [fields.items[number] for number in training],
        rows_of(others[:wanted]), others[:wanted], rows_of(more), left_out, notes,
    )  # fmt: skip


def baselines(
    layout: Layout, sides: Sides, n: int, seeds: list[int], observe: Callable[[float], None] = lambda share: None
) -> tuple[list[Arm], list[str]]:
    """The arms that stand beside every model, fitted on the same training rows; and sentences on those left out."""
    arms, notes = [], []
    made: list[tuple[str, str, dict[str, object]]] = [
        ("Gaussian", "mean and full covariance of the weights", {"otype": "Gaussian"}),
        ("PCA Gaussian", "64 principal directions of the weights", {"otype": "PCAGaussian", "n_components": 64}),
        ("jitter", "training weights and noise of 0.3 deviations", {"otype": "Jitter", "deviation": 0.3}),
        ("training subset", "training fields themselves: the ceiling", {"otype": "Subset"}),
    ]
    for place, (name, what, config) in enumerate(made):
        observe(place / len(made))
        if name == "Gaussian" and layout.n_parameters > MAX_COVARIANCE:
            notes.append(f"no full-covariance Gaussian: it would be fitted to {layout.n_parameters:,} parameters, and "
                         f"{MAX_COVARIANCE:,} is the most")  # fmt: skip
            continue
        generator: Generator = build("generator", config, layout=layout)
        generator.fit(sides.training)
        arms.append(Arm(name, what, [sample_rows(generator, n, seed=seed) for seed in seeds]))
    arms.append(Arm("averages", "means of two training fields", [averages(sides.training, n, seed) for seed in seeds]))
    if len(sides.held_out):
        arms.append(Arm("held-out fields", "others that training has not seen", [sides.held_out]))
    else:
        arms.append(Arm("held-out fields", "the references themselves", [sides.reference], is_reference=True))
    observe(1.0)
    return arms, notes


def averages(training: Tensor, n: int, seed: int) -> Tensor:
    """(n, P) means of two training fields each."""
    generator = torch.Generator().manual_seed(seed)
    one, other = (torch.randint(len(training), (n,), generator=generator) for _ in range(2))
    return (training[one] + training[other]) / 2


def labels_drawn(known: Sequence[object], of_training: Sequence[object], n: int, seed: int) -> Tensor | None:
    """(n,) numbers of labels, as often as the training fields have them; None where none of these is known.

    Args:
        known: the labels of a model, in order.
        of_training: label of each training field.
        n: how many.
        seed: of the draw.
    """
    names = [str(label) for label in known]
    numbers = [names.index(str(label)) for label in of_training if str(label) in names]
    if not numbers:
        return None
    index = torch.randint(len(numbers), (n,), generator=torch.Generator().manual_seed(seed))
    return torch.tensor(numbers)[index]
