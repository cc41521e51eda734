"""What a selection is: now and then it looks at all samples of a signal on a regular grid, a picture or a sound, and a
fit learns from some of them until it looks again.

To write one, subclass `Selection`, keep every constructor keyword as an attribute of the same name, and
`@register("selection", ...)` it. What it remembers between two looks stands in `SelectedDraw.carried`, tensors that go
into checkpoints: a fit that is resumed between two looks goes on with the samples that were chosen.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from fieldforge.apps.fit.samplers import PixelDraw, RasterDraw, permute
from fieldforge.apps.fit.slices import answers
from fieldforge.apps.fit.stages import only_asked
from fieldforge.apps.fit.tangent import along, gradient
from fieldforge.fields.kinds.base import Field
from fieldforge.registry import build, config_of

_STRIP = 2**16
"""Samples that are asked at a time."""
Draw = PixelDraw | RasterDraw


class Pool:
    """All samples of a signal, and how a field does at each; asked for when needed.

    Args:
        draw: of the fit.
        field: as it is now.
        step: that the choice is for.
    """

    def __init__(self, draw: Draw, field: Field, step: int) -> None:
        self.draw, self.field, self.step = draw, field, step
        self.n = draw.indices.n_samples

    def strip(self, first: int) -> tuple[Tensor, Tensor]:
        """Places and values of the samples from `first` on."""
        return self.draw.samples(torch.arange(first, min(self.n, first + _STRIP)))

    def errors(self) -> Tensor:
        """(n,) sum over channels of |value - answer|."""
        with torch.no_grad():
            found = [(answers(self.field, points) - values).abs().sum(-1) for points, values in self._strips()]
        return torch.cat(found)

    def tangent_errors(self) -> Tensor:
        """(n,) |K(x, ·) r|: how far a step of gradient descent on all samples would move the answer at each (NINT)."""
        direction: dict[str, Tensor] = {}
        for points, values in self._strips():
            with torch.no_grad():
                residual = answers(self.field, points) - values
            found = gradient(self.field, points, residual)
            direction = {name: one + direction[name] if direction else one for name, one in found.items()}
        return torch.cat([along(self.field, points, direction).norm(dim=-1) for points, _ in self._strips()])

    def shuffled(self) -> Tensor:
        """(n,) all samples in an order that follows from seed and step."""
        index = torch.arange(self.n)
        return permute(index, self.n, torch.full_like(index, (self.step + 1) * 1_000_003 + self.draw.seed + 7))

    def _strips(self) -> list[tuple[Tensor, Tensor]]:
        return [self.strip(first) for first in range(0, self.n, _STRIP)]


class Selection(ABC):
    """Which samples, and when the next choice is due; both follow from the step."""

    otype: ClassVar[str]

    @abstractmethod
    def is_due(self, step: int, n_steps: int) -> bool:
        """Whether samples are chosen anew before a step; before step 0 they always are."""

    @abstractmethod
    def select(self, pool: Pool, n_steps: int, carried: dict[str, Tensor]) -> Tensor:
        """(n,) bool: the samples to learn from, at least one."""

    def carries(self, n: int) -> dict[str, Tensor]:
        """What a choice needs of the one before, n samples: tensors that are changed in place."""
        return {}

    def config(self) -> dict[str, Any]:
        """The configuration that rebuilds this selection."""
        return config_of(self)


@dataclass
class SelectedDraw:
    """The samples of a step, drawn from those that are selected; a batch shrinks with their share.

    With all of them selected it gives what the draw gives. Schedules count the steps of the configuration, also where
    a fit stops by time.

    Args:
        whole: the draw from all samples.
        field: that is asked.
        selection: that chooses.
        n_steps: of the fit.
    """

    whole: Draw
    field: Field
    selection: Selection
    n_steps: int
    carried: dict[str, Tensor] = field(init=False)
    n_looks: int = field(init=False, default=0)
    """How often samples were chosen."""
    _index: Tensor | None = field(init=False, default=None)
    _of: int = field(init=False, default=-2)

    def __post_init__(self) -> None:
        n = self.whole.indices.n_samples
        self.carried = {
            "is_selected": torch.ones(n, dtype=torch.uint8),
            "selected_at": torch.full((), -1, dtype=torch.int64),
        } | self.selection.carries(n)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        n_steps = self.n_steps
        if step == 0 or self.selection.is_due(min(step, n_steps - 1), n_steps):
            if step < n_steps or int(self.carried["selected_at"]) < 0:
                self._select(step, n_steps)
        index = self._selected()
        if len(index) == len(self.carried["is_selected"]):
            return self.whole(step)
        return self.whole.at(self._batch(index, step), step)

    def _select(self, step: int, n_steps: int) -> None:
        with only_asked(self.field):
            chosen = self.selection.select(Pool(self.whole, self.field, step), n_steps, self.carried)
        self.carried["is_selected"].copy_(chosen)
        self.carried["selected_at"].fill_(step)
        self._index = None
        self.n_looks += 1

    def _selected(self) -> Tensor:
        """The selected samples, ascending: the tensors carried may have come from a checkpoint."""
        at = int(self.carried["selected_at"])
        if self._index is None or self._of != at:
            self._index, self._of = self.carried["is_selected"].nonzero().squeeze(1), at
        return self._index

    def _batch(self, index: Tensor, step: int) -> Tensor:
        """Some of the selected samples, each as often as all others; or all of them."""
        k, n = len(index), len(self.carried["is_selected"])
        size = max(1, round(self.whole.indices.batch_size * k / n))
        if size == k:
            return index
        position = torch.arange(step * size, (step + 1) * size)
        return index[permute(position % k, k, position // k * 1_000_003 + self.whole.seed)]


def selected(draw: Draw, field: Field, config: Mapping[str, Any]) -> Callable[[int], tuple[Tensor, Tensor]]:
    """The draw of a run configuration: `draw` itself, or what its section ``selection`` leaves of it."""
    if "selection" not in config:
        return draw
    selection: Selection = build("selection", config["selection"], path="selection")
    return SelectedDraw(draw, field, selection, int(config["fit"]["n_steps"]))
