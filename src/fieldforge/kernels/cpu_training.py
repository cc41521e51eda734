"""Whole training steps of a field as single native calls."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fieldforge.checks import expect_choice, expect_float, expect_int
from fieldforge.kernels.cpu_door import (
    address,
    expect_apart,
    expect_contiguous,
    expect_rows,
    expect_tensor,
    n_threads,
    native,
)
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

LOSSES = (
    "L2", "L1", "Huber", "RelativeL2", "RelativeL1", "MAPE", "SMAPE", "LogL1", "RelativeL2Luminance", "CrossEntropy",
    "Variance", "BinaryCrossEntropy",
)  # fmt: skip
PIXELS = {np.dtype(np.uint8): "uint8", np.dtype(np.uint16): "uint16", np.dtype(np.float32): "float32"}


@dataclass(frozen=True, eq=False)
class Draw:
    """Batches of samples on a regular grid: of a picture, a sound, a video, in an order that the step alone decides.

    `fieldforge.apps.fit.samplers.PixelDraw` says which samples those are; here they are read in the type they are
    stored in, at points of the unit cube, where the centre of sample i of an axis is (i + 1/2) / size.

    Args:
        values: (..., n_channels) uint8, uint16 or float32, contiguous; the last axis before the channels is
            coordinate 0 (a picture is (height, width, channels), and x is coordinate 0).
        one: the stored number that stands for 1.
        batch_size: samples a step.
        seed: same seed, same samples.
        n_moved: how many of each batch lie between the centres, with bilinear values; needs two axes.
    """

    values: np.ndarray
    one: float
    batch_size: int
    seed: int
    n_moved: int = 0

    def __post_init__(self) -> None:
        if self.values.dtype not in PIXELS:
            raise TypeError(f"values: expected uint8, uint16 or float32 samples, got {self.values.dtype}")
        if not self.values.flags.c_contiguous or not 2 <= self.values.ndim <= 5:
            raise ValueError("values: expected a contiguous array (..., n_channels) with 1 to 4 axes of samples")
        if not self.values.size:
            raise ValueError(f"values: expected at least one sample, got shape {self.values.shape}")
        expect_float("one", self.one, 0.0, open_low=True)
        expect_int("batch_size", self.batch_size, 1, 2**26)
        expect_int("seed", self.seed, 0, 2**31 - 1)
        expect_int("n_moved", self.n_moved, 0, self.batch_size)
        if self.n_moved and self.n_axes != 2:
            raise ValueError(f"n_moved: expected 0 for samples with {self.n_axes} axes, as only pictures have between")

    @property
    def n_axes(self) -> int:
        return self.values.ndim - 1

    @property
    def n_channels(self) -> int:
        return int(self.values.shape[-1])

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """What a step sees: points (batch_size, n_axes) in the unit cube and values (batch_size, n_channels)."""
        x, values = torch.empty(self.batch_size, self.n_axes), torch.empty(self.batch_size, self.n_channels)
        step = expect_int("step", step, 0)
        native().draw(self.native, step, x.data_ptr(), values.data_ptr(), n_threads())
        return x, values

    @cached_property
    def native(self) -> Any:
        """What the native module is told."""
        return native().Draw(
            self.values.ctypes.data, PIXELS[self.values.dtype], self.one, list(self.values.shape[-2::-1]),
            self.n_channels, self.seed, self.batch_size, self.n_moved,
        )  # fmt: skip


class Mover(IntEnum):
    """What turns a gradient into a move."""

    NONE = 0
    SGD = 1
    ADAM = 2


class Rule(NamedTuple):
    """How a parameter moves in one step, with g its gradient::

        g <- g + l2 p, clipped to +-gradient_limit
        SGD   p <- p - rate g
        Adam  m <- beta1 m + (1 - beta1) g,  v <- beta2 v + (1 - beta2) g²
              p <- (1 - rate relative_decay) p - sign(p) rate absolute_decay - clip(rate / (sqrt(v) + epsilon)) m,
              clipped to +-limit; the inner clip is to low ... high
        average <- average + newest (p - average)

    `rate` has Adam's bias corrections in it already. SGD knows `rate` and `l2` only; without a mover p stays, and its
    average goes on.
    """

    mover: Mover
    rate: float = 0.0
    beta1: float = 0.0
    beta2: float = 0.0
    epsilon: float = 0.0
    l2: float = 0.0
    relative_decay: float = 0.0
    absolute_decay: float = 0.0
    gradient_limit: float = math.inf
    limit: float = math.inf
    low: float = 0.0
    high: float = 3.0e38
    newest: float = 1.0


class Moved(NamedTuple):
    """What is kept beside a parameter, in its shape: Adam's first and second moment, and the average."""

    first: Tensor | None = None
    second: Tensor | None = None
    average: Tensor | None = None


