"""Where the tests of Triton kernels run: on a CUDA device, or with ``TRITON_INTERPRET=1`` in Triton's interpreter.

The interpreter takes milliseconds for each operation and is right in float32 and float16 only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from fieldforge import backends
from fieldforge.kernels.triton import door

DEVICE = torch.device("cpu" if door.is_interpreted() or not torch.cuda.is_available() else "cuda")


def why_not() -> str | None:
    """Why no kernel can run in this process, or None."""
    if door.is_interpreted():
        return None if door.installed() else "Triton is not installed"
    return "no device: needs CUDA" if not torch.cuda.is_available() else door.missing()


needs_triton = [pytest.mark.gpu, pytest.mark.skipif(why_not() is not None, reason=str(why_not()))]
on_device = pytest.mark.skipif(door.is_interpreted(), reason="no device: the interpreter does not do this")
needs_compiler = pytest.mark.skipif(
    door.is_interpreted() or door.installed() is None, reason="needs Triton's compiler, not its interpreter"
)


@contextlib.contextmanager
def as_on_cuda() -> Iterator[set[str]]:
    """Inside the block operations on tensors of `DEVICE` run as on a CUDA device: what has a version for it by that
    one, the rest by the reference, nothing natively. Gives the names of those that ran by their CUDA version."""
    found: set[str] = set()
    makers, reason = backends._makers, backends._reason

    def makers_on_cuda(operation: str, backend: str) -> list[backends.Implementation]:
        if backend == "reference":
            return makers(operation, backend)
        own = backends._implementations[operation].get("cuda")
        return [] if own is None else [own]

    def reason_on_cuda(one: backends.Implementation, device: torch.device, call: dict[str, Any]) -> str | None:
        why = one.refuses(**call)
        if why is None and one.backend == "cuda":
            found.add(one.operation)
        return why

    backends._makers, backends._reason = makers_on_cuda, reason_on_cuda
    try:
        yield found
    finally:
        backends._makers, backends._reason = makers, reason


def quicken() -> None:
    """Spare the interpreter what it does at every call of a helper: the kernel's start has prepared the language."""
    if why_not() is not None or not door.is_interpreted():
        return
    from triton.runtime import interpreter

    is_core_ready: list[bool] = []

    def call(self: interpreter.InterpretedFunction, *args: object, **kwargs: object) -> object:
        if "core" in self.fn.__globals__ and not is_core_ready:  # a function of Triton's own library
            interpreter._patch_lang(self.fn)
            is_core_ready.append(True)
        return self.rewrite()(*args, **kwargs)

    interpreter.InterpretedFunction.__call__ = call


quicken()
