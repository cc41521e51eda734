"""What a teacher answered serves many steps: a large teacher takes ten times as long for a point as a small student
takes to learn from it.

    memory = Memory(lambda number: rows, n_fresh=2**12, seed=0)
    rows = memory(number, n)

KiloNeRF (Reiser et al., ICCV 2021) asks its teacher for a million points of each network before it begins, and learns
from these alone. Here every step asks for a few more. What it is given follows from its number, so that a fit that was
interrupted goes on alike: what its earlier steps had asked, and is still kept, is asked again.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fieldforge.apps.convert.answers import Answers
from fieldforge.apps.convert.points import Points
from fieldforge.apps.fit.scene.rays import Rays
from fieldforge.devices import seeded

MOST = 2**20
"""Rows that are kept; the oldest make way."""


class Memory:
    """Rows of a step: some new ones, and others at random of all that are kept.

    Args:
        fresh: new rows (n_fresh, columns) by number.
        n_fresh: of them.
        seed: same seed, same rows.
        most: rows that are kept at most.
    """

    def __init__(self, fresh: Callable[[int], Tensor], *, n_fresh: int, seed: int, most: int = MOST) -> None:
        self.fresh, self.n_fresh, self.seed = fresh, n_fresh, seed
        self.n_parts = max(1, most // n_fresh)
        self._rows = torch.empty(0, 0)
        self._next = 0

    def __call__(self, number: int, n: int) -> Tensor:
        """Rows (n, columns) of a number; its new ones come first."""
        if number + 1 < self._next:
            self._next = 0
        for other in range(max(self._next, number + 1 - self.n_parts), number + 1):
            rows = self.fresh(other)
            if not len(self._rows):
                self._rows = rows.new_empty(self.n_parts * self.n_fresh, rows.shape[1])
            self._rows[other % self.n_parts * self.n_fresh :][: self.n_fresh] = rows
        self._next = number + 1
        n_known = min(number + 1, self.n_parts) * self.n_fresh
        generator = seeded((self.seed + 2) * 1_000_003 + number)
        others = torch.randint(n_known, (max(0, n - self.n_fresh),), generator=generator)
        newest = number % self.n_parts * self.n_fresh + torch.arange(min(n, self.n_fresh))
        return self._rows[torch.cat([newest, others])]


def rows_of_points(at: Points, told: Answers) -> Tensor:
    """(n, 10) points with answers that have colours."""
    assert told.color is not None
    return torch.cat([at.points, at.directions, told.log_density[:, None], told.color], -1)


def points_of_rows(rows: Tensor) -> tuple[Points, Answers]:
    """The inverse of `rows_of_points`."""
    points, directions, density, color = (part.contiguous() for part in rows.split((3, 3, 1, 3), -1))
    return Points(points, directions), Answers(density[:, 0], color, None)


def rows_of_rays(rays: Rays, shown: Tensor) -> Tensor:
    """(n, 13) rays with the colours (n, 3) that their teacher shows along them."""
    return torch.cat([rays.origins, rays.directions, shown, rays.background, rays.offset[:, None]], -1)


def rays_of_rows(rows: Tensor) -> Rays:
    """The inverse of `rows_of_rays`, of no photo and no time."""
    origins, directions, target, background, offset = (part.contiguous() for part in rows.split((3, 3, 3, 3, 1), -1))
    nothing = offset.new_zeros(len(rows))
    return Rays(origins, directions, target, background, offset[:, 0], nothing.long(), nothing)
