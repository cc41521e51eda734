"""Encodings that are formulas on a GPU: values and first derivatives; second ones are the reference's."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from fieldforge.kernels.cpu_second import is_transformed, needs_reference, recorded
from fieldforge.kernels.triton.door import blocks, expect_rows, expect_tensor, launch

MAX_AXES = 16
"""Of the points that RandomFourier takes: a row of its frequencies is on the chip at once."""
MAX_FEATURES = 2**20
Reference = Callable[[Tensor], Tensor]


def refuses(*, dtype: torch.dtype, tensor: Tensor | None = None, **_: Any) -> str | None:
    """Why a call on points of a dtype, with the frequencies `tensor`, cannot run, or None."""
    if dtype != torch.float32:
        return f"it is in float32 only, not {dtype}"
    if tensor is not None:
        if tensor.dtype != torch.float32:
            return f"it is in float32 only, not {tensor.dtype}"
        if tensor.requires_grad:
            return "its frequencies are trained, and the kernels hold them fixed"
        if tensor.shape[1] > MAX_AXES or len(tensor) > MAX_FEATURES:
            return f"it has at most {MAX_FEATURES} frequencies of {MAX_AXES} axes, not {tuple(tensor.shape)}"
    return is_transformed()


def frequency(x: Tensor, n_frequencies: int, *, reference: Reference) -> Tensor:
    """(N, d) float32 on a CUDA device -> (N, d * n_frequencies * 2)."""
    out: Tensor = _Formula.apply(x, None, "frequency", n_frequencies, reference)
    return out


def triangle_wave(x: Tensor, n_frequencies: int, *, reference: Reference) -> Tensor:
    """(N, d) float32 on a CUDA device -> (N, d * n_frequencies)."""
    out: Tensor = _Formula.apply(x, None, "triangle_wave", n_frequencies, reference)
    return out


def one_blob(x: Tensor, n_bins: int, *, reference: Reference) -> Tensor:
    """(N, d) float32 on a CUDA device -> (N, d * n_bins)."""
    out: Tensor = _Formula.apply(x, None, "one_blob", n_bins, reference)
    return out


def random_fourier(x: Tensor, frequencies: Tensor, *, reference: Reference) -> Tensor:
    """(N, d) points and (n_features, d) frequencies, float32 on a CUDA device -> (N, 2 * n_features), sines first.

    Whole turns are taken off before the sine, so that large frequencies cost no digits. No gradient in frequencies.
    """
    out: Tensor = _Formula.apply(x, frequencies.detach(), "random_fourier", len(frequencies), reference)
    return out


def spherical_harmonics(x: Tensor, degree: int, *, reference: Reference) -> Tensor:
    """(N, 3) float32 on a CUDA device -> (N, degree²)."""
    out: Tensor = _Formula.apply(x, None, "spherical_harmonics", degree, reference)
    return out


class _Formula(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, frequencies: Tensor | None, name: str, number: int, reference: Reference) -> Tensor:
        x, others = _checked(x, frequencies, name, number)
        out = x.new_empty(x.shape[0], _n_outputs(name, number, x.shape[1]))
        kernel, (n, n_dims) = getattr(_kernels(), name), x.shape
        if name == "spherical_harmonics":
            launch(kernel, (blocks(n, 64),), x, *others, out, n, DEGREE=number, BLOCK=64)
        elif name == "random_fourier":
            programs = blocks(n, 32), blocks(number, 64)
            launch(kernel, programs, x, *others, out, n, number, D=n_dims, BLOCK=32, COLUMNS=64)
        else:
            n_elements = x.numel() * number
            launch(kernel, (blocks(n_elements, 512),), x, out, x.numel(), **_constant(name, number), BLOCK=512)
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, frequencies, ctx.name, ctx.number, ctx.reference = inputs
        ctx.save_for_backward(x, frequencies)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, frequencies = ctx.saved_tensors
        if needs_reference(grad):
            with torch.enable_grad():
                return *recorded(ctx.reference, (x,), ctx.needs_input_grad, (grad,)), None, None, None, None
        name, number = ctx.name, ctx.number
        x, others = _checked(x, frequencies, name, number)
        n, n_dims = x.shape
        grad = expect_tensor("grad", grad, (n, _n_outputs(name, number, n_dims)), device=x.device)
        grad_x, kernel = torch.empty_like(x), getattr(_kernels(), f"{name}_backward")
        if name == "spherical_harmonics":
            launch(kernel, (blocks(n, 64),), x, *others, grad, grad_x, n, DEGREE=number, BLOCK=64)
        elif name == "random_fourier":
            n_axes = _padded(n_dims)
            launch(
                kernel, (blocks(n, 32),), x, *others, grad, grad_x, n, number, D=n_dims, AXES=n_axes, BLOCK=32,
                COLUMNS=128 // n_axes,
            )  # fmt: skip
        else:
            constants = _constant(name, number) | {"COLUMNS": min(64, _padded(number)), "BLOCK": 32}
            launch(kernel, (blocks(x.numel(), 32),), x, grad, grad_x, x.numel(), **constants)
        return grad_x, None, None, None, None


def _kernels() -> Any:
    from fieldforge.kernels.triton import formula_kernels

    return formula_kernels


def _checked(x: Tensor, frequencies: Tensor | None, name: str, number: int) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Contiguous points, and what else the kernel reads."""
    x = expect_rows("x", x, x.shape[-1] if isinstance(x, Tensor) and x.ndim else 0)
    if name == "spherical_harmonics":
        return x, (_norms(number, x.device),)
    if frequencies is None:
        return x, ()
    return x, (expect_tensor("frequencies", frequencies, (number, x.shape[1]), device=x.device),)


def _constant(name: str, number: int) -> dict[str, int]:
    return {"BINS" if name == "one_blob" else "K": number}


def _padded(number: int) -> int:
    """The next power of two."""
    return 1 << (number - 1).bit_length()


def _n_outputs(name: str, number: int, n_dims: int) -> int:
    found = {"frequency": 2 * n_dims * number, "spherical_harmonics": number * number, "random_fourier": 2 * number}
    return found.get(name, n_dims * number)


@lru_cache(maxsize=16)
def _norms(degree: int, device: torch.device) -> Tensor:
    """(degree²,) factors at l² + l + m: of the harmonic, of √2 where m > 0, and of the diagonal (-1)^m (2m - 1)!!."""
    found = [0.0] * (degree * degree)
    diagonal = 1.0
    for m in range(degree):
        for band in range(m, degree):
            norm = math.sqrt((2 * band + 1) / (4 * math.pi * math.perm(band + m, 2 * m)))
            found[band * band + band + m] = diagonal * norm * (math.sqrt(2) if m else 1.0)
        diagonal *= -(2 * m + 1)
    return torch.tensor(found, device=device)
