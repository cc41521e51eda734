"""Native CPU kernels as functions of tensors: the grid, the network, both together, and whole training steps.

The compiled module works on addresses; this file is its only door. It checks dtype, device, shape and strides, and
makes the kernels differentiable. First derivatives are native; where a backward pass is itself recorded (an eikonal
loss, a normal), the reference in plain PyTorch takes over inside the same autograd function.

Results are the same to the last bit for any number of threads. They differ in rounding from one instruction set to
another; ``FIELDFORGE_CPU=v3`` (v2, v3, v4) forces one.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

from fieldforge.checks import expect_choice, expect_float, expect_int
from fieldforge.kernels import native_cpu
from fieldforge.kernels.tuned import GridLevel

NUMBERS = {
    "None": None,
    "ReLU": None,
    "LeakyReLU": "slope",
    "Sine": "omega",
    "SiLU": None,
    "Sigmoid": None,
    "Tanh": None,
    "GELU": None,
    "Softplus": "beta",
    "Squareplus": "beta",
    "Exponential": None,
    "Gaussian": "scale",
    "FINER": "omega",
    "SPDER": "omega",
}
"""The activations that are native, and the attribute that holds the number each depends on."""
LOSSES = ("L2", "L1", "Huber", "RelativeL2")
PIXELS = {torch.uint8: "uint8", torch.uint16: "uint16", torch.float32: "float32"}
MAX_LAYERS = 64
MAX_WIDTH = 2**16


@cache
def missing() -> str | None:
    """Why nothing here can run in this process, or None."""
    native = native_cpu()
    if native is None:
        return "fieldforge was built without a C++ compiler"
    try:
        native.instruction_set()
    except RuntimeError as error:
        return str(error)
    return None


def n_threads() -> int:
    """How many threads the kernels use: ``FIELDFORGE_NUM_THREADS``, or as many as PyTorch does."""
    asked = os.environ.get("FIELDFORGE_NUM_THREADS", "")
    if not asked:
        return torch.get_num_threads()
    if not asked.isdecimal() or not 1 <= int(asked) <= 1024:
        raise ValueError(f"FIELDFORGE_NUM_THREADS: expected an integer from 1 to 1024, got {asked!r}")
    return int(asked)


@dataclass(frozen=True)
class GridShape:
    """A multi-resolution grid without its table.

    Args:
        levels: what `fieldforge.encodings.grid.grid_levels` gives.
        n_dims: coordinates of a point, 1 to 4.
        n_features: numbers in a row of the table, 1 to 64.
        interpolation: "Linear", "Smoothstep" or "Nearest".
    """

    levels: tuple[GridLevel, ...]
    n_dims: int
    n_features: int
    interpolation: str = "Linear"

    @property
    def n_outputs(self) -> int:
        return len(self.levels) * self.n_features


@dataclass(frozen=True)
class MlpShape:
    """A multilayer perceptron without its parameters.

    Args:
        widths: (n_inputs, hidden, ..., n_outputs).
        activation, number, first_number: hidden activation by its native name, and the number it depends on (omega,
            slope, beta, scale), which may be another in the first layer; see `describe_activation`.
        output_activation, output_number: the same after the last layer.
        output_scale, output_offset: factor and summand of each output after that; empty: none.
        has_bias: whether layers have biases.
    """

    widths: tuple[int, ...]
    activation: str = "ReLU"
    number: float = 0.0
    first_number: float = 0.0
    output_activation: str = "None"
    output_number: float = 0.0
    output_scale: tuple[float, ...] = ()
    output_offset: tuple[float, ...] = ()
    has_bias: bool = False

    @property
    def n_layers(self) -> int:
        return len(self.widths) - 1


def describe_activation(activation: Any) -> tuple[str, float, float] | None:
    """Name and numbers (of later layers, of the first) under which the kernels know an activation; None: they do not.

    Args:
        activation: a `fieldforge.fields.activations.base.Activation`.
    """
    name = activation.otype
    if name not in NUMBERS or getattr(activation, "damping", "sqrt") != "sqrt":
        return None
    attribute = NUMBERS[name]
    number = 0.0 if attribute is None else float(getattr(activation, attribute))
    first = getattr(activation, "first_omega", None)
    if getattr(activation, "scale_requires_grad", False):
        name = "FINER with the true slope"
    return name, number, number if first is None else float(first)


def describe_mlp(network: Any) -> MlpShape | str:
    """Widths and activations of a network, or why the kernels do not have it.

    Args:
        network: a `fieldforge.fields.networks.mlp.MLP`.
    """
    if network.input_injection != "none":
        return f"the native network has no input injection, and this one has {network.input_injection!r}"
    described = []
    for activation in (network.activation, network.output_activation):
        found = describe_activation(activation)
        if found is None:
            return f"the native network has no activation {activation.otype}"
        described.append(found)
    (name, number, first_number), (output_name, output_number, _) = described
    widths = (network.n_input_dims, *(layer.weight.shape[0] for layer in network.layers))
    if len(widths) - 1 > MAX_LAYERS or max(widths) > MAX_WIDTH:
        return f"the native network has at most {MAX_LAYERS} layers of at most {MAX_WIDTH} units"
    return MlpShape(
        widths=widths,
        activation=name,
        number=number,
        first_number=first_number,
        output_activation=output_name,
        output_number=output_number,
        has_bias=network.has_bias,
    )


def parameters_of(network: Any) -> tuple[list[Tensor], list[Tensor]]:
    """(weights, biases) of an MLP's layers, in order; no biases where it has none."""
    weights = [layer.weight for layer in network.layers]
    return weights, [layer.bias for layer in network.layers] if network.has_bias else []


