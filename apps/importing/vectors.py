"""Flat parameter vectors to fields of ours, and back: tiny-cuda-nn's, and those inside instant-ngp's snapshots.

A picture or a shape is a network behind an encoding, `fields/tcnn.py`. A radiance field of instant-ngp is four parts:
the network of densities, that of colours, the encoding of places, that of directions, in this order (nerf_network.h).
The colour network reads all padded outputs of the first, then the padded code of the direction.

Nothing is allocated before the vector's length is what the configuration asks for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fieldforge.apps.fit.config import validate
from fieldforge.encodings.base import Encoding
from fieldforge.fields import tcnn
from fieldforge.fields.kinds.radiance import RadianceField
from fieldforge.fields.networks.mlp import MLP
from fieldforge.registry import ConfigError, build

ALIGNMENTS = (16, 8)
"""To what CutlassMLP was padded, newest first; FullyFusedMLP always to the first."""


@dataclass(frozen=True)
class Model:
    """A network behind an encoding, as configurations, and what of a vector is theirs."""

    encoding: dict[str, Any]
    network: dict[str, Any]
    alignment: int
    n_numbers: int


@dataclass(frozen=True)
class RadianceModel:
    """The four parts of a radiance field, as configurations, and to what their features are padded."""

    encoding: dict[str, Any]
    network: dict[str, Any]
    dir_encoding: dict[str, Any]
    rgb_network: dict[str, Any]
    n_geometry: int
    alignments: tuple[int, int, int]
    """Of the places' features, of the directions' features, of networks' outputs."""
    n_numbers: int


def checked(config: Mapping[str, Any], sections: tuple[str, ...]) -> tuple[dict[str, Any], list[str]]:
    """These sections of a JSON configuration of tiny-cuda-nn, and notices of what was left out.

    Raises:
        ConfigError: one of them is missing, or cannot be built.
    """
    missing = [name for name in sections if not isinstance(config.get(name), Mapping)]
    if missing:
        raise ConfigError(f"{missing[0]}: the configuration has no such section; needed are {', '.join(sections)}")
    own = {
        name: {key: value for key, value in config[name].items() if key not in ("n_input_dims", "n_output_dims")}
        for name in sections
    }
    return validate(own, is_tcnn=True)


def model_of(config: Mapping[str, Any], n_inputs: int, n_outputs: int, n_numbers: int) -> Model:
    """What a vector of so many numbers holds: an encoding of n_inputs coordinates and a network of n_outputs.

    Raises:
        ConfigError: it is another number than `config` asks for.
    """
    encoding = _skeleton(config["encoding"], n_inputs)
    found = []
    for alignment in _alignments(config["network"]):
        read = tcnn.columns(encoding, alignment)
        ours = tcnn.our_network(config["network"], has_bias=tcnn.has_constant(read))
        network = _skeleton_of_network(ours, encoding.n_output_dims, n_outputs)
        n = tcnn.network_size(network, len(read), output_alignment=alignment) + tcnn.encoding_size(encoding)
        if n == n_numbers:
            return Model(config["encoding"], ours, alignment, n)
        found.append(n)
    raise _wrong_length(found, n_numbers)


def fill_model(vector: Tensor, encoding: Encoding, network: MLP, model: Model) -> None:
    """Put a vector into parts that were built from `model`."""
    tcnn.unpack(vector, encoding, network, alignment=model.alignment)


