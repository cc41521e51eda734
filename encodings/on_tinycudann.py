"""Grids by tinycudann, NVIDIA's own kernels, where the package is installed: the same function in float32.

The package is asked for an Encoding without parameters of its own; ours are handed to it with each call, so files,
optimizers and checkpoints never see it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fieldforge.backends import provide
from fieldforge.encodings.grid import Level, grid, grid_levels
from fieldforge.kernels import guests


def refuses(
    *, x_dtype: torch.dtype, dtype: torch.dtype, n_input_dims: int, n_features: int, n_entries: int, interpolation: str,
    **_: Any,
) -> str | None:  # fmt: skip
    if (x_dtype, dtype) != (torch.float32, torch.float32):
        return f"tinycudann is asked for float32 points and table, not {x_dtype} and {dtype}"
    if n_input_dims < 2:
        return "tinycudann has grids of 2 to 4 coordinates"
    return "tinycudann's Nearest differs beside a border" if interpolation == "Nearest" else None


@provide("grid", "cuda", missing=guests.missing_as("tinycudann"), refuses=refuses, note=guests.note_of("tinycudann"),
         maker="tinycudann")  # fmt: skip
def grid_by_tinycudann(x: Tensor, table: Tensor, levels: Sequence[Level], interpolation: str) -> Tensor:
    """See `fieldforge.encodings.grid.grid`; levels that its configuration cannot say are left to that."""
    config = config_of(tuple(levels), x.shape[-1], table.shape[1], interpolation)

    def plain(x: Tensor, table: Tensor) -> Tensor:
        return grid(x, table, levels, interpolation)

    if config is None or not len(x):
        return plain(x, table)
    with guests.there(x):
        encoding = _encoding(json.dumps(config), x.shape[-1], str(x.device))

    def run(x: Tensor, table: Tensor) -> Tensor:
        out: Tensor = functional_call(encoding, {"params": table.reshape(-1)}, (x,))
        return out

    return guests.differentiable(run, plain, x, table)


@lru_cache(maxsize=64)
def config_of(
    levels: tuple[Level, ...], n_input_dims: int, n_features: int, interpolation: str
) -> dict[str, Any] | None:
    """tiny-cuda-nn's JSON of a grid with these levels, found by trying; None where there is none.

    Example:
        >>> config_of(tuple(grid_levels(3, n_levels=2, log2_hashmap_size=10)), 3, 2, "Linear")["type"]
        'Hash'
    """
    if any(level.last_scale is not None for level in levels):
        return None
    base = round(levels[0].scale) + 1
    growth = 1.0 if len(levels) == 1 else ((levels[-1].scale + 1) / (levels[0].scale + 1)) ** (1 / (len(levels) - 1))
    largest = max(level.size for level in levels)
    for kind, log2_size in (("Hash", max(1, math.ceil(math.log2(largest)))), ("Dense", 19), ("Tiled", 19)):
        for said in dict.fromkeys((growth, float(f"{growth:.6g}"), round(growth, 4), float(round(growth, 2)))):
            keys: dict[str, Any] = {
                "type": kind, "n_levels": len(levels), "log2_hashmap_size": log2_size, "base_resolution": base,
                "per_level_scale": said,
            }  # fmt: skip
            if said > 0 and _same(levels, n_input_dims, keys):
                return {"otype": "Grid", "n_features_per_level": n_features, "interpolation": interpolation} | keys
    return None


def _same(levels: tuple[Level, ...], n_input_dims: int, keys: dict[str, Any]) -> bool:
    try:
        return tuple(grid_levels(n_input_dims, **keys)) == levels
    except ValueError:
        return False


@cache
def _encoding(config: str, n_input_dims: int, device: str) -> nn.Module:
    """The package's module, whose own parameters nobody reads."""
    made: nn.Module = guests.module("tinycudann").Encoding(n_input_dims, json.loads(config), dtype=torch.float32)
    return made.requires_grad_(False)
