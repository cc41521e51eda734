"""Native encodings beside the plain grid: formulas, several encodings joined, and each with the network that reads it.

First derivatives are native; second ones are the reference's, as in `cpu_ops`. Features are made tile by tile just
before a network reads them and are not written to memory, except behind a grid, whose levels look up all points first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fieldforge.backends import use_backend
from fieldforge.kernels.cpu_door import address, expect_rows, expect_tensor, n_threads, native
from fieldforge.kernels.cpu_ops import (
    GridShape,
    MlpShape,
    expect_table,
    native_grid,
    native_mlp,
    parameter_shapes,
    parameters_of,
)
from fieldforge.kernels.cpu_second import is_transformed, needs_reference, recorded
from fieldforge.registry import find

NUMBERS = {
    "Frequency": "n_frequencies",
    "TriangleWave": "n_frequencies",
    "OneBlob": "n_bins",
    "SphericalHarmonics": "degree",
    "RandomFourier": "n_features",
}
"""The formulas that are native, and the attribute that says how many octaves, bins, bands or frequencies they have."""
MAX_PARTS = 64
MAX_ROWS = 2**16


@dataclass(frozen=True)
class Part:
    """One encoding of some coordinates, writing some rows of features.

    Args:
        kind: "Grid", "Identity" or one of `NUMBERS`.
        first_input, n_inputs: the coordinates it reads.
        first_row, n_rows: the features it writes.
        number: octaves, bins, bands or frequencies.
        scale, offset: of "Identity".
        grid: of "Grid".
    """

    kind: str
    first_input: int
    n_inputs: int
    first_row: int
    n_rows: int
    number: int = 0
    scale: float = 1.0
    offset: float = 0.0
    grid: GridShape | None = None

    @property
    def tensor_shape(self) -> tuple[int, int] | None:
        """Of its table or its frequencies; None: it has neither."""
        if self.grid is not None:
            return max(level.offset + level.size for level in self.grid.levels), self.grid.n_features
        return (self.number, self.n_inputs) if self.kind == "RandomFourier" else None


@dataclass(frozen=True)
class Join:
    """Rows from `to` on are the sum or the product of those from `left` and from `right` on."""

    is_product: bool
    to: int
    left: int
    right: int
    n_rows: int


@dataclass(frozen=True)
class EncodingShape:
    """Several encodings joined, without their tables; the first `n_outputs` of the rows are the features."""

    n_inputs: int
    n_outputs: int
    n_rows: int
    parts: tuple[Part, ...]
    joins: tuple[Join, ...] = ()

    @property
    def with_tensors(self) -> tuple[Part, ...]:
        """The parts that have a table or frequencies."""
        return tuple(part for part in self.parts if part.tensor_shape is not None)


# ---- what encodings are


def describe_encoding(encoding: Any) -> EncodingShape | str:
    """Parts of an encoding and how they are joined, or why the kernels do not have it.

    Args:
        encoding: a `fieldforge.encodings.base.Encoding`.
    """
    layout = _Layout(encoding.n_output_dims)
    try:
        layout.place(encoding, "", 0, 0)
    except _NotNative as reason:
        return str(reason)
    if len(layout.parts) > MAX_PARTS or layout.n_rows > MAX_ROWS:
        return f"native encodings have at most {MAX_PARTS} parts and {MAX_ROWS} features"
    return EncodingShape(
        encoding.n_input_dims, encoding.n_output_dims, layout.n_rows, tuple(layout.parts), tuple(layout.joins)
    )


def tensors_of(encoding: Any) -> dict[str, Tensor]:
    """Tables and frequencies by the names the module knows them by, in the order of the parts."""
    layout = _Layout(encoding.n_output_dims)
    layout.place(encoding, "", 0, 0)
    return layout.tensors


class _NotNative(Exception):
    """Why the kernels do not have an encoding."""


@dataclass
class _Layout:
    """Rows are given out in order; the operands of sums and products come behind the features."""

    n_rows: int
    parts: list[Part] = field(default_factory=list)
    joins: list[Join] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def place(self, encoding: Any, name: str, first_input: int, to: int) -> None:
        otype, where = encoding.otype, (first_input, encoding.n_input_dims, to, encoding.n_output_dims)
        known = otype in NUMBERS or otype in ("Grid", "Identity", "Composite", "OneBlobFrequency")
        if not known or find("encoding", otype).factory is not type(encoding):
            raise _NotNative(f"there is no native encoding {otype}")
        if otype == "Composite":
            parts = list(zip(encoding.parts, encoding.slices, strict=True))
            inputs = [first_input + where.start for _, where in parts]
            self._join([part for part, _ in parts], f"{name}parts.", inputs, to, encoding.reduction)
        elif otype == "OneBlobFrequency":
            self.place(encoding.waves, name, first_input, to)
            self.place(encoding.blobs, name, first_input + 3, to + encoding.waves.n_output_dims)
            if encoding.n_input_dims > 8:
                n_rest = encoding.n_input_dims - 8
                end = to + encoding.n_output_dims
                self.parts.append(Part("Identity", first_input + 8, n_rest, end - n_rest, n_rest))
        elif otype == "Grid":
            self._keep(f"{name}table", encoding.table)
            shape = (tuple(encoding.levels), encoding.n_input_dims, encoding.n_features_per_level)
            self.parts.append(Part("Grid", *where, grid=GridShape(*shape, encoding.interpolation)))
        elif otype == "Identity":
            self.parts.append(Part("Identity", *where, scale=encoding.scale, offset=encoding.offset))
        else:
            if otype == "RandomFourier":
                self._keep(f"{name}frequencies", encoding.frequencies)
                if encoding.frequencies.requires_grad:
                    raise _NotNative("its frequencies are trained, and the kernels hold them fixed")
            self.parts.append(Part(otype, *where, number=getattr(encoding, NUMBERS[otype])))

    def _join(self, encodings: Sequence[Any], name: str, inputs: Sequence[int], to: int, reduction: str) -> None:
        names = [f"{name}{i}." for i in range(len(encodings))]
        if reduction == "Concatenation" or len(encodings) == 1:
            for placed in zip(encodings, names, inputs, strict=True):
                self.place(*placed, to)
                to += placed[0].n_output_dims
            return
        width, so_far = encodings[0].n_output_dims, 0
        for i, placed in enumerate(zip(encodings, names, inputs, strict=True)):
            operand = self._take(width)
            self.place(*placed, operand)
            if i > 0:
                result = to if i + 1 == len(encodings) else self._take(width)
                self.joins.append(Join(reduction == "Product", result, so_far, operand, width))
            so_far = operand if i == 0 else result

    def _take(self, n_rows: int) -> int:
        self.n_rows += n_rows
        return self.n_rows - n_rows

    def _keep(self, name: str, tensor: Tensor) -> None:
        if tensor.dtype != torch.float32:
            raise _NotNative(f"it is in float32 only, not {tensor.dtype}")
        self.tensors[name] = tensor


# ---- values and first derivatives


def refuses(*, dtype: torch.dtype, n_outputs: int = 1, tensor: Tensor | None = None) -> str | None:
    """Why a formula cannot run a call on points of a dtype, or None."""
    if dtype != torch.float32 or (tensor is not None and tensor.dtype != torch.float32):
        return f"it is in float32 only, not {dtype if dtype != torch.float32 or tensor is None else tensor.dtype}"
    if n_outputs > MAX_ROWS:
        return f"it has at most {MAX_ROWS} features, not {n_outputs}"
    if tensor is not None and tensor.requires_grad:
        return "its frequencies are trained, and the kernels hold them fixed"
    return is_transformed()


def refuses_joined(*, dtype: torch.dtype, encoding: Any) -> str | None:
    """Why several encodings cannot run as one call, or None."""
    found = refuses(dtype=dtype) or describe_encoding(encoding)
    return found if isinstance(found, str) else None


def formula(kind: str, number: int, x: Tensor, *tensors: Tensor, reference: Callable[..., Tensor]) -> Tensor:
    """One of `NUMBERS` at points.

    Args:
        kind, number: as for `Part`.
        x: (N, d) float32 on the CPU.
        tensors: the (number, d) frequencies of "RandomFourier"; nothing for the others.
        reference: (x, *tensors) -> the same in PyTorch, for second derivatives.

    Returns:
        (N, n_features).
    """
    features: Tensor = _Encode.apply(x, one_formula(kind, number, x.shape[-1]), None, reference, *tensors)
    return features


def encode(encoding: nn.Module, x: Tensor) -> Tensor:
    """An encoding that `describe_encoding` describes at (N, d) float32 points on the CPU: (N, n_features)."""
    shape = describe_encoding(encoding)
    assert isinstance(shape, EncodingShape), shape
    named = tensors_of(encoding)
    features: Tensor = _Encode.apply(x, shape, None, reference_of(encoding, list(named)), *named.values())
    return features


def encoded_field(
    encoding: nn.Module,
    network: nn.Module,
    x: Tensor,
    shapes: tuple[EncodingShape, MlpShape],
    network_of: Callable[[Tensor, Sequence[Tensor], Sequence[Tensor]], Tensor],
) -> Tensor:
    """An encoding and the network that reads it in one call.

    Args:
        encoding, network: modules that have these shapes.
        x: (N, d) float32 on the CPU.
        shapes: what `describe_encoding` and `cpu_ops.describe_mlp` say of them.
        network_of: (features, weights, biases) -> the network in PyTorch, for second derivatives.

    Returns:
        (N, n_outputs).
    """
    named, (weights, biases) = tensors_of(encoding), parameters_of(network)
    features_of = reference_of(encoding, list(named))
    n_tensors, n_layers = len(named), len(weights)

    def reference(x: Tensor, *tensors: Tensor) -> Tensor:
        parameters = tensors[n_tensors:]
        return network_of(features_of(x, *tensors[:n_tensors]), parameters[:n_layers], parameters[n_layers:])

    out: Tensor = _Encode.apply(x, *shapes, reference, *named.values(), *weights, *biases)
    return out


def reference_of(encoding: nn.Module, names: Sequence[str]) -> Callable[..., Tensor]:
    """(x, *tensors) -> the encoding in PyTorch, with these tensors in the place of those of these names."""

    def reference(x: Tensor, *tensors: Tensor) -> Tensor:
        with use_backend("reference"):
            out: Tensor = functional_call(encoding, dict(zip(names, tensors, strict=True)), x)
        return out

    return reference


class _Encode(torch.autograd.Function):
    """Features, or what a network makes of them; `tensors` are the encoding's, then weights, then biases."""

    @staticmethod
    def forward(
        x: Tensor,
        shape: EncodingShape,
        mlp_shape: MlpShape | None,
        reference: Callable[..., Tensor],
        *tensors: Tensor,
    ) -> Tensor:
        call = _Call(x, shape, mlp_shape, tensors)
        out = call.x.new_empty(call.n, call.n_outputs)
        if mlp_shape is None:
            native().encoding_forward(
                call.encoding, call.addresses, call.x.data_ptr(), call.n, out.data_ptr(), n_threads()
            )
        else:
            native().field_forward(
                None, native_mlp(mlp_shape), call.where(call.tensors), call.x.data_ptr(), call.n, out.data_ptr(),
                n_threads(), call.encoding,
            )  # fmt: skip
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.shape, ctx.mlp_shape, ctx.reference, *tensors = inputs
        ctx.save_for_backward(x, *tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *tensors = ctx.saved_tensors
        needs_x, _, _, _, *needs = ctx.needs_input_grad
        if needs_reference(grad):
            with torch.enable_grad():
                grad_x, *grads = recorded(ctx.reference, (x, *tensors), (needs_x, *needs), (grad,))
            return grad_x, None, None, None, *grads
        call = _Call(x, ctx.shape, ctx.mlp_shape, tensors)
        grad = expect_rows("grad", grad, call.n_outputs)
        grad_x = torch.empty_like(call.x) if needs_x else None
        wanted = [torch.empty_like(t) if is_needed else None for t, is_needed in zip(call.tensors, needs, strict=True)]
        if ctx.mlp_shape is None:
            native().encoding_backward(
                call.encoding, call.addresses, call.x.data_ptr(), call.n, grad.data_ptr(),
                [address(one) for one in wanted], address(grad_x), n_threads(),
            )  # fmt: skip
        else:
            native().field_backward(
                None, native_mlp(ctx.mlp_shape), call.where(call.tensors), call.x.data_ptr(), call.n, grad.data_ptr(),
                call.where(wanted), address(grad_x), n_threads(), call.encoding,
            )  # fmt: skip
        return grad_x, None, None, None, *wanted


class _Call:
    """Checked and contiguous tensors of a call."""

    def __init__(self, x: Tensor, shape: EncodingShape, mlp_shape: MlpShape | None, tensors: Sequence[Tensor]) -> None:
        self.x = expect_rows("x", x, shape.n_inputs)
        self.n = self.x.shape[0]
        self.encoding, self.shape, self.mlp_shape = native_encoding(shape), shape, mlp_shape
        self.n_outputs = shape.n_outputs if mlp_shape is None else mlp_shape.widths[-1]
        n_own = len(shape.with_tensors)
        parameters = [] if mlp_shape is None else parameter_shapes(mlp_shape)
        self.tensors = expect_tensors(shape, tensors[:n_own]) + [
            expect_tensor(name, parameter, expected).contiguous()
            for parameter, (name, expected) in zip(tensors[n_own:], parameters, strict=True)
        ]
        self.addresses = [address(tensor) for tensor in self.tensors[:n_own]]

    def where(self, tensors: Sequence[Tensor | None]) -> Any:
        assert self.mlp_shape is not None
        return addresses_with(self.shape, self.mlp_shape, tensors)


# ---- what the native module is told


@lru_cache(maxsize=64)
def one_formula(kind: str, number: int, n_inputs: int) -> EncodingShape:
    """The shape of one of `NUMBERS` alone."""
    n_rows = {
        "Frequency": 2 * n_inputs * number,
        "TriangleWave": n_inputs * number,
        "OneBlob": n_inputs * number,
        "SphericalHarmonics": number * number,
        "RandomFourier": 2 * number,
    }[kind]
    return EncodingShape(n_inputs, n_rows, n_rows, (Part(kind, 0, n_inputs, 0, n_rows, number),))


@lru_cache(maxsize=64)
def native_encoding(shape: EncodingShape) -> Any:
    parts = [
        (
            part.kind, part.first_input, part.n_inputs, part.first_row, part.n_rows, part.number, part.scale,
            part.offset, native_grid(part.grid) if part.grid is not None else None,
        )
        for part in shape.parts
    ]  # fmt: skip
    joins = [(join.is_product, join.to, join.left, join.right, join.n_rows) for join in shape.joins]
    return native().Encoding(shape.n_inputs, shape.n_outputs, shape.n_rows, parts, joins)


def addresses_with(shape: EncodingShape, mlp_shape: MlpShape, tensors: Sequence[Tensor | None]) -> Any:
    """Tensors of the encoding, weights and biases (or their gradients or moments), as the native module wants them."""
    n_own, n_layers = len(shape.with_tensors), mlp_shape.n_layers
    where = [address(tensor) for tensor in tensors]
    return native().Addresses(0, where[n_own : n_own + n_layers], where[n_own + n_layers :], where[:n_own])


def expect_tensors(shape: EncodingShape, tensors: Sequence[Tensor], *, copy: bool = True) -> list[Tensor]:
    """Tables and frequencies of the right shapes, contiguous if `copy`."""
    checked: list[Tensor] = []
    if len(tensors) != len(shape.with_tensors):
        raise ValueError(f"tensors: expected {len(shape.with_tensors)}, got {len(tensors)}")
    for part, tensor in zip(shape.with_tensors, tensors, strict=True):
        if part.grid is not None:
            checked.append(expect_table(tensor, part.grid, copy=copy))
        else:
            one = expect_tensor("frequencies", tensor, (part.number, part.n_inputs))
            checked.append(one.contiguous() if copy else one)
    return checked
