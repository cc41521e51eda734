"""The door to the compiled module: is it there, how many threads, and what a tensor must be to go through.

The kernels work on addresses. Whatever calls them checks dtype, device, shape and strides here first, so that a wrong
call is a Python error and never a wrong read.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from fieldforge.kernels import native_cpu


@cache
def missing() -> str | None:
    """Why nothing here can run in this process, or None."""
    module = native_cpu()
    if module is None:
        return "fieldforge was built without a C++ compiler"
    try:
        module.instruction_set()
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


def description() -> str:
    """What was chosen for this processor: 'native, x86-64-v4'."""
    return f"native, {native().instruction_set()}"


def native() -> Any:
    """The compiled module; raises RuntimeError with the reason where it cannot run."""
    reason = missing()
    if reason is not None:
        raise RuntimeError(reason)
    return native_cpu()


def address(tensor: Tensor | None) -> int:
    """Where its numbers lie; 0 for None."""
    return 0 if tensor is None else tensor.data_ptr()


def expect_tensor(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """The tensor, if it is on the CPU with this shape and dtype; raises TypeError or ValueError otherwise."""
    if not isinstance(tensor, Tensor) or tensor.dtype != dtype or tensor.device.type != "cpu":
        got = f"{tensor.dtype} on {tensor.device}" if isinstance(tensor, Tensor) else type(tensor).__name__
        raise TypeError(f"{name}: expected {str(dtype).removeprefix('torch.')} on the CPU, got {got}")
    if tensor.layout != torch.strided or tensor.is_neg():  # sparse, or the imaginary part of a conjugate
        raise TypeError(f"{name}: expected numbers that lie in memory as they are; use to_dense() or resolve_neg()")
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {tuple(tensor.shape)}")
    if tensor._is_zerotensor():  # zeros without memory, which PyTorch's own derivatives send (that of sgn, for one)
        return tensor.clone()
    return tensor


def expect_rows(name: str, x: Tensor, n_columns: int) -> Tensor:
    """(N, n_columns) rows, contiguous."""
    n_rows = x.shape[0] if isinstance(x, Tensor) and x.ndim else 0
    return expect_tensor(name, x, (n_rows, n_columns)).contiguous()


def expect_one_each(name: str, tensors: Sequence[Tensor], n: int) -> None:
    """`n` tensors, one for each layer, say."""
    if len(tensors) != n:
        raise ValueError(f"{name}: expected {n} tensors, got {len(tensors)}")


def expect_contiguous(name: str, tensor: Tensor) -> Tensor:
    """The tensor, if its memory may be written from end to end."""
    if not tensor.is_contiguous():
        raise ValueError(f"{name}: expected a contiguous tensor, as it is written in place")
    return tensor


def expect_apart(tensors: Sequence[tuple[str, Tensor]]) -> None:
    """Refuse tensors of which two share memory: what is written through one would change the other."""
    spans = sorted((tensor.data_ptr(), tensor.numel() * tensor.element_size(), name) for name, tensor in tensors)
    spans = [span for span in spans if span[1]]
    for (start, n_bytes, name), (next_start, _, next_name) in itertools.pairwise(spans):
        if next_start < start + n_bytes:
            raise ValueError(f"{next_name}: shares memory with {name}; each needs its own, as both are written")