def radiance_of(config: Mapping[str, Any], n_geometry: int, n_numbers: int) -> RadianceModel:
    """What a vector of so many numbers holds: the four parts of a radiance field.

    Args:
        config: sections encoding, network, dir_encoding, rgb_network, checked.
        n_geometry: outputs of the first network, before padding.
        n_numbers: of the vector.

    Raises:
        ConfigError: it is another number than `config` asks for.
    """
    encoding, dir_encoding = _skeleton(config["encoding"], 3), _skeleton(config["dir_encoding"], 3)
    is_fused = str(config["network"].get("otype", "MLP")).lower() in ("fullyfusedmlp", "megakernelmlp")
    found = []
    for of_directions in _alignments(config["rgb_network"]):
        for of_outputs in _alignments(config["network"]):
            of_places = 16 if is_fused else 8
            padded = -(-n_geometry // of_outputs) * of_outputs
            read = tcnn.columns(encoding, of_places)
            network = tcnn.our_network(config["network"], has_bias=tcnn.has_constant(read))
            colors = _color_columns(dir_encoding, padded, of_directions)
            rgb_network = tcnn.our_network(config["rgb_network"], has_bias=tcnn.has_constant(colors))
            first = _skeleton_of_network(network, encoding.n_output_dims, padded)
            second = _skeleton_of_network(rgb_network, padded + dir_encoding.n_output_dims, 3)
            n = (
                tcnn.network_size(first, len(read), output_alignment=of_outputs)
                + tcnn.network_size(second, len(colors), output_alignment=of_directions)
                + tcnn.encoding_size(encoding)
                + tcnn.encoding_size(dir_encoding)
            )
            if n == n_numbers:
                return RadianceModel(
                    config["encoding"], network, config["dir_encoding"], rgb_network, padded,
                    (of_places, of_directions, of_outputs), n,
                )  # fmt: skip
            found.append(n)
    raise _wrong_length(found, n_numbers)


def fill_radiance(vector: Tensor, field: RadianceField, model: RadianceModel) -> None:
    """Put a vector into a field that was built from `model`."""
    assert isinstance(field.network, MLP)
    assert isinstance(field.rgb_network, MLP)
    of_places, of_directions, of_outputs = model.alignments
    read = tcnn.columns(field.encoding, of_places)
    colors = _color_columns(field.dir_encoding, model.n_geometry, of_directions)
    begin = 0
    for network, own, alignment in ((field.network, read, of_outputs), (field.rgb_network, colors, of_directions)):
        n = tcnn.network_size(network, len(own), output_alignment=alignment)
        tcnn.unpack_network(vector[begin : begin + n], network, own, output_alignment=alignment)
        begin += n
    for encoding in (field.encoding, field.dir_encoding):
        n = tcnn.encoding_size(encoding)
        tcnn.unpack_encoding(vector[begin : begin + n], encoding)
        begin += n


def pack_radiance(field: RadianceField) -> Tensor:
    """The vector of a radiance field, as instant-ngp keeps it, for its NerfNetwork of `radiance_config`.

    Raises:
        ValueError: instant-ngp has no such field; says why.
    """
    for name, network in (("network", field.network), ("rgb_network", field.rgb_network)):
        if (why := tcnn.network_misfit(network)) is not None:
            raise ValueError(f"tiny-cuda-nn cannot express {name}: {why}")
    for name, encoding in (("encoding", field.encoding), ("dir_encoding", field.dir_encoding)):
        if (why := tcnn.encoding_misfit(encoding)) is not None:
            raise ValueError(f"tiny-cuda-nn cannot express {name}: {why}")
    if field.rgb_encoding is not None or field.appearance or field.has_time or field.space.otype != "Box":
        raise ValueError("instant-ngp has no second encoding, vectors of photos, time or contraction in a field")
    assert isinstance(field.network, MLP)
    assert isinstance(field.rgb_network, MLP)
    if field.n_geometry % 16:
        raise ValueError(f"n_geometry: instant-ngp's colours read a multiple of 16 numbers, not {field.n_geometry}")
    is_fused = tcnn.network_config(field.network)["otype"] == "FullyFusedMLP"
    read = tcnn.columns(field.encoding, 16 if is_fused else 8)
    colors = _color_columns(field.dir_encoding, field.n_geometry, 16)
    return torch.cat([
        tcnn.pack_network(field.network, read), tcnn.pack_network(field.rgb_network, colors),
        tcnn.pack_encoding(field.encoding), tcnn.pack_encoding(field.dir_encoding),
    ])  # fmt: skip


def radiance_config(field: RadianceField) -> dict[str, Any]:
    """instant-ngp's JSON of a field that `pack_radiance` packs."""
    assert isinstance(field.network, MLP)
    assert isinstance(field.rgb_network, MLP)
    return {
        "encoding": tcnn.encoding_config(field.encoding),
        "network": tcnn.network_config(field.network) | {"n_output_dims": field.n_geometry},
        "dir_encoding": tcnn.encoding_config(field.dir_encoding),
        "rgb_network": tcnn.network_config(field.rgb_network),
    }


def _color_columns(dir_encoding: Encoding, n_geometry: int, alignment: int) -> list[tcnn.Column]:
    """What the colour network reads: the first network's outputs, then the padded code of the direction."""
    behind = tcnn.columns(dir_encoding, alignment)
    shifted = [column if isinstance(column, float) else column + n_geometry for column in behind]
    read: list[tcnn.Column] = [*range(n_geometry), *shifted]
    return read + [0.0] * (-len(read) % alignment)


def _alignments(network: Mapping[str, Any]) -> tuple[int, ...]:
    is_fused = str(network.get("otype", "MLP")).lower() in ("fullyfusedmlp", "megakernelmlp")
    return ALIGNMENTS[:1] if is_fused else ALIGNMENTS


def _skeleton(config: Mapping[str, Any], n_inputs: int) -> Encoding:
    """An encoding without memory.

    Raises:
        ConfigError: it cannot be built, or tiny-cuda-nn has none of that name.
    """
    with torch.device("meta"):
        encoding: Encoding = build("encoding", config, path="encoding", n_input_dims=n_inputs)
    if (why := tcnn.encoding_misfit(encoding)) is not None:
        raise ConfigError(f"encoding: not of tiny-cuda-nn: {why}")
    return encoding


def _skeleton_of_network(config: Mapping[str, Any], n_inputs: int, n_outputs: int) -> MLP:
    """A network without memory."""
    with torch.device("meta"):
        network: MLP = build("network", config, path="network", n_input_dims=n_inputs, n_output_dims=n_outputs)
    return network


def _wrong_length(asked: list[int], n_numbers: int) -> ConfigError:
    said = " or ".join(f"{n:,}" for n in dict.fromkeys(asked))
    return ConfigError(f"parameters: the configuration asks for {said} numbers, and the file holds {n_numbers:,}")
