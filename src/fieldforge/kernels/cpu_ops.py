"""Native CPU kernels as functions of tensors: the grid, the network, and both together.

Tensors go through the door (`cpu_door`), and the kernels are made differentiable: first derivatives here, and second
ones, where a backward pass is itself recorded (an eikonal loss, a normal), by `cpu_second`.

Results are the same to the last bit for any number of threads. They differ in rounding from one instruction set to
another; ``FIELDFORGE_CPU=v3`` (v2, v3, v4) forces one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from fieldforge.kernels.cpu_door import address, expect_one_each, expect_rows, expect_tensor, n_threads, native
from fieldforge.kernels.cpu_second import executed, gradients, keep, link, recorded
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
MAX_LAYERS = 64
MAX_WIDTH = 2**16


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
        precision: "float32"; or "bfloat16", to which the factors of every product are rounded, in the backward pass
            too. Sums, activations and parameters stay float32.
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
    precision: str = "float32"

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
    if network.modulation is not None:
        return f"the native network has no modulation, and this one has {network.modulation.otype}"
    if network.reparameterisation is not None:
        return f"the native network has plain matrices, and this one's are of {network.reparameterisation.otype}"
    return describe_layers(network, (network.n_input_dims, *(layer.weight.shape[0] for layer in network.layers)))


def describe_layers(network: Any, widths: tuple[int, ...]) -> MlpShape | str:
    """The same for any module with layers of these widths, `activation`, `output_activation` and `has_bias`."""
    if getattr(network, "precision", "float32") == "bfloat16" and not native().has_bf16():
        return f"{native().instruction_set()} here has no products of bfloat16 (AVX512-BF16)"
    described = []
    for activation in (network.activation, network.output_activation):
        found = describe_activation(activation)
        if found is None:
            return f"the native network has no activation {activation.otype}"
        described.append(found)
    (name, number, first_number), (output_name, output_number, _) = described
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
        precision=getattr(network, "precision", "float32"),
    )


def parameters_of(network: Any) -> tuple[list[Tensor], list[Tensor]]:
    """(weights, biases) of an MLP's layers, in order; no biases where it has none."""
    weights = [layer.weight for layer in network.layers]
    return weights, [layer.bias for layer in network.layers] if network.has_bias else []


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
        reference: the same in PyTorch, for third derivatives and losses on gradients of the table.

    Returns:
        (N, n_levels * n_features).
    """
    if not levels:
        raise ValueError("levels: expected at least one level of a grid, got none")
    if not isinstance(table, Tensor) or table.ndim != 2:
        got = tuple(table.shape) if isinstance(table, Tensor) else type(table).__name__
        raise ValueError(f"table: expected an (n_entries, n_features) tensor, got {got}")
    shape = GridShape(tuple(levels), len(levels[0].multipliers), table.shape[-1], interpolation)
    features: Tensor
    features, _ = _Grid.apply(x, table, shape, lambda x, table: reference(x, table, levels, interpolation))
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
        reference: (x, weights, biases) -> the same in PyTorch, for third derivatives and losses on gradients of
            parameters.

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
    if mlp_shape.n_layers < 1:
        raise ValueError(f"widths: expected those of the inputs and of every layer's outputs, got {mlp_shape.widths}")
    expect_one_each("weights", weights, mlp_shape.n_layers)
    expect_one_each("biases", biases, mlp_shape.n_layers if mlp_shape.has_bias else 0)
    out: Tensor
    out, _ = _Field.apply(x, grid_shape, mlp_shape, reference, table, *weights, *biases)
    return out


class _Grid(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, table: Tensor, shape: GridShape, reference: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
        x, table = expect_rows("x", x, shape.n_dims), expect_table(table, shape)
        out = x.new_empty(x.shape[0], shape.n_outputs)
        native().grid_forward(
            native_grid(shape), table.data_ptr(), x.data_ptr(), x.shape[0], out.data_ptr(), n_threads()
        )
        return out, link(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, table, shape, reference = inputs
        keep(ctx, _GridDerivatives(shape, reference), output[1], (x, table))

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, cotangent: Tensor | None) -> tuple[Tensor | None, ...]:
        return *gradients(ctx, grad, cotangent), None, None


class _Field(torch.autograd.Function):
    @staticmethod
    def forward(
        x: Tensor,
        grid_shape: GridShape | None,
        mlp_shape: MlpShape,
        reference: Callable[..., Tensor],
        table: Tensor | None,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:
        call = _FieldCall(x, grid_shape, mlp_shape, table, parameters)
        out = call.x.new_empty(call.n, mlp_shape.widths[-1])
        native().field_forward(*call.field, call.x.data_ptr(), call.n, out.data_ptr(), n_threads())
        return out, link(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, grid_shape, mlp_shape, reference, *parameters = inputs
        keep(ctx, _FieldDerivatives(grid_shape, mlp_shape, reference), output[1], (x, *parameters))

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, cotangent: Tensor | None) -> tuple[Tensor | None, ...]:
        if ctx.derivatives.mlp_shape.precision != "float32" and grad is not None and torch.is_grad_enabled():
            _, *inputs = ctx.saved_tensors  # the native second derivatives do not round
            grad_x, *grads = recorded(ctx.derivatives.reference, inputs, executed(ctx, inputs), (grad,))
        else:
            grad_x, *grads = gradients(ctx, grad, cotangent)
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
        self.x = expect_rows("x", x, grid_shape.n_dims if grid_shape else mlp_shape.widths[0])
        self.n = self.x.shape[0]
        self.table = expect_table(table, grid_shape) if grid_shape and table is not None else None
        self.parameters = [
            expect_tensor(name, parameter, shape).contiguous()
            for parameter, (name, shape) in zip(parameters, parameter_shapes(mlp_shape), strict=True)
        ]
        addresses = addresses_of(mlp_shape, (self.table, *self.parameters))
        self.field = (native_grid(grid_shape) if grid_shape else None, native_mlp(mlp_shape), addresses)


@dataclass(frozen=True)
class _GridDerivatives:
    """`fieldforge.kernels.cpu_second.Derivatives` of a grid; its inputs are x and the table."""

    shape: GridShape
    of_reference: Callable[..., Tensor]

    def reference(self, x: Tensor, table: Tensor) -> Tensor:
        return self.of_reference(x, table)

    def first(self, inputs: Sequence[Tensor], grad: Tensor, needed: Sequence[bool]) -> tuple[Tensor | None, ...]:
        x, table = self._checked(inputs)
        grad = expect_rows("grad", grad, self.shape.n_outputs)
        grad_x, grad_table = empty_where(needed, (x, table))
        native().grid_backward(
            native_grid(self.shape), table.data_ptr(), x.data_ptr(), x.shape[0], grad.data_ptr(),
            address(grad_table), address(grad_x), n_threads(),
        )  # fmt: skip
        return grad_x, grad_table

    def second(
        self, inputs: Sequence[Tensor], grad: Tensor, cotangent: Tensor, gradient: Tensor | None, needed: Sequence[bool]
    ) -> tuple[Tensor | None, ...]:
        x, table = self._checked(inputs)
        grad = expect_rows("grad", grad, self.shape.n_outputs)
        cotangent = expect_tensor("cotangent", cotangent, tuple(x.shape)).contiguous()
        gradient = None if gradient is None else expect_tensor("gradient", gradient, tuple(grad.shape)).contiguous()
        grad_grad, grad_x, grad_table = empty_where(needed, (grad, x, table))
        native().grid_double_backward(
            native_grid(self.shape), table.data_ptr(), x.data_ptr(), x.shape[0], grad.data_ptr(), cotangent.data_ptr(),
            address(gradient), address(grad_grad), address(grad_table), address(grad_x), n_threads(),
        )  # fmt: skip
        return grad_grad, grad_x, grad_table

    def _checked(self, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        return expect_rows("x", inputs[0], self.shape.n_dims), expect_table(inputs[1], self.shape)


@dataclass(frozen=True)
class _FieldDerivatives:
    """`fieldforge.kernels.cpu_second.Derivatives` of a field; its inputs are x, the table, weights and biases."""

    grid_shape: GridShape | None
    mlp_shape: MlpShape
    of_reference: Callable[..., Tensor]

    def reference(self, x: Tensor, table: Tensor | None, *parameters: Tensor) -> Tensor:
        n_layers = self.mlp_shape.n_layers
        return self.of_reference(x, table, parameters[:n_layers], parameters[n_layers:])

    def first(self, inputs: Sequence[Tensor | None], grad: Tensor, needed: Sequence[bool]) -> tuple[Tensor | None, ...]:
        call = self._call(inputs)
        grad = expect_rows("grad", grad, self.mlp_shape.widths[-1])
        grad_x, *grads = empty_where(needed, (call.x, call.table, *call.parameters))
        native().field_backward(
            *call.field, call.x.data_ptr(), call.n, grad.data_ptr(), addresses_of(self.mlp_shape, grads),
            address(grad_x), n_threads(),
        )  # fmt: skip
        return grad_x, *grads

    def second(
        self,
        inputs: Sequence[Tensor | None],
        grad: Tensor,
        cotangent: Tensor,
        gradient: Tensor | None,
        needed: Sequence[bool],
    ) -> tuple[Tensor | None, ...]:
        call = self._call(inputs)
        grad = expect_rows("grad", grad, self.mlp_shape.widths[-1])
        cotangent = expect_tensor("cotangent", cotangent, tuple(call.x.shape)).contiguous()
        gradient = None if gradient is None else expect_tensor("gradient", gradient, tuple(grad.shape)).contiguous()
        grad_grad, grad_x, *grads = empty_where(needed, (grad, call.x, call.table, *call.parameters))
        native().field_double_backward(
            *call.field, call.x.data_ptr(), call.n, grad.data_ptr(), cotangent.data_ptr(), address(gradient),
            address(grad_grad), addresses_of(self.mlp_shape, grads), address(grad_x), n_threads(),
        )  # fmt: skip
        return grad_grad, grad_x, *grads

    def _call(self, inputs: Sequence[Tensor | None]) -> _FieldCall:
        x, table, *parameters = inputs
        assert x is not None
        return _FieldCall(x, self.grid_shape, self.mlp_shape, table, [p for p in parameters if p is not None])


def empty_where(needed: Sequence[bool], tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Room for a gradient in each tensor that needs one."""
    return [torch.empty_like(tensor) if is_needed and tensor is not None else None for is_needed, tensor in
            zip(needed, tensors, strict=True)]  # fmt: skip


