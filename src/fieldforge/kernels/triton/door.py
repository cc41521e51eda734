"""The door to the Triton kernels: can they run here, what a tensor must be to go through, and how one is started."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor

OLDEST = (7, 5)
"""Compute capability of Turing, the oldest that Triton makes code for."""
FLOATS = (torch.float32, torch.float16, torch.bfloat16)


@cache
def installed() -> str | None:
    """Triton's version, found without importing it; None: there is none."""
    if importlib.util.find_spec("triton") is None:
        return None
    for name in ("triton", "pytorch-triton"):
        with contextlib.suppress(PackageNotFoundError):
            return version(name)
    return "of an unknown version"


@cache
def missing() -> str | None:
    """Why nothing here can run in this process, or None."""
    found = installed()
    if found is None:
        return "Triton is not installed (it comes with PyTorch for CUDA on Linux)"
    if not torch.cuda.is_available():
        return f"Triton {found} is installed, but no CUDA device is visible"
    capability = torch.cuda.get_device_capability()
    if torch.version.hip is None and capability < OLDEST:
        return f"Triton makes code for compute capability {_dotted(OLDEST)} and later, not {_dotted(capability)}"
    try:
        # makes, once on a machine, what starts kernels: without a C compiler none can run
        importlib.import_module("triton").runtime.driver.active.get_current_target()
    except Exception as error:  # a broken installation may raise anything; the reference runs then
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return f"Triton {found} does not start (it needs a C compiler and Python's headers, python3-dev): {why}"
    return None


def description() -> str:
    """What runs: 'Triton 3.7.1, NVIDIA H200'."""
    return f"Triton {installed()}, {torch.cuda.get_device_name()}"


def is_interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def launch(
    kernel: Any, grid: Sequence[int] | Callable[[dict[str, Any]], tuple[int, ...]], *arguments: Any, **constants: Any
) -> None:
    """Start a kernel on the device of its first tensor; nothing where the grid is empty.

    Args:
        kernel: of Triton.
        grid: how many programs along each axis, or that as a function of the constants that tuning chose.
        arguments: tensors and numbers.
        constants: what it is compiled for.
    """
    if not callable(grid):
        if not all(grid):
            return
        grid = tuple(grid)
    device = next(one for one in arguments if isinstance(one, Tensor)).device
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        kernel[grid](*arguments, **constants)


def expect_tensor(
    name: str,
    tensor: Tensor,
    shape: tuple[int, ...],
    dtypes: Sequence[torch.dtype] = (torch.float32,),
    device: torch.device | None = None,
) -> Tensor:
    """The tensor, contiguous, if it is on a CUDA device (on `device`) with this shape and one of these dtypes.

    Raises:
        TypeError, ValueError: it is not; the message names the value.
    """
    wanted = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
    if not isinstance(tensor, Tensor) or tensor.dtype not in dtypes or not _may_enter(tensor.device):
        got = f"{tensor.dtype} on {tensor.device}" if isinstance(tensor, Tensor) else type(tensor).__name__
        raise TypeError(f"{name}: expected {wanted} on a CUDA device, got {got}")
    if tensor.layout != torch.strided or tensor.is_neg():
        raise TypeError(f"{name}: expected numbers that lie in memory as they are; use to_dense() or resolve_neg()")
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {tuple(tensor.shape)}")
    if device is not None and tensor.device != device:
        raise ValueError(f"{name}: expected it on {device} like the rest, got {tensor.device}")
    if tensor._is_zerotensor():  # zeros without memory, which PyTorch's own derivatives send
        return tensor.clone()
    return tensor.detach().contiguous()


def expect_rows(name: str, x: Tensor, n_columns: int, dtypes: Sequence[torch.dtype] = (torch.float32,)) -> Tensor:
    """(N, n_columns) rows, contiguous."""
    n_rows = x.shape[0] if isinstance(x, Tensor) and x.ndim else 0
    return expect_tensor(name, x, (n_rows, n_columns), dtypes)


def blocks(n: int, size: int) -> int:
    """How many blocks of a size hold n rows."""
    return -(-n // size)


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))


def _may_enter(device: torch.device) -> bool:
    return device.type == "cuda" or (device.type == "cpu" and is_interpreted())
