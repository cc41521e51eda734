"""Networks of fields whose encoding is the model: Sum, DotProduct, Basis."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from reference import networks as loops

from fieldforge.contracts.network import NETWORK_CHECKS
from fieldforge.encodings.spherical_harmonics import SphericalHarmonics
from fieldforge.fields.networks.base import Network
from fieldforge.fields.networks.basis import Basis
from fieldforge.fields.networks.dot_product import DotProduct
from fieldforge.fields.networks.sum import Sum
from fieldforge.registry import ConfigError, build

NESTED = {"otype": "MLP", "n_neurons": 6, "n_hidden_layers": 2, "activation": "Tanh", "has_bias": True}
HEADS: dict[str, tuple[int, int, dict[str, Any]]] = {
    "Sum": (6, 2, {"otype": "Sum"}),
    "Sum, one each": (3, 3, {"otype": "Sum"}),
    "DotProduct": (14, 3, {"otype": "DotProduct", "n_basis": 3}),
    "Basis": (7, 2, {"otype": "Basis", "n_basis": 3, "n_direct": 2, "n_frequencies": 2, "nested": NESTED}),
}


def made(name: str) -> Network:
    n_input_dims, n_output_dims, config = HEADS[name]
    generator = torch.Generator().manual_seed(0)
    head: Network = build(
        "network", config, n_input_dims=n_input_dims, n_output_dims=n_output_dims, generator=generator
    )
    return head


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("check", NETWORK_CHECKS, ids=lambda check: check.__name__)
def test_contract(name: str, check: Callable[..., None]) -> None:
    check(lambda: made(name))


def test_the_heads_are_the_loops(generator: torch.Generator) -> None:
    summed = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    expected = [loops.block_sums(row, 2) for row in summed.tolist()]
    torch.testing.assert_close(Sum(6, 2)(summed).tolist(), expected)
    features = torch.randn(4, 14, generator=generator, dtype=torch.float64)
    dotted = [loops.dot_products(row, 3, 3) for row in features.tolist()]
    torch.testing.assert_close(DotProduct(14, 3, n_basis=3, output_activation="None")(features).tolist(), dotted)
    basis = made("Basis").double()
    assert isinstance(basis, Basis)
    mixed = torch.randn(4, 7, generator=generator, dtype=torch.float64)
    inner = [loops.mixed(row, basis.matrix.tolist(), 2, 2) for row in mixed.tolist()]
    torch.testing.assert_close(basis(mixed), basis.nested(torch.tensor(inner, dtype=torch.float64)))


def test_coefficients_of_one_harmonic_are_that_harmonic() -> None:
    """27 coefficients, of which channel c has a one in place c: colours are the first three functions."""
    directions = torch.nn.functional.normalize(torch.randn(5, 3, dtype=torch.float64), dim=-1)
    code = SphericalHarmonics(3, degree=3)(0.5 * directions + 0.5)
    ones = torch.zeros(3, 9, dtype=torch.float64)
    ones[range(3), range(3)] = 1
    head = DotProduct(37, 3, n_basis=9, output_activation="None")
    density = torch.full((5, 1), math.nan, dtype=torch.float64)  # not read
    colors = head(torch.cat([density, ones.flatten().expand(5, 27), code], -1))
    torch.testing.assert_close(colors, code[:, :3])


@pytest.mark.parametrize(
    ("otype", "keys", "sizes", "message"),
    [
        ("Sum", {}, (5, 2), "n_output_dims: 5 features cannot be 2 equal blocks"),
        ("DotProduct", {"n_basis": 9}, (35, 3), "n_basis: 3 outputs by 9 coefficients.* 36 numbers.* 35"),
        ("Basis", {"n_direct": 4}, (4, 3), "n_direct: 4 of 4 inputs leave none"),
        ("Basis", {"nested": "Nope"}, (4, 3), "network.nested.otype: no network is called 'Nope'"),
        ("Basis", {"n_basis": 2**30}, (4, 3), "parameters are allowed"),
    ],
)
def test_heads_that_cannot_be_are_refused(
    otype: str, keys: dict[str, Any], sizes: tuple[int, int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build("network", {"otype": otype, **keys}, path="network", n_input_dims=sizes[0], n_output_dims=sizes[1])
