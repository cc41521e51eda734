"""Which rays a training step sees: pixels of all photos in a shuffled order that the position in it alone decides."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from copy import copy
from typing import NamedTuple

import torch
from torch import Tensor

from fieldforge.apps.fit.samplers import offsets, permute
from fieldforge.apps.scenes import Scene, SceneError
from fieldforge.devices import arrived, constant, here

_BLOCK, _BLOCK_THERE = 2**14, 2**19
"""Rays that are prepared at a time, on the CPU and on a device: many small tensor operations cost more than a few large
ones, and a device makes the host wait for each block."""


class Rays(NamedTuple):
    """origins, directions (n, 3); what they should show and what stands behind, (n, 3); offset (n,) in [0, 1), where
    the first sample begins in parts of a sample; photo (n,) int64, which of the views of the draw; time (n,), 0 in
    scenes that stand still."""

    origins: Tensor
    directions: Tensor
    target: Tensor
    background: Tensor
    offset: Tensor
    photo: Tensor
    time: Tensor


class RayDraw:
    """Rays of training photos; every pixel is drawn once before any is drawn again.

    In the place of pixels that do not count (masked, or beyond what the lens shows) others of the same block are drawn
    once more.

    Args:
        scene: cameras and photos.
        views: (n,) int64 which of them.
        background: colour behind photos with alpha; None is a colour of its own for each ray, and black for photos
            without alpha.
        must_end: whether photos without alpha have colours behind them too, which they do not show: so that what is
            dark is not taken for nothing.
        seed: same seed, same rays.
    """

    def __init__(
        self,
        scene: Scene,
        views: Tensor,
        *,
        background: tuple[float, float, float] | None,
        must_end: bool = False,
        seed: int,
    ) -> None:
        self.scene, self.cameras, self.photos = scene, scene.cameras.to(torch.float32), scene.photos
        self.views, self.has_alpha, self.background, self.seed = views, scene.has_alpha, background, seed
        self.must_end = must_end
        sizes = self.cameras.sizes[views]
        self._ends = sizes.prod(-1).cumsum(0)
        self._width = sizes[:, 0].contiguous()
        self.n_pixels = int(self._ends[-1])
        times = scene.times
        self._times = torch.zeros(len(views), device="cpu") if times is None else times[views].float()
        self._device: torch.device | None = None
        self._bend: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
        self._gather: Callable[[Tensor, Tensor], Tensor] = self.photos.gather
        self._number, self._block = -1, Rays(*(torch.empty(0),) * len(Rays._fields))

    def bent(self, bend: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> RayDraw:
        """The same rays in other coordinates: `bend` takes origins and directions there."""
        other = copy(self)
        other._bend, other._number = bend, -1
        return other

    def there(self, device: torch.device) -> RayDraw:
        """The same rays, prepared on a device from a copy of the photos that is sent there now.

        Itself, which prepares them on the CPU, where photos are not all in memory or too many for the device, or some
        pixels do not count.
        """
        pixels = self.photos.pixels
        if device.type == "cpu" or pixels is None or self.scene.masks is not None or self._bend is not None:
            return self
        other = copy(self)
        other._device, other._number = device, -1
        other.cameras = self.cameras.to(device)
        other.views, other._ends, other._width, other._times = (
            arrived(tensor, device) for tensor in (self.views, self._ends, self._width, self._times)
        )
        try:
            first, width, stored = (arrived(one, device) for one in pixels)
        except torch.OutOfMemoryError:
            return self
        other._gather = lambda view, at: stored[first[view] + at[:, 1] * width[view] + at[:, 0]].float() / 255
        return other

    def __call__(self, position: int, n: int) -> Rays:
        """The rays at the positions [position, position + n) of the endless order."""
        parts = []
        size = _BLOCK if self._device is None else _BLOCK_THERE
        while n:
            number, first = divmod(position, size)
            if number != self._number:
                self._block, self._number = self._block_at(number, size), number
            parts.append([column[first : first + n] for column in self._block])
            n_taken = len(parts[-1][0])
            position, n = position + n_taken, n - n_taken
        return Rays(*map(torch.cat, zip(*parts, strict=True)))

    def _block_at(self, number: int, size: int) -> Rays:
        """The rays of a block, made where the photos are, and sent to where they are wanted."""
        if self._device is not None:
            with torch.no_grad(), self._device:
                return self._prepare(torch.arange(number * size, (number + 1) * size))
        with torch.device("cpu") if here().type != "cpu" else contextlib.nullcontext():
            rays = self._prepare(torch.arange(number * size, (number + 1) * size))
        return Rays(*(arrived(column) for column in rays))

    def _prepare(self, position: Tensor) -> Rays:
        key = position // self.n_pixels * 1_000_003 + self.seed
        index = permute(position % self.n_pixels, self.n_pixels, key)
        which = torch.searchsorted(self._ends, index, right=True)
        inside = index - torch.where(which > 0, self._ends[which - 1], 0)
        width = self._width[which]
        view, pixels = self.views[which], torch.stack([inside % width, inside // width], -1)
        counts = self.scene.counts(view, pixels)
        if counts is not None and not counts.all():
            good, bad = counts.nonzero()[:, 0], (~counts).nonzero()[:, 0]
            if not len(good):
                raise SceneError(f"{self.scene.source}: no pixel of a block of {_BLOCK:,} counts; look at the masks")
            instead = good[torch.arange(len(bad)) % len(good)]
            which[bad], view[bad], pixels[bad] = which[instead], view[instead], pixels[instead]
        origins, directions = self.cameras.rays(view, pixels)
        color = self._gather(view, pixels)
        numbers = offsets(position, self.seed)
        if self.background is not None:
            background = constant(self.background, torch.get_default_dtype(), here()).expand(len(position), 3)
        elif self.has_alpha or self.must_end:
            background = torch.cat([numbers[:, 1:], offsets(position, self.seed + 1)], -1)
        else:
            background = torch.zeros(len(position), 3)
        if self.has_alpha:
            alpha = color[:, 3:]
            color = color[:, :3] * alpha + background * (1 - alpha)
        if self._bend is not None:
            origins, directions = self._bend(origins, directions)
        return Rays(origins, directions, color, background, numbers[:, 0], which, self._times[which])
