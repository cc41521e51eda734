"""An encoding and the network that reads it as one operation, where a backend has it.

A grid and its network run in one call, and the features between them are never written to memory; so do the encodings
of `cpu_encodings` and composites of them. After any other, and after Identity, which is one pass over the coordinates,
the network alone is native. The function is that of the two modules one after the other, which stays the reference and
gives the derivatives that are not native.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fieldforge.backends import offer, provide
from fieldforge.encodings.grid import Grid, grid
from fieldforge.encodings.identity import Identity
from fieldforge.fields.networks.mlp import MLP
from fieldforge.kernels import cpu_door, cpu_encodings, cpu_ops
from fieldforge.kernels.triton import door as triton_door
from fieldforge.kernels.triton import mlp as triton_mlp

EncodingShape = cpu_ops.GridShape | cpu_encodings.EncodingShape


def apply(encoding: nn.Module, network: nn.Module, x: Tensor) -> Tensor:
    """network(encoding(x)), by the fastest way that the backend in force offers.

    Args:
        encoding: (n_input_dims) coordinates to features.
        network: features to numbers.
        x: (*batch, n_input_dims).

    Returns:
        (*batch, n_output_dims).
    """
    run = offer("field", x.device, encoding=encoding, network=network, x_dtype=x.dtype)
    if run is None:
        return read(network, encoding(x), x)
    out = run(encoding, network, x.reshape(-1, x.shape[-1]))
    return out.view(*x.shape[:-1], out.shape[-1])


def read(network: nn.Module, features: Tensor, x: Tensor) -> Tensor:
    """What a network makes of features; one with a modulation is told their places x too.

    Args:
        network: features to numbers.
        features: (*batch, n_features).
        x: (*batch, n_coordinates), where they are.
    """
    modulation = getattr(network, "modulation", None)
    out: Tensor = network(features) if modulation is None else network(features, modulate=modulation.at(x))
    return out


def shapes(encoding: nn.Module, network: nn.Module) -> tuple[EncodingShape | None, cpu_ops.MlpShape] | str:
    """What the native kernels need to know of a pair of modules, or why they cannot run it.

    The encoding is None where it runs before the kernels do.
    """
    if type(network) is not MLP:
        return f"it needs an MLP, not {getattr(network, 'otype', type(network).__name__)}"
    described = cpu_ops.describe_mlp(network)
    if isinstance(described, str):
        return described
    if any(parameter.dtype != torch.float32 for module in (encoding, network) for parameter in module.parameters()):
        return "it is in float32 only"
    if not isinstance(encoding, Grid):
        if type(encoding) is Identity:
            return None, described
        joined = cpu_encodings.describe_encoding(encoding)
        return None if isinstance(joined, str) else joined, described
    levels = tuple(encoding.levels)
    grid_shape = cpu_ops.GridShape(levels, encoding.n_input_dims, encoding.n_features_per_level, encoding.interpolation)
    return grid_shape, described


def with_parameters(network: MLP) -> Callable[[Tensor, Sequence[Tensor], Sequence[Tensor]], Tensor]:
    """(features, weights, biases) -> the network with these in the place of its own."""

    def network_of(features: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
        named = {f"layers.{i}.weight": weight for i, weight in enumerate(weights)}
        named |= {f"layers.{i}.bias": bias for i, bias in enumerate(biases)}
        out: Tensor = functional_call(network, named, features)
        return out

    return network_of


def _refuses(*, encoding: nn.Module, network: nn.Module, x_dtype: torch.dtype) -> str | None:
    if x_dtype != torch.float32:
        return f"it is in float32 only, not {x_dtype}"
    found = shapes(encoding, network)
    return found if isinstance(found, str) else None


@provide("field", "reference")
def _one_after_the_other(encoding: nn.Module, network: nn.Module, x: Tensor) -> Tensor:
    return read(network, encoding(x), x)


@provide("field", "cpu", missing=cpu_door.missing, refuses=_refuses)
def _native(encoding: nn.Module, network: MLP, x: Tensor) -> Tensor:
    found = shapes(encoding, network)
    assert not isinstance(found, str), found
    encoding_shape, mlp_shape = found
    weights, biases = cpu_ops.parameters_of(network)
    network_of = with_parameters(network)
    if encoding_shape is None:
        return cpu_ops.mlp(encoding(x), weights, biases, mlp_shape, reference=network_of)
    if isinstance(encoding_shape, cpu_encodings.EncodingShape):
        return cpu_encodings.encoded_field(encoding, network, x, (encoding_shape, mlp_shape), network_of)
    assert isinstance(encoding, Grid)
    levels, interpolation = encoding.levels, encoding.interpolation

    def field_of(x: Tensor, table: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
        return network_of(grid(x, table, levels, interpolation), weights, biases)

    return cpu_ops.field(x, encoding.table, encoding_shape, weights, biases, mlp_shape, reference=field_of)


def _shape_on_cuda(network: nn.Module) -> cpu_ops.MlpShape | str:
    if type(network) is not MLP:
        return f"it needs an MLP, not {getattr(network, 'otype', type(network).__name__)}"
    assert isinstance(network, MLP)
    if network.input_injection != "none" or network.modulation is not None or network.reparameterisation is not None:
        return "the network is not plain: it has injected inputs, a modulation or a reparameterisation"
    widths = (network.n_input_dims, *[network.width] * network.n_hidden_layers, network.n_output_dims)
    return triton_mlp.describe(network, widths)


def _refuses_on_cuda(*, encoding: nn.Module, network: nn.Module, x_dtype: torch.dtype) -> str | None:
    found = _shape_on_cuda(network)
    return found if isinstance(found, str) else triton_mlp.refuses(x_dtype, list(network.parameters()))


@provide("field", "cuda", missing=triton_door.missing, refuses=_refuses_on_cuda, note=triton_door.description)
def _on_cuda(encoding: nn.Module, network: MLP, x: Tensor) -> Tensor:
    """The encoding by whatever runs it, and the network in one kernel."""
    shape = _shape_on_cuda(network)
    assert not isinstance(shape, str), shape
    return triton_mlp.mlp(encoding(x), *cpu_ops.parameters_of(network), shape, reference=with_parameters(network))
