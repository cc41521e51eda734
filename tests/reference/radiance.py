"""Volume rendering of a radiance field in float64, sample by sample; and a loss of it by finite differences' needs.

Imports nothing of fieldforge. Written from Mildenhall et al. 2020 (eq. 3) and Müller et al. 2022 (section 5.4).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Network = Sequence[tuple[Tensor, Tensor | None]]


def run(network: Network, x: Tensor, *, ends_in_sigmoid: bool) -> Tensor:
    """ReLU between the layers; (n_in,) -> (n_out,)."""
    for i, (weight, bias) in enumerate(network):
        x = weight @ x + (0 if bias is None else bias)
        if i + 1 < len(network):
            x = torch.relu(x)
    return torch.sigmoid(x) if ends_in_sigmoid else x


def density_of(z: Tensor, activation: str, side: float) -> Tensor:
    return (torch.exp(z.clamp(max=15)) if activation == "exponential" else torch.log1p(torch.exp(z))) / side


def render_ray(
    origin: Tensor,
    direction: Tensor,
    intervals: Sequence[tuple[float, float]],
    features: Callable[[Tensor], Tensor],
    density_network: Network,
    color_network: Network,
    code: Tensor,
    background: Tensor,
    *,
    activation: str,
    side: float,
    early_stop: float,
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Colour (3,), depth, opacity of one ray, and how many of its samples were looked at."""
    color, depth, optical = (torch.zeros(size, dtype=torch.float64) for size in ((3,), (), ()))
    n = 0
    for begin, end in intervals:
        if float(torch.exp(-optical.detach())) < early_stop:
            break
        n += 1
        middle = 0.5 * (begin + end)
        numbers = run(density_network, features(origin + middle * direction), ends_in_sigmoid=False)
        tau = density_of(numbers[0], activation, side) * (end - begin)
        shade = run(color_network, torch.cat([numbers, code]), ends_in_sigmoid=True)
        weight = torch.exp(-optical) * (1 - torch.exp(-tau))
        color, depth, optical = color + weight * shade, depth + weight * middle, optical + tau
    left = torch.exp(-optical)
    return color + left * background, depth, 1 - left, n
