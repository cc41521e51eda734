"""Where the tests of Triton kernels run: on a CUDA device, or with ``TRITON_INTERPRET=1`` in Triton's interpreter.

The interpreter takes milliseconds for each operation and is right in float32 and float16 only.
"""

from __future__ import annotations

import pytest
import torch

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
