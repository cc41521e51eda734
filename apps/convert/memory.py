"""Points whose teacher's answers serve many steps: a large teacher takes ten times as long for a point as a small
student takes to learn from it.

    memory = PointMemory(teacher, fresh, batch_size=2**15, n_fresh=2**12, seed=0)
    points, told = memory(step)

KiloNeRF (Reiser et al., ICCV 2021) asks its teacher for a million points of each network before it begins, and learns
from these alone. Here every step asks for a few more. What it is given follows from its number, so that a fit that was
interrupted goes on alike: what its earlier steps had asked is asked again.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fieldforge.apps.convert.answers import Answers
from fieldforge.apps.convert.points import Points

MOST = 2**20
"""Points that are kept; the oldest make way."""
_COLUMNS = (3, 3, 1, 3)
"""Point, direction, logarithm of the density, colour."""


class PointMemory:
    """The points of a step: some new ones, and others at random of all that are kept.

    Args:
        teacher: who answers, (points, directions) -> `Answers` with colours.
        fresh: new points by number of the step, always as many.
        batch_size: points a step.
        n_fresh: of them new.
        seed: same seed, same points.
        most: points that are kept at most.
    """

    def __init__(
        self,
        teacher: Callable[[Tensor, Tensor], Answers],
        fresh: Callable[[int], Points],
        *,
        batch_size: int,
        n_fresh: int,
        seed: int,
        most: int = MOST,
    ) -> None:
        self.teacher, self.fresh, self.seed = teacher, fresh, seed
        self.batch_size, self.n_fresh = batch_size, n_fresh
        self.n_parts = max(1, most // n_fresh)
        self._rows = torch.empty(0, sum(_COLUMNS))
        self._next = 0

    def __call__(self, step: int) -> tuple[Points, Answers]:
        """Of a step; those that it asks for come first."""
        if step + 1 < self._next:
            self._next = 0
        for number in range(max(self._next, step + 1 - self.n_parts), step + 1):
            self._ask(number)
        self._next = step + 1
        n_known = min(step + 1, self.n_parts) * self.n_fresh
        generator = torch.Generator().manual_seed((self.seed + 2) * 1_000_003 + step)
        others = torch.randint(n_known, (self.batch_size - self.n_fresh,), generator=generator)
        newest = step % self.n_parts * self.n_fresh + torch.arange(self.n_fresh)
        points, directions, density, color = self._rows[torch.cat([newest, others])].split(_COLUMNS, -1)
        return Points(points.contiguous(), directions.contiguous()), Answers(density[:, 0], color, None)

    def _ask(self, number: int) -> None:
        if not len(self._rows):
            self._rows = torch.empty(self.n_parts * self.n_fresh, sum(_COLUMNS))
        at = self.fresh(number)
        told = self.teacher(at.points, at.directions)
        assert told.color is not None
        part = self._rows[number % self.n_parts * self.n_fresh :][: self.n_fresh]
        torch.cat([at.points, at.directions, told.log_density[:, None], told.color], -1, out=part)
