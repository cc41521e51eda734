"""tiny-cuda-nn's parameter vectors: which number of a flat vector is which parameter of ours, both ways.

    vector = pack(field.encoding, field.network)        # as tinycudann.NetworkWithInputEncoding(...).params
    unpack(vector, field.encoding, field.network)

The layout (tiny-cuda-nn, network_with_input_encoding.h, fully_fused_mlp.cu, encodings/*.h): first the matrices of the
network, one after the other, each row-major (n_out, n_in) with neither biases nor gaps; then the parameters of the
encoding, which only grids have, level by level, row by row.

The features that the first matrix reads are padded to a multiple of 16, and so are the rows of the last one, whose
outputs beyond ours nobody reads. What stands in a padded feature is the encoding's to say: 0 behind a grid, 1 behind
all others. A column that reads 1 is a bias of the first layer, and is read as one. Inside a Composite the parts before
a grid are padded to the grid's features per level. Older versions pad CutlassMLP to 8.

A sine is sin(z) there: our omega is multiplied into the matrices. Packing is differentiable, so that a module that
takes the vector trains our parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fieldforge.checks import expect_choice
from fieldforge.devices import constant
from fieldforge.encodings.composite import Composite
from fieldforge.encodings.frequency import Frequency
from fieldforge.encodings.grid import Grid
from fieldforge.encodings.identity import Identity
from fieldforge.encodings.one_blob import OneBlob
from fieldforge.encodings.one_blob_frequency import OneBlobFrequency
from fieldforge.encodings.spherical_harmonics import SphericalHarmonics
from fieldforge.encodings.triangle_wave import TriangleWave
from fieldforge.fields.activations.sine import Sine
from fieldforge.fields.networks.mlp import MLP

ALIGNMENT = 16
FUSED_WIDTHS = (16, 32, 64, 128)
"""Of the hidden layers of FullyFusedMLP."""

ACTIVATIONS: dict[str, dict[str, float]] = {
    "None": {}, "ReLU": {}, "LeakyReLU": {"slope": 0.01}, "SiLU": {}, "Exponential": {}, "Sigmoid": {}, "Tanh": {},
    "Squareplus": {"beta": 10.0}, "Softplus": {"beta": 10.0},
}  # fmt: skip
"""Activations that tiny-cuda-nn has, with the only values of their numbers there; and Sine, whose omega is folded."""

_LEAVES = (Frequency, Identity, OneBlob, OneBlobFrequency, SphericalHarmonics, TriangleWave)

Column = int | float
"""A feature that the first matrix reads: the number of one of our channels, or a constant, which is a float."""


# ---- what can be said in tiny-cuda-nn's words


def encoding_misfit(encoding: nn.Module) -> str | None:
    """Why tiny-cuda-nn has no such encoding, or None."""
    if type(encoding) is Composite:
        return next((why for part in encoding.parts if (why := encoding_misfit(part)) is not None), None)
    if type(encoding) is Grid:
        return None if encoding.n_input_dims >= 2 else "its grids have 2 to 4 coordinates, not 1"
    if type(encoding) in _LEAVES:
        return None
    return f"it has no encoding {getattr(encoding, 'otype', type(encoding).__name__)}"


def network_misfit(network: nn.Module) -> str | None:
    """Why tiny-cuda-nn has no such network, biases apart, or None."""
    if type(network) is not MLP:
        return f"its networks are MLPs, not {getattr(network, 'otype', type(network).__name__)}"
    if network.input_injection != "none" or network.modulation is not None or network.reparameterisation is not None:
        return "its MLPs have no input injection, modulation or reparameterisation"
    for key in ("activation", "output_activation"):
        one = getattr(network, key)
        said = {name: value for name, value in one.config().items() if name != "otype"}
        if type(one) is not Sine and ACTIVATIONS.get(one.otype) != said:
            return f"it has no {key} {one.otype}{f' with {said}' if said else ''}"
    return None


def encoding_config(encoding: nn.Module) -> dict[str, Any]:
    """tiny-cuda-nn's JSON of an encoding without `encoding_misfit`."""
    config: dict[str, Any] = encoding.config()  # type: ignore[operator]  # an Encoding
    return config


def network_config(network: MLP) -> dict[str, Any]:
    """tiny-cuda-nn's JSON of a network without `network_misfit`."""
    is_fused = network.n_neurons in FUSED_WIDTHS and network.n_hidden_layers > 0
    return {
        "otype": "FullyFusedMLP" if is_fused else "CutlassMLP",
        "n_neurons": network.n_neurons,
        "n_hidden_layers": network.n_hidden_layers,
        "activation": network.activation.otype,
        "output_activation": network.output_activation.otype,
    }


