"""The box that is exported, and what to say where there is nothing in it."""

from __future__ import annotations

import torch
from torch import Tensor

Box = tuple[tuple[float, ...], tuple[float, ...]]
"""Lowest and highest corner, in world units."""


class EmptyBoxError(ValueError):
    """Nothing in the box is as dense as is asked for; the message names a box in which something is, or a level."""

    def __init__(self, box: Box, other: Box | None, seen: str) -> None:
        super().__init__(
            f"no density in the box {written(box)}: {seen}; "
            + (f"--crop {written(other)} would do" if other is not None else "a lower --level may do")
        )
        self.box, self.other = box, other


def written(box: Box) -> str:
    """As --crop takes it."""
    return ",".join(f"{value:.4g}" for value in (*box[0], *box[1]))


def inside(points: Tensor, box: Box) -> Tensor:
    """(n,) which of (n, 3) points are in a box."""
    low, high = (points.new_tensor(corner) for corner in box)
    return ((points >= low) & (points <= high)).all(-1)


def lattice(box: Box, n: int) -> Tensor:
    """(n³, 3) middles of the cells of a box."""
    axes = [
        torch.linspace(0.5, n - 0.5, n, dtype=torch.float64) / n * (high - low) + low
        for low, high in zip(*box, strict=True)
    ]  # fmt: skip
    return torch.cartesian_prod(*axes).float()
