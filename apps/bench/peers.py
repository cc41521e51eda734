"""What a user would write in idiomatic PyTorch, to measure ourselves against: the same functions, no native code.

`nn.Module`, advanced indexing, `torch.optim.Adam`; of several usual ways to write a thing, the quickest on a CPU. The
hash grid hashes its dense levels too, as the well-known ports do.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class PlainHashGrid(nn.Module):
    """The multiresolution hash grid as torch ports write it: all levels at once, a corner at a time.

    Args:
        n_dims: 2 or 3.
        n_levels, n_features, log2_size, base, growth: sizes.
    """

    scale: Tensor
    offset: Tensor

    def __init__(self, n_dims: int, n_levels: int, n_features: int, log2_size: int, base: int, growth: float) -> None:
        super().__init__()
        self.size = 2**log2_size
        self.primes = (1, 2654435761, 805459861)[:n_dims]
        self.table = nn.Parameter(torch.empty(n_levels * self.size, n_features).uniform_(-1e-4, 1e-4))
        self.register_buffer("scale", base * growth ** torch.arange(n_levels) - 1.0)
        self.register_buffer("offset", torch.arange(n_levels) * self.size)

    def forward(self, x: Tensor) -> Tensor:
        """(n, n_dims) in [0, 1] -> (n, n_levels * n_features)."""
        position = x[:, None, :] * self.scale[:, None] + 0.5  # (n, L, D)
        cell = position.floor()
        inside = position - cell
        cell = cell.long()
        hashed = [(cell[..., d] * prime, (cell[..., d] + 1) * prime) for d, prime in enumerate(self.primes)]
        weights = [(1 - inside[..., d], inside[..., d]) for d in range(len(self.primes))]
        out = x.new_zeros(())
        for corner in itertools.product((0, 1), repeat=len(self.primes)):
            index, weight = hashed[0][corner[0]], weights[0][corner[0]]
            for d, side in enumerate(corner[1:], start=1):
                index, weight = index ^ hashed[d][side], weight * weights[d][side]
            row = (index & (self.size - 1)) + self.offset  # (n, L)
            out = out + weight[..., None] * self.table[row]
        return out.flatten(1)


class PlainSine(nn.Module):
    """sin(omega x), SIREN's activation."""

    def __init__(self, omega: float) -> None:
        super().__init__()
        self.omega = omega

    def forward(self, x: Tensor) -> Tensor:
        """Element by element."""
        return torch.sin(self.omega * x)


def plain_mlp(
    n_inputs: int,
    n_neurons: int,
    n_hidden_layers: int,
    n_outputs: int,
    *,
    activation: nn.Module | None = None,
    has_bias: bool = False,
) -> nn.Sequential:
    """Linear layers and an activation (ReLU) between them."""
    widths = [n_inputs, *[n_neurons] * n_hidden_layers, n_outputs]
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(widths):
        layers += [nn.Linear(n_in, n_out, bias=has_bias), activation or nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class PlainStack(nn.Module):
    """Many small ReLU networks of one shape, each with points of its own: padded to equal counts, then `baddbmm`.

    Args:
        widths: of every network.
        offsets: (n_networks + 1,) int64; the points offsets[i] to offsets[i + 1] belong to network i.
    """

    slot: Tensor

    def __init__(self, widths: Sequence[int], offsets: Tensor) -> None:
        super().__init__()
        self.n_networks = len(offsets) - 1
        self.counts = (offsets[1:] - offsets[:-1]).tolist()
        self.longest = max(self.counts)
        network = torch.repeat_interleave(torch.arange(self.n_networks), offsets[1:] - offsets[:-1])
        within = torch.arange(len(network)) - offsets[network]
        self.register_buffer("slot", network * self.longest + within)
        pairs = list(itertools.pairwise(widths))
        self.weights = nn.ParameterList(torch.empty(self.n_networks, a, b) for a, b in pairs)
        self.biases = nn.ParameterList(torch.zeros(self.n_networks, 1, b) for _, b in pairs)
        for weight in self.weights:
            bound = (6 / weight.shape[1]) ** 0.5
            nn.init.uniform_(weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """(n, widths[0]), sorted by network -> (n, widths[-1])."""
        padded = x.new_zeros(self.n_networks * self.longest, x.shape[1]).index_copy(0, self.slot, x)
        h = padded.view(self.n_networks, self.longest, -1)
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.baddbmm(bias, h, weight)
            h = torch.relu(h) if number < len(self.weights) - 1 else h
        return h.flatten(0, 1)[self.slot]

    def one_by_one(self, x: Tensor) -> Tensor:
        """The same, a network at a time."""
        weights = [weight.unbind(0) for weight in self.weights]
        biases = [bias.unbind(0) for bias in self.biases]
        outs = []
        for number, h in enumerate(x.split(self.counts)):
            for layer in range(len(weights)):
                h = torch.addmm(biases[layer][number], h, weights[layer][number])
                h = torch.relu(h) if layer < len(weights) - 1 else h
            outs.append(h)
        return torch.cat(outs)


def plain_composite(
    density: Tensor, color: Tensor, t0: Tensor, t1: Tensor, offsets: Tensor, ray_index: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Emission and absorption along packed samples: one cumulative sum over all rays, and `index_add`.

    Returns:
        Colour (R, 3), opacity (R,) and depth (R,).
    """
    depth = density * (t1 - t0)
    before = torch.cumsum(depth, 0) - depth
    start = before[offsets[:-1].clamp(max=len(before) - 1)]
    weight = torch.exp(start[ray_index] - before) * (1 - torch.exp(-depth))
    n_rays = len(offsets) - 1
    rays = color.new_zeros(n_rays, 3).index_add(0, ray_index, weight[:, None] * color)
    opacity = color.new_zeros(n_rays).index_add(0, ray_index, weight)
    return rays, opacity, color.new_zeros(n_rays).index_add(0, ray_index, weight * 0.5 * (t0 + t1))


def plain_march(
    origins: Tensor, directions: Tensor, occupied: Tensor, step: float, n_steps: int
) -> tuple[Tensor, Tensor]:
    """Samples of rays through the unit cube where it is occupied: all steps of all rays, then a mask.

    Args:
        origins, directions: (R, 3).
        occupied: (X, Y, Z) booleans, cells of one size.
        step: length of a sample.
        n_steps: as many as the longest ray may need.

    Returns:
        The ray and the distance of each sample kept.
    """
    inverse = 1 / directions
    one, other = -origins * inverse, (1 - origins) * inverse
    near = torch.minimum(one, other).amax(1).clamp(min=0)
    far = torch.maximum(one, other).amin(1)
    t = near[:, None] + (torch.arange(n_steps) + 0.5) * step  # (R, S)
    point = origins[:, None] + t[..., None] * directions[:, None]
    sizes = torch.tensor(occupied.shape)
    cell = torch.minimum((point * sizes).long().clamp(min=0), sizes - 1)
    mask = occupied[cell[..., 0], cell[..., 1], cell[..., 2]] & (t < far[:, None])
    ray, number = mask.nonzero(as_tuple=True)
    return ray, t[ray, number]


class PlainFrequency(nn.Module):
    """NeRF's positional encoding as everybody writes it."""

    scale: Tensor

    def __init__(self, n_frequencies: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.pi * 2.0 ** torch.arange(n_frequencies))

    def forward(self, x: Tensor) -> Tensor:
        """(n, d) -> (n, 2 d n_frequencies)."""
        angle = x[..., None] * self.scale
        return torch.stack([angle.sin(), angle.cos()], -1).flatten(-3)