def our_network(config: Mapping[str, Any], *, has_bias: bool) -> dict[str, Any]:
    """Our configuration of a network of tiny-cuda-nn's JSON: without a say in speed, and with its sine.

    Args:
        config: keys of `fieldforge.fields.networks.mlp.MLP` that tiny-cuda-nn has.
        has_bias: whether the first matrix has columns that read a constant.
    """
    known = {key: value for key, value in config.items() if key in ("n_neurons", "n_hidden_layers")}
    for key, otherwise in (("activation", "ReLU"), ("output_activation", "None")):
        name = expect_choice(key, config.get(key, otherwise), (*ACTIVATIONS, "Sine"))
        known[key] = {"otype": "Sine", "omega": 1.0} if name == "Sine" else name
    return {"otype": "MLP", **known, "has_bias": has_bias}


# ---- what the first matrix reads


def columns(encoding: nn.Module, alignment: int = ALIGNMENT) -> list[Column]:
    """What stands in each of the padded features of an encoding, in order.

    Example:
        >>> columns(Identity(2), 4)
        [0, 1, 1.0, 1.0]
    """
    found = _own_columns(encoding)
    return found + [_filling(encoding)] * (-len(found) % math.lcm(alignment, _granularity(encoding)))


def has_constant(read: list[Column]) -> bool:
    """Whether any of the columns reads something but a channel or 0."""
    return any(isinstance(column, float) and column != 0 for column in read)


def _own_columns(encoding: nn.Module) -> list[Column]:
    """Before the padding of the whole."""
    if not isinstance(encoding, Composite):
        return list(range(int(encoding.n_output_dims)))  # type: ignore[arg-type]  # an Encoding
    parts = list(encoding.parts)
    if encoding.reduction != "Concatenation":
        return [*range(encoding.n_output_dims),
                *[_filling(encoding)] * (-encoding.n_output_dims % _granularity(encoding))]  # fmt: skip
    found: list[Column] = []
    first = 0
    for part, following in zip(parts, [*parts[1:], None], strict=True):
        own = _own_columns(part)
        found += [column if isinstance(column, float) else column + first for column in own]
        if following is not None:
            found += [_filling(part)] * (-len(found) % _granularity(following))
        first += int(part.n_output_dims)  # type: ignore[arg-type]
    return found


def _filling(encoding: nn.Module) -> float:
    """What padded features hold."""
    if not isinstance(encoding, Composite):
        return 0.0 if isinstance(encoding, Grid) else 1.0
    each = [_filling(part) for part in encoding.parts]
    return {"Concatenation": each[-1], "Sum": sum(each), "Product": math.prod(each)}[encoding.reduction]


def _granularity(encoding: nn.Module) -> int:
    """The least common multiple of what an encoding's first feature has to stand at a multiple of."""
    if isinstance(encoding, Composite):
        return math.lcm(*(_granularity(part) for part in encoding.parts))
    return encoding.n_features_per_level if isinstance(encoding, Grid) else 1


# ---- vectors


def encoding_size(encoding: nn.Module) -> int:
    """Numbers of a vector that are an encoding's."""
    return sum(parameter.numel() for parameter in encoding.parameters())


def network_size(network: MLP, n_columns: int, *, output_alignment: int = ALIGNMENT) -> int:
    """Numbers of a vector that are a network's."""
    return sum(n_out * n_in for n_out, n_in in shapes_of(network, n_columns, output_alignment))


def pack(encoding: nn.Module, network: MLP, *, alignment: int = ALIGNMENT) -> Tensor:
    """The vector of an encoding and the network behind it, (n,) in the dtype of their parameters; differentiable.

    Raises:
        ValueError: tiny-cuda-nn has no such encoding, network or bias; says which.
    """
    for why in (encoding_misfit(encoding), network_misfit(network)):
        if why is not None:
            raise ValueError(f"tiny-cuda-nn cannot express the field: {why}")
    return torch.cat([pack_network(network, columns(encoding, alignment), output_alignment=alignment),
                      pack_encoding(encoding)])  # fmt: skip


def pack_encoding(encoding: nn.Module) -> Tensor:
    """(n,) of an encoding alone."""
    tables = [parameter.reshape(-1) for parameter in encoding.parameters()]
    return torch.cat(tables) if tables else torch.zeros(0)


