"""Packed samples: the intervals of all rays, one ray after another, each ray with as many as it needs.

Marching makes them, proposal and final stages hand them on, compositing sums over them. Dense (R, S) input becomes the
same thing by a constructor; there is no second code path.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from fieldforge.checks import expect_int


@dataclass(frozen=True, eq=False)
class Samples:
    """Intervals [t0, t1] along rays, sorted by ray and, within a ray, by distance.

    Args:
        t0, t1: (N,) where each interval begins and ends, in units of the ray's direction; t1 ≥ t0. NaN is let through.
        ray_index: (N,) int64, the ray of each interval, never decreasing.
        n_rays: number of rays R; any of them may have no interval at all.

    Raises:
        TypeError: t0 and t1 are not floating-point tensors of one dtype, or ray_index is not int64.
        ValueError: shapes or devices differ, ray_index is unsorted or not in [0, n_rays), or an interval ends before
            it begins.

    That the intervals of a ray follow one another without overlap is the caller's word; it is not checked.

    Example:
        >>> Samples(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]), torch.tensor([0, 2]), n_rays=3).counts
        tensor([1, 0, 1])
    """

    t0: Tensor
    t1: Tensor
    ray_index: Tensor
    n_rays: int
    n_each: int | None = field(default=None, init=False)
    """Intervals on each ray, where all are known to have equally many without a look at the numbers; else None."""

    def __post_init__(self) -> None:
        expect_int("n_rays", self.n_rays, 0)
        _expect_intervals(self.t0, self.t1, 1)
        expect_packed("ray_index", self.ray_index, self.t0)
        index = self.ray_index
        if index.numel() and (int(index[0]) < 0 or int(index[-1]) >= self.n_rays):
            bad = int(index[0]) if int(index[0]) < 0 else int(index[-1])
            raise ValueError(f"ray_index: expected values from 0 to n_rays - 1 = {self.n_rays - 1}, got {bad}")
        falls = (index[1:] < index[:-1]).nonzero()
        if len(falls):
            at = int(falls[0])
            raise ValueError(
                f"ray_index: expected sorted values, got {int(index[at])} before {int(index[at + 1])} "
                f"at sample {at}; sort the samples by ray"
            )

    @classmethod
    def from_offsets(cls, t0: Tensor, t1: Tensor, offsets: Tensor) -> Samples:
        """Intervals whose ray r has the rows ``offsets[r] : offsets[r + 1]``.

        Args:
            t0, t1: (N,) as above.
            offsets: (R + 1,) int64 from 0 to N, never decreasing.

        Raises:
            TypeError, ValueError: as above, or offsets do not go from 0 to N.
        """
        _expect_intervals(t0, t1, 1)
        expect_offsets("offsets", offsets, t0.shape[0])
        return cls.trusted(t0, t1, rows_to_rays(offsets, t0.shape[0]), offsets)

    @classmethod
    def from_dense(cls, t0: Tensor, t1: Tensor, mask: Tensor | None = None) -> Samples:
        """Intervals (R, S), the same number on each ray, or those of them where `mask` (R, S) is true.

        Example:
            >>> edges = torch.linspace(0, 1, 5).expand(2, 5)
            >>> Samples.from_dense(edges[:, :-1], edges[:, 1:]).offsets
            tensor([0, 4, 8])
        """
        _expect_intervals(t0, t1, 2)
        if mask is None:
            return cls.even(t0, t1)
        if mask.shape != t0.shape or mask.dtype != torch.bool:
            raise ValueError(f"mask: expected booleans {tuple(t0.shape)}, got {mask.dtype} {tuple(mask.shape)}")
        return cls.trusted(t0[mask], t1[mask], mask.nonzero()[:, 0], row_offsets(mask.sum(-1)))

    @classmethod
    def even(cls, t0: Tensor, t1: Tensor) -> Samples:
        """Intervals (R, S), the same number on each ray, without looking: nobody waits for a device."""
        n_rays, n_each = t0.shape
        offsets = torch.arange(n_rays + 1, device=t0.device) * n_each
        return cls.trusted(t0.reshape(-1), t1.reshape(-1), rows_to_rays(offsets, t0.numel()), offsets, n_each)

    @classmethod
    def trusted(cls, t0: Tensor, t1: Tensor, ray_index: Tensor, offsets: Tensor, n_each: int | None = None) -> Samples:
        """What a marcher made, without looking: `ray_index` (N,) and `offsets` (R + 1,) say the same, and so does
        `n_each`, where it is given."""
        samples = object.__new__(cls)
        samples.__dict__.update(
            t0=t0, t1=t1, ray_index=ray_index, n_rays=offsets.shape[0] - 1, n_each=n_each, offsets=offsets
        )
        return samples

    @cached_property
    def offsets(self) -> Tensor:
        """(R + 1,) int64: ray r has the rows ``offsets[r] : offsets[r + 1]``."""
        rays = torch.arange(self.n_rays + 1, device=self.ray_index.device)
        return torch.searchsorted(self.ray_index.contiguous(), rays)

    @property
    def counts(self) -> Tensor:
        """(R,) int64 number of intervals of each ray."""
        return self.offsets[1:] - self.offsets[:-1]

    @property
    def n_samples(self) -> int:
        """N."""
        return self.t0.shape[0]

    @property
    def t_mid(self) -> Tensor:
        """(N,) middles of the intervals."""
        return 0.5 * (self.t0 + self.t1)

    @property
    def dt(self) -> Tensor:
        """(N,) lengths of the intervals."""
        return self.t1 - self.t0

    def keep(self, mask: Tensor) -> Samples:
        """The intervals where `mask` (N,) is true, of as many rays as before.

        Raises:
            ValueError: the mask has another shape or is not boolean.
        """
        if mask.shape != self.t0.shape or mask.dtype != torch.bool:
            raise ValueError(f"mask: expected booleans {tuple(self.t0.shape)}, got {mask.dtype} {tuple(mask.shape)}")
        kept = row_offsets(mask)[self.offsets]
        rows = mask.nonzero()[:, 0]  # once: on a device the host waits to know how many there are
        return Samples.trusted(self.t0[rows], self.t1[rows], self.ray_index[rows], kept)

    def to(self, device: torch.device | str) -> Samples:
        """The same on another device."""
        t0, t1, ray, offsets = (tensor.to(device) for tensor in (self.t0, self.t1, self.ray_index, self.offsets))
        return Samples.trusted(t0, t1, ray, offsets, self.n_each)

    def __repr__(self) -> str:
        return f"Samples(n_samples={self.n_samples}, n_rays={self.n_rays}, {self.t0.dtype}, {self.t0.device})"


def row_offsets(counts: Tensor) -> Tensor:
    """(R,) counts -> (R + 1,) int64: their sums from 0 on.

    Example:
        >>> row_offsets(torch.tensor([2, 0, 1]))
        tensor([0, 2, 2, 3])
    """
    offsets = torch.zeros(counts.shape[0] + 1, dtype=torch.int64, device=counts.device)
    torch.cumsum(counts, 0, out=offsets[1:])
    return offsets


def rows_to_rays(offsets: Tensor, n_samples: int) -> Tensor:
    """(R + 1,) offsets -> (N,) int64 ray of each row; the inverse of `Samples.offsets`."""
    rays = torch.arange(offsets.shape[0] - 1, device=offsets.device)
    return torch.repeat_interleave(rays, offsets[1:] - offsets[:-1], output_size=n_samples)


def expect_packed(name: str, rows: Tensor, like: Tensor) -> Tensor:
    """Require int64 (N,) rows on the device of `like` (N,)."""
    if not isinstance(rows, Tensor) or rows.dtype != torch.int64:
        raise TypeError(f"{name}: expected int64, got {getattr(rows, 'dtype', type(rows).__name__)}; use {name}.long()")
    if rows.shape != like.shape or rows.device != like.device:
        raise ValueError(
            f"{name}: expected one row for each of {like.shape[0]} samples on {like.device}, "
            f"got {tuple(rows.shape)} on {rows.device}"
        )
    return rows


def expect_offsets(name: str, offsets: Tensor, n_rows: int) -> Tensor:
    """Require int64 (R + 1,) offsets that go from 0 to `n_rows` without decreasing."""
    if not isinstance(offsets, Tensor) or offsets.dtype != torch.int64:
        got = getattr(offsets, "dtype", type(offsets).__name__)
        raise TypeError(f"{name}: expected int64, got {got}; use {name}.long()")
    if offsets.ndim != 1 or not offsets.shape[0]:
        raise ValueError(f"{name}: expected (n_rays + 1,), got {tuple(offsets.shape)}")
    first, last = int(offsets[0]), int(offsets[-1])
    if first != 0 or last != n_rows:
        raise ValueError(f"{name}: expected to go from 0 to the {n_rows} rows, got {first} to {last}")
    if (offsets[1:] < offsets[:-1]).any():
        at = int((offsets[1:] < offsets[:-1]).nonzero()[0])
        raise ValueError(f"{name}: expected to never decrease, got {int(offsets[at])} before {int(offsets[at + 1])}")
    return offsets


def _expect_intervals(t0: Tensor, t1: Tensor, n_dims: int) -> None:
    for name, t in (("t0", t0), ("t1", t1)):
        if not isinstance(t, Tensor) or not t.is_floating_point():
            raise TypeError(f"{name}: expected a floating-point tensor, got {getattr(t, 'dtype', type(t).__name__)}")
    if t0.dtype != t1.dtype:
        raise TypeError(f"t1: expected {t0.dtype} like t0, got {t1.dtype}")
    if t0.ndim != n_dims:
        raise ValueError(f"t0: expected {'(N,)' if n_dims == 1 else '(rays, samples)'}, got {tuple(t0.shape)}")
    if t0.shape != t1.shape or t0.device != t1.device:
        raise ValueError(
            f"t1: expected one end for each of the beginnings t0 {tuple(t0.shape)} on {t0.device}, "
            f"got {tuple(t1.shape)} on {t1.device}"
        )
    backward = (t1 < t0).flatten().nonzero()
    if len(backward):
        at = int(backward[0])
        raise ValueError(
            f"t1: expected no interval to end before it begins, got [{float(t0.flatten()[at]):g}, "
            f"{float(t1.flatten()[at]):g}] at sample {at}"
        )
