"""The nearest training fields of many items, found while the training set passes by in pieces."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fieldforge.apps.generate.figures import Nearest


class NearestSearch:
    """For each of n items the nearest training field, and the nearest one that is of another item than that.

    Args:
        n: how many.
        own: (n,) the item that each belongs to, whose fields do not count; None: all count.
    """

    def __init__(self, n: int, own: Sequence[int] | None = None) -> None:
        self._own = None if own is None else torch.tensor(list(own), dtype=torch.int64)
        # two candidates for each: the nearest, and the nearest of another item
        self._distance = torch.full((2, n), torch.inf, dtype=torch.float64)
        self._index = torch.full((2, n), -1, dtype=torch.int64)
        self._item = torch.full((2, n), -1, dtype=torch.int64)

    def add(self, distances: Tensor, first_index: int, items: Sequence[int]) -> None:
        """Some more of the training set.

        Args:
            distances: (n, k) from each item to the fields first_index, first_index + 1, ...; inf: leave this one out.
            first_index: see there.
            items: (k,) the item of each of these fields.
        """
        of_field = torch.tensor(list(items), dtype=torch.int64)
        d = distances.double()
        if self._own is not None:
            d = d.masked_fill(of_field[None] == self._own[:, None], torch.inf)
        best, place = d.min(1)
        next_best, next_place = d.masked_fill(of_field[None] == of_field[place][:, None], torch.inf).min(1)
        distance = torch.cat([self._distance, torch.stack([best, next_best])])  # (4, n)
        index = torch.cat([self._index, torch.stack([place, next_place]) + first_index])
        item = torch.cat([self._item, torch.stack([of_field[place], of_field[next_place]])])
        first = distance.argmin(0, keepdim=True)
        second = distance.masked_fill(item == item.gather(0, first), torch.inf).argmin(0, keepdim=True)
        chosen = torch.cat([first, second])
        self._distance = distance.gather(0, chosen)
        self._distance[1].masked_fill_(item.gather(0, first)[0] == item.gather(0, second)[0], torch.inf)
        self._index, self._item = index.gather(0, chosen), item.gather(0, chosen)

    def found(self) -> Nearest:
        """What it came to."""
        return Nearest(self._index[0].numpy(), self._distance[0].numpy(), self._distance[1].numpy())
