"""What networks on weights are built of: linear layers with initial numbers from a generator, attention, heads."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from fieldforge.fields.activations.base import draw_linear
from fieldforge.fields.networks.base import empty_linear
from fieldforge.fields.weightspace.chain import WeightBatch


def linear(n_in: int, n_out: int, generator: torch.Generator | None = None, *, has_bias: bool = True) -> nn.Linear:
    """A linear layer drawn by PyTorch's law, from the generator; nothing is drawn on the meta device."""
    layer = empty_linear(n_in, n_out, has_bias=has_bias)
    assert isinstance(layer, nn.Linear)
    draw_linear(layer.weight, layer.bias, generator)
    return layer


def normal(*shape: int, deviation: float = 1.0, generator: torch.Generator | None = None) -> nn.Parameter:
    """A parameter of normal numbers."""
    parameter = nn.Parameter(torch.empty(*shape))
    draw_normal(parameter, deviation, generator)
    return parameter


@torch.no_grad()
def draw_normal(tensor: Tensor, deviation: float, generator: torch.Generator | None) -> None:
    """Fill in place from N(0, deviation²), drawn where the generator is; nothing on the meta device."""
    if not tensor.is_meta:
        device = tensor.device if generator is None else generator.device
        tensor.copy_(
            torch.empty(tensor.shape, dtype=tensor.dtype, device=device).normal_(generator=generator) * deviation
        )


class Perceptron(nn.Sequential):
    """Linear layers with ReLU or GELU between them.

    Args:
        widths: of the input, hidden layers and output.
        generator: source of the weights.
        activation: the module class between them.
    """

    def __init__(
        self,
        widths: Sequence[int],
        generator: torch.Generator | None = None,
        *,
        activation: type[nn.Module] = nn.ReLU,
    ) -> None:
        layers: list[nn.Module] = []
        for index in range(len(widths) - 1):
            layers += [activation()] * (index > 0) + [linear(widths[index], widths[index + 1], generator)]
        super().__init__(*layers)


class Attention(nn.Module):
    """Scaled dot-product attention of all tokens with all, in heads (Vaswani et al. 2017).

    Args:
        width: of the tokens; a multiple of `n_heads`.
        n_heads: how many.
        generator: source of the weights.
    """

    def __init__(self, width: int, n_heads: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        expect_heads(width, n_heads)
        self.n_heads = n_heads
        self.mix = linear(width, 3 * width, generator)
        self.out = linear(width, width, generator)

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, n_tokens, width) to the same."""
        query, key, value = self.mix(tokens).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        # written out: in float64 it is the same function, and a batch of 0 is none to it
        weight = (query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])).softmax(-1)
        out: Tensor = self.out((weight @ value).transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """A transformer's block with normalisation in front: attention, then two linear layers with GELU, both added.

    Args:
        width: of the tokens.
        n_heads: of the attention.
        generator: source of the weights.
        expansion: hidden width of the two layers over `width`.
    """

    def __init__(
        self, width: int, n_heads: int, generator: torch.Generator | None = None, *, expansion: int = 4
    ) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(width)
        self.attention = Attention(width, n_heads, generator)
        self.before_layers = nn.LayerNorm(width)
        self.layers = Perceptron((width, expansion * width, width), generator, activation=nn.GELU)

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, n_tokens, width) to the same."""
        tokens = tokens + self.attention(self.before_attention(tokens))
        out: Tensor = tokens + self.layers(self.before_layers(tokens))
        return out


class FourierFeatures(nn.Module):
    """cos and sin of 2 pi B x for each entry's channels, B drawn from N(0, deviation²) and kept (Tancik et al. 2020).

    Args:
        n_input_dims: channels of an entry.
        n_frequencies: rows of B; twice as many features come out.
        deviation: of B.
        generator: source of B.
    """

    frequencies: Tensor

    def __init__(
        self, n_input_dims: int, n_frequencies: int, deviation: float, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.n_output_dims = 2 * n_frequencies
        frequencies = torch.empty(n_frequencies, n_input_dims)
        draw_normal(frequencies, deviation, generator)
        self.register_buffer("frequencies", frequencies)

    def forward(self, x: Tensor) -> Tensor:
        """(..., n_input_dims) to (..., 2 n_frequencies)."""
        phase = 2 * math.pi * functional.linear(x, self.frequencies)
        return torch.cat([phase.cos(), phase.sin()], -1)


class ChannelNorm(nn.Module):
    """Batch normalisation of each tensor's channels over the batch and all entries (DWSNets' BN).

    In training the statistics are the batch's, in evaluation those kept.
    """

    def __init__(self, n_tensors: int, n_channels: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm1d(n_channels) for _ in range(2 * n_tensors))

    def forward(self, batch: WeightBatch) -> WeightBatch:
        """Every tensor by its own statistics."""
        tensors = batch.weights + batch.biases
        out = [norm(t.flatten(0, -2)).view_as(t) for norm, t in zip(self.norms, tensors, strict=True)]
        return WeightBatch(tuple(out[: len(batch.weights)]), tuple(out[len(batch.weights) :]))


def expect_heads(width: int, n_heads: int, name: str = "n_heads") -> None:
    """Require that `n_heads` heads share `width` evenly."""
    if width % n_heads:
        raise ValueError(f"{name}: expected a divisor of the width {width}, got {n_heads}")
