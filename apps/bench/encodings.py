"""``fieldforge bench encodings``: our encodings against idiomatic PyTorch, forward and forward + backward."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fieldforge.apps.bench.harness import Row, one_thread, save, say, spread, take_turns
from fieldforge.apps.bench.peers import PlainFrequency, PlainHashGrid
from fieldforge.backends import use_backend
from fieldforge.registry import build

GRIDS = {
    "grid 2-D, 16 x 2, 2^17": (2, 16, 2, 17, 16, 1.32),
    "grid 2-D, 8 x 2, 2^17": (2, 8, 2, 17, 16, 1.71),
    "grid 3-D, 16 x 2, 2^17": (3, 16, 2, 17, 16, 1.32),
}
"""Case -> n_dims, n_levels, n_features, log2 of the table, base resolution, growth."""


def run(folder: Path, *, is_quick: bool) -> None:
    """Measure, print, and keep the rows unless `is_quick`."""
    n_points, repeats = (2**10, 1) if is_quick else (2**16, 5)
    rows: list[Row] = []
    with one_thread():
        for case, sizes in GRIDS.items():
            n_dims, n_levels, n_features, log2_size, base, growth = sizes
            config = {"otype": "HashGrid", "n_levels": n_levels, "n_features_per_level": n_features}
            config |= {"log2_hashmap_size": log2_size, "base_resolution": base, "per_level_scale": growth}
            plain = PlainHashGrid(n_dims, n_levels, n_features, log2_size, base, growth)
            ours = build("encoding", config, n_input_dims=n_dims)
            rows += _case(case, plain, ours, ("reference", "cpu"), n_dims, repeats, dict(config, n_points=n_points))
        for n_dims in (2, 3):
            ours = build("encoding", {"otype": "Frequency", "n_frequencies": 12}, n_input_dims=n_dims)
            case = f"Frequency {n_dims}-D, 12"
            rows += _case(case, PlainFrequency(12), ours, ("reference",), n_dims, repeats, {"n_points": n_points})
    if not is_quick:
        say(f"rows: {save(folder, 'encodings', rows)}")


def _case(
    case: str,
    plain: nn.Module,
    ours: nn.Module,
    backends: Sequence[str],
    n_dims: int,
    repeats: int,
    sizes: dict[str, Any],
) -> list[Row]:
    n_points = sizes["n_points"]
    x = torch.rand(n_points, n_dims, generator=torch.Generator().manual_seed(0))
    rows = []
    for direction, work in (("forward", _forward), ("forward + backward", _forward_backward)):
        candidates = {"plain PyTorch": work(plain, x, "auto")}
        candidates |= {f"ours, {backend}": work(ours, x, backend) for backend in backends}
        seconds = take_turns(candidates, repeats=repeats)
        base = statistics.median(seconds["plain PyTorch"])
        for name, times in seconds.items():
            median = statistics.median(times)
            rows.append(
                Row("encodings", f"{case}, {direction}", name, sizes, median, spread(times), n_points / median)
            )
            say(f"{case:26} {direction:18} {name:16} {n_points / median / 1e6:8.3f} M points/s  {base / median:6.2f} x")
    return rows


def _forward(module: nn.Module, x: torch.Tensor, backend: str) -> Callable[[], None]:
    def work() -> None:
        with torch.no_grad(), use_backend(backend):
            module(x)

    return work


def _forward_backward(module: nn.Module, x: torch.Tensor, backend: str) -> Callable[[], None]:
    points = x.clone().requires_grad_(not list(module.parameters()))

    def work() -> None:
        module.zero_grad(set_to_none=True)
        with use_backend(backend):
            module(points).sum().backward()

    return work
