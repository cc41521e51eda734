"""An encoding and its network as one call of tinycudann, where it is installed and half precision is asked for.

Its fused networks compute in half precision, which is another function to three digits; so they run inside
``torch.autocast("cuda")``, where that is what was asked for, and nowhere else. Our parameters are packed into its flat
vector (`fieldforge.fields.tcnn`) with each call, and gradients come back through the packing.
"""

from __future__ import annotations

import json
from functools import cache

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fieldforge.backends import provide
from fieldforge.fields import tcnn
from fieldforge.fields.networks.mlp import MLP
from fieldforge.kernels import guests


def refuses(*, encoding: nn.Module, network: nn.Module, x_dtype: torch.dtype) -> str | None:
    if not torch.is_autocast_enabled("cuda"):
        return "tinycudann computes in half precision, and torch.autocast('cuda') is not on"
    why = tcnn.encoding_misfit(encoding) or tcnn.network_misfit(network)
    if why is not None:
        return f"tinycudann: {why}"
    if getattr(network, "has_bias", False):
        return "tinycudann has no biases"
    return None if x_dtype.is_floating_point else f"points are {x_dtype}"


@provide("field", "cuda", missing=guests.missing_as("tinycudann"), refuses=refuses, note=guests.note_of("tinycudann"),
         maker="tinycudann")  # fmt: skip
def field_by_tinycudann(encoding: nn.Module, network: MLP, x: Tensor) -> Tensor:
    """(N, d) -> (N, n_output_dims) in the dtype of the parameters."""
    if not len(x):  # its kernels take no empty batch
        out: Tensor = network(encoding(x))
        return out
    configs = json.dumps([tcnn.encoding_config(encoding), tcnn.network_config(network)])
    with guests.there(x):
        made = _module(configs, int(x.shape[-1]), network.n_output_dims, str(x.device))
    with torch.autocast("cuda", enabled=False):
        vector = tcnn.pack(encoding, network)

        def run(x: Tensor, vector: Tensor) -> Tensor:
            found: Tensor = functional_call(made, {"params": vector}, (x.float(),))
            return found.to(vector.dtype)

        def plain(x: Tensor, vector: Tensor) -> Tensor:
            return _unpacked(encoding, network, x, vector)

        return guests.differentiable(run, plain, x, vector)


def _unpacked(encoding: nn.Module, network: MLP, x: Tensor, vector: Tensor) -> Tensor:
    """network(encoding(x)) of the parameters in a vector, differentiable in it: what has second derivatives."""
    read = tcnn.columns(encoding)
    named, begin = dict[str, Tensor](), 0
    for index, (n_out, n_in) in enumerate(tcnn.shapes_of(network, len(read))):
        matrix = vector[begin : begin + n_out * n_in].view(n_out, n_in) / tcnn.factors_of(network)[index]
        begin += n_out * n_in
        if index == 0:
            matrix = matrix[:, [at for at, column in enumerate(read) if isinstance(column, int)]]
        named[f"layers.{index}.weight"] = matrix[: network.layers[index].weight.shape[0]]  # type: ignore[index]
    tables = dict[str, Tensor]()
    for name, parameter in encoding.named_parameters():
        tables[name] = vector[begin : begin + parameter.numel()].view_as(parameter)
        begin += parameter.numel()
    features: Tensor = functional_call(encoding, tables, (x,))
    out: Tensor = functional_call(network, named, (features,))
    return out


@cache
def _module(configs: str, n_input_dims: int, n_output_dims: int, device: str) -> nn.Module:
    """The package's module, whose own parameters nobody reads."""
    encoding, network = json.loads(configs)
    make = guests.module("tinycudann").NetworkWithInputEncoding
    made: nn.Module = make(n_input_dims, n_output_dims, encoding, network)
    return made.requires_grad_(False)
