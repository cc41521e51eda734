"""What a user would write: hash grid, network and training step in idiomatic PyTorch, to measure ourselves against.

All levels at once by advanced indexing, `nn.Sequential`, `torch.optim.Adam`. Same sizes and same number of
parameters as ours; the hash is the same, dense levels are hashed too, as in the well-known ports.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PlainHashGrid(nn.Module):
    """The multiresolution hash grid as torch ports write it.

    Args:
        n_dims: 2 or 3.
        n_levels, n_features, log2_size, base, growth: sizes.
    """

    def __init__(self, n_dims: int, n_levels: int, n_features: int, log2_size: int, base: int, growth: float) -> None:
        super().__init__()
        self.size = 2**log2_size
        self.table = nn.Parameter(torch.empty(n_levels * self.size, n_features).uniform_(-1e-4, 1e-4))
        self.register_buffer("scale", base * growth ** torch.arange(n_levels) - 1.0)
        self.register_buffer("offset", torch.arange(n_levels) * self.size)
        self.register_buffer("primes", torch.tensor([1, 2654435761, 805459861][:n_dims]))
        corners = torch.cartesian_prod(*[torch.arange(2)] * n_dims)
        self.register_buffer("corners", corners)

    def forward(self, x: Tensor) -> Tensor:
        """(n, n_dims) in [0, 1] -> (n, n_levels * n_features)."""
        position = x[:, None, :] * self.scale[:, None] + 0.5  # (n, L, D)
        cell = position.floor()
        inside = position - cell
        corner = cell.long()[:, :, None, :] + self.corners  # (n, L, 2^D, D)
        hashed = corner * self.primes
        index = hashed[..., 0]
        for axis in range(1, x.shape[1]):
            index = index ^ hashed[..., axis]
        index = index % self.size + self.offset[:, None]
        weight = torch.where(self.corners.bool(), inside[:, :, None, :], 1 - inside[:, :, None, :]).prod(-1)
        return (self.table[index] * weight[..., None]).sum(-2).flatten(1)


def plain_mlp(n_inputs: int, n_neurons: int, n_hidden_layers: int, n_outputs: int) -> nn.Sequential:
    """Linear layers without bias and ReLU between them."""
    widths = [n_inputs, *[n_neurons] * n_hidden_layers, n_outputs]
    layers: list[nn.Module] = []
    for n_in, n_out in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Linear(n_in, n_out, bias=False), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class PlainFrequency(nn.Module):
    """NeRF's positional encoding as everybody writes it."""

    def __init__(self, n_frequencies: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.pi * 2.0 ** torch.arange(n_frequencies))

    def forward(self, x: Tensor) -> Tensor:
        """(n, d) -> (n, 2 d n_frequencies)."""
        angle = x[..., None] * self.scale
        return torch.stack([angle.sin(), angle.cos()], -1).flatten(-3)