def pack_network(network: MLP, read: list[Column], *, output_alignment: int = ALIGNMENT) -> Tensor:
    """(n,) of a network alone, whose first matrix reads these columns."""
    layers = _linear_layers(network)
    biases = [layer.bias for layer in layers]
    if any(bias is not None and bool((bias != 0).any()) for bias in biases[1:]):
        raise ValueError("tiny-cuda-nn has no biases, and a layer of this network behind the first has some")
    matrices = [layer.weight * factor for layer, factor in zip(layers, factors_of(network), strict=True)]
    first, zero = matrices[0], matrices[0].new_zeros(matrices[0].shape[0], 1)
    steady = next((at for at, column in enumerate(read) if isinstance(column, float) and column != 0), None)
    n = first.shape[1]
    index = [n if isinstance(column, float) else column for column in read]
    if biases[0] is not None and (steady is not None or bool((biases[0] != 0).any())):
        if steady is None:
            raise ValueError("tiny-cuda-nn has no biases, and behind this encoding no padded feature that reads 1")
        index[steady] = n + 1
        share = biases[0] * (factors_of(network)[0] / read[steady])
        matrices[0] = torch.cat([first, zero, share[:, None]], 1)
    else:
        matrices[0] = torch.cat([first, zero], 1)
    matrices[0] = matrices[0].index_select(1, constant(tuple(index), torch.int64, first.device))
    rows = -matrices[-1].shape[0] % output_alignment
    matrices[-1] = nn.functional.pad(matrices[-1], (0, 0, 0, rows))
    return torch.cat([matrix.reshape(-1) for matrix in matrices])


def unpack(vector: Tensor, encoding: nn.Module, network: MLP, *, alignment: int = ALIGNMENT) -> None:
    """Fill an encoding and the network behind it, in place, from a vector of any floating-point type.

    Raises:
        ValueError: the vector has another length, or the network lacks the bias that padded features make.
    """
    read = columns(encoding, alignment)
    n = network_size(network, len(read), output_alignment=alignment)
    expected = n + encoding_size(encoding)
    if vector.numel() != expected:
        raise ValueError(f"vector: expected {expected} numbers for this encoding and network, got {vector.numel()}")
    unpack_network(vector[:n], network, read, output_alignment=alignment)
    unpack_encoding(vector[n:], encoding)


@torch.no_grad()
def unpack_encoding(vector: Tensor, encoding: nn.Module) -> None:
    """Fill an encoding in place."""
    begin = 0
    for parameter in encoding.parameters():
        parameter.copy_(vector[begin : begin + parameter.numel()].view_as(parameter))
        begin += parameter.numel()


@torch.no_grad()
def unpack_network(vector: Tensor, network: MLP, read: list[Column], *, output_alignment: int = ALIGNMENT) -> None:
    """Fill a network in place; a column that reads a constant is added to the first layer's bias."""
    begin = 0
    shapes = shapes_of(network, len(read), output_alignment)
    for index, ((n_out, n_in), layer, factor) in enumerate(
        zip(shapes, _linear_layers(network), factors_of(network), strict=True)
    ):
        matrix = vector[begin : begin + n_out * n_in].view(n_out, n_in).to(layer.weight.dtype)[: layer.weight.shape[0]]
        begin += n_out * n_in
        if layer.bias is not None:
            layer.bias.zero_()
        if index > 0:
            layer.weight.copy_(matrix / factor)
            continue
        for at, column in enumerate(read):
            if isinstance(column, int):
                layer.weight[:, column] = matrix[:, at] / factor
            elif column != 0 and layer.bias is not None:
                layer.bias.add_(matrix[:, at] * (column / factor))
            elif column != 0:
                raise ValueError("network: padded features read a constant here, and it has no bias; give has_bias")


def _linear_layers(network: MLP) -> list[nn.Linear]:
    return [layer for layer in network.layers if isinstance(layer, nn.Linear)]


def shapes_of(network: MLP, n_columns: int, output_alignment: int = ALIGNMENT) -> list[tuple[int, int]]:
    """(n_out, n_in) of every matrix, padded."""
    n_hidden, width = network.n_hidden_layers, network.n_neurons
    n_out = -(-network.n_output_dims // output_alignment) * output_alignment
    if n_hidden == 0:
        return [(n_out, n_columns)]
    return [(width, n_columns), *[(width, width)] * (n_hidden - 1), (n_out, width)]


def factors_of(network: MLP) -> list[float]:
    """What the weights of each layer are multiplied by there: the frequency of the sine that follows."""
    n = network.n_hidden_layers
    hidden = network.activation
    found = [hidden.factor(index == 0) if isinstance(hidden, Sine) else 1.0 for index in range(n)]
    last = network.output_activation
    return [*found, last.factor(False) if isinstance(last, Sine) else 1.0]
