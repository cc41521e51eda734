"""Native CPU core and GPU kernels; private to the engine.

`native_cpu` is the one door to the compiled module: a wheel built without a compiler has none, and says why.
"""

from __future__ import annotations

import importlib
from functools import cache
from types import ModuleType


@cache
def native_cpu() -> ModuleType | None:
    """The compiled module ``fieldforge.kernels._cpu``, or None in a wheel that was built without a compiler."""
    try:
        return importlib.import_module("fieldforge.kernels._cpu")
    except ImportError:
        return None
