"""ChannelTransformer: the channels of tri-planes as tokens (Cardace et al., ICLR 2024).

    {"otype": "ChannelTransformer", "width": 512, "n_layers": 8, "n_heads": 4, "is_normalized": true, "crop": 0}

A channel of a plane, R x R numbers, is a token: a linear layer, transformer blocks without positions, the maximum over
tokens, a linear layer. Fits begin at random numbers, so that channels come in any order; the answer does not depend on
it. The paper's R is 32, its classifier looks at a crop of 30 (random in training, in the middle after), 8 layers and 4
heads of 512. Each place is divided by the length of its 3 C values first, which takes their size away.

The blocks here normalise first (`Block`); PyTorch's encoder, which the authors use, normalises after each sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fieldforge.checks import expect_bool, expect_generator, expect_int
from fieldforge.fields.weightspace.codecs.base import WeightCodec
from fieldforge.fields.weightspace.codecs.planes import Channels, PlaneChannels
from fieldforge.fields.weightspace.layout import Layout
from fieldforge.fields.weightspace.networks.base import WeightNetwork
from fieldforge.fields.weightspace.networks.blocks import Block, linear
from fieldforge.registry import register


@register("weight_network", "ChannelTransformer")
class ChannelTransformer(WeightNetwork[Channels]):
    """Channels in any order to numbers about the field.

    Args:
        layout: a tri-plane field's parameters.
        n_output_dims: numbers about each field.
        width: of the tokens.
        n_layers: transformer blocks.
        n_heads: of the attention.
        is_normalized: whether each place's 3 C values are divided by their length.
        crop: numbers left out along a side of the planes, half of them at either border unless `read` is told where.
        codec: configuration of a `PlaneChannels` codec.
        generator: source of the parameters.
    """

    otype = "ChannelTransformer"
    invariance = "channels"
    codec_name = "PlaneChannels"

    def __init__(
        self,
        layout: Layout,
        n_output_dims: int,
        *,
        width: int = 512,
        n_layers: int = 8,
        n_heads: int = 4,
        is_normalized: bool = True,
        crop: int = 0,
        codec: str | Mapping[str, Any] | WeightCodec[Channels] = "PlaneChannels",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(layout, n_output_dims, codec)
        expect_generator(generator)
        assert isinstance(self.codec, PlaneChannels)
        self.width, self.n_layers = expect_int("width", width, 1), expect_int("n_layers", n_layers, 1, 1000)
        self.n_heads = expect_int("n_heads", n_heads, 1)
        self.is_normalized = expect_bool("is_normalized", is_normalized)
        self.crop = expect_int("crop", crop, 0, self.codec.resolution - 1)
        self._side = self.codec.resolution - crop
        self.of_channel = linear(self._side**2, width, generator)
        self.blocks = nn.Sequential(*(Block(width, n_heads, generator) for _ in range(n_layers)))
        self.norm = nn.LayerNorm(width)
        self.head = linear(width, n_output_dims, generator)

    def read(self, code: Channels, corner: tuple[int, int] | None = None) -> Tensor:
        """Codes to (batch, n_output_dims).

        Args:
            code: of the codec.
            corner: how many numbers are left out at the low border of either axis, 0 to `crop`, drawn anew for each
                batch by whoever trains; None: half of them.
        """
        channels = functional.normalize(code.channels, dim=1) if self.is_normalized else code.channels
        top, left = corner or (self.crop // 2, self.crop // 2)
        channels = channels[:, :, top : top + self._side, left : left + self._side]
        tokens = self.norm(self.blocks(self.of_channel(channels.flatten(2))))
        out: Tensor = self.head(tokens.amax(1))
        return out
