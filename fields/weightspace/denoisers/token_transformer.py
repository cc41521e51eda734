"""TokenTransformer: HyperDiffusion's denoiser (Erkoç et al., ICCV 2023), after G.pt (Peebles et al. 2022).

    {"otype": "TokenTransformer", "width": 2880, "n_layers": 12, "n_heads": 16, "by": "tensor", "n_classes": 0}

Each tensor of the field is a token, a linear layer without bias of its own taking it to the common width; the step is a
token too. Learned positions, blocks that normalise first, a last normalisation, and for each token a linear layer
without bias back to its length. All weights are drawn from N(0, 0.02²), biases and positions are 0. The step t is coded
as t itself and the sines and cosines of t times 128 frequencies from 1 to 2^20, 257 numbers.

The released models are 2880 wide for shapes and 1440 for animations, with 12 layers and 16 heads. A label is one more
token here (the paper has none), and "nothing" is a label of its own, for guidance. With `is_residual` the answer is
added to x_t, off in the paper.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from fieldforge.checks import expect_bool, expect_choice, expect_generator, expect_int
from fieldforge.fields.weightspace.codecs.tokens import Tokens
from fieldforge.fields.weightspace.denoisers.base import Denoiser
from fieldforge.fields.weightspace.layout import Layout
from fieldforge.fields.weightspace.networks.blocks import Block, draw_normal, linear
from fieldforge.registry import register

N_FREQUENCIES = 128
DEVIATION = 0.02


@register("denoiser", "TokenTransformer")
class TokenTransformer(Denoiser):
    """Layers of the field, the step and the label as tokens.

    Args:
        layout: of the vectors.
        width: of the tokens.
        n_layers: transformer blocks.
        n_heads: of the attention.
        by: "tensor", a token each (the paper), or "layer".
        n_classes: how many labels there are; 0: no token for them.
        is_residual: whether x_t is added to the answer.
        generator: source of the parameters.

    Example:
        >>> layout = Layout.from_json('[["a.weight", [8, 2]], ["a.bias", [8]]]')
        >>> TokenTransformer(layout, width=16, n_layers=1, n_heads=2)(torch.randn(4, 24), torch.ones(4)).shape
        torch.Size([4, 24])
    """

    otype = "TokenTransformer"

    def __init__(
        self,
        layout: Layout,
        *,
        width: int = 2880,
        n_layers: int = 12,
        n_heads: int = 16,
        by: Literal["tensor", "layer"] = "tensor",
        n_classes: int = 0,
        is_residual: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(layout, n_classes=n_classes)
        expect_generator(generator)
        self.width, self.n_layers = expect_int("width", width, 1), expect_int("n_layers", n_layers, 1, 1000)
        self.n_heads = expect_int("n_heads", n_heads, 1)
        self.by: Literal["tensor", "layer"] = expect_choice("by", by, ("tensor", "layer"))
        self.is_residual = expect_bool("is_residual", is_residual)
        self.tokens = Tokens(self.layout, by=self.by)
        sizes = self.tokens.sizes
        self.encoders = nn.ModuleList(linear(size, width, generator, has_bias=False) for size in sizes)
        self.of_step = linear(2 * N_FREQUENCIES + 1, width, generator, has_bias=False)
        self.of_label = nn.Parameter(torch.empty(n_classes + 1, width)) if n_classes else None
        self.positions = nn.Parameter(torch.zeros(len(sizes) + 1 + (n_classes > 0), width))
        self.norm_in = nn.LayerNorm(width)
        self.blocks = nn.Sequential(*(Block(width, n_heads, generator) for _ in range(n_layers)))
        self.norm_out = nn.LayerNorm(width)
        self.decoders = nn.ModuleList(linear(width, size, generator, has_bias=False) for size in sizes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                draw_normal(module.weight, DEVIATION, generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if self.of_label is not None:
            draw_normal(self.of_label, DEVIATION, generator)

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """(batch, n_parameters), (batch,) and (batch,) to (batch, n_parameters).

        Raises:
            TypeError, ValueError: the vectors are not of the layout, or a label is none.
        """
        self.tokens.expect(x_t)
        tokens = [encode(part) for encode, part in zip(self.encoders, self.tokens.arrange(x_t), strict=True)]
        tokens.append(self.of_step(self._code(t).to(x_t.dtype)))
        if self.of_label is not None:
            tokens.append(self.of_label[self.expect_labels(labels, x_t)])
        elif labels is not None and bool((labels >= 0).any()):
            raise ValueError("labels: this denoiser was built without classes (n_classes)")
        h = self.norm_out(self.blocks(self.norm_in(torch.stack(tokens, 1)) + self.positions))
        out = self.tokens.restore(tuple(decode(h[:, i]) for i, decode in enumerate(self.decoders)))
        return x_t + out if self.is_residual else out

    def _code(self, t: Tensor) -> Tensor:
        """(batch,) to (batch, 257), computed in float64: t times the highest frequency is far beyond float32's sine."""
        phase = t.double()[:, None] * 2.0 ** torch.linspace(0, 20, N_FREQUENCIES, dtype=torch.float64, device=t.device)
        return torch.cat([t.double()[:, None], phase.sin(), phase.cos()], -1)