def description() -> str:
    """What was chosen for this processor: 'native, x86-64-v4'."""
    return f"native, {_native().instruction_set()}"


# ---- values and first derivatives


def grid(
    x: Tensor,
    table: Tensor,
    levels: Sequence[GridLevel],
    interpolation: str,
    *,
    reference: Callable[[Tensor, Tensor, Sequence[Any], str], Tensor],
) -> Tensor:
    """Look points up in every level of a grid and interpolate; arguments and result as for `reference`.

    Args:
        x: (N, n_dims) float32 on the CPU.
        table: (n_entries, n_features) float32 on the CPU.
        levels: what `fieldforge.encodings.grid.grid_levels` gives.
        interpolation: "Linear", "Smoothstep" or "Nearest".
        reference: the same in PyTorch, for second derivatives.

    Returns:
        (N, n_levels * n_features).
    """
    shape = GridShape(tuple(levels), len(levels[0].multipliers), table.shape[-1], interpolation)
    features: Tensor = _Grid.apply(x, table, shape, lambda x, table: reference(x, table, levels, interpolation))
    return features


def mlp(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    shape: MlpShape,
    *,
    reference: Callable[[Tensor, Sequence[Tensor], Sequence[Tensor]], Tensor],
) -> Tensor:
    """A whole network in one call; hidden layers are computed again in the backward pass instead of being kept.

    Args:
        x: (N, widths[0]) float32 on the CPU.
        weights: (widths[i + 1], widths[i]) each, as in `torch.nn.Linear`.
        biases: (widths[i + 1],) each, or none at all.
        shape: widths and activations.
        reference: (x, weights, biases) -> the same in PyTorch, for second derivatives.

    Returns:
        (N, widths[-1]).
    """
    return _apply_field(x, None, None, weights, biases, shape, lambda x, _, w, b: reference(x, w, b))


def field(
    x: Tensor,
    table: Tensor,
    grid_shape: GridShape,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    mlp_shape: MlpShape,
    *,
    reference: Callable[[Tensor, Tensor, Sequence[Tensor], Sequence[Tensor]], Tensor],
) -> Tensor:
    """A grid and the network that reads it, without writing the features down; arguments as for `grid` and `mlp`."""
    return _apply_field(x, table, grid_shape, weights, biases, mlp_shape, reference)


def _apply_field(
    x: Tensor,
    table: Tensor | None,
    grid_shape: GridShape | None,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    mlp_shape: MlpShape,
    reference: Callable[..., Tensor],
) -> Tensor:
    out: Tensor = _Field.apply(x, grid_shape, mlp_shape, reference, table, *weights, *biases)
    return out


class _Grid(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, table: Tensor, shape: GridShape, reference: Callable[..., Tensor]) -> Tensor:
        x, table = _points("x", x, shape.n_dims), _table(table, shape)
        out = x.new_empty(x.shape[0], shape.n_outputs)
        _native().grid_forward(
            _native_grid(shape), table.data_ptr(), x.data_ptr(), x.shape[0], out.data_ptr(), n_threads()
        )
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, table, ctx.shape, ctx.reference = inputs
        ctx.save_for_backward(x, table)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            return *_recorded(ctx.reference, ctx.saved_tensors, ctx.needs_input_grad[:2], grad), None, None
        x, table = _points("x", ctx.saved_tensors[0], ctx.shape.n_dims), _table(ctx.saved_tensors[1], ctx.shape)
        grad = _points("grad", grad, ctx.shape.n_outputs)
        grad_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        grad_table = torch.empty_like(table) if ctx.needs_input_grad[1] else None
        _native().grid_backward(
            _native_grid(ctx.shape), table.data_ptr(), x.data_ptr(), x.shape[0], grad.data_ptr(),
            _address(grad_table), _address(grad_x), n_threads(),
        )  # fmt: skip
        return grad_x, grad_table, None, None


