"""ResidualMLP: a denoiser that reads the whole vector at once, for small fields on small machines.

    {"otype": "ResidualMLP", "width": 256, "n_layers": 3, "expansion": 2, "n_classes": 0}

No published model of weights is this one. HyperDiffusion's transformer spends a token on each tensor of the field, and
its work grows with their number; where a field has some hundred numbers, a plain residual network learns more in the
same time. Blocks are those of DiT (Peebles and Xie, ICCV 2023) without attention: layer normalisation, shifted, scaled
and gated by a code of the step and the label, a hidden layer with SiLU. What adapts the blocks and the last layer begin
at 0. The step t is coded as 64 sines and cosines of t / n_steps times frequencies from 1 to 1000.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from fieldforge.checks import expect_generator, expect_int
from fieldforge.fields.weightspace.denoisers.base import Denoiser
from fieldforge.fields.weightspace.layout import Layout
from fieldforge.fields.weightspace.networks.blocks import draw_normal, linear
from fieldforge.registry import register

N_FREQUENCIES = 64
HIGHEST = 1000.0


class AdaptedBlock(nn.Module):
    """h + (1 + gate) f(scaled and shifted LayerNorm(h)), with gate, scale and shift linear in a code."""

    def __init__(self, width: int, expansion: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.wide = linear(width, expansion * width, generator)
        self.narrow = linear(expansion * width, width, generator)
        self.adapt = linear(width, 3 * width, generator)
        nn.init.zeros_(self.adapt.weight)
        nn.init.zeros_(self.adapt.bias)

    def forward(self, h: Tensor, code: Tensor) -> Tensor:
        scale, shift, gate = self.adapt(code).chunk(3, -1)
        inner = functional.silu(self.wide(self.norm(h) * (1 + scale) + shift))
        return h + (1 + gate) * self.narrow(inner)


@register("denoiser", "ResidualMLP")
class ResidualMLP(Denoiser):
    """All numbers of the field at once.

    Args:
        layout: of the vectors.
        width: of the residual stream.
        n_layers: blocks.
        expansion: hidden width of a block over its width.
        n_steps: of the noise schedule, which the code of the step is in units of.
        n_classes: how many labels there are; 0: none are looked at.
        generator: source of the parameters.

    Example:
        >>> layout = Layout.from_json('[["a.weight", [8, 2]], ["a.bias", [8]]]')
        >>> ResidualMLP(layout, width=16, n_layers=1)(torch.randn(4, 24), torch.ones(4)).shape
        torch.Size([4, 24])
    """

    otype = "ResidualMLP"

    def __init__(
        self,
        layout: Layout,
        *,
        width: int = 256,
        n_layers: int = 3,
        expansion: int = 2,
        n_steps: int = 1000,
        n_classes: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(layout, n_classes=n_classes)
        expect_generator(generator)
        self.width, self.n_layers = expect_int("width", width, 1), expect_int("n_layers", n_layers, 1, 1000)
        self.expansion = expect_int("expansion", expansion, 1, 64)
        self.n_steps = expect_int("n_steps", n_steps, 1, 100_000)
        n = self.layout.n_parameters
        self.first = linear(n, width, generator)
        self.of_step = nn.Sequential(
            linear(2 * N_FREQUENCIES, width, generator), nn.SiLU(), linear(width, width, generator)
        )
        self.of_label = nn.Parameter(torch.empty(n_classes + 1, width)) if n_classes else None
        self.blocks = nn.ModuleList(AdaptedBlock(width, expansion, generator) for _ in range(n_layers))
        self.norm = nn.LayerNorm(width)
        self.last = linear(width, n, generator)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        if self.of_label is not None:
            draw_normal(self.of_label, 0.02, generator)

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """(batch, n_parameters), (batch,) and (batch,) to (batch, n_parameters).

        Raises:
            TypeError, ValueError: the vectors are not of the layout, or a label is none.
        """
        self.layout.expect(x_t, name="x_t")
        code = self.of_step(self._code(t, x_t))
        if self.of_label is not None:
            code = code + self.of_label[self.expect_labels(labels, x_t)]
        elif labels is not None and bool((labels >= 0).any()):
            raise ValueError("labels: this denoiser was built without classes (n_classes)")
        code = functional.silu(code)
        h = self.first(x_t)
        for block in self.blocks:
            h = block(h, code)
        out: Tensor = self.last(self.norm(h))
        return out

    def _code(self, t: Tensor, like: Tensor) -> Tensor:
        """(batch,) to (batch, 128)."""
        frequencies = torch.exp(torch.linspace(0, math.log(HIGHEST), N_FREQUENCIES, device=t.device))
        phase = (t.float() / self.n_steps)[:, None] * frequencies
        return torch.cat([phase.sin(), phase.cos()], -1).to(like.dtype)