# ---- what the native module is told


@lru_cache(maxsize=64)
def native_grid(shape: GridShape) -> Any:
    levels = [
        (
            level.scale,
            level.size,
            level.offset,
            level.is_hashed,
            list(level.multipliers),
            level.scale if level.last_scale is None else level.last_scale,
        )
        for level in shape.levels
    ]
    return native().Grid(shape.n_dims, shape.n_features, shape.interpolation, levels)


@lru_cache(maxsize=64)
def native_mlp(shape: MlpShape) -> Any:
    return native().Mlp(
        list(shape.widths), shape.activation, shape.number, shape.first_number, shape.output_activation,
        shape.output_number, list(shape.output_scale), list(shape.output_offset), shape.has_bias,
        shape.precision == "bfloat16",
    )  # fmt: skip


def addresses_of(shape: MlpShape, tensors: Sequence[Tensor | None]) -> Any:
    """(table, weights, biases), None where there is none, as the native module wants them."""
    table, *rest = (address(tensor) for tensor in tensors)
    return native().Addresses(table, rest[: shape.n_layers], rest[shape.n_layers :])


def parameter_shapes(shape: MlpShape) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of all weights, then all biases."""
    widths = shape.widths
    weights = [(f"weights[{i}]", (widths[i + 1], widths[i])) for i in range(shape.n_layers)]
    biases = [(f"biases[{i}]", (widths[i + 1],)) for i in range(shape.n_layers)] if shape.has_bias else []
    return [*weights, *biases]


def expect_table(table: Tensor, shape: GridShape, *, copy: bool = True) -> Tensor:
    n_entries = max(level.offset + level.size for level in shape.levels)
    checked = expect_tensor("table", table, (n_entries, shape.n_features))
    return checked.contiguous() if copy else checked
