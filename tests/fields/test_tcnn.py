"""tiny-cuda-nn's flat vectors: the same function as reading the vector number by number, both ways."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from reference.snapshots import mlp

from fieldforge.encodings.base import Encoding
from fieldforge.fields import tcnn
from fieldforge.fields.networks.mlp import MLP
from fieldforge.registry import build


def encoding_of(config: dict[str, Any], n_inputs: int) -> Encoding:
    encoding: Encoding = build(
        "encoding", config, n_input_dims=n_inputs, generator=torch.Generator().manual_seed(0)
    )  # fmt: skip
    return encoding


HASH = {"otype": "HashGrid", "n_levels": 3, "log2_hashmap_size": 5, "base_resolution": 2}
CASES: list[tuple[dict[str, Any], int, list[tcnn.Column]]] = [
    (HASH, 2, [0, 1, 2, 3, 4, 5, *[0.0] * 10]),
    ({"otype": "Identity"}, 3, [0, 1, 2, *[1.0] * 13]),
    ({"otype": "Frequency", "n_frequencies": 4}, 2, list(range(16))),
    ({"otype": "SphericalHarmonics", "degree": 2}, 3, [0, 1, 2, 3, *[1.0] * 12]),
    ({"otype": "Composite", "nested": [{"otype": "Identity", "n_dims_to_encode": 1}, HASH]}, 3,
     [0, 1.0, 1, 2, 3, 4, 5, 6, *[0.0] * 8]),
    ({"otype": "Composite", "nested": [HASH | {"n_dims_to_encode": 2}, {"otype": "Identity"}]}, 3,
     [0, 1, 2, 3, 4, 5, 6, *[1.0] * 9]),
    ({"otype": "Composite", "reduction": "Sum", "nested": [
        {"otype": "Identity", "n_dims_to_encode": 2}, {"otype": "Identity", "scale": 2.0, "n_dims_to_encode": 2}]}, 4,
     [0, 1, *[2.0] * 14]),
]  # fmt: skip
"""Configuration, coordinates, and what stands in its padded features by tiny-cuda-nn's source."""


@pytest.mark.parametrize(("config", "n_inputs", "expected"), CASES)
def test_padded_features_hold_what_the_encoding_says(
    config: dict[str, Any], n_inputs: int, expected: list[tcnn.Column]
) -> None:
    found = tcnn.columns(encoding_of(config, n_inputs))
    assert found == expected
    assert [type(one) for one in found] == [type(one) for one in expected]


@pytest.mark.parametrize(("config", "n_inputs", "_"), CASES)
def test_a_vector_read_number_by_number_is_the_same_network(
    config: dict[str, Any], n_inputs: int, _: list[tcnn.Column]
) -> None:
    encoding = encoding_of(config, n_inputs)
    read = tcnn.columns(encoding)
    network = MLP(encoding.n_output_dims, 5, n_neurons=16, n_hidden_layers=2, has_bias=tcnn.has_constant(read))
    shapes = [(16, len(read)), (16, 16), (16, 16)]
    n = sum(a * b for a, b in shapes) + tcnn.encoding_size(encoding)
    vector = torch.randn(n, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 0.3
    encoding.double()
    network.double()
    tcnn.unpack(vector, encoding, network)
    x = torch.rand(6, n_inputs, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.no_grad():
        features, found = encoding(x), network(encoding(x))
    for row, out in zip(features, found, strict=True):
        padded = [column if isinstance(column, float) else float(row[column]) for column in read]
        np.testing.assert_allclose(out.numpy(), mlp(vector.numpy(), padded, shapes)[:5], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("config", "n_inputs", "_"), CASES)
def test_what_was_packed_unpacks_to_the_same_function(
    config: dict[str, Any], n_inputs: int, _: list[tcnn.Column]
) -> None:
    encoding, other = encoding_of(config, n_inputs), encoding_of(config, n_inputs)
    has_bias = tcnn.has_constant(tcnn.columns(encoding))
    sizes: dict[str, Any] = {"n_neurons": 16, "n_hidden_layers": 1, "has_bias": has_bias}
    first = MLP(encoding.n_output_dims, 3, **sizes, activation={"otype": "Sine", "omega": 5.0})
    second = MLP(encoding.n_output_dims, 3, **sizes, activation={"otype": "Sine", "omega": 1.0})
    with torch.no_grad():
        for parameter in encoding.parameters():
            parameter.normal_()
        if has_bias:
            first.layers[1].bias.zero_()
    tcnn.unpack(tcnn.pack(encoding, first), other, second)
    x = torch.rand(7, n_inputs)
    torch.testing.assert_close(second(other(x)), first(encoding(x)), atol=1e-5, rtol=1e-5)


def test_the_gradient_of_a_packed_vector_arrives_at_our_parameters() -> None:
    encoding = encoding_of(HASH, 2)
    network = MLP(encoding.n_output_dims, 3, n_neurons=16, n_hidden_layers=1)
    vector = tcnn.pack(encoding, network)
    share = torch.randn(vector.shape, generator=torch.Generator().manual_seed(0))
    vector.backward(share)
    assert torch.equal(encoding.table.grad, share[-encoding.table.numel() :].view_as(encoding.table))
    assert torch.equal(network.layers[0].weight.grad, share[: 16 * 16].view(16, 16)[:, :6])
    assert torch.equal(network.layers[1].weight.grad, share[16 * 16 : 2 * 16 * 16].view(16, 16)[:3])


def test_the_published_size_of_tiny_cuda_nns_own_test() -> None:
    grid = {"otype": "HashGrid", "base_resolution": 32, "log2_hashmap_size": 16, "n_features_per_level": 2,
            "n_levels": 20, "per_level_scale": 1.5}  # fmt: skip
    assert tcnn.encoding_size(encoding_of(grid, 3)) == 2_555_904


@pytest.mark.parametrize(
    ("encoding", "network", "said"),
    [
        ({"otype": "RandomFourier"}, {}, "no encoding RandomFourier"),
        ({"otype": "HashGrid"}, {"activation": "GELU"}, "no activation GELU"),
        ({"otype": "HashGrid"}, {"activation": {"otype": "Softplus", "beta": 1.0}}, "no activation Softplus with"),
        ({"otype": "HashGrid"}, {"has_bias": True}, "has no biases"),
        ({"otype": "HashGrid"}, {"input_injection": "all"}, "no input injection"),
    ],
)
def test_what_tiny_cuda_nn_does_not_have_is_refused_by_name(
    encoding: dict[str, Any], network: dict[str, Any], said: str
) -> None:
    made = encoding_of(encoding, 2)
    with pytest.raises(ValueError, match=said):
        tcnn.pack(made, MLP(made.n_output_dims, 3, n_neurons=16, n_hidden_layers=2, **network))
