"""ShiftedBasis: one bump or wave, shifted along each axis (Zheng, Ramasinghe and Lucey 2021, "Rethinking Positional
Encoding").

    {"otype": "ShiftedBasis", "kind": "Gaussian", "width": 0.02, "n_shifts": 64, "reduction": "Concatenation"}

Along one coordinate the features are psi(x - t_k) at n_shifts places t_k, evenly from 0 to 1. Two things say how good a
width is: the stable rank of the features of the samples, how much a linear head can remember, which for Gaussians is
1 / (2 √π width); and how the product of two points' features falls with their distance, how well it fills in between
(`fieldforge.encodings.diagnostics`). Gaussians of a width and random Fourier features of
sigma = 1 / (2 √2 π width) have the same such profile, exp(-d² / (4 width²)).

The paper divides by the largest length of a training point's features; here it is the largest over the unit interval,
so that no data is needed. Its constant 0.7 on sines is left out.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fieldforge.checks import expect_choice, expect_float, expect_int, expect_points
from fieldforge.encodings.base import Encoding
from fieldforge.registry import register

KINDS = {"Gaussian": math.inf, "Square": -1, "Impulse": -1, "Triangle": 0, "Sine": math.inf}
"""Kinds of bumps and waves, and how many continuous derivatives each has."""
MOST_FEATURES = 2**20


def psi(u: Tensor, kind: str, width: float) -> Tensor:
    """The function that is shifted; jumps have a derivative of 0.

    - Gaussian: exp(-u² / (2 width²)).
    - Impulse: 1 for \\|u\\| <= width, else 0.
    - Triangle: 1 - \\|u\\| / width, at least 0.
    - Square: the sign of sin(2π u / width); Sine: that sine itself.
    """
    if kind == "Gaussian":
        return torch.exp(-0.5 * (u / width) ** 2)
    if kind == "Impulse":
        return (u.abs() <= width).to(u.dtype) + 0 * u.nan_to_num()
    if kind == "Triangle":
        return (1 - u.abs() / width).clamp_min(0)
    wave = torch.sin((2 * math.pi / width) * u)
    return wave if kind == "Sine" else torch.sign(wave)


@register("encoding", "ShiftedBasis")
class ShiftedBasis(Encoding):
    """psi(x_i - t_k), for each coordinate side by side, or multiplied.

    Args:
        n_input_dims: number of coordinates d.
        kind: Gaussian, Square, Impulse, Triangle or Sine, see `psi`.
        width: of the function: a standard deviation, a half width, or the period of a wave. Several, from wide to
            narrow, make a bank each; then channels have an order, from the widest bank.
        n_shifts: places along each coordinate, of each bank.
        reduction: "Concatenation", d * n_shifts features a bank, whose rank is at most the sum of the axes'; or
            "Kronecker", all n_shifts^d products of one feature of each coordinate.
        margin: how far the places go on beyond 0 and 1. Without any, points near a border have shorter features.

    Returns:
        (*batch, width), bank by bank; of a "Kronecker" bank the last coordinate's places run fastest.

    Raises:
        ValueError: there would be more than 2^20 features, or widths do not fall.

    Example:
        >>> ShiftedBasis(1, kind="Triangle", width=0.5, n_shifts=3)(torch.tensor([0.25]))
        tensor([0.5000, 0.5000, 0.0000])
    """

    otype = "ShiftedBasis"
    domain = "unit cube"
    outside = "the same functions go on: bumps fade, waves repeat"

    def __init__(
        self,
        n_input_dims: int,
        *,
        kind: Literal["Gaussian", "Square", "Impulse", "Triangle", "Sine"] = "Gaussian",
        width: float | Sequence[float] = 0.02,
        n_shifts: int = 64,
        reduction: Literal["Concatenation", "Kronecker"] = "Concatenation",
        margin: float = 0.0,
    ) -> None:
        super().__init__()
        self.n_input_dims = expect_int("n_input_dims", n_input_dims, 1)
        self.kind = expect_choice("kind", kind, KINDS)
        self.width = width if isinstance(width, (int, float)) else list(width)
        self._widths = [width] if isinstance(width, (int, float)) else list(width)
        for one in self._widths:
            expect_float("width", one, 0.0, 1e6, open_low=True)
        if not self._widths or any(a <= b for a, b in zip(self._widths, self._widths[1:], strict=False)):
            raise ValueError(f"width: expected one number, or several from wide to narrow, got {width}")
        self.n_shifts = expect_int("n_shifts", n_shifts, 1, MOST_FEATURES)
        self.reduction = expect_choice("reduction", reduction, ("Concatenation", "Kronecker"))
        self.margin = expect_float("margin", margin, 0.0, 1e3)
        is_product = self.reduction == "Kronecker"
        self._per_bank = n_shifts**n_input_dims if is_product else n_shifts * n_input_dims
        self.n_output_dims = len(self._widths) * self._per_bank
        if self.n_output_dims > MOST_FEATURES:
            raise ValueError(f"n_shifts: {n_shifts} makes {self.n_output_dims:,} features, more than 2^20")
        self.smoothness = KINDS[self.kind]
        self._scales = [1 / self._longest(one) for one in self._widths]

    def shifts(self, like: Tensor) -> Tensor:
        """(n_shifts,) the places, of a tensor's dtype and device."""
        if self.n_shifts == 1:
            return like.new_full((1,), 0.5)
        ends = -self.margin, 1 + self.margin
        return torch.linspace(*ends, self.n_shifts, dtype=like.dtype, device=like.device)

    def forward(self, x: Tensor) -> Tensor:
        expect_points(x, self.n_input_dims, owner=self)
        apart = x[..., None] - self.shifts(x)  # (*batch, d, n_shifts)
        banks = []
        for width, scale in zip(self._widths, self._scales, strict=True):
            features = scale * psi(apart, self.kind, width)
            if self.reduction == "Kronecker":
                banks.append(
                    functools.reduce(lambda a, b: (a[..., None] * b[..., None, :]).flatten(-2), features.unbind(-2))
                )
            else:
                banks.append(features.flatten(-2))
        return torch.cat(banks, -1)

    def channel_order(self) -> Tensor | None:
        if len(self._widths) == 1:
            return None
        return torch.arange(len(self._widths)).repeat_interleave(self._per_bank)

    def _longest(self, width: float) -> float:
        """The largest length of one coordinate's features, over 1025 points of [0, 1]."""
        x = torch.linspace(0, 1, 1025, dtype=torch.float64, device="cpu")
        longest = 0.0
        for some in x.split(max(1, 2**20 // self.n_shifts)):
            values = psi(some[:, None] - self.shifts(some), self.kind, width)
            longest = max(longest, float(np.sqrt(values.square().sum(-1).numpy().max())))
        return longest or 1.0