class StepResult(NamedTuple):
    """Mean loss and mean squared error over points and channels before the step, and whether it was made."""

    loss: float
    squared_error: float
    has_moved: bool


def expect_movable(named: Sequence[tuple[str, Tensor]], moved: Sequence[Moved] | None) -> None:
    """Parameters by name and what is kept beside each, all contiguous and apart; None: nothing is to move.

    Raises:
        TypeError, ValueError: another number, shape or type, not contiguous, or memory that two share.
    """
    if moved is not None and len(moved) != len(named):
        raise ValueError(f"moved: expected one for each of {len(named)} parameters, got {len(moved)}")
    found = list(named)
    for (name, parameter), beside in zip(named, moved or (), strict=False):
        for kind, tensor in zip(Moved._fields, beside, strict=True):
            if tensor is not None:
                whole = f"{kind} of {name}"
                found.append((whole, expect_tensor(whole, tensor, tuple(parameter.shape))))
    for name, tensor in found:
        expect_contiguous(name, tensor)
    expect_apart(found)


class TrainingStep:
    """Training steps of a field, each a single native call: draw, encode, run, compare, go back, update.

    The gradient of a grid's table never exists as a whole: each part of it is used while it is in the cache.

    Args:
        weights, biases, mlp_shape, table, grid_shape: the field, as for `field` (or `mlp`, without the latter two);
            contiguous float32 CPU tensors, updated in place.
        encoding, tensors: in place of a grid, an encoding of several parts and its tables and frequencies, in the
            order of `cpu_encodings.tensors_of`; tables are updated in place, frequencies stay.
        moved: what is kept beside each parameter, in the order (tables), weights, biases; updated in place.
        loss: one of `LOSSES`, the mean over points and channels.
        huber_delta: where the Huber loss goes on as a straight line.

    Attributes:
        parameters: in that order.

    Raises:
        ValueError: a tensor has another shape, is not contiguous or shares memory with another; a number is out of
            range.
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
        moved: Sequence[Moved],
        loss: str = "L2",
        huber_delta: float = 1.0,
    ) -> None:
        self.mlp_shape, self.grid_shape, self.encoding = mlp_shape, grid_shape, encoding
        self.tensors = [tensor.detach() for tensor in tensors]
        expect_choice("loss", loss, LOSSES)
        expect_float("huber_delta", huber_delta, 0.0, open_low=True)
        if (table is None) != (grid_shape is None):
            raise ValueError("table: a grid needs both its table and its shape")
        if len(weights) != mlp_shape.n_layers or len(biases) != mlp_shape.n_layers * mlp_shape.has_bias:
            raise ValueError(f"weights: expected one tensor for each of {mlp_shape.n_layers} layers, and biases too "
                             f"only if has_bias; got {len(weights)} and {len(biases)}")  # fmt: skip
        named: list[tuple[str, Tensor]] = []
        if table is not None and grid_shape is not None:
            named.append(("table", expect_table(table, grid_shape, copy=False)))
        if encoding is not None:
            if grid_shape is not None:
                raise ValueError("encoding: it stands in place of a grid; make the grid one of its parts")
            checked = expect_tensors(encoding, self.tensors, copy=False)
            named += [
                (f"tensors[{k}]", tensor)
                for k, (part, tensor) in enumerate(zip(encoding.with_tensors, checked, strict=True))
                if part.grid is not None
            ]
        for parameter, (name, shape) in zip((*weights, *biases), parameter_shapes(mlp_shape), strict=True):
            named.append((name, expect_tensor(name, parameter, shape)))
        self.parameters = [parameter.detach() for _, parameter in named]
        self.moved = list(moved)
        expect_movable(named, self.moved)
        self._native = native().Training(
            native_grid(grid_shape) if grid_shape else None,
            native_mlp(mlp_shape),
            self._where(self.parameters),
            *(self._where([beside[kind] for beside in self.moved]) for kind in range(3)),
            loss,
            huber_delta,
            native_encoding(encoding) if encoding else None,
        )

    def on_points(
        self,
        x: Tensor,
        target: Tensor,
        rules: Sequence[Rule],
        *,
        sample_loss: Tensor | None = None,
        may_move: Callable[[], bool] | None = None,
    ) -> StepResult:
        """One step on given points.

        Args:
            x: (N, n_inputs) float32.
            target: (N, n_outputs) float32.
            rules: how each parameter moves, in the order of `parameters`.
            sample_loss: (N,) float32, filled with each sample's loss (mean over its channels), or None.
            may_move: asked before the update, when `sample_loss` is known; None: always.

        Returns:
            The loss before the step. Nothing moves when it is not finite, or when `may_move` says no.
        """
        x, target = expect_rows("x", x, self.n_inputs), expect_rows("target", target, self.mlp_shape.widths[-1])
        if x.shape[0] != target.shape[0]:
            raise ValueError(f"target: expected {x.shape[0]} rows, as many as x has, got {target.shape[0]}")
        n = expect_int("n", x.shape[0], 1)
        return self._step(rules, n, x.data_ptr(), target.data_ptr(), None, 0, sample_loss, may_move)

    def on_draw(
        self,
        draw: Draw,
        step: int,
        rules: Sequence[Rule],
        *,
        sample_loss: Tensor | None = None,
        may_move: Callable[[], bool] | None = None,
    ) -> StepResult:
        """One step on what `draw` gives for a step, at points of the unit cube; the rest as for `on_points`."""
        if draw.n_axes != self.n_inputs or draw.n_channels != self.mlp_shape.widths[-1]:
            raise ValueError(
                f"draw: expected {self.n_inputs} axes and {self.mlp_shape.widths[-1]} channels, "
                f"got {draw.n_axes} and {draw.n_channels}"
            )
        step = expect_int("step", step, 0)
        return self._step(rules, draw.batch_size, 0, 0, draw.native, step, sample_loss, may_move)

    @property
    def n_inputs(self) -> int:
        """Coordinates of a point, or features where there is no encoding."""
        if self.encoding is not None:
            return self.encoding.n_inputs
        return self.grid_shape.n_dims if self.grid_shape else self.mlp_shape.widths[0]

    def _step(
        self,
        rules: Sequence[Rule],
        n: int,
        x: int,
        target: int,
        draw: Any,
        step: int,
        sample_loss: Tensor | None,
        may_move: Callable[[], bool] | None,
    ) -> StepResult:
        if sample_loss is not None:
            expect_contiguous("sample_loss", expect_tensor("sample_loss", sample_loss, (n,)))
        result = self._native.step(rules, n, x, target, draw, step, address(sample_loss), may_move, n_threads())
        return StepResult(*result)

    def _where(self, tensors: Sequence[Tensor | None]) -> Any:
        if self.encoding is not None:
            moved = iter(tensors)
            own = [
                next(moved) if part.grid is not None else fixed
                for part, fixed in zip(self.encoding.with_tensors, self.tensors, strict=True)
            ]
            return addresses_with(self.encoding, self.mlp_shape, [*own, *moved])
        return addresses_of(self.mlp_shape, tensors if self.grid_shape else (None, *tensors))
