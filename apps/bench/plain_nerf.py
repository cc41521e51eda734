"""A radiance field as a PyTorch user would write and train it, to measure ourselves against.

instant-ngp's field (Müller et al. 2022) in plain tensor operations, and NeRF's dense rendering (Mildenhall et al.
2020): every ray that meets the box has equally many samples in it, each in its own interval at a random place, and all
of them go through the field. No occupancy, no early end, no native code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fieldforge.apps.bench.peers import PlainHashGrid, plain_mlp


class PlainNerf(nn.Module):
    """Hash grid, a network for density and geometry, one for colour that also sees the direction.

    Args:
        config: run configuration with the sections encoding, network and rgb_network; directions are seen as
            spherical harmonics of degree 4.
        low, high: corners of the box.
        n_geometry: numbers between the networks.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self, config: Mapping[str, Any], low: Sequence[float], high: Sequence[float], n_geometry: int = 16
    ) -> None:
        super().__init__()
        one, density, color = config["encoding"], config["network"], config["rgb_network"]
        self.grid = PlainHashGrid(
            3, one["n_levels"], one["n_features_per_level"], one["log2_hashmap_size"], one["base_resolution"],
            one["per_level_scale"],
        )  # fmt: skip
        n_features = one["n_levels"] * one["n_features_per_level"]
        self.density = plain_mlp(n_features, density["n_neurons"], density["n_hidden_layers"], n_geometry)
        self.color = plain_mlp(n_geometry + 16, color["n_neurons"], color["n_hidden_layers"], 3)
        self.register_buffer("low", torch.tensor(low))
        self.register_buffer("high", torch.tensor(high))

    def forward(self, points: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        """(n, 3) places and (n, 16) codes of directions -> (n,) density and (n, 3) colour."""
        side = self.high - self.low
        geometry = self.density(self.grid((points - self.low) / side))
        density = torch.exp(geometry[:, 0].clamp(max=15.0)) / side.max()
        return density, torch.sigmoid(self.color(torch.cat([geometry, code], -1)))

    def render(self, origins: Tensor, directions: Tensor, background: Tensor, n_samples: int) -> Tensor:
        """(n, 3) colours of rays, in training at random places of each interval and else in its middle."""
        near, far = self.span(origins, directions)
        hits = (far > near).nonzero()[:, 0]
        at = torch.rand(len(hits), n_samples) if self.training else 0.5
        length = ((far - near)[hits] / n_samples)[:, None]
        t = near[hits, None] + length * (torch.arange(n_samples) + at)
        points = origins[hits, None] + t[..., None] * directions[hits, None]
        code = harmonics(directions[hits])[:, None].expand(-1, n_samples, -1)
        density, color = self(points.flatten(0, 1), code.flatten(0, 1))
        depth = density.view_as(t) * length
        weight = torch.exp(depth - depth.cumsum(-1)) * -torch.expm1(-depth)
        seen = (weight[..., None] * color.view(*t.shape, 3)).sum(1)
        left = torch.exp(-depth.sum(-1, keepdim=True))
        return background.expand_as(origins).index_copy(0, hits, seen + left * background)

    def span(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """(n,) distances between which rays are in the box."""
        one, other = (self.low - origins) / directions, (self.high - origins) / directions
        return torch.minimum(one, other).amax(-1).clamp(min=0), torch.maximum(one, other).amin(-1)


def harmonics(directions: Tensor) -> Tensor:
    """(n, 3) unit vectors -> (n, 16) real spherical harmonics up to degree 3, as all ports of instant-ngp have them."""
    x, y, z = directions.unbind(-1)
    xx, yy, zz, xy, yz, xz = x * x, y * y, z * z, x * y, y * z, x * z
    return torch.stack(
        [
            torch.full_like(x, 0.28209479177387814),
            -0.48860251190291987 * y, 0.48860251190291987 * z, -0.48860251190291987 * x,
            1.0925484305920792 * xy, -1.0925484305920792 * yz, 0.94617469575755997 * zz - 0.31539156525251999,
            -1.0925484305920792 * xz, 0.54627421529603959 * (xx - yy),
            0.59004358992664352 * y * (yy - 3 * xx), 2.8906114426405538 * xy * z,
            0.45704579946446572 * y * (1 - 5 * zz), 0.3731763325901154 * z * (5 * zz - 3),
            0.45704579946446572 * x * (1 - 5 * zz),
            1.4453057213202769 * z * (xx - yy), 0.59004358992664352 * x * (3 * yy - xx),
        ],
        -1,
    )  # fmt: skip