class _Field(torch.autograd.Function):
    @staticmethod
    def forward(
        x: Tensor,
        grid_shape: GridShape | None,
        mlp_shape: MlpShape,
        reference: Callable[..., Tensor],
        table: Tensor | None,
        *parameters: Tensor,
    ) -> Tensor:
        call = _FieldCall(x, grid_shape, mlp_shape, table, parameters)
        out = call.x.new_empty(call.n, mlp_shape.widths[-1])
        _native().field_forward(*call.field, call.x.data_ptr(), call.n, out.data_ptr(), n_threads())
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.grid_shape, ctx.mlp_shape, ctx.reference, table, *parameters = inputs
        ctx.save_for_backward(x, table, *parameters)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, table, *parameters = ctx.saved_tensors
        needs_x, _, _, _, *needs = ctx.needs_input_grad
        if torch.is_grad_enabled():
            n_layers = ctx.mlp_shape.n_layers

            def reference(x: Tensor, table: Tensor | None, *parameters: Tensor) -> Tensor:
                out: Tensor = ctx.reference(x, table, parameters[:n_layers], parameters[n_layers:])
                return out

            grad_x, *grads = _recorded(reference, (x, table, *parameters), (needs_x, *needs), grad)
            return grad_x, None, None, None, *grads
        call = _FieldCall(x, ctx.grid_shape, ctx.mlp_shape, table, parameters)
        grad = _points("grad", grad, ctx.mlp_shape.widths[-1])
        grad_x = torch.empty_like(call.x) if needs_x else None
        grads = [torch.empty_like(p) if p is not None and wanted else None for p, wanted in
                 zip((call.table, *call.parameters), needs, strict=True)]  # fmt: skip
        _native().field_backward(
            *call.field, call.x.data_ptr(), call.n, grad.data_ptr(), _addresses(ctx.mlp_shape, grads),
            _address(grad_x), n_threads(),
        )  # fmt: skip
        return grad_x, None, None, None, *grads


class _FieldCall:
    """Checked and contiguous tensors of a call, and the native arguments that describe the field."""

    def __init__(
        self,
        x: Tensor,
        grid_shape: GridShape | None,
        mlp_shape: MlpShape,
        table: Tensor | None,
        parameters: Sequence[Tensor],
    ) -> None:
        self.x = _points("x", x, grid_shape.n_dims if grid_shape else mlp_shape.widths[0])
        self.n = self.x.shape[0]
        self.table = _table(table, grid_shape) if grid_shape and table is not None else None
        self.parameters = [
            _tensor(name, parameter, shape).contiguous()
            for parameter, (name, shape) in zip(parameters, _parameter_shapes(mlp_shape), strict=True)
        ]
        addresses = _addresses(mlp_shape, (self.table, *self.parameters))
        self.field = (_native_grid(grid_shape) if grid_shape else None, _native_mlp(mlp_shape), addresses)


def _recorded(
    reference: Callable[..., Tensor], inputs: Sequence[Tensor | None], needed: Sequence[bool], grad: Tensor
) -> tuple[Tensor | None, ...]:
    """Gradients that can be differentiated again, through the reference."""
    wanted = [tensor for tensor, is_needed in zip(inputs, needed, strict=True) if is_needed and tensor is not None]
    found = iter(torch.autograd.grad(reference(*inputs), wanted, grad, create_graph=True))
    return tuple(next(found) if is_needed else None for is_needed in needed)


