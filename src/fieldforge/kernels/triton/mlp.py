"""Narrow networks on a GPU, fused through all layers: one, or many side by side with points of their own.

First derivatives are the kernels', with hidden layers computed again instead of kept; second ones are the reference's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fieldforge.kernels.cpu_door import expect_one_each
from fieldforge.kernels.cpu_ops import MlpShape, describe_activation, parameter_shapes
from fieldforge.kernels.cpu_second import is_transformed, needs_reference, recorded
from fieldforge.kernels.triton.door import FLOATS, blocks, expect_rows, expect_tensor, launch

MAX_WIDTH = 128
"""Of hidden layers and outputs: a layer's activations are on the chip at once."""
MAX_INPUTS = 4096
MAX_LAYERS = 64
MAX_ROWS = 2**31 - 2**10
CHUNK = 64
"""Features that are on the chip at once."""
LARGEST_BLOCK = 128
"""Rows of a tile of the backward pass, at most."""

Reference = Callable[[Tensor, Sequence[Tensor], Sequence[Tensor]], Tensor]


def describe(network: Any, widths: tuple[int, ...]) -> MlpShape | str:
    """A network as the kernels know it, or why they do not.

    Args:
        network: any module with `activation`, `output_activation` and `has_bias`.
        widths: (n_inputs, hidden, ..., n_outputs).
    """
    described = []
    for activation in (network.activation, network.output_activation):
        found = describe_activation(activation)
        if found is None:
            return f"it has no activation {activation.otype}"
        described.append(found)
    _, *hidden, n_outputs = widths
    if not 1 <= len(hidden) < MAX_LAYERS or len(set(hidden)) > 1:
        return f"it has 1 to {MAX_LAYERS - 1} hidden layers of one width, not {hidden}"
    if max(*hidden, n_outputs) > MAX_WIDTH or widths[0] > MAX_INPUTS:
        return f"it has at most {MAX_WIDTH} units in a layer and {MAX_INPUTS} inputs, not {max(hidden)} and {widths[0]}"
    (name, number, first_number), (output_name, output_number, _) = described
    return MlpShape(
        widths, name, number, first_number, output_name, output_number, has_bias=network.has_bias,
        precision=getattr(network, "precision", "float32"),
    )  # fmt: skip


def refuses(x_dtype: torch.dtype, parameters: Sequence[Tensor]) -> str | None:
    """Why numbers of these dtypes cannot go through, or None."""
    dtypes = {x_dtype, *(parameter.dtype for parameter in parameters)}
    if not dtypes <= set(FLOATS):
        names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
        return f"it is of float32 and 16-bit numbers, not {names}"
    return is_transformed()


def mlp(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    shape: MlpShape,
    *,
    reference: Reference,
    offsets: Tensor | None = None,
) -> Tensor:
    """A whole network, or a stack of networks, in one kernel.

    Args:
        x: (N, widths[0]) float32, float16 or bfloat16 on a CUDA device; of a stack, sorted by network.
        weights: (widths[i + 1], widths[i]) each, as in `torch.nn.Linear`; of a stack (n_networks, ...).
        biases: (widths[i + 1],) each, or none at all; of a stack (n_networks, ...).
        shape: widths and activations of one network, from `describe`.
        reference: (x, weights, biases) -> the same in PyTorch, where a backward pass is itself recorded.
        offsets: (n_networks + 1,) int64 of a stack: network i takes the rows offsets[i] up to offsets[i + 1]; trusted.

    Returns:
        (N, widths[-1]) in the dtype of x, or of autocast where that is on.

    Factors of products have the dtype of autocast where that is on, else bfloat16 where the shape's precision is that,
    else the weights' dtype; sums, biases and activations are float32. Products of float32 are what
    `torch.get_float32_matmul_precision` says: for "highest" three in TensorFloat-32 each, which keep all digits but the
    last or two, as there are no matrix units for float32 and code without them would be a megabyte that takes minutes
    to compile; rounded to TensorFloat-32 otherwise.

    Raises:
        TypeError, ValueError: a tensor has another dtype, shape or device.
    """
    expect_one_each("weights", weights, shape.n_layers)
    expect_one_each("biases", biases, shape.n_layers if shape.has_bias else 0)
    factors, output = weights[0].dtype, x.dtype
    if shape.precision == "bfloat16":
        factors = torch.bfloat16
    if torch.is_autocast_enabled("cuda"):
        factors = output = torch.get_autocast_dtype("cuda")
    kind = _Kind(shape, factors, output, torch.get_float32_matmul_precision() != "highest")
    out: Tensor = _Mlp.apply(x, offsets, kind, reference, *weights, *biases)
    return out


