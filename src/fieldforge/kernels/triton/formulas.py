"""Frequency, OneBlob and SphericalHarmonics on a GPU: values and first derivatives; second ones are the reference's."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from fieldforge.kernels.cpu_second import recorded
from fieldforge.kernels.triton.door import blocks, expect_rows, expect_tensor, is_transformed, launch

Reference = Callable[[Tensor], Tensor]


def refuses(*, dtype: torch.dtype, **_: Any) -> str | None:
    """Why a call on points of a dtype cannot run, or None."""
    if dtype != torch.float32:
        return f"it is in float32 only, not {dtype}"
    return is_transformed()


def frequency(x: Tensor, n_frequencies: int, *, reference: Reference) -> Tensor:
    """(N, d) float32 on a CUDA device -> (N, d * n_frequencies * 2)."""
    out: Tensor = _Formula.apply(x, "frequency", n_frequencies, reference)
    return out


def one_blob(x: Tensor, n_bins: int, *, reference: Reference) -> Tensor:
    """(N, d) float32 on a CUDA device -> (N, d * n_bins)."""
    out: Tensor = _Formula.apply(x, "one_blob", n_bins, reference)
    return out


def spherical_harmonics(x: Tensor, degree: int, *, reference: Reference) -> Tensor:
    """(N, 3) float32 on a CUDA device -> (N, degree²)."""
    out: Tensor = _Formula.apply(x, "spherical_harmonics", degree, reference)
    return out


class _Formula(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, name: str, number: int, reference: Reference) -> Tensor:
        x = expect_rows("x", x, _width(x))
        out = x.new_empty(x.shape[0], _n_outputs(name, number, x.shape[1]))
        n, size = (x.shape[0], 64) if name == "spherical_harmonics" else (x.numel(), 512)
        kernels, constants = _kernels(), {"BLOCK": size}
        if name == "frequency":
            launch(kernels.frequency, (blocks(out.numel() // 2, size),), x, out, n, K=number, **constants)
        elif name == "one_blob":
            launch(kernels.one_blob, (blocks(out.numel(), size),), x, out, n, BINS=number, **constants)
        else:
            norms = _norms(number, x.device)
            launch(kernels.spherical_harmonics, (blocks(n, size),), x, norms, out, n, DEGREE=number, **constants)
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.name, ctx.number, ctx.reference = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        if torch.is_grad_enabled() or is_transformed():
            with torch.enable_grad():
                return *recorded(ctx.reference, (x,), ctx.needs_input_grad, (grad,)), None, None, None
        x = expect_rows("x", x, _width(x))
        name, number, kernels = ctx.name, ctx.number, _kernels()
        grad = expect_tensor("grad", grad, (x.shape[0], _n_outputs(name, number, x.shape[1])), device=x.device)
        grad_x = torch.empty_like(x)
        if name == "spherical_harmonics":
            launch(
                kernels.spherical_harmonics_backward, (blocks(x.shape[0], 64),), x, _norms(number, x.device), grad,
                grad_x, x.shape[0], DEGREE=number, BLOCK=64,
            )  # fmt: skip
        else:
            columns = min(64, 1 << (number - 1).bit_length())
            constants = {"K" if name == "frequency" else "BINS": number, "COLUMNS": columns, "BLOCK": 32}
            kernel = getattr(kernels, f"{name}_backward")
            launch(kernel, (blocks(x.numel(), 32),), x, grad, grad_x, x.numel(), **constants)
        return grad_x, None, None, None


def _kernels() -> Any:
    from fieldforge.kernels.triton import formula_kernels

    return formula_kernels


def _width(x: Tensor) -> int:
    return x.shape[-1] if isinstance(x, Tensor) and x.ndim else 0


def _n_outputs(name: str, number: int, n_dims: int) -> int:
    return {"frequency": 2 * n_dims * number, "one_blob": n_dims * number}.get(name, number * number)


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
