"""A grid and the network that reads it as one operation, where a backend has it.

The features between the two are then never written to memory. The function is that of the two modules one after the
other, which stays the reference and gives the second derivatives.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fieldforge.backends import offer, provide, use_backend
from fieldforge.encodings.grid import Grid, grid
from fieldforge.fields.networks.mlp import MLP
from fieldforge.kernels import cpu_ops


def apply(encoding: nn.Module, network: nn.Module, x: Tensor) -> Tensor:
    """network(encoding(x)), by the fastest way that the backend in force offers.

    Args:
        encoding: (n_input_dims) coordinates to features.
        network: features to numbers.
        x: (*batch, n_input_dims).

    Returns:
        (*batch, n_output_dims).
    """
    run = offer("grid + mlp", x.device, encoding=encoding, network=network, x_dtype=x.dtype)
    if run is None:
        out: Tensor = network(encoding(x))
        return out
    out = run(encoding, network, x.reshape(-1, x.shape[-1]))
    return out.view(*x.shape[:-1], out.shape[-1])


def shapes(encoding: nn.Module, network: nn.Module) -> tuple[cpu_ops.GridShape, cpu_ops.MlpShape] | str:
    """What the native kernels need to know of a pair of modules, or the reason why they cannot run it."""
    if type(encoding) is not Grid:
        return f"it needs a Grid, not {getattr(encoding, 'otype', type(encoding).__name__)}"
    if type(network) is not MLP:
        return f"it needs an MLP, not {getattr(network, 'otype', type(network).__name__)}"
    described = cpu_ops.describe_mlp(network)
    if isinstance(described, str):
        return described
    if any(parameter.dtype != torch.float32 for parameter in (encoding.table, *network.parameters())):
        return "it is in float32 only"
    levels = tuple(encoding.levels)
    grid_shape = cpu_ops.GridShape(levels, encoding.n_input_dims, encoding.n_features_per_level, encoding.interpolation)
    return grid_shape, described


def _refuses(*, encoding: nn.Module, network: nn.Module, x_dtype: torch.dtype) -> str | None:
    if x_dtype != torch.float32:
        return f"it is in float32 only, not {x_dtype}"
    found = shapes(encoding, network)
    return found if isinstance(found, str) else None


@provide("grid + mlp", "reference")
def _one_after_the_other(encoding: nn.Module, network: nn.Module, x: Tensor) -> Tensor:
    out: Tensor = network(encoding(x))
    return out


@provide("grid + mlp", "cpu", missing=cpu_ops.missing, refuses=_refuses)
def _native(encoding: Grid, network: MLP, x: Tensor) -> Tensor:
    found = shapes(encoding, network)
    assert not isinstance(found, str), found
    weights, biases = cpu_ops.parameters_of(network)

    def reference(x: Tensor, table: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
        named = {f"layers.{i}.weight": weight for i, weight in enumerate(weights)}
        named |= {f"layers.{i}.bias": bias for i, bias in enumerate(biases)}
        with use_backend("reference"):
            out: Tensor = functional_call(network, named, grid(x, table, encoding.levels, encoding.interpolation))
        return out

    return cpu_ops.field(x, encoding.table, found[0], weights, biases, found[1], reference=reference)
