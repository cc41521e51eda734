"""SAPE: another encoding whose fine channels are let in step by step, and only where they are needed (Hertz et al.
2021, "SAPE: Spatially-Adaptive Progressive Encoding for Neural Optimization").

    {"otype": "SAPE", "nested": {"otype": "RandomFourier", "sigma": 20.0}, "resolution": 128}

Channels of the nested encoding go from coarse to fine (`channel_order`) and are cut into blocks. A grid over the unit
cube says for each cell how many blocks it has: its level, one whole number. A channel of block b is multiplied by the
mask m_b(x), the share of cells around x, boxed and interpolated, whose level is above b. During a fit levels rise where
the loss is still above `tolerance` (`fieldforge.apps.fit.exposure`); where it is not, they stay for good.

Where the authors' code (amirhertz/SAPE) and their paper differ, the code is followed: blocks of a cell open at once,
and the box in space makes the only soft edge. Channels of equal rank, such as the sine and cosine of one frequency,
open together; the code's blocks of d channels cut such pairs in 3-D.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from fieldforge.checks import expect_bool, expect_choice, expect_float, expect_int, expect_points
from fieldforge.encodings.base import Encoding
from fieldforge.registry import build, register

MOST_BLOCKS = 255
"""A level is one byte."""
MOST_CELLS = 2**24
SCOPES = ("Spatial", "Global")


@register("encoding", "SAPE")
class SAPE(Encoding):
    """[2x - 1, m(x) * nested(x)]: a nested encoding behind a mask that opens from coarse to fine.

    The mask has no gradient, as in the authors' code: derivatives in x are those of the nested encoding times the mask.
    They are the slopes of the function wherever the mask is flat, so everywhere with ``scope="Global"``.

    Args:
        n_input_dims: number of coordinates, 1 to 3 (any, with one mask for all of space).
        nested: configuration of the encoding, one with a `channel_order`.
        resolution: cells along each side, at least 3; read by the scope Spatial alone.
        n_blocks: blocks that the channels are cut into, at most 255; None: one for each rank of their order.
        tolerance: mean loss of a cell, in the fit's own loss, from which on it gets the next block. The paper's 1e-3 is
            of squared errors of colours in [0, 1]: 30 dB is good enough.
        share: of a fit's steps (``fit.n_steps``), after which all blocks have had their turn; None: 1/2, or 3/4 for the
            scope Global.
        scope: "Spatial"; or "Global", one level for all of space, whose next block fades in, and which stops when the
            mean loss of any one batch fell below `tolerance`.
        has_identity: whether the coordinates themselves, from -1 to 1, stand in front and are never hidden. Without
            them the first block is open from the start.
        generator: draws the nested encoding.

    Returns:
        (*batch, n_input_dims + the nested width), or the nested width.

    Attributes:
        encoding: the nested one.
        level: (resolution, ...) uint8, number of open blocks of each cell; () for the scope Global. Part of the state.
        ramp: share of the block after those, from 0 to 1; the scope Spatial keeps it at 0. Part of the state.

    Example:
        >>> sape = SAPE(2, nested={"otype": "Frequency", "n_frequencies": 3}, resolution=8)
        >>> sape(torch.full((2,), 0.25)).count_nonzero()
        tensor(2)
        >>> sape.level.fill_(3).shape, sape.mask(torch.rand(5, 2)).shape
        (torch.Size([8, 8]), torch.Size([5, 3]))
    """

    otype = "SAPE"
    domain = "unit cube"
    outside = "the nested encoding's answer behind the mask of the nearest point of the cube"
    level: Tensor
    ramp: Tensor

    def __init__(
        self,
        n_input_dims: int,
        *,
        nested: str | Mapping[str, Any] | Encoding,
        resolution: int = 128,
        n_blocks: int | None = None,
        tolerance: float = 1e-3,
        share: float | None = None,
        scope: Literal["Spatial", "Global"] = "Spatial",
        has_identity: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.scope = expect_choice("scope", scope, SCOPES)
        self.n_input_dims = expect_int("n_input_dims", n_input_dims, 1, 3 if self.is_spatial else None)
        self.resolution = expect_int("resolution", resolution, 3, 2**16)
        if self.is_spatial and resolution**n_input_dims > MOST_CELLS:
            raise ValueError(f"resolution: {resolution} makes {resolution**n_input_dims:,} cells, more than 2^24")
        self.n_blocks = None if n_blocks is None else expect_int("n_blocks", n_blocks, 1, MOST_BLOCKS)
        self.tolerance = expect_float("tolerance", tolerance, 0.0)
        self.share = (0.5 if self.is_spatial else 0.75) if share is None else share
        expect_float("share", self.share, 0.0, 1.0, open_low=True)
        self.has_identity = expect_bool("has_identity", has_identity)
        if isinstance(nested, Encoding):
            self.encoding = nested
        else:
            self.encoding = build("encoding", nested, path="nested", n_input_dims=n_input_dims, generator=generator)
        if self.encoding.channel_order() is None:
            raise ValueError(
                f"nested: the channels of {self.encoding.otype} have no order from coarse to fine; Frequency, "
                "RandomFourier, grids with levels and ShiftedBasis with several widths have one"
            )
        self.n_output_dims = self.encoding.n_output_dims + (self.n_input_dims if has_identity else 0)
        self.smoothness = min(self.encoding.smoothness, 0) if self.is_spatial else self.encoding.smoothness
        self.finest_cell = self.encoding.finest_cell
        shape = (self.resolution,) * self.n_input_dims if self.is_spatial else ()
        self.register_buffer("level", torch.full(shape, 0 if has_identity else 1, dtype=torch.uint8))
        self.register_buffer("ramp", torch.zeros(()))

    @property
    def nested(self) -> Encoding:
        """The encoding behind the mask."""
        return self.encoding

    @property
    def is_spatial(self) -> bool:
        """Whether places have levels of their own."""
        return self.scope == "Spatial"

    def blocks(self) -> Tensor:
        """(the nested width,) int64: which block each channel is of, from 0."""
        order = self.encoding.channel_order()
        assert order is not None  # the constructor looked
        ranks, dense = torch.unique(order.to(self.level.device), return_inverse=True)
        n_blocks = min(len(ranks), self.n_blocks or MOST_BLOCKS)
        block: Tensor = dense * n_blocks // len(ranks)
        return block

    def forward(self, x: Tensor) -> Tensor:
        expect_points(x, self.n_input_dims, owner=self)
        block = self.blocks()
        features: Tensor = self.encoding(x)
        masked = features * self._mask(x, int(block.max()) + 1).to(features.dtype)[..., block]
        return torch.cat(((2 * x - 1).to(features.dtype), masked), -1) if self.has_identity else masked

    @torch.no_grad()
    def mask(self, x: Tensor) -> Tensor:
        """(*batch, n_input_dims) -> (*batch, number of blocks), from 0 (hidden) to 1, falling from block to block."""
        return self._mask(x, int(self.blocks().max()) + 1)

    @torch.no_grad()
    def _mask(self, x: Tensor, n_blocks: int) -> Tensor:
        if not self.is_spatial:
            one = (self.level + self.ramp - torch.arange(n_blocks, device=x.device)).clamp(0, 1)
            return one.to(x.dtype).expand(*x.shape[:-1], n_blocks)
        cells, weights = self._surroundings(x.reshape(-1, self.n_input_dims))
        level = self.level.view(-1)[cells].long().clamp_max(n_blocks)  # (n, taps)
        by_level = weights.new_zeros(len(level), n_blocks + 1).scatter_add_(1, level, weights)
        above = by_level.flip(-1).cumsum(-1).flip(-1)[:, 1:]  # of block b: those of level b + 1 and more
        return above.clamp_max(1.0).view(*x.shape[:-1], n_blocks)

    def corners(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The cells around points and their weights in linear interpolation: (n, d) -> (n, 2^d) each."""
        return self._outer([self._along(x[:, axis], 1) for axis in range(self.n_input_dims)])

    def _surroundings(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same of the boxed grid, whose cells are means of k each way: (n, (k + 1)^d) each."""
        return self._outer([self._along(x[:, axis], self.box) for axis in range(self.n_input_dims)])

    @property
    def box(self) -> int:
        """k, the side of the box in cells, that mask and losses are averaged over."""
        return 5 if self.resolution**self.n_input_dims > 100 else 3

    def _along(self, x: Tensor, box: int) -> tuple[Tensor, Tensor]:
        """Cells and weights along one axis, (n, box + 1): a box around each of two neighbours, interpolated."""
        n = self.resolution
        place = x.clamp(0, 1).nan_to_num(0.0) * max(n - 2, 1) + 0.5  # half a cell inside at either end
        cell = place.floor().clamp_max(n - 2)
        t = (place - cell)[:, None]
        offsets = torch.arange(-(box // 2), box // 2 + 2, device=x.device)
        weights = torch.full((1, box + 1), 1 / box, dtype=x.dtype, device=x.device).repeat(len(x), 1)
        weights[:, :1] *= 1 - t
        weights[:, -1:] *= t
        return (cell.long()[:, None] + offsets).clamp(0, n - 1), weights

    def _outer(self, axes: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        def join(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            cells = (one[0][:, :, None] * self.resolution + other[0][:, None]).flatten(1)
            return cells, (one[1][:, :, None] * other[1][:, None]).flatten(1)

        return functools.reduce(join, axes)

    def channel_order(self) -> None:
        """None: the mask is in charge of what is shown when, and nothing else should be too."""
        return None


def boxed(values: Tensor, box: int, *, without_middle: bool = False) -> Tensor:
    """Means over boxes of `box` cells each way, border cells repeated outward; (n, ..., n) float.

    Args:
        values: a grid of up to 3 axes.
        box: odd side of the box.
        without_middle: the mean of all others in the box.

    Example:
        >>> boxed(torch.tensor([0.0, 3.0, 0.0, 0.0]), 3)
        tensor([1., 1., 1., 0.])
    """
    d, reach = values.ndim, box // 2
    padded = torch.nn.functional.pad(values[None, None], (reach,) * (2 * d), "replicate")[0, 0]
    total = padded
    for axis in range(d):
        total = functools.reduce(torch.add, [total.narrow(axis, i, values.shape[axis]) for i in range(box)])
    if without_middle:
        return (total - values) / (box**d - 1)
    return total / math.prod([box] * d)
