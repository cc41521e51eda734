"""FAN: what is periodic in it, and in which order."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from reference import activations as formula
from reference import networks as loops
from torch import Tensor

from fieldforge.contracts.network import NETWORK_CHECKS
from fieldforge.fields.networks.fan import FAN
from fieldforge.registry import ConfigError, build

CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {"n_neurons": 8, "n_hidden_layers": 2},
    "gated": {"n_neurons": 8, "n_hidden_layers": 2, "is_gated": True},
    "odd": {"n_neurons": 7, "n_hidden_layers": 1, "periodic_share": 0.3, "omega": 5.0, "has_periodic_bias": False},
}


def made(name: str) -> FAN:
    return FAN(3, 2, generator=torch.Generator().manual_seed(0), **CONFIGS[name])


def numbers(layer: Any) -> tuple[list[Any], list[float]]:
    weight = layer.weight.detach().tolist()
    return weight, [0.0] * len(weight) if layer.bias is None else layer.bias.tolist()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("check", NETWORK_CHECKS, ids=lambda check: check.__name__)
def test_contract(name: str, check: Callable[..., None]) -> None:
    check(lambda: made(name))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_network_is_the_loop(name: str, generator: torch.Generator) -> None:
    network = made(name).double()
    x = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    expected = []
    for point in x.tolist():
        h = loops.linear(*numbers(network.first), point)
        for index, layer in enumerate(network.layers):
            gate = None if layer.gate is None else float(layer.gate.detach())
            omega = 1.0 if index else network.omega
            h = loops.fan_layer(h, numbers(layer.periodic), numbers(layer.other), formula.gelu, omega, gate)
        expected.append(loops.linear(*numbers(network.last), h))
    torch.testing.assert_close(network(x).tolist(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", CONFIGS)
def test_parameter_gradients_agree_with_differences(name: str, generator: torch.Generator) -> None:
    network = made(name).double()
    x = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    names, parameters = zip(*network.named_parameters(), strict=True)

    def output(*values: Tensor) -> Tensor:
        return torch.func.functional_call(network, dict(zip(names, values, strict=True)), x)

    assert torch.autograd.gradcheck(output, parameters, fast_mode=True)


def test_cosines_come_first_then_sines_then_the_rest() -> None:
    """Of zeros: cos 0 = 1, sin 0 = 0, GELU 0 = 0."""
    network = made("plain")
    layer = network.layers[0]
    assert layer.bend(torch.zeros(6), network.activation, 1.0).tolist() == [1, 1, 0, 0, 0, 0, 0, 0]
    z = torch.tensor([0.3, -0.2, 5.0, 6.0, 7.0, 8.0])
    torch.testing.assert_close(
        layer.bend(z, network.activation, 2.0)[:4], torch.cat([(2 * z[:2]).cos(), (2 * z[:2]).sin()])
    )


@pytest.mark.parametrize("share", [0.1, 0.25, 0.4])
def test_a_layer_has_one_minus_p_times_the_weights_of_a_dense_one(share: float) -> None:
    n = 20
    layer = FAN(2, 1, n_neurons=n, n_hidden_layers=1, periodic_share=share).layers[0]
    assert layer.periodic.weight.numel() + layer.other.weight.numel() == round((1 - share) * n * n)


@pytest.mark.parametrize(
    ("n", "share", "message"),
    [
        (3, 0.25, "periodic_share: 0.25 of 3 neurons makes 0 cosines, as many sines and 3 others"),
        (8, 0.5, "periodic_share: 0.5 of 8 neurons makes 4 cosines, as many sines and 0 others"),
        (8, 0.0, "0 cosines"),
        (8, 0.6, "periodic_share: expected a finite number of at least 0 and at most 0.5"),
    ],
)
def test_shares_that_leave_a_part_empty_are_refused(n: int, share: float, message: str) -> None:
    config = {"otype": "FAN", "n_neurons": n, "periodic_share": share}
    with pytest.raises(ConfigError, match=f"network.{message}" if message.startswith("p") else message):
        build("network", config, path="network", n_input_dims=2, n_output_dims=1)


def test_half_of_an_odd_number_is_a_share() -> None:
    assert FAN(2, 1, n_neurons=7, periodic_share=0.5).n_periodic == 3


def test_omega_is_the_frequency_of_the_first_layer_alone() -> None:
    """The same network with its first periodic weights and biases multiplied."""
    slow, fast = made("plain"), FAN(3, 2, omega=4.0, **CONFIGS["plain"])
    fast.load_state_dict(slow.state_dict())
    with torch.no_grad():
        for parameter in slow.layers[0].periodic.parameters():
            parameter.mul_(4)
    x = torch.rand(5, 3)
    torch.testing.assert_close(slow(x), fast(x))


def test_a_gate_far_open_leaves_what_is_periodic() -> None:
    network = made("gated")
    with torch.no_grad():
        network.layers[0].gate.fill_(50.0)
    out = network.layers[0].bend(torch.full((6,), 2.0), network.activation, 1.0)
    torch.testing.assert_close(out.tolist(), [math.cos(2)] * 2 + [math.sin(2)] * 2 + [0.0] * 4)
