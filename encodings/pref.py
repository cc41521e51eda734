"""PREF: feature volumes kept as their spectra (Huang et al. 2022, "PREF: Phasorial Embedding Fields for Compact Neural
Representations", section 4).

    {"otype": "PREF", "resolution": 128, "n_features": 16, "n_reduced": 1, "sampling": "Linear", "parts": "Complex"}
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fieldforge.checks import expect_choice, expect_float, expect_generator, expect_int, expect_points
from fieldforge.encodings.base import Encoding
from fieldforge.encodings.interpolation import OUTSIDE, expect_affordable, interpolate, table
from fieldforge.registry import register

FULL = {2: ((0, 1),), 3: ((1, 2), (0, 2), (0, 1))}
"""The axes with all frequencies of each volume; in 3-D the one that is left out has few."""
ALPHA, BETA = 1e-3, 10.0
"""Where the common factor of all phasors starts, and the sharpness of the softplus that keeps it above 0."""


@register("encoding", "PREF")
class PREF(Encoding):
    """Volume v has phasors P(k, l, d) of two axes with all N frequencies and one with D; the features are::

        f_v(x, y, z) = sum_d c_d Re( g(y, z, d) exp(2πi k_d u(x)) ),   g = bilinear in the inverse transform of P

    with c_0 = 1 and c_d = 2 else, which stands for the negative frequencies; f = alpha * (f_1 + f_2 + f_3) of the
    volumes whose axis of few frequencies is x, y, z. In 2-D there is one plane with all frequencies of both axes.
    Inverse transforms are plain sums of exponentials. alpha = softplus(alpha_raw, sharpness 10) is trained too.

    The signal has a period of 1 / `span`: at the default (N - 1) / N nodes of the transform stand at
    0, 1/(N-1), ..., 1. The node after 1 is 0 again, so the two sides of the cube look alike: leave a margin.

    The inverse transforms are made once for as many calls as find the spectrum unchanged; with gradients there is one
    more transform in each backward pass. Whoever writes to the memory of `spectrum` behind autograd's back calls
    ``torch.autograd.graph.increment_version(encoding.spectrum)``; optimizers here do.

    Args:
        n_input_dims: 2 or 3.
        resolution: N, frequencies of a full axis, 2 to 2048.
        n_features: channels C, 1 to 4096.
        n_reduced: D, frequencies of the reduced axis; 1 to 64, in 2-D only 1.
        sampling: which they are: "Linear", 0, 1, 2, ...; or "Dilated", 0, 1, 2, 4, 8, ...
        parts: "Real", as above; or "Complex" for D = 1, Re g and Im g side by side: all the authors' scenes, three
            planes of 2C features.
        initial: "Cone", the distance to the middle of the cube over √C; or "Zero", as for the authors' scenes.
        span: side of the cube in periods, above 0 and at most (N - 1) / N, which None is.
        generator: not used: nothing is drawn.

    Returns:
        (*batch, n_features), or (*batch, 2 * n_features) for "Complex".

    Attributes:
        spectrum: (volumes, N, N, D, n_features, 2), the last axis real and imaginary parts, frequencies in the order
            of `torch.fft.fftfreq`. The output is real, so half of the numbers would do.
        alpha_raw: scalar.

    Example:
        >>> PREF(3, resolution=8, n_features=4, n_reduced=2)(torch.rand(5, 3)).shape
        torch.Size([5, 4])
    """

    otype = "PREF"
    domain = "unit cube"
    outside = OUTSIDE
    smoothness = 0

    def __init__(
        self,
        n_input_dims: int,
        *,
        resolution: int = 128,
        n_features: int = 16,
        n_reduced: int = 1,
        sampling: Literal["Linear", "Dilated"] = "Linear",
        parts: Literal["Real", "Complex"] = "Real",
        initial: Literal["Cone", "Zero"] = "Cone",
        span: float | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.n_input_dims = expect_int("n_input_dims", n_input_dims, 2, 3)
        self.resolution = expect_int("resolution", resolution, 2, 2**11)
        self.n_features = expect_int("n_features", n_features, 1, 4096)
        self.n_reduced = expect_int("n_reduced", n_reduced, 1, 64 if n_input_dims == 3 else 1)
        self.sampling = expect_choice("sampling", sampling, ("Linear", "Dilated"))
        self.parts = expect_choice("parts", parts, ("Real", "Complex"))
        self.initial = expect_choice("initial", initial, ("Cone", "Zero"))
        if self.parts == "Complex" and n_reduced != 1:
            raise ValueError(f"parts: 'Complex' needs n_reduced=1, got {n_reduced}; the sum over frequencies is real")
        most = (resolution - 1) / resolution
        self.span = most if span is None else expect_float("span", span, 0.0, most, open_low=True)
        expect_generator(generator)
        n_volumes = len(FULL[n_input_dims])
        shape = (n_volumes, resolution, resolution, n_reduced, n_features, 2)
        expect_affordable("resolution", resolution, math.prod(shape))
        self.n_output_dims = n_features * (2 if self.parts == "Complex" else 1)
        self.finest_cell = 1 / (self.span * resolution)
        self.alpha_raw = table((), lambda entries: entries.fill_(ALPHA))
        self.spectrum = table(shape, self._begin)
        self._kept: tuple[Any, Tensor] | None = None

    @property
    def alpha(self) -> Tensor:
        """The factor on all phasors."""
        return nn.functional.softplus(self.alpha_raw, BETA)

    def frequencies(self) -> tuple[Tensor, Tensor]:
        """(N,) of a full axis in the order of the spectrum, and (D,) of the reduced one, in turns a period."""
        n, reduced = self.resolution, [float(d) for d in range(self.n_reduced)]
        if self.sampling == "Dilated":
            reduced = [float(2**d // 2) for d in range(self.n_reduced)]
        full = torch.fft.fftfreq(n, 1 / n).round()  # 1 / 49 * 49 is not 1
        like = self.alpha_raw.detach()
        return full.to(like), torch.tensor(reduced).to(like)

    def forward(self, x: Tensor) -> Tensor:
        expect_points(x, self.n_input_dims, owner=self)
        turns = x.clamp(0, 1) * self.span  # (*batch, d), in periods
        n = self.resolution
        place = turns * (n / (n - 1))  # so that interpolate's entry i stands at i / N of a period
        _, reduced = self.frequencies()
        tables, total = self.tables(), torch.zeros((), dtype=x.dtype, device=x.device)
        for volume, axes in enumerate(FULL[self.n_input_dims]):
            features = interpolate(tables[volume], place[..., axes])
            if self.n_reduced > 1:
                features = self._along(features, turns[..., 3 - sum(axes)], reduced)
            total = total + features
        return self.alpha * total

    def tables(self) -> Tensor:
        """(volumes, N, N, F): the inverse transforms at their nodes; F is the real parts (and with D > 1 or "Complex"
        the imaginary ones), channels last."""
        spectrum = self.spectrum
        if type(spectrum) is not nn.Parameter:  # swapped by torch.func
            return self._inverse(spectrum)
        key = (spectrum.data_ptr(), spectrum._version, spectrum.dtype, spectrum.device)
        if self._kept is None or self._kept[0] != key:
            with torch.no_grad():
                self._kept = key, self._inverse(spectrum)
        if not (torch.is_grad_enabled() and spectrum.requires_grad):
            return self._kept[1]
        made: Tensor = _KnownInverse.apply(spectrum, self._kept[1], self.has_imaginary)
        return made

    @property
    def has_imaginary(self) -> bool:
        """Whether the imaginary parts of the transforms matter."""
        return self.parts == "Complex" or self.n_reduced > 1

    def parseval(self) -> Tensor:
        """Sum over volumes of the mean of |π k alpha P|² over phasors and axes: how much the features vary, by
        Parseval's theorem (section 4.3; the released code's normalisation)."""
        full, reduced = self.frequencies()
        power = self.spectrum.square().sum((-1, -2))  # (volumes, N, N, D)
        n_terms = power[0].numel() * self.n_features * self.n_input_dims
        squared = full[:, None, None] ** 2 + full[:, None] ** 2 + reduced**2  # (N, N, D)
        return (math.pi * self.alpha) ** 2 * (power * squared).sum() / n_terms

    def penalties(self) -> dict[str, Callable[[], Tensor]]:
        """Of the spectrum."""
        return {"parseval": self.parseval}

    @torch.no_grad()
    def grow(self, resolution: int) -> PREF:
        """The same signal with room for higher frequencies: the spectrum is padded with zeros.

        Between nodes the signal is interpolated from more of them, so it changes by what a coarse lattice lost. The
        period stays, whatever the new resolution's default would be.

        Args:
            resolution: at least the present one.

        Returns:
            A new encoding.
        """
        expect_int("resolution", resolution, self.resolution)
        keys = {key: value for key, value in self.config().items() if key != "otype"}
        grown = PREF(self.n_input_dims, **keys | {"resolution": resolution, "initial": "Zero", "span": self.span})
        grown = grown.to(self.spectrum.device, self.spectrum.dtype)
        grown.initial = self.initial
        # by frequency, not by place: the negative ones stand at the end
        where = self.frequencies()[0].long() % resolution
        grown.spectrum[:, where[:, None], where] = self.spectrum
        grown.alpha_raw.copy_(self.alpha_raw)
        return grown

    @torch.no_grad()
    def filtered(self, multiplier: Callable[[Tensor], Tensor]) -> PREF:
        """A linear operator on the signal between whose nodes is interpolated, as factors on the phasors.

        Args:
            multiplier: (..., n_input_dims) frequencies in turns a unit of length -> (...) real or complex factors:
                ``lambda k: 2j * math.pi * k[..., 0]`` is the derivative in x, and
                ``lambda k: torch.exp(-2 * (math.pi * s) ** 2 * k.square().sum(-1))`` a blur with standard deviation s.

        Returns:
            A new encoding.
        """
        full, reduced = (self.span * frequencies for frequencies in self.frequencies())
        made = copy.deepcopy(self)
        made._kept = None
        for volume, axes in enumerate(FULL[self.n_input_dims]):
            along = [reduced] * self.n_input_dims
            for axis in axes:
                along[axis] = full
            order = [*axes, *(axis for axis in range(self.n_input_dims) if axis not in axes)]
            grids = torch.meshgrid(*(along[axis] for axis in order), indexing="ij")
            k = torch.stack([grids[order.index(axis)] for axis in range(self.n_input_dims)], -1)
            factor = multiplier(k).reshape(self.resolution, self.resolution, self.n_reduced, 1)
            phasors = torch.view_as_complex(self.spectrum[volume]) * factor
            made.spectrum[volume] = torch.view_as_real(phasors)
        return made

    def _inverse(self, spectrum: Tensor) -> Tensor:
        nodes = torch.fft.ifftn(torch.view_as_complex(spectrum), dim=(1, 2), norm="forward")
        return _channels(nodes, self.has_imaginary)

    def _along(self, features: Tensor, turns: Tensor, reduced: Tensor) -> Tensor:
        """(*batch, 2 * D * C) of g and (*batch,) periods along the reduced axis -> (*batch, C)."""
        real, imaginary = features.unflatten(-1, (2, self.n_reduced, self.n_features)).unbind(-3)
        phase = 2 * math.pi * turns[..., None] * reduced  # (*batch, D)
        twice = 1 + (reduced > 0).to(phase.dtype)
        both = real * (twice * phase.cos())[..., None] - imaginary * (twice * phase.sin())[..., None]
        return both.sum(-2)

    def _begin(self, entries: Tensor) -> Tensor:
        """The transform of the initial field, made on the nodes."""
        entries.zero_()
        if self.initial == "Zero":
            return entries
        n, n_volumes = self.resolution, len(FULL[self.n_input_dims])
        alpha = math.log1p(math.exp(BETA * ALPHA)) / BETA
        line = torch.linspace(-1, 1, n, dtype=torch.float64).square()
        squares, height = line[:, None] + line, 1 / (n_volumes * alpha * math.sqrt(self.n_features))
        if self.n_input_dims == 2:
            nodes = squares.sqrt()[..., None].to(torch.complex128)
        else:
            nodes = torch.zeros(n, n, self.n_reduced, dtype=torch.complex128)
            reduced = self.frequencies()[1].to("cpu", torch.float64)
            for i, square in enumerate(line.tolist()):  # layer by layer: the whole volume may not fit in memory
                turn = torch.polar(torch.ones_like(reduced), -2 * math.pi * i / n * reduced)
                nodes += (squares + square).sqrt()[..., None] * turn / n
        phasors = torch.fft.fftn(nodes, dim=(0, 1), norm="forward") * height
        entries.copy_(torch.view_as_real(phasors)[None, :, :, :, None].to(entries.dtype))
        return entries


def _channels(nodes: Tensor, has_imaginary: bool) -> Tensor:
    """(volumes, N, N, D, C) complex -> (volumes, N, N, D * C) real parts, before D * C imaginary ones."""
    parts = [nodes.real, nodes.imag] if has_imaginary else [nodes.real]
    return torch.cat([part.flatten(-2) for part in parts], -1).contiguous()


class _KnownInverse(torch.autograd.Function):
    """The inverse transform of a spectrum where it is known; linear, so its derivative needs the spectrum no more."""

    @staticmethod
    def forward(spectrum: Tensor, known: Tensor, has_imaginary: bool) -> Tensor:
        return known.view_as(known)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, bool], output: Tensor) -> None:
        ctx.shape, ctx.has_imaginary = inputs[0].shape, inputs[2]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        shape = ctx.shape[:-1]
        if ctx.has_imaginary:
            real, imaginary = grad.chunk(2, -1)
            nodes = torch.complex(real.reshape(shape), imaginary.reshape(shape))
        else:
            nodes = torch.complex(grad.reshape(shape), torch.zeros_like(grad).reshape(shape))
        # the adjoint of a sum of exponentials is the sum of their conjugates
        return torch.view_as_real(torch.fft.fftn(nodes, dim=(1, 2), norm="backward")), None, None
