"""CAM: scales and shifts of a network's features, read from small grids over coordinates (Lee et al., ICLR 2024,
"Coordinate-Aware Modulation for Neural Fields").

    {"otype": "MLP", "modulation": {"otype": "CAM", "resolution": 32, "norm": "layer"}}

After each hidden linear layer, before its activation,

    h = activation(gamma_i(x) * norm(z_i) + beta_i(x))

with z_i what layer i gives, and gamma_i and beta_i linear interpolations of grids over the coordinates x themselves,
not over the features that the network reads. A field hands them on (`fieldforge.fields.fused`).

Followed is the authors' code (maincold2/CAM): its "instance norm" of (1, points, channels) normalises each point over
its channels; grids stand at the corners of the cube (align_corners) and are held beyond; scales begin at 1, shifts at 0
(without a norm nothing is changed then). Its norm for scenes also pools the samples of a ray, which this one does not.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from fieldforge.checks import expect_bool, expect_choice, expect_float, expect_int, expect_points
from fieldforge.encodings.interpolation import expect_affordable, interpolate, table
from fieldforge.registry import config_of, register


class Modulator(nn.Module, ABC):
    """What changes the features of a network's hidden layers by where it is asked.

    Class attribute: ``otype``. Instance attributes: ``n_coordinates``, how many coordinates a place has; ``smoothness``
    in them; ``learning_rate_factors``, by name of its own parameters, where they learn at another pace than the rest.
    """

    otype: ClassVar[str]
    n_coordinates: int
    smoothness: float
    learning_rate_factors: dict[str, float]

    @abstractmethod
    def at(self, x: Tensor) -> Callable[[int, Tensor], Tensor]:
        """The modulation at points (*batch, n_coordinates) of the unit cube, for `Network.forward`."""

    def config(self) -> dict[str, Any]:
        """The configuration that rebuilds it (without parameters)."""
        return config_of(self)


@register("modulation", "CAM")
class CAM(Modulator):
    """Grids of scales and shifts, linearly interpolated.

    Args:
        n_coordinates: of a place; what the field hands on.
        hidden_widths: of the network's hidden layers, all the same.
        resolution: entries of the grids along each of `dims`, or one number for all; each at least 2.
        dims: which coordinates the grids span, from 0; None: all. Of a field with time, time is the last one.
        per_channel: whether each channel has its own scale and shift; else all channels of a layer share one of each.
        norm: "layer", each point's features are centred and scaled over the channels first; or "none".
        angles: the coordinates are a direction, (v + 1) / 2, and the grids span azimuth around z and elevation.
        learning_rate_factor: of the grids, times the optimizer's own.
        bits: the grids are used rounded to 2^bits values from the smallest to the largest of each scale and shift of a
            layer, with gradients as if they were not; 0: not rounded. A file stores them as it does all parameters:
            with fit.storage=int8 in 8 bits by blocks of their own, whether the fit has seen rounded grids or not.

    Attributes:
        table: (R_1, ..., R_k, n_layers * 2 * channels) parameter, scales before shifts.

    Raises:
        ValueError: `dims` names no coordinate or one twice, or `resolution` has not a number for each.

    Example:
        >>> cam = CAM(3, [16, 16], dims=[0, 2], resolution=[4, 8])
        >>> cam.table.shape, cam.at(torch.rand(5, 3))(0, torch.rand(5, 16)).shape
        (torch.Size([4, 8, 4]), torch.Size([5, 16]))
    """

    otype = "CAM"
    smoothness = 0

    def __init__(
        self,
        n_coordinates: int,
        hidden_widths: Sequence[int],
        *,
        resolution: int | Sequence[int] = 32,
        dims: Sequence[int] | None = None,
        per_channel: bool = False,
        norm: Literal["layer", "none"] = "layer",
        angles: bool = False,
        learning_rate_factor: float = 10.0,
        bits: int = 0,
    ) -> None:
        super().__init__()
        self.n_coordinates = expect_int("n_coordinates", n_coordinates, 1)
        if not hidden_widths:
            raise ValueError("n_hidden_layers: a modulation changes hidden layers, and there is none")
        self.n_layers, self.width = len(hidden_widths), hidden_widths[0]
        self.angles = expect_bool("angles", angles)
        if angles and n_coordinates != 3:
            raise ValueError(f"angles: are of directions, which are three numbers, not {n_coordinates}")
        n_known = 2 if angles else n_coordinates
        chosen = list(range(n_known)) if dims is None else list(dims)
        for i, axis in enumerate(chosen):
            expect_int(f"dims[{i}]", axis, 0, n_known - 1)
        if not 1 <= len(chosen) == len(set(chosen)) <= 4:
            raise ValueError(f"dims: expected one to four coordinates, each once, got {chosen}")
        self.dims = None if dims is None else chosen
        self._axes = chosen
        self.resolution = resolution if isinstance(resolution, int) else list(resolution)
        sizes = [resolution] * len(chosen) if isinstance(resolution, int) else list(resolution)
        if len(sizes) != len(chosen):
            raise ValueError(f"resolution: expected {len(chosen)} numbers, one for each of {chosen}, got {sizes}")
        for size in sizes:
            expect_int("resolution", size, 2, 2**16)
        self.per_channel = expect_bool("per_channel", per_channel)
        self.norm = expect_choice("norm", norm, ("layer", "none"))
        self.learning_rate_factor = expect_float("learning_rate_factor", learning_rate_factor, 0.0, 1e6)
        self.learning_rate_factors = {"table": self.learning_rate_factor}
        self.bits = expect_int("bits", bits, 0, 16)
        self.n_channels = self.width if per_channel else 1
        n_numbers = self.n_layers * 2 * self.n_channels
        expect_affordable("resolution", resolution, math.prod(sizes) * n_numbers)
        self.table = table((*sizes, n_numbers), self._begin)

    def at(self, x: Tensor) -> Callable[[int, Tensor], Tensor]:
        expect_points(x, self.n_coordinates, owner=self)
        place = azimuth_and_elevation(x) if self.angles else x
        numbers = interpolate(self._rounded(), place[..., self._axes])
        numbers = numbers.unflatten(-1, (self.n_layers, 2, self.n_channels))

        def modulate(index: int, z: Tensor) -> Tensor:
            scale, shift = numbers[..., index, 0, :], numbers[..., index, 1, :]
            if self.norm == "layer":
                z = functional.layer_norm(z, z.shape[-1:])
            return scale * z + shift

        return modulate

    def _rounded(self) -> Tensor:
        if not self.bits:
            return self.table
        grids = self.table.detach().view(-1, self.n_layers * 2, self.n_channels)
        low, high = grids.amin((0, 2), keepdim=True), grids.amax((0, 2), keepdim=True)
        step = (high - low) / (2**self.bits - 1)
        is_flat = step == 0
        rounded = low + ((grids - low) / step.masked_fill(is_flat, 1)).round() * step
        return self.table + (rounded.view_as(self.table) - self.table.detach())

    def _begin(self, entries: Tensor) -> Tensor:
        """Scales of 1, shifts of 0."""
        shaped = entries.zero_().view(-1, self.n_layers, 2, self.n_channels)
        shaped[:, :, 0] = 1
        return entries


def azimuth_and_elevation(unit: Tensor) -> Tensor:
    """Directions as (v + 1) / 2, (*batch, 3), to angles around and above, (*batch, 2), each from 0 to 1.

    Azimuth goes around z, from -π (0) to π (1), and jumps there; elevation from down (0) to up (1).
    """
    x, y, z = (2 * unit - 1).unbind(-1)
    across = torch.hypot(x, y)
    return torch.stack([torch.atan2(y, x) / (2 * math.pi), torch.atan2(z, across) / math.pi], -1) + 0.5
