"""One piece of a collection: some fields, all that is needed to fit them, and the fit itself.

A task depends on nothing else and its outcome on nothing but the task, so that it may run anywhere, in any order, and
again after a worker was lost: the same bytes come out.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fieldforge.apps.fit.collection.items import Drawing, Item, Solid
from fieldforge.apps.fit.collection.steps import (
    Steps,
    adam_of,
    flat,
    initial_row,
    learns,
    loss_of,
    make_steps,
    stackable,
)
from fieldforge.apps.shapes.samples import Recipe, draw
from fieldforge.apps.shapes.truth import Truth
from fieldforge.backends import use_backend
from fieldforge.devices import arrived, find_device, home, move, seeded, working_on
from fieldforge.fields.file import build_field
from fieldforge.fields.kinds.base import Field
from fieldforge.registry import build

N_AT_ONCE = 32
"""Fields that are stepped together: enough to pay for a call, few enough to stay in the cache. No bit depends on it."""
IOU_POINTS = 2**15
PLACES = Recipe(0.0, ((1 / 4, "normal", 0.005), (1 / 4, "normal", 0.03)), 1 / 2)
"""Where a shape is looked at: anywhere, and in two layers about the surface."""
SLICE = 2**13


@dataclass(frozen=True)
class Seat:
    """A field to be fitted.

    Attributes:
        item: which of the task's items.
        init: which of the item's initialisations.
        init_seed: of the numbers it begins with, unless the task has a start for them.
    """

    item: int
    init: int
    init_seed: int


@dataclass(frozen=True)
class Task:
    """Some fields of a collection.

    Attributes:
        number: of the shard.
        field: configuration of all fields.
        run: loss, optimizer, schedule and fit.
        items: what they learn.
        seats: which fields.
        start: (K, P) numbers of the k-th initialisation of all; None: each has its own.
        seed: of samples.
        attempt: 0; each further one takes twice the steps.
        backend: what computes.
        device: where, as for `fieldforge.devices.find_device`.
    """

    number: int
    field: dict[str, Any]
    run: dict[str, Any]
    items: Sequence[Item]
    seats: Sequence[Seat]
    start: Tensor | None = None
    seed: int = 0
    attempt: int = 0
    backend: str = "auto"
    device: str = "cpu"


@dataclass(frozen=True)
class Outcome:
    """Fitted fields: rows (n, P) on the CPU, and the quality of each; NaN where it is not finite."""

    task: Task
    rows: Tensor
    qualities: list[float]


def fit_task(
    task: Task,
    observe: Callable[[list[float]], None] = lambda qualities: None,
    should_stop: Callable[[], bool] = lambda: False,
    n_at_once: int = N_AT_ONCE,
) -> Outcome | None:
    """Fit the fields of a task.

    Args:
        task: what to do.
        observe: told the qualities of those just finished.
        should_stop: asked between steps.
        n_at_once: see `N_AT_ONCE`.

    Returns:
        The fields in the order of the seats, or None if it was stopped.
    """
    rows, qualities = [], list[float]()
    with use_backend(task.backend), working_on(find_device(task.device)) as device:
        with torch.device("cpu"):
            field = build_field(task.field)
        field = move(field, device)
        for first in range(0, len(task.seats), n_at_once):
            found = _fit_some(task, field, task.seats[first : first + n_at_once], should_stop)
            if found is None:
                return None
            rows.append(found[0])
            qualities += found[1]
            observe(found[1])
    return Outcome(task, torch.from_numpy(np.concatenate(rows)), qualities)


def _fit_some(
    task: Task, field: Field, seats: Sequence[Seat], should_stop: Callable[[], bool]
) -> tuple[np.ndarray, list[float]] | None:
    network = stackable(field)
    begin = [
        initial_row(network, s.init_seed, field.encoding) if task.start is None else task.start[s.init] for s in seats
    ]
    adam, options = adam_of(task.run["optimizer"]), task.run["fit"]
    steps = make_steps(arrived(torch.stack(begin)), network, loss_of(task.run["loss"]), adam, field.encoding)
    lessons = _lessons(task, field, seats)
    schedule = build("schedule", task.run["schedule"], path="schedule")
    n_steps = options["n_steps"] * 2**task.attempt
    for step in range(n_steps):
        if should_stop():
            return None
        features, target = lessons.batch(step)
        steps.step(features, target, adam["learning_rate"] * schedule(step, n_steps))
    qualities = lessons.qualities(steps)
    return home(flat(steps.parameters, network)), qualities


def own_of(item: Item) -> dict[str, Any] | None:
    """What of the configuration is an item's own: the place of a shape in its world."""
    if isinstance(item, Drawing):
        return None
    return {"low": [float(value) for value in item.surface.cube.low], "side": float(item.surface.cube.side)}


def _lessons(task: Task, field: Field, seats: Sequence[Seat]) -> _Pixels | _Places:
    items = [task.items[seat.item] for seat in seats]
    drawings = [item for item in items if isinstance(item, Drawing)]
    if drawings:
        return _Pixels(task, field, drawings)
    return _Places(task, field, [item for item in items if isinstance(item, Solid)])


