# mypy: ignore-errors
"""Kernels in several configurations, of which the first call of a kind measures the best; kept on disk.

Triton keeps what it measured beside the compiled code, in ``TRITON_CACHE_DIR`` or ``~/.triton/cache``, so that a second
process measures nothing. The interpreter runs the first configuration.
"""

from __future__ import annotations

import inspect

import triton

from fieldforge.kernels.triton.door import is_interpreted

CACHES = {"cache_results": True} if "cache_results" in inspect.signature(triton.autotune).parameters else {}
"""Triton before 3.3 keeps what it measured in memory only."""


def tuned(*configurations, key, **more):
    """Decorator of a kernel: `configurations` are (constants, n_warps), chosen anew where an argument of `key` changes.

    Keys are what a kernel is compiled for, never the number of rows: a last batch must not be measured again. For the
    same reason kernels say ``do_not_specialize`` of numbers of rows: Triton would compile them anew for multiples of
    16, in the midst of a fit whose batches vary.
    """
    chosen = configurations[:1] if is_interpreted() else configurations
    configs = [triton.Config(constants, num_warps=n_warps, num_stages=1) for constants, n_warps in chosen]
    return triton.autotune(configs=configs, key=key, **CACHES, **more)
