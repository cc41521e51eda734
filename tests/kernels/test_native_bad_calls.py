"""A wrong call is a Python error that names the argument, before any kernel runs."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fieldforge.encodings.grid import grid_levels
from fieldforge.kernels import cpu_door, cpu_ops
from fieldforge.kernels.cpu_ops import GridShape, MlpShape

pytestmark = pytest.mark.skipif(cpu_door.missing() is not None, reason=f"no native kernels: {cpu_door.missing()}")

LEVELS = tuple(grid_levels(2, n_levels=3, log2_hashmap_size=6, base_resolution=4))
N_ENTRIES = sum(level.size for level in LEVELS)
WIDTHS = (6, 5, 3)


def never(*_: Any) -> Tensor:
    raise AssertionError("the reference was called")


def grid(x: Any = None, table: Any = None, levels: Any = LEVELS, interpolation: str = "Linear") -> Tensor:
    x = torch.rand(7, 2) if x is None else x
    table = torch.rand(N_ENTRIES, 2) if table is None else table
    return cpu_ops.grid(x, table, levels, interpolation, reference=never)


def mlp(x: Any = None, weights: Any = None, biases: Any = None, **keys: Any) -> Tensor:
    x = torch.rand(7, 6) if x is None else x
    weights = [torch.rand(5, 6), torch.rand(3, 5)] if weights is None else weights
    biases = [torch.rand(5), torch.rand(3)] if biases is None else biases
    shape = MlpShape(**({"widths": WIDTHS, "has_bias": True} | keys))
    return cpu_ops.mlp(x, weights, biases, shape, reference=never)


def field(x: Any = None, table: Any = None, grid_shape: Any = None, widths: tuple[int, ...] = WIDTHS) -> Tensor:
    x = torch.rand(7, 2) if x is None else x
    table = torch.rand(N_ENTRIES, 2) if table is None else table
    weights = [torch.rand(b, a) for a, b in itertools.pairwise(widths)]
    shape = grid_shape or GridShape(LEVELS, 2, 2)
    return cpu_ops.field(x, table, shape, weights, [], MlpShape(widths), reference=never)


def layers(first: Any) -> list[Any]:
    return [first, torch.rand(3, 5)]


imaginary = torch.rand(1, 6).to(torch.complex64).conj().imag  # its sign lies in a flag, not in memory
CALLS: dict[str, tuple[Callable[..., Tensor], dict[str, Any], type[Exception], str]] = {
    "x of another dtype": (grid, {"x": torch.rand(7, 2).double()}, TypeError, "x: expected float32"),
    "x of integers": (grid, {"x": torch.ones(7, 2, dtype=torch.int64)}, TypeError, "x: expected float32"),
    "x complex": (mlp, {"x": torch.ones(7, 6, dtype=torch.complex64)}, TypeError, "x: expected float32"),
    "x half": (field, {"x": torch.rand(7, 2).half()}, TypeError, "x: expected float32"),
    "x elsewhere": (field, {"x": torch.rand(7, 2, device="meta")}, TypeError, "on the CPU, got torch.float32 on meta"),
    "x a list": (grid, {"x": [[0.5, 0.5]]}, TypeError, "x: expected float32 on the CPU, got list"),
    "x a number": (mlp, {"x": torch.tensor(1.0)}, ValueError, "x: expected shape"),
    "x a vector": (mlp, {"x": torch.rand(6)}, ValueError, "x: expected shape"),
    "x with a batch shape": (grid, {"x": torch.rand(2, 7, 2)}, ValueError, "x: expected shape"),
    "x too wide": (field, {"x": torch.rand(7, 3)}, ValueError, r"x: expected shape \(7, 2\), got \(7, 3\)"),
    "x sparse": (mlp, {"x": torch.eye(6).to_sparse()}, TypeError, "x: expected numbers that lie in memory"),
    "x to be negated": (mlp, {"x": imaginary}, TypeError, "x: expected .* resolve_neg"),
    "table too short": (grid, {"table": torch.rand(N_ENTRIES - 1, 2)}, ValueError, "table: expected shape"),
    "table of another dtype": (field, {"table": torch.rand(N_ENTRIES, 2).double()}, TypeError, "table: expected"),
    "table elsewhere": (grid, {"table": torch.rand(N_ENTRIES, 2, device="meta")}, TypeError, "table: expected"),
    "table of vectors": (grid, {"table": torch.rand(N_ENTRIES)}, ValueError, "table: expected an"),
    "table a list": (grid, {"table": [1.0]}, ValueError, "table: expected an .* got list"),
    "table without features": (grid, {"table": torch.rand(N_ENTRIES, 0)}, ValueError, "n_features: "),
    "table with many features": (grid, {"table": torch.rand(N_ENTRIES, 65)}, ValueError, "n_features: "),
    "no levels": (grid, {"levels": []}, ValueError, "levels: expected at least one"),
    "unknown interpolation": (grid, {"interpolation": "Cubic"}, ValueError, "interpolation: .* no 'Cubic'"),
    "a missing layer": (mlp, {"weights": [torch.rand(5, 6)]}, ValueError, "weights: expected 2 tensors, got 1"),
    "a transposed layer": (mlp, {"weights": layers(torch.rand(6, 5))}, ValueError, r"weights\[0\]: expected shape"),
    "a layer of doubles": (mlp, {"weights": layers(torch.rand(5, 6).double())}, TypeError, r"weights\[0\]: expected"),
    "a layer elsewhere": (mlp, {"weights": layers(torch.rand(5, 6, device="meta"))}, TypeError, r"weights\[0\]"),
    "a layer that is none": (mlp, {"weights": layers(None)}, TypeError, r"weights\[0\]: .* got NoneType"),
    "missing biases": (mlp, {"biases": []}, ValueError, "biases: expected 2 tensors, got 0"),
    "unwanted biases": (mlp, {"has_bias": False}, ValueError, "biases: expected 0 tensors, got 2"),
    "a bias too long": (mlp, {"biases": [torch.rand(5), torch.rand(4)]}, ValueError, r"biases\[1\]: expected shape"),
    "unknown activation": (mlp, {"activation": "Swish"}, ValueError, "activation: .* no 'Swish'"),
    "unknown output activation": (mlp, {"output_activation": "?"}, ValueError, "output_activation: "),
    "scales for other outputs": (mlp, {"output_scale": (1.0,), "output_offset": (0.0,)}, ValueError, "output_scale"),
    "no widths": (mlp, {"widths": ()}, ValueError, "widths: expected"),
    "no layers": (mlp, {"widths": (6,), "weights": [], "biases": []}, ValueError, "widths: expected"),
    "a network of another width": (field, {"widths": (5, 3)}, ValueError, "widths: the network must read as many"),
    "a grid of five dimensions": (
        field, {"x": torch.rand(7, 5), "grid_shape": GridShape(LEVELS, 5, 2)}, ValueError, "n_dims: "),
    "levels of other dimensions": (
        field, {"x": torch.rand(7, 3), "grid_shape": GridShape(LEVELS, 3, 2)}, ValueError, "levels: one multiplier"),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_call_is_an_error_that_names_the_argument(name: str) -> None:
    call, arguments, error, message = CALLS[name]
    with pytest.raises(error, match=message):
        call(**arguments)


def test_the_calls_above_are_right_but_for_one_argument() -> None:
    assert grid().shape == (7, 6)
    assert mlp().shape == (7, 3)
    assert field().shape == (7, 3)
    assert mlp(x=imaginary.resolve_neg()).shape == (1, 3)


# ---- past the door: the compiled module itself refuses counts that cannot be


def native_grid(*, level: tuple[Any, ...] = (3.0, 16, 0, False, [1, 4]), n_dims: int = 2, n_features: int = 2) -> Any:
    whole = (*level, level[0]) if len(level) == 5 else level  # the last axis has a scale of its own
    return cpu_door.native().Grid(n_dims, n_features, "Linear", [whole])


def native_mlp(widths: list[int]) -> Any:
    return cpu_door.native().Mlp(widths, "ReLU", 0.0, 0.0, "None", 0.0, [], [], False)


def grid_forward(n: int, n_threads: int = 1) -> None:
    x, table, out = torch.rand(7, 2), torch.rand(16, 2), torch.empty(7, 2)
    cpu_door.native().grid_forward(native_grid(), table.data_ptr(), x.data_ptr(), n, out.data_ptr(), n_threads)


def field_forward(n_weights: int = 2, n_biases: int = 0, n: int = 7, widths: tuple[int, ...] = (2, 4, 1)) -> None:
    x, out = torch.rand(7, 2), torch.empty(7, 1)
    weights = [torch.rand(b, a) for a, b in itertools.pairwise(widths)]
    addresses = [weight.data_ptr() for weight in weights] + [weights[0].data_ptr()] * 2
    where = cpu_door.native().Addresses(0, addresses[:n_weights], addresses[:n_biases])
    cpu_door.native().field_forward(None, native_mlp(list(widths)), where, x.data_ptr(), n, out.data_ptr(), 1)


NONSENSE: dict[str, tuple[Callable[[], Any], tuple[type[Exception], ...], str]] = {
    "negative n": (lambda: grid_forward(-1), (ValueError,), "n: expected"),
    "more points than memory": (lambda: grid_forward(2**62), (ValueError,), "n: expected"),
    "n beyond 64 bits": (lambda: grid_forward(2**70), (TypeError,), "incompatible"),
    "no threads": (lambda: grid_forward(7, 0), (ValueError,), "n_threads: expected"),
    "negative threads": (lambda: grid_forward(7, -3), (ValueError,), "n_threads: expected"),
    "a million threads": (lambda: grid_forward(7, 10**6), (ValueError,), "n_threads: expected"),
    "negative n of a field": (lambda: field_forward(n=-1), (ValueError,), "n: expected"),
    "an address too few": (lambda: field_forward(1), (ValueError,), "weights: one address a layer"),
    "an address too many": (lambda: field_forward(3), (ValueError,), "weights: one address a layer"),
    "addresses of no biases": (lambda: field_forward(2, 2), (ValueError,), "biases: one address a layer"),
    "a negative address": (lambda: cpu_door.native().Addresses(-1, [], []), (TypeError,), "incompatible"),
    "a width of none": (lambda: native_mlp([2, 0, 1]), (ValueError,), "widths: "),
    "a negative width": (lambda: native_mlp([2, -4, 1]), (ValueError,), "widths: "),
    "a width beyond all": (lambda: native_mlp([2, 2**16 + 1, 1]), (ValueError,), "widths: "),
    "too many layers": (lambda: native_mlp([2] * 66), (ValueError,), "widths: "),
    "no dimensions": (lambda: native_grid(n_dims=0), (ValueError,), "n_dims: "),
    "no features": (lambda: native_grid(n_features=0), (ValueError,), "n_features: "),
    "a level of no entries": (lambda: native_grid(level=(3.0, 0, 0, False, [1, 4])), (ValueError,), "levels: sizes"),
    "a level of too many": (lambda: native_grid(level=(3.0, 2**62, 0, True, [1, 4])), (ValueError,), "levels: sizes"),
    "a negative offset": (lambda: native_grid(level=(3.0, 16, -8, False, [1, 4])), (ValueError,), "levels: offsets"),
    "an offset beyond all": (lambda: native_grid(level=(3.0, 16, 2**62, False, [1, 4])), (ValueError,), "offsets"),
    "a negative scale": (lambda: native_grid(level=(-9.0, 16, 0, False, [1, 4])), (ValueError,), "levels: scales"),
    "no scale": (lambda: native_grid(level=(float("nan"), 16, 0, False, [1, 4])), (ValueError,), "levels: scales"),
    "a multiplier too few": (lambda: native_grid(level=(3.0, 16, 0, False, [1])), (ValueError,), "one multiplier"),
    "half a level": (lambda: native_grid(level=(3.0, 16)), (ValueError,), "levels: each is"),
}  # fmt: skip


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_past_the_door_is_an_error_too(name: str) -> None:
    call, error, message = NONSENSE[name]
    with pytest.raises(error, match=message):
        call()


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or "asan" in os.environ.get("LD_PRELOAD", ""),
    reason="no device: needs a system that limits a process's memory",
)
def test_no_memory_is_an_error_and_the_next_call_is_well() -> None:
    import resource

    x = torch.rand(4)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (2**41, limits[1]))  # so that no machine tries
    try:
        with pytest.raises(MemoryError):
            cpu_door.native().grid_backward(
                native_grid(), x.data_ptr(), x.data_ptr(), 2**39, x.data_ptr(), 0, x.data_ptr(), 1
            )
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert grid().shape == (7, 6)
