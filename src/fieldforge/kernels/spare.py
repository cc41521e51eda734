"""Memory of gradients that were forgotten, for the next ones.

Gradients of thousands of small networks take tens of megabytes. Given back to the system after every step and asked for
again in the next, that memory comes in fresh pages, which took most of the time of a step of KiloNeRF.

    set_aside(parameter)                        # instead of parameter.grad = None
    gradient = empty_gradient(parameter)        # in the backward pass, instead of torch.empty_like(parameter)
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

LEAST = 2**18
"""Entries from which on it pays: smaller memory is kept by the allocator itself."""
_ASKED, _SPARE = WeakTensorKeyDictionary(), WeakTensorKeyDictionary()


def set_aside(parameter: Tensor) -> None:
    """Forget a parameter's gradient; keep its memory, if a kernel takes it from here and nobody else holds it."""
    gradient, parameter.grad = parameter.grad, None
    if gradient is None or parameter not in _ASKED or not _is_alone(gradient):
        return
    if gradient.is_contiguous() and gradient.shape == parameter.shape and gradient.dtype == parameter.dtype:
        _SPARE[parameter] = gradient


def empty_gradient(parameter: Tensor) -> Tensor:
    """Memory like that of a contiguous parameter, its numbers undefined."""
    if parameter.numel() >= LEAST:
        _ASKED[parameter] = True
    spare: Tensor | None = _SPARE.pop(parameter, None)
    return torch.empty_like(parameter) if spare is None else spare


def _is_alone(gradient: Tensor) -> bool:
    """Whether the caller's and this function's names are all that lead to its memory; no, where PyTorch cannot say."""
    count: Callable[[int], int] | None = getattr(torch._C, "_storage_Use_Count", None)
    storage = gradient.untyped_storage()
    return count is not None and sys.getrefcount(gradient) <= 3 and count(storage._cdata) <= 2