@dataclass(frozen=True)
class _Kind:
    """What kernels are compiled for."""

    shape: MlpShape
    factors: torch.dtype
    output: torch.dtype
    is_rounded: bool

    @cached_property
    def constants(self) -> dict[str, Any]:
        n_in, width, *_, n_out = self.shape.widths
        chunk = min(CHUNK, _padded(n_in))
        is_exact = self.factors == torch.float32 and not self.is_rounded
        return {
            "DEPTH": self.shape.n_layers - 1, "IN": -(-n_in // chunk) * chunk, "WIDTH": _padded(width),
            "OUT": _padded(n_out), "CHUNK": chunk, "ACTIVATION": self.shape.activation,
            "OUTPUT": self.shape.output_activation, "HAS_BIAS": self.shape.has_bias,
            "PRECISION": "tf32x3" if is_exact else "tf32",
        }  # fmt: skip

    @cached_property
    def matrices(self) -> list[tuple[int, int]]:
        """Padded (n_out, n_in) of every layer."""
        n_in, width, n_out, depth = (self.constants[name] for name in ("IN", "WIDTH", "OUT", "DEPTH"))
        return [(width, n_in), *[(width, width)] * (depth - 1), (n_out, width)]

    @property
    def numbers(self) -> tuple[float, float, float]:
        return self.shape.number, self.shape.first_number, self.shape.output_number


class _Mlp(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, offsets: Tensor | None, kind: _Kind, reference: Reference, *parameters: Tensor) -> Tensor:
        call = _Call(x, offsets, kind, parameters)
        out = torch.empty(call.n, kind.shape.widths[-1], dtype=kind.output, device=call.x.device)
        if call.n:
            from fieldforge.kernels.triton import mlp_kernels

            launch(
                mlp_kernels.forward, lambda meta: (call.n_networks * call.n_segments(meta["BLOCK"]),),
                *call.tensors, out, call.n, call.n_networks, *call.ends, *kind.numbers,
                IS_GROUPED=offsets is not None, **kind.constants,
            )  # fmt: skip
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, offsets, ctx.kind, ctx.reference, *parameters = inputs
        ctx.save_for_backward(x, offsets, *parameters)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, offsets, *parameters = ctx.saved_tensors
        needs_x, _, _, _, *needs = ctx.needs_input_grad
        if needs_reference(grad):
            n_layers = ctx.kind.shape.n_layers

            def again(x: Tensor, *parameters: Tensor) -> Tensor:
                out: Tensor = ctx.reference(x, parameters[:n_layers], parameters[n_layers:])
                return out

            with torch.enable_grad():
                again_x, *again_grads = recorded(again, (x, *parameters), (needs_x, *needs), (grad,))
            return again_x, None, None, None, *again_grads
        call = _Call(x, offsets, ctx.kind, parameters)
        grad_x, grads = call.backward(grad, needs_x)
        return grad_x, None, None, None, *(one if wanted else None for one, wanted in zip(grads, needs, strict=True))


class _Call:
    """Checked tensors of a call; parameters packed as the kernels read them."""

    def __init__(self, x: Tensor, offsets: Tensor | None, kind: _Kind, parameters: Sequence[Tensor]) -> None:
        shape = kind.shape
        self.x = expect_rows("x", x, shape.widths[0], FLOATS)
        if self.x.shape[0] > MAX_ROWS:
            raise ValueError(f"x: expected at most {MAX_ROWS} rows at once, got {self.x.shape[0]}")
        self.n, self.kind, self.ends = self.x.shape[0], kind, (shape.widths[0], shape.widths[-1])
        self.n_networks = 1 if offsets is None else offsets.shape[0] - 1
        one = () if offsets is None else (self.n_networks,)
        device = self.x.device
        self.parameters = []
        for parameter, (name, own) in zip(parameters, parameter_shapes(shape), strict=True):
            self.parameters.append(expect_tensor(name, parameter, (*one, *own), FLOATS, device))
        self.offsets = offsets if offsets is None else expect_tensor(
            "offsets", offsets, (self.n_networks + 1,), (torch.int64,), device
        )  # fmt: skip

    @cached_property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """x, weights (n_networks, n_weights), biases (n_networks, n_biases), offsets."""
        n_layers = self.kind.shape.n_layers
        matrices, rows = self.kind.matrices, [(n_out, 1) for n_out, _ in self.kind.matrices]
        weights = self._pack(self.parameters[:n_layers], matrices, self.kind.factors)
        biases = self._pack(self.parameters[n_layers:], rows, torch.float32) if self.kind.shape.has_bias else weights
        return self.x, weights, biases, self.offsets

    def n_segments(self, block: int) -> int:
        """How many programs share the rows of a network, going forward."""
        return max(1, blocks(self.n, block * self.n_networks))

    def backward(self, grad: Tensor, needs_x: bool) -> tuple[Tensor | None, list[Tensor]]:
        grad = expect_tensor("grad", grad, (self.n, self.ends[1]), FLOATS, self.x.device)
        grad_x = torch.empty_like(self.x) if needs_x else None
        constants, n_weights = self.kind.constants, sum(rows * columns for rows, columns in self.kind.matrices)
        n_biases = sum(rows for rows, _ in self.kind.matrices)
        n_programs = _n_programs(self.x.device)
        n_segments = max(1, min(n_programs // self.n_networks, blocks(self.n, 32 * self.n_networks)))
        n_programs = min(n_programs, self.n_networks * n_segments)
        n_parts = self.n_networks * n_segments
        sums = self.x.new_zeros(n_parts, n_weights, dtype=torch.float32)
        bias_sums = self.x.new_zeros(n_parts if self.kind.shape.has_bias else 1, n_biases, dtype=torch.float32)
        if self.n:
            from fieldforge.kernels.triton import mlp_kernels

            n_kept = n_programs * constants["DEPTH"] * LARGEST_BLOCK * constants["WIDTH"]
            x, weights, biases, offsets = self.tensors
            launch(
                mlp_kernels.backward, (n_programs,), x, grad, weights, biases, offsets,
                x if grad_x is None else grad_x, sums, bias_sums, torch.empty(n_kept, device=self.x.device),
                self.n, self.n_networks, n_segments, *self.ends, *self.kind.numbers,
                IS_GROUPED=self.offsets is not None, NEEDS_X=needs_x, **constants,
            )  # fmt: skip
        n_layers = self.kind.shape.n_layers
        rows = [(n_out, 1) for n_out, _ in self.kind.matrices]
        found = self._unpack(sums.view(self.n_networks, n_segments, -1).sum(1), self.parameters[:n_layers],
                             self.kind.matrices)  # fmt: skip
        if self.kind.shape.has_bias:
            total = bias_sums.view(self.n_networks, n_segments, -1).sum(1)
            found += self._unpack(total, self.parameters[n_layers:], rows)
        return grad_x, found

    def _pack(self, parameters: Sequence[Tensor], sizes: Sequence[tuple[int, int]], dtype: torch.dtype) -> Tensor:
        rows = []
        for parameter, (n_out, n_in) in zip(parameters, sizes, strict=True):
            one = parameter.reshape(self.n_networks, -1, self._columns(parameter))
            room = (0, n_in - one.shape[2], 0, n_out - one.shape[1])
            rows.append((functional.pad(one, room) if any(room) else one).flatten(1))
        return torch.cat(rows, 1).to(dtype)

    def _unpack(self, packed: Tensor, parameters: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """From (n_networks, numbers of all layers) to tensors like the parameters."""
        found = []
        parts = packed.split([n_out * n_in for n_out, n_in in sizes], 1)
        for parameter, part, size in zip(parameters, parts, sizes, strict=True):
            columns = self._columns(parameter)
            rows = parameter.numel() // (self.n_networks * columns)
            place = part.unflatten(1, size)[:, :rows, :columns]
            found.append(place.reshape(parameter.shape).to(parameter.dtype))
        return found

    def _columns(self, parameter: Tensor) -> int:
        """Inputs of a matrix; 1 for a bias."""
        is_matrix = parameter.ndim == (2 if self.offsets is None else 3)
        return parameter.shape[-1] if is_matrix else 1


def _padded(width: int) -> int:
    """The next power of two that a matrix product takes."""
    return max(16, 1 << (width - 1).bit_length())


def _n_programs(device: torch.device) -> int:
    """Of the backward pass: as many as are on the device at once, each with rows after rows."""
    if device.type == "cpu":
        return 3  # in the interpreter
    return 2 * torch.cuda.get_device_properties(device).multi_processor_count
