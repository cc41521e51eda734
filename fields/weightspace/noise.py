"""Noise schedules of diffusion: how much of the signal is left after each step.

    {"otype": "LinearNoise", "n_steps": 500, "first": 1e-4, "last": 0.02, "has_zero_terminal": false}
    {"otype": "CosineNoise", "n_steps": 1000, "has_zero_terminal": true}

x_t = √ᾱ_t x_0 + √(1 - ᾱ_t) e for t = 1 ... T, with ᾱ_t the product of 1 - β (Ho et al. 2020). HyperDiffusion takes
DDPM's β of 1000 steps, 1e-4 to 0.02, for 500: ᾱ_T is then 6.4e-3, so that a little of the signal is left in what
sampling takes for noise alone. `has_zero_terminal` shifts and scales √ᾱ to 0 at T (Lin et al. 2024, algorithm 1);
ask the denoiser for x_0 or v then, as e says nothing about the signal there.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from fieldforge.checks import expect_bool, expect_float, expect_int
from fieldforge.registry import config_of, register


class Noise(ABC):
    """ᾱ_0 = 1, ᾱ_1, ..., ᾱ_T, falling.

    Args:
        n_steps: T.
        has_zero_terminal: whether √ᾱ is shifted and scaled to end at 0.
    """

    otype: ClassVar[str]

    def __init__(self, *, n_steps: int, has_zero_terminal: bool) -> None:
        self.n_steps = expect_int("n_steps", n_steps, 1, 100_000)
        self.has_zero_terminal = expect_bool("has_zero_terminal", has_zero_terminal)

    @abstractmethod
    def betas(self) -> Tensor:
        """(T,) float64: β_1 ... β_T, before anything is done about the end."""

    def alpha_bar(self) -> Tensor:
        """(T + 1,) float64 on the CPU: ᾱ_0 = 1 up to ᾱ_T.

        Example:
            >>> round(float(LinearNoise().alpha_bar()[-1]), 4)
            0.0064
        """
        with torch.device("cpu"):
            kept = torch.cat([torch.ones(1, dtype=torch.float64), (1 - self.betas()).cumprod(0)])
        if not self.has_zero_terminal:
            return kept
        root = kept.sqrt()
        # Lin et al. hold the first step's value and move the last to 0
        root[1:] = (root[1:] - root[-1]) * (root[1] / (root[1] - root[-1])) if self.n_steps > 1 else 0.0
        return root.square()

    def config(self) -> dict[str, Any]:
        """The configuration that rebuilds this schedule."""
        return config_of(self)


@register("noise", "LinearNoise")
class LinearNoise(Noise):
    """β rises evenly from `first` to `last` (Ho et al. 2020).

    Args:
        n_steps: T; HyperDiffusion's 500.
        first, last: β_1 and β_T, in (0, 1).
        has_zero_terminal: whether √ᾱ is shifted and scaled to end at 0.
    """

    otype = "LinearNoise"

    def __init__(
        self, *, n_steps: int = 500, first: float = 1e-4, last: float = 0.02, has_zero_terminal: bool = False
    ) -> None:
        super().__init__(n_steps=n_steps, has_zero_terminal=has_zero_terminal)
        self.first = expect_float("first", first, 0.0, 0.999, open_low=True)
        self.last = expect_float("last", last, self.first, 0.999)

    def betas(self) -> Tensor:
        return torch.linspace(self.first, self.last, self.n_steps, dtype=torch.float64)


@register("noise", "CosineNoise")
class CosineNoise(Noise):
    """ᾱ_t is cos²((t/T + s) / (1 + s) π/2) over its value at 0, s = 0.008, β at most 0.999 (Nichol and Dhariwal 2021).

    Args:
        n_steps: T.
        has_zero_terminal: whether √ᾱ is shifted and scaled to end at 0.
    """

    otype = "CosineNoise"

    def __init__(self, *, n_steps: int = 1000, has_zero_terminal: bool = False) -> None:
        super().__init__(n_steps=n_steps, has_zero_terminal=has_zero_terminal)

    def betas(self) -> Tensor:
        s = 0.008
        t = torch.arange(self.n_steps + 1, dtype=torch.float64) / self.n_steps
        kept = torch.cos((t + s) / (1 + s) * math.pi / 2) ** 2
        return (1 - kept[1:] / kept[:-1]).clamp(max=0.999)