def _read_by(field: Field) -> Callable[[Tensor], Tensor]:
    """Places of the unit cube to what the steps read: features, or the places where each field's encoding learns."""
    return (lambda unit: unit) if learns(field.encoding) else field.encoding


class _Pixels:
    """Pictures of one size: their pixels share their places, and so their features."""

    def __init__(self, task: Task, field: Field, drawings: Sequence[Drawing]) -> None:
        height, width, n_channels = drawings[0].values.shape
        columns, rows = torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy")
        unit = torch.stack(((columns + 0.5) / width, (rows + 0.5) / height), -1).reshape(-1, 2)
        with torch.no_grad():
            self._features = _read_by(field)(unit)
        values = arrived(np.stack([drawing.values for drawing in drawings]))
        self._values = values.reshape(len(drawings), -1, n_channels)
        self._scale, self._offset = torch.tensor(field.output_scale), torch.tensor(field.output_offset)
        self._target = (self._values - self._offset) / self._scale
        self._n, self._seed, self._batch_size = len(drawings), task.seed, task.run["fit"]["batch_size"]
        is_whole = len(unit) <= self._batch_size
        self._whole = (self._spread(self._features), self._target) if is_whole else None

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Features (n, p, f) and targets (n, p, c) of a step."""
        if self._whole is not None:
            return self._whole
        generator = seeded((self._seed << 32) + step)
        chosen = torch.randint(len(self._features), (self._batch_size,), generator=generator)
        return self._spread(self._features[chosen]), self._target[:, chosen].contiguous()

    def qualities(self, steps: Steps) -> list[float]:
        """PSNR of each picture, over all pixels, clipped as a picture writer does."""
        squares = torch.zeros(self._n, dtype=torch.float64)
        for first in range(0, len(self._features), SLICE):
            part = slice(first, first + SLICE)
            out = steps.predict(self._spread(self._features[part])) * self._scale + self._offset
            squares += (out.clamp(0, 1) - self._values[:, part]).double().square().sum((1, 2))
        mean = home(squares / self._values[0].numel()).tolist()
        return [-10 * math.log10(max(value, 1e-20)) if math.isfinite(value) else math.nan for value in mean]

    def _spread(self, features: Tensor) -> Tensor:
        return features.expand(self._n, *features.shape).contiguous()


class _Places:
    """Points in and around shapes, each shape's own."""

    def __init__(self, task: Task, field: Field, solids: Sequence[Solid]) -> None:
        options = task.run["fit"]
        self._encode, self._batch_size, self._n = _read_by(field), options["batch_size"], len(solids)
        is_distance = task.field["otype"] == "SDFField"
        self._sign = 1.0 if is_distance else -1.0  # of a number that is positive outside
        pool_size = options["pool_size"] // self._batch_size * self._batch_size
        unit = np.empty((self._n, pool_size, 3), np.float32)
        target = np.empty((self._n, pool_size, 1), np.float32)
        is_inside = np.empty((self._n, IOU_POINTS), np.bool_)
        anywhere = np.random.default_rng(0).random((IOU_POINTS, 3)).astype(np.float32)
        made: dict[str, int] = {}  # several initialisations of one item share its samples
        for place, solid in enumerate(solids):
            if solid.sha256 in made:
                for whole in (unit, target, is_inside):
                    whole[place] = whole[made[solid.sha256]]
                continue
            made[solid.sha256] = place
            surface = solid.surface
            truth = Truth(surface.vertices, surface.faces, is_solid=surface.health.is_closed)
            digest = hashlib.sha256(solid.sha256.encode()).digest()
            points, distance = draw(truth, PLACES, pool_size, (task.seed, int.from_bytes(digest[:8], "big")))
            unit[place] = points
            target[place, :, 0] = distance if is_distance else distance < 0
            is_inside[place] = truth.is_inside(anywhere.astype(np.float64))
        self._unit, self._target, self._is_inside = arrived(unit), arrived(target), arrived(is_inside)
        self._anywhere = arrived(anywhere)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Features (n, p, f) and targets (n, p, 1) of a step."""
        first = step * self._batch_size % self._unit.shape[1]
        part = slice(first, first + self._batch_size)
        with torch.no_grad():
            return self._encode(self._unit[:, part]), self._target[:, part].contiguous()

    def qualities(self, steps: Steps) -> list[float]:
        """Volume IoU of each shape over uniform points of its cube."""
        both, either = torch.zeros(self._n), torch.zeros(self._n)
        with torch.no_grad():
            for first in range(0, IOU_POINTS, SLICE):
                part = slice(first, first + SLICE)
                features = self._encode(self._anywhere[part])
                out = steps.predict(features.expand(self._n, *features.shape).contiguous())[..., 0]
                inside = self._sign * out <= 0
                both += (inside & self._is_inside[:, part]).sum(1)
                either += (inside | self._is_inside[:, part]).sum(1)
        return [float(quality) for quality in home(both / either.clamp(min=1))]
