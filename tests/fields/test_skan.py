"""SKAN: the pool of bases, and how one of them is chosen."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from reference import networks as loops
from torch import Tensor

from fieldforge.contracts.network import NETWORK_CHECKS
from fieldforge.fields.networks.skan import BASES, SKAN
from fieldforge.registry import ConfigError, build


def made(bases: tuple[str, ...] = tuple(BASES), **keys: Any) -> SKAN:
    keys = {"n_neurons": 3, "n_hidden_layers": 1} | keys
    return SKAN(3, 2, bases=bases, generator=torch.Generator().manual_seed(0), **keys)


@pytest.mark.parametrize("bases", [tuple(BASES), ("chebyshev", "silu"), ("b_spline",)])
@pytest.mark.parametrize("check", NETWORK_CHECKS, ids=lambda check: check.__name__)
def test_contract(bases: tuple[str, ...], check: Callable[..., None]) -> None:
    check(lambda: made(bases))


@pytest.mark.parametrize("name", BASES)
def test_every_basis_is_its_formula(name: str) -> None:
    x = torch.linspace(-3, 3, 31, dtype=torch.float64)
    function, n, _ = BASES[name]
    values = function(x if name == "silu" else torch.tanh(x))
    assert values.shape == (31, n)
    torch.testing.assert_close(values.tolist(), [loops.pool(name, v) for v in x.tolist()])


def test_a_layer_is_the_loop(generator: torch.Generator) -> None:
    layer = made(n_hidden_layers=0).double().layers[0]
    with torch.no_grad():
        layer.logits.copy_(torch.randn(2, len(BASES), generator=generator))
    x = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    expected = []
    for point in x.tolist():
        row = []
        for o in range(2):
            weights = [math.exp(a) for a in layer.logits[o].tolist()]
            parts = [
                sum(
                    c * v
                    for i in range(3)
                    for c, v in zip(table[o, i].tolist(), loops.pool(name, point[i]), strict=True)
                )
                for name, table in zip(BASES, layer.coefficients, strict=True)
            ]
            row.append(sum(w * part for w, part in zip(weights, parts, strict=True)) / sum(weights))
        expected.append(row)
    torch.testing.assert_close(layer(x).tolist(), expected)


def test_parameter_gradients_agree_with_differences(generator: torch.Generator) -> None:
    network = made(("chebyshev", "gaussian", "silu")).double()
    x = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    names, parameters = zip(*network.named_parameters(), strict=True)

    def output(*values: Tensor) -> Tensor:
        return torch.func.functional_call(network, dict(zip(names, values, strict=True)), x)

    assert torch.autograd.gradcheck(output, parameters, fast_mode=True)


def test_smoothness_is_that_of_the_roughest_basis() -> None:
    assert made().smoothness == 1
    assert made(("b_spline", "gaussian")).smoothness == 2
    assert made(("jacobi", "silu")).smoothness == math.inf


def test_three_phases(generator: torch.Generator) -> None:
    """Temperature 1, then falling to 0.1, then one basis a node, for good, and nothing left of the others."""
    network = made(entropy=0.0)
    layer = network.layers[0]
    with torch.no_grad():
        layer.logits.copy_(torch.randn(3, len(BASES), generator=generator))
    temperatures = []
    for step in (0, 49, 50, 65, 79):
        network.on_step(step, 100)
        temperatures.append(float(layer.temperature))
    assert temperatures == pytest.approx([1, 1, 1, 0.1**0.5, 0.1 ** (29 / 30)])
    expected = layer.logits.argmax(-1)
    network.on_step(80, 100)
    assert torch.equal(layer.chosen, expected)
    torch.testing.assert_close(layer.shares().sum(-1), torch.ones(3))
    assert sorted(set(layer.shares().flatten().tolist())) == [0, 1]
    for j, table in enumerate(layer.coefficients):
        assert not table[expected != j].any()
    with torch.no_grad():
        layer.logits.copy_(-layer.logits)
    network.on_step(81, 100)
    assert torch.equal(layer.chosen, expected)


def test_the_entropy_falls_in_the_second_phase_by_its_gradient(generator: torch.Generator) -> None:
    layer = made(n_hidden_layers=0).double().layers[0]
    with torch.no_grad():
        layer.logits.copy_(torch.randn(2, len(BASES), generator=generator))
    logits = layer.logits.detach().clone().requires_grad_()
    share = torch.softmax(logits / 0.3, -1)
    (slope,) = torch.autograd.grad(-(share * share.log()).sum(), logits)
    layer.sharpen(0.3, 0.01)
    torch.testing.assert_close(layer.logits.detach(), (logits - 0.01 * slope).detach())


def test_a_pruned_network_reads_from_its_state_alone() -> None:
    network, other = made(), made()
    network.on_step(99, 100)
    other.load_state_dict(network.state_dict())
    x = torch.rand(5, 3)
    assert torch.equal(other(x), network(x))


def test_pruning_can_be_left_out() -> None:
    network = made(prune_at=1.0)
    network.on_step(99, 100)
    assert int(network.layers[0].chosen.max()) == -1


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"bases": []}, "network.bases: expected some of b_spline, .* each once, got none"),
        ({"bases": ["silu", "SiLU"]}, "each once, got silu, SiLU"),
        ({"bases": ["fourier"]}, "network.bases: expected one of b_spline.*got 'fourier'"),
        ({"select_from": 0.9, "prune_at": 0.5}, "network.prune_at: expected a finite number of at least 0.9"),
    ],
)
def test_networks_that_cannot_be_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build("network", {"otype": "SKAN", **keys}, path="network", n_input_dims=2, n_output_dims=1)
