"""Which samples a training step sees, as a function of the step alone.

`ShuffledIndices` visits every sample once per epoch in a pseudo-random order without storing that order: position i
of epoch e is mapped to a sample by a keyed permutation. There is no random state to save, so an interrupted fit
continues with exactly the samples it would have seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from fieldforge.apps.fit.options import FitOptions
from fieldforge.apps.images import Picture
from fieldforge.backends import offer, provide
from fieldforge.checks import expect_int
from fieldforge.devices import arrived, here
from fieldforge.fields.kinds.base import Box
from fieldforge.kernels.triton import door as triton_door
from fieldforge.kernels.triton import draws

_ROUNDS = 6
_MULTIPLIERS = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1, 0xD6E8FEB8)  # odd 32-bit constants


class ShuffledIndices:
    """Batches of sample numbers, each sample once per epoch.

    Args:
        n_samples: size of the set.
        batch_size: indices a step.
        seed: same seed, same order.

    Example:
        >>> batches = ShuffledIndices(6, batch_size=3, seed=0)
        >>> sorted(torch.cat([batches(0), batches(1)]).tolist())
        [0, 1, 2, 3, 4, 5]
    """

    def __init__(self, n_samples: int, *, batch_size: int, seed: int) -> None:
        self.n_samples = expect_int("n_samples", n_samples, 1, 2**40)
        self.batch_size = expect_int("batch_size", batch_size, 1, 2**26)
        self.seed = expect_int("seed", seed, 0, 2**31 - 1)
        # many small tensor operations cost more than a few large; and on a device the host waits for each chunk
        self._steps_per_chunk = max(1, (2**18 if here().type == "cpu" else 2**22) // batch_size)
        self._chunk_number = -1
        self._chunk = torch.empty(0, dtype=torch.int64)

    def __call__(self, step: int) -> Tensor:
        """(batch_size,) int64 sample numbers of a step."""
        number, within = divmod(step, self._steps_per_chunk)
        if number != self._chunk_number:
            count = self._steps_per_chunk * self.batch_size
            position = torch.arange(number * count, (number + 1) * count)
            epoch = position // self.n_samples
            self._chunk = permute(position % self.n_samples, self.n_samples, epoch * 1_000_003 + self.seed)
            self._chunk_number = number
        return self._chunk[within * self.batch_size : (within + 1) * self.batch_size]


@dataclass
class PixelDraw:
    """The samples of a step: pixels in shuffled order, a share of them moved between pixel centres.

    Calling it gives points (batch, 2) in pixels and targets (batch, n_channels). The native training step draws the
    same by itself (kernels/cpu/draw.hpp); this is the definition.
    """

    picture: Picture
    options: FitOptions
    seed: int
    indices: ShuffledIndices = field(init=False)
    _stored: Tensor | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        height, width, _ = self.picture.pixels.shape
        self.indices = ShuffledIndices(width * height, batch_size=self.options.batch_size, seed=self.seed)

    @property
    def n_moved(self) -> int:
        """How many of each batch, the first of it, lie between the pixel centres."""
        return round(self.options.jitter * self.options.batch_size)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        return self.at(self.indices(step), step)

    def samples(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Centres and values of pixels."""
        _, width, _ = self.picture.pixels.shape
        return torch.stack([index % width, index // width], -1) + 0.5, self._values(index)

    def at(self, index: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """The samples of a step at some pixels, the first of them moved."""
        _, width, _ = self.picture.pixels.shape
        corner = torch.stack([index % width, index // width], -1)
        n_moved = round(self.options.jitter * len(index))
        if not n_moved:
            return corner + 0.5, self._values(index)
        position = torch.arange(step * len(index), step * len(index) + n_moved)
        moved, color = self._between(corner[:n_moved], offsets(position, self.seed))
        return (
            torch.cat([moved, corner[n_moved:] + 0.5]),
            torch.cat([color, self._values(index[n_moved:])]),
        )

    def _values(self, index: Tensor) -> Tensor:
        """Colours of pixels; off the CPU, of a copy of the picture that was sent there once."""
        if index.device.type == "cpu":
            return self.picture.values(index)
        if self._stored is None:
            self._stored = _sent(self.picture.pixels, index.device)
        return self._stored[index].float() / self.picture.one

    def _between(self, corner: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        """Points inside the square from a pixel's centre to the next one's, and the bilinear colour there."""
        height, width, _ = self.picture.pixels.shape
        x, y = (corner + 1).unbind(-1)
        far = torch.stack([x.clamp(max=width - 1), y.clamp(max=height - 1)], -1)
        weight_x, weight_y = offset[:, :1], offset[:, 1:]

        def values(x: Tensor, y: Tensor) -> Tensor:
            return self._values(y[:, 1] * width + x[:, 0])

        top = values(corner, corner) * (1 - weight_x) + values(far, corner) * weight_x
        bottom = values(corner, far) * (1 - weight_x) + values(far, far) * weight_x
        return corner + 0.5 + offset * (far - corner), top * (1 - weight_y) + bottom * weight_y


@dataclass
class RasterDraw:
    """The samples of a step of a signal on a regular grid, a sound or a film, in shuffled order.

    Calling it gives points (batch_size, n_axes) in world units, float64, and values (batch_size, n_channels) float32.
    Sample i of an axis of n samples from `low` to `high` is at low + (i + 1/2) (high - low) / n. The native training
    step draws the same by itself.

    Args:
        values: (..., n_channels) uint8, uint16 or float32, contiguous; the last axis before the channels is
            coordinate 0, as x is of a picture.
        one: the stored number that stands for 1.
        box: of the field.
        batch_size: samples a step.
        seed: same seed, same order.
    """

    values: np.ndarray
    one: float
    box: Box
    batch_size: int
    seed: int
    indices: ShuffledIndices = field(init=False)
    _stored: Tensor | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        n_samples = math.prod(self.values.shape[:-1])
        self.indices = ShuffledIndices(n_samples, batch_size=self.batch_size, seed=self.seed)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        return self.samples(self.indices(step))

    def samples(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Places and values of samples."""
        return self.points(index), self.values_at(index)

    def at(self, index: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """The same: no step moves them."""
        return self.samples(index)

    def points(self, index: Tensor) -> Tensor:
        """(m,) sample numbers -> (m, n_axes) float64 world points."""
        axes, rest = [], index
        for size, low, high in zip(self.values.shape[-2::-1], *self.box, strict=True):
            axes.append(low + ((rest % size).double() + 0.5) * ((high - low) / size))
            rest = rest // size
        return torch.stack(axes, -1)

    def values_at(self, index: Tensor) -> Tensor:
        """(m,) sample numbers -> (m, n_channels) float32."""
        if index.device.type != "cpu":
            if self._stored is None:
                self._stored = _sent(self.values, index.device)
            return self._stored[index].float() / self.one
        stored = self.values.reshape(-1, self.values.shape[-1])[index.numpy()]
        return torch.from_numpy(np.true_divide(stored, np.float32(self.one), dtype=np.float32))


def _sent(values: np.ndarray, device: torch.device) -> Tensor:
    """(n, n_channels) on a device; 16 bits as 32, which every device can gather."""
    rows = values.reshape(-1, values.shape[-1])
    return arrived(rows.astype(np.int32) if rows.dtype == np.uint16 else rows, device)


def permute(index: Tensor, n: int, key: Tensor) -> Tensor:
    """A keyed pseudo-random permutation of range(n), by a Feistel network with cycle walking.

    Luby and Rackoff 1988 (rounds), Black and Rogaway 2002 (walking until the result lies in range).

    Args:
        index: (m,) int64 in [0, n).
        n: size of the range.
        key: (m,) int64; entries of equal key are permuted among themselves.

    Returns:
        (m,) int64 in [0, n); for one key, distinct indices go to distinct results.
    """
    run = offer("permute", index.device) or _permute
    found: Tensor = run(index, n, key)
    return found


@provide("permute", "reference")
def _permute(index: Tensor, n: int, key: Tensor) -> Tensor:
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    result = _feistel(index, half, mask, key)
    outside = (result >= n).nonzero().squeeze(1)
    while outside.numel():  # the domain is at most 4 n: a few rounds
        walked = _feistel(result[outside], half, mask, key[outside])
        result[outside] = walked
        outside = outside[walked >= n]
    return result


provide("permute", "cuda", missing=triton_door.missing, note=triton_door.description)(draws.permute)


def offsets(position: Tensor, seed: int) -> Tensor:
    """(m,) int64 counters to (m, 2) numbers of 24 bits in [0, 1): the two halves of a Feistel network."""
    key = torch.full((), ~seed, dtype=torch.int64, device=position.device)  # a number that no device waits for
    mixed = _feistel(position & (1 << 48) - 1, 24, (1 << 24) - 1, key)
    return torch.stack([mixed >> 24, mixed & (1 << 24) - 1], -1).float() * 2.0**-24


def _feistel(value: Tensor, half: int, mask: int, key: Tensor) -> Tensor:
    left, right = value >> half, value & mask
    for number, multiplier in enumerate(_MULTIPLIERS[:_ROUNDS]):
        mixed = (right + key * 0x632BE5AB + number + 1) * multiplier & 0x7FFFFFFFFFFF  # int64 wraps; keep it positive
        mixed = (mixed ^ (mixed >> 15)) * 0x2C1B3C6D
        left, right = right, left ^ ((mixed >> 23) & mask)
    return (left << half) | right
