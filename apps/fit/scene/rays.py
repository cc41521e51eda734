"""Which rays a training step sees: pixels of all photos in a shuffled order that the position in it alone decides."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fieldforge.apps.fit.samplers import offsets, permute
from fieldforge.apps.scenes import Scene

_BLOCK = 2**16


class Rays(NamedTuple):
    """origins, directions (n, 3); what they should show and what stands behind, (n, 3); offset (n,) in [0, 1), where
    the first sample begins in parts of a sample."""

    origins: Tensor
    directions: Tensor
    target: Tensor
    background: Tensor
    offset: Tensor


class RayDraw:
    """Rays of training photos; every pixel is drawn once before any is drawn again.

    Args:
        scene: cameras and photos.
        views: (n,) int64 which of them.
        background: colour behind photos with alpha; None is a colour of its own for each ray, and black for photos
            without alpha.
        seed: same seed, same rays.
    """

    def __init__(
        self, scene: Scene, views: Tensor, *, background: tuple[float, float, float] | None, seed: int
    ) -> None:
        self.cameras, self.photos = scene.cameras.to(torch.float32), scene.photos
        self.views, self.has_alpha, self.background, self.seed = views, scene.has_alpha, background, seed
        sizes = self.cameras.sizes[views]
        self._ends = sizes.prod(-1).cumsum(0)
        self._width = sizes[:, 0].contiguous()
        self.n_pixels = int(self._ends[-1])
        self._number, self._block = -1, torch.empty(0, dtype=torch.int64)

    def __call__(self, position: int, n: int) -> Rays:
        """The rays at the positions [position, position + n) of the endless order."""
        index = self._indices(position, n)
        which = torch.searchsorted(self._ends, index, right=True)
        inside = index - torch.where(which > 0, self._ends[which - 1], 0)
        width = self._width[which]
        view, pixels = self.views[which], torch.stack([inside % width, inside // width], -1)
        origins, directions = self.cameras.rays(view, pixels)
        color = self.photos.gather(view, pixels)
        positions = torch.arange(position, position + n)
        numbers = offsets(positions, self.seed)
        if self.background is not None:
            background = torch.tensor(self.background).expand(n, 3)
        elif self.has_alpha:
            background = torch.cat([numbers[:, 1:], offsets(positions, self.seed + 1)], -1)
        else:
            background = torch.zeros(n, 3)
        if self.has_alpha:
            alpha = color[:, 3:]
            color = color[:, :3] * alpha + background * (1 - alpha)
        return Rays(
            origins.contiguous(), directions.contiguous(), color.contiguous(), background.contiguous(),
            numbers[:, 0].contiguous(),
        )  # fmt: skip

    def _indices(self, position: int, n: int) -> Tensor:
        parts = []
        while n:
            number, first = divmod(position, _BLOCK)
            if number != self._number:
                at = torch.arange(number * _BLOCK, (number + 1) * _BLOCK)
                key = at // self.n_pixels * 1_000_003 + self.seed
                self._block, self._number = permute(at % self.n_pixels, self.n_pixels, key), number
            parts.append(self._block[first : first + n])
            position, n = position + len(parts[-1]), n - len(parts[-1])
        return torch.cat(parts)