# ---- training


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
        loss: "L2", "L1", "Huber" or "RelativeL2", the mean over points and channels.
        huber_delta: where the Huber loss goes on as a straight line.
        betas, epsilon, l2: Adam's.
        moments: (first, second) moments to update in place, each in the order (table), weights, biases; None: zeros.

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
            _in_place("table", _table(table, grid_shape, copy=False))
        self.parameters = [] if table is None else [table.detach()]
        if len(weights) != mlp_shape.n_layers or len(biases) != mlp_shape.n_layers * mlp_shape.has_bias:
            raise ValueError(f"weights: expected one tensor for each of {mlp_shape.n_layers} layers, and biases too "
                             f"only if has_bias; got {len(weights)} and {len(biases)}")  # fmt: skip
        for parameter, (name, shape) in zip((*weights, *biases), _parameter_shapes(mlp_shape), strict=True):
            self.parameters.append(_in_place(name, _tensor(name, parameter, shape)).detach())
        if moments is None:
            moments = ([torch.zeros_like(p) for p in self.parameters], [torch.zeros_like(p) for p in self.parameters])
        self.first_moments, self.second_moments = list(moments[0]), list(moments[1])
        for of_all in (self.first_moments, self.second_moments):
            for moment, parameter in zip(of_all, self.parameters, strict=True):
                _in_place("moments", _tensor("moments", moment, tuple(parameter.shape)))

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
        x, target = _points("x", x, self._n_inputs), _points("target", target, self.mlp_shape.widths[-1])
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
        native = _native().Raster(
            raster.values.data_ptr(), PIXELS[raster.values.dtype], list(raster.values.shape[-2::-1]),
            list(raster.scale), list(raster.offset),
        )  # fmt: skip
        return self._step(index.shape[0], learning_rate, sample_loss, raster=native, index=index.data_ptr())

    @property
    def _n_inputs(self) -> int:
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
            _in_place("sample_loss", _tensor("sample_loss", sample_loss, (n,)))
        t = self.n_steps + 1
        rate = learning_rate * math.sqrt(1 - self.betas[1] ** t) / (1 - self.betas[0] ** t)
        loss, squared_error = _native().train_step(
            _native_grid(self.grid_shape) if self.grid_shape else None,
            _native_mlp(self.mlp_shape),
            *(self._where(tensors) for tensors in (self.parameters, self.first_moments, self.second_moments)),
            rate, *self.betas, self.epsilon, self.l2, n, x, target, raster, index,
            self.loss, self.huber_delta, _address(sample_loss), n_threads(),
        )  # fmt: skip
        if math.isfinite(loss):
            self.n_steps = t
        return loss, squared_error

    def _where(self, tensors: Sequence[Tensor]) -> Any:
        return _addresses(self.mlp_shape, tensors if self.grid_shape else (None, *tensors))


# ---- the door


def _native() -> Any:
    reason = missing()
    if reason is not None:
        raise RuntimeError(reason)
    return native_cpu()


@lru_cache(maxsize=64)
def _native_grid(shape: GridShape) -> Any:
    levels = [
        (level.scale, level.size, level.offset, level.is_hashed, list(level.multipliers)) for level in shape.levels
    ]
    return _native().Grid(shape.n_dims, shape.n_features, shape.interpolation, levels)


@lru_cache(maxsize=64)
def _native_mlp(shape: MlpShape) -> Any:
    return _native().Mlp(
        list(shape.widths), shape.activation, shape.number, shape.first_number, shape.output_activation,
        shape.output_number, list(shape.output_scale), list(shape.output_offset), shape.has_bias,
    )  # fmt: skip


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _addresses(shape: MlpShape, tensors: Sequence[Tensor | None]) -> Any:
    """(table, weights, biases), None where there is none, as the native module wants them."""
    table, *rest = (_address(tensor) for tensor in tensors)
    return _native().Addresses(table, rest[: shape.n_layers], rest[shape.n_layers :])


def _parameter_shapes(shape: MlpShape) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of all weights, then all biases."""
    widths = shape.widths
    weights = [(f"weights[{i}]", (widths[i + 1], widths[i])) for i in range(shape.n_layers)]
    biases = [(f"biases[{i}]", (widths[i + 1],)) for i in range(shape.n_layers)] if shape.has_bias else []
    return [*weights, *biases]


def _tensor(name: str, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    if not isinstance(tensor, Tensor) or tensor.dtype != torch.float32 or tensor.device.type != "cpu":
        got = f"{tensor.dtype} on {tensor.device}" if isinstance(tensor, Tensor) else type(tensor).__name__
        raise TypeError(f"{name}: expected float32 on the CPU, got {got}")
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {tuple(tensor.shape)}")
    return tensor


def _points(name: str, x: Tensor, n_columns: int) -> Tensor:
    """(N, n_columns) rows, contiguous."""
    return _tensor(name, x, (x.shape[0] if x.ndim else 0, n_columns)).contiguous()


def _table(table: Tensor, shape: GridShape, *, copy: bool = True) -> Tensor:
    n_entries = max(level.offset + level.size for level in shape.levels)
    checked = _tensor("table", table, (n_entries, shape.n_features))
    return checked.contiguous() if copy else checked


def _in_place(name: str, tensor: Tensor) -> Tensor:
    if not tensor.is_contiguous():
        raise ValueError(f"{name}: expected a contiguous tensor, as it is written in place")
    return tensor
