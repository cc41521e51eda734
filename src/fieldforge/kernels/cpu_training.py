"""Whole training steps of a field as single native calls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fieldforge.checks import expect_choice, expect_float, expect_int
from fieldforge.kernels.cpu_door import address, expect_contiguous, expect_rows, expect_tensor, n_threads, native
from fieldforge.kernels.cpu_encodings import EncodingShape, addresses_with, expect_tensors, native_encoding
from fieldforge.kernels.cpu_ops import (
    GridShape,
    MlpShape,
    addresses_of,
    expect_table,
    native_grid,
    native_mlp,
    parameter_shapes,
)

LOSSES = ("L2", "L1", "Huber", "RelativeL2")
PIXELS = {torch.uint8: "uint8", torch.uint16: "uint16", torch.float32: "float32"}


@dataclass(frozen=True)
class Raster:
    """Samples on a regular grid, to draw training batches from: a picture, a sound, a video.

    Args:
        values: (..., n_channels) uint8, uint16 or float32, contiguous, on the CPU; the last axis before the channels
            is coordinate 0 (a picture is (height, width, channels), and x is coordinate 0).
        scale, offset: one each per channel; a sample's value is stored * scale + offset.
    """

    values: Tensor
    scale: tuple[float, ...]
    offset: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.values.dtype not in PIXELS:
            raise TypeError(f"values: expected uint8, uint16 or float32 samples, got {self.values.dtype}")
        if self.values.device.type != "cpu" or not self.values.is_contiguous() or not 2 <= self.values.ndim <= 5:
            raise ValueError("values: expected a contiguous CPU tensor (..., n_channels) with 1 to 4 axes of samples")
        if not len(self.scale) == len(self.offset) == self.values.shape[-1]:
            raise ValueError(f"scale: expected one scale and one offset for each of {self.values.shape[-1]} channels")

    @property
    def n_axes(self) -> int:
        return self.values.ndim - 1

    @property
    def n_samples(self) -> int:
        return math.prod(self.values.shape[:-1])


class AdamStep:
    """Training steps of a field, each a single native call: draw, encode, run, compare, go back, update.

    The gradient of a grid's table never exists as a whole: each part of it is used while it is in the cache. Adam is
    tiny-cuda-nn's: epsilon stands beside the square root of the uncorrected second moment, every parameter moves in
    every step, and `l2` pulls on the network's parameters only.

    Args:
        weights, biases, mlp_shape, table, grid_shape: the field, as for `field` (or `mlp`, without the latter two);
            contiguous float32 CPU tensors, updated in place.
        encoding, tensors: in place of a grid, an encoding of several parts and its tables and frequencies, in the
            order of `cpu_encodings.tensors_of`; tables are updated in place, frequencies stay.
        loss: "L2", "L1", "Huber" or "RelativeL2", the mean over points and channels.
        huber_delta: where the Huber loss goes on as a straight line.
        betas, epsilon, l2: Adam's.
        moments: (first, second) moments to update in place, each in the order (tables), weights, biases; None: zeros.

    Attributes:
        parameters, first_moments, second_moments: in that order.
        n_steps: how many were taken, for the bias correction; may be set.

    Raises:
        ValueError: a tensor has another shape, or is not contiguous; a number is out of range.
        TypeError: a tensor is not float32.
    """

    def __init__(
        self,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        mlp_shape: MlpShape,
        *,
        table: Tensor | None = None,
        grid_shape: GridShape | None = None,
        encoding: EncodingShape | None = None,
        tensors: Sequence[Tensor] = (),
        loss: str = "L2",
        huber_delta: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.99),
        epsilon: float = 1e-15,
        l2: float = 0.0,
        moments: tuple[Sequence[Tensor], Sequence[Tensor]] | None = None,
    ) -> None:
        self.mlp_shape, self.grid_shape = mlp_shape, grid_shape
        self.loss = expect_choice("loss", loss, LOSSES)
        self.huber_delta = expect_float("huber_delta", huber_delta, 0.0, open_low=True)
        self.betas = (expect_float("betas", betas[0], 0.0, 1.0), expect_float("betas", betas[1], 0.0, 1.0))
        self.epsilon, self.l2 = expect_float("epsilon", epsilon, 0.0), expect_float("l2", l2, 0.0)
        self.n_steps = 0
        if (table is None) != (grid_shape is None):
            raise ValueError("table: a grid needs both its table and its shape")
        if table is not None and grid_shape is not None:
            expect_contiguous("table", expect_table(table, grid_shape, copy=False))
        self.parameters = [] if table is None else [table.detach()]
        self.encoding, self.tensors = encoding, [tensor.detach() for tensor in tensors]
        if encoding is not None:
            if grid_shape is not None:
                raise ValueError("encoding: it stands in place of a grid; make the grid one of its parts")
            for part, tensor in zip(encoding.with_tensors, expect_tensors(encoding, self.tensors, copy=False),
                                    strict=True):  # fmt: skip
                expect_contiguous("tensors", tensor)
                self.parameters += [tensor] if part.grid is not None else []
        if len(weights) != mlp_shape.n_layers or len(biases) != mlp_shape.n_layers * mlp_shape.has_bias:
            raise ValueError(f"weights: expected one tensor for each of {mlp_shape.n_layers} layers, and biases too "
                             f"only if has_bias; got {len(weights)} and {len(biases)}")  # fmt: skip
        for parameter, (name, shape) in zip((*weights, *biases), parameter_shapes(mlp_shape), strict=True):
            self.parameters.append(expect_contiguous(name, expect_tensor(name, parameter, shape)).detach())
        if moments is None:
            moments = ([torch.zeros_like(p) for p in self.parameters], [torch.zeros_like(p) for p in self.parameters])
        self.first_moments, self.second_moments = list(moments[0]), list(moments[1])
        for of_all in (self.first_moments, self.second_moments):
            for moment, parameter in zip(of_all, self.parameters, strict=True):
                expect_contiguous("moments", expect_tensor("moments", moment, tuple(parameter.shape)))

    def on_points(
        self, x: Tensor, target: Tensor, learning_rate: float, *, sample_loss: Tensor | None = None
    ) -> tuple[float, float]:
        """One step on given points.

        Args:
            x: (N, n_inputs) float32.
            target: (N, n_outputs) float32.
            learning_rate: Adam's.
            sample_loss: (N,) float32, filled with each sample's loss (mean over its channels), or None.

        Returns:
            Mean loss and mean squared error before the step. Nothing moves when the loss is not finite.
        """
        x, target = expect_rows("x", x, self._n_inputs), expect_rows("target", target, self.mlp_shape.widths[-1])
        if x.shape[0] != target.shape[0]:
            raise ValueError(f"target: expected {x.shape[0]} rows, as many as x has, got {target.shape[0]}")
        return self._step(x.shape[0], learning_rate, sample_loss, x=x.data_ptr(), target=target.data_ptr())

    def on_raster(
        self, raster: Raster, index: Tensor, learning_rate: float, *, sample_loss: Tensor | None = None
    ) -> tuple[float, float]:
        """One step on samples of a raster, at the centres of their cells in the unit cube.

        Args:
            raster: where the samples come from.
            index: (N,) int64, row-major numbers of samples.
            learning_rate, sample_loss: as for `on_points`.

        Returns:
            As `on_points`.

        Raises:
            IndexError: a sample lies outside the raster; nothing is changed.
        """
        if raster.n_axes != self._n_inputs or raster.values.shape[-1] != self.mlp_shape.widths[-1]:
            raise ValueError(
                f"raster: expected {self._n_inputs} axes and {self.mlp_shape.widths[-1]} channels, "
                f"got {raster.n_axes} and {raster.values.shape[-1]}"
            )
        if index.dtype != torch.int64 or index.device.type != "cpu" or index.ndim != 1:
            raise TypeError(f"index: expected (N,) int64 on the CPU, got {tuple(index.shape)} {index.dtype}")
        index = index.contiguous()
        native_raster = native().Raster(
            raster.values.data_ptr(), PIXELS[raster.values.dtype], list(raster.values.shape[-2::-1]),
            list(raster.scale), list(raster.offset),
        )  # fmt: skip
        return self._step(index.shape[0], learning_rate, sample_loss, raster=native_raster, index=index.data_ptr())

    @property
    def _n_inputs(self) -> int:
        if self.encoding is not None:
            return self.encoding.n_inputs
        return self.grid_shape.n_dims if self.grid_shape else self.mlp_shape.widths[0]

    def _step(
        self,
        n: int,
        learning_rate: float,
        sample_loss: Tensor | None,
        *,
        x: int = 0,
        target: int = 0,
        raster: Any = None,
        index: int = 0,
    ) -> tuple[float, float]:
        expect_int("n", n, 1)
        if sample_loss is not None:
            expect_contiguous("sample_loss", expect_tensor("sample_loss", sample_loss, (n,)))
        t = self.n_steps + 1
        rate = learning_rate * math.sqrt(1 - self.betas[1] ** t) / (1 - self.betas[0] ** t)
        loss, squared_error = native().train_step(
            native_grid(self.grid_shape) if self.grid_shape else None,
            native_mlp(self.mlp_shape),
            *(self._where(tensors) for tensors in (self.parameters, self.first_moments, self.second_moments)),
            rate, *self.betas, self.epsilon, self.l2, n, x, target, raster, index,
            self.loss, self.huber_delta, address(sample_loss), n_threads(),
            native_encoding(self.encoding) if self.encoding else None,
        )  # fmt: skip
        if math.isfinite(loss):
            self.n_steps = t
        return loss, squared_error

    def _where(self, tensors: Sequence[Tensor]) -> Any:
        if self.encoding is not None:
            moved = iter(tensors)
            own = [next(moved) if part.grid is not None else fixed
                   for part, fixed in zip(self.encoding.with_tensors, self.tensors, strict=True)]  # fmt: skip
            return addresses_with(self.encoding, self.mlp_shape, [*own, *moved])
        return addresses_of(self.mlp_shape, tensors if self.grid_shape else (None, *tensors))
