"""ResidualMLP: hourglass and conventional blocks, norms, the lift."""

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
from fieldforge.fields.networks.residual import ResidualMLP, RunningNorm
from fieldforge.registry import ConfigError, build

CONFIGS: dict[str, dict[str, Any]] = {
    "hourglass, batch": {"n_neurons": 8, "n_inner": 3, "n_blocks": 2},
    "conventional, layer": {"n_neurons": 5, "n_inner": 9, "n_blocks": 3, "norm": "layer", "activation": "SiLU"},
    "frozen": {"n_neurons": 8, "n_inner": 3, "n_blocks": 2, "norm": "none", "lift": "frozen", "activation": "Tanh"},
    "scaled": {"n_neurons": 6, "n_inner": 4, "n_blocks": 9, "norm": "layer", "is_scaled": True, "activation": "Tanh"},
    "no block": {"n_blocks": 0, "n_neurons": 4, "output_activation": "Sigmoid"},
}
FORMULAS = {"ReLU": formula.relu, "SiLU": formula.silu, "Tanh": math.tanh}


def made(name: str, seed: int = 0, **keys: Any) -> ResidualMLP:
    return ResidualMLP(3, 2, generator=torch.Generator().manual_seed(seed), **CONFIGS[name] | keys)


def with_statistics(name: str) -> ResidualMLP:
    """Running means and variances that are not 0 and 1."""
    network = made(name).double()
    generator = torch.Generator().manual_seed(3)
    for norm in network.norms:
        norm.mean.normal_(generator=generator)
        norm.variance.uniform_(0.5, 2, generator=generator)
    return network


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("check", NETWORK_CHECKS, ids=lambda check: check.__name__)
def test_contract(name: str, check: Callable[..., None]) -> None:
    check(lambda: made(name))


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "no block"])
def test_the_network_is_the_loop(name: str, generator: torch.Generator) -> None:
    network = with_statistics(name)

    def norm(index: int, z: list[float]) -> list[float]:
        if network.norm != "batch":
            return loops.layer_norm(z) if network.norm == "layer" else z
        one = network.norms[index]
        pairs = zip(z, one.mean.tolist(), one.variance.tolist(), strict=True)
        return [(v - mean) / math.sqrt(variance + 1e-5) for v, mean, variance in pairs]

    blocks = [(a.weight.tolist(), b.weight.tolist()) for a, b in zip(network.squeeze, network.widen, strict=True)]
    factor = 1 / math.sqrt(network.n_blocks) if network.is_scaled else 1.0
    x = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    parts = (network.lifts.tolist(), blocks, network.last.weight.tolist())
    expected = [loops.residual(p, *parts, FORMULAS[network.activation.otype], norm, factor) for p in x.tolist()]
    torch.testing.assert_close(network(x).tolist(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", CONFIGS)
def test_parameter_gradients_agree_with_differences(name: str, generator: torch.Generator) -> None:
    network = with_statistics(name)
    x = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    names, parameters = zip(*network.named_parameters(), strict=True)

    def output(*values: Tensor) -> Tensor:
        return torch.func.functional_call(network, dict(zip(names, values, strict=True)), x)

    assert torch.autograd.gradcheck(output, parameters, fast_mode=True)


def test_one_class_has_both_shapes_and_their_parameter_counts() -> None:
    """2 d_z d_h L + (n_in + n_out) d_z: equal for d_z d_h L equal, but for the ends."""
    for d_z, d_h, n_blocks in ((64, 16, 4), (16, 64, 4)):
        network = ResidualMLP(10, 3, n_neurons=d_z, n_inner=d_h, n_blocks=n_blocks)
        n_parameters = sum(parameter.numel() for parameter in network.parameters())
        assert n_parameters == 2 * d_z * d_h * n_blocks + (10 + 3) * d_z


def test_nothing_has_a_bias() -> None:
    """So 0 gives 0, as the algebra says, whatever the norm was fitted to."""
    for name in ("conventional, layer", "frozen"):
        assert not any(key.endswith("bias") for key, _ in made(name).named_parameters())
        assert not made(name)(torch.zeros(2, 3)).any()


def test_a_frozen_lift_is_no_parameter_but_in_the_file() -> None:
    frozen, learned = made("frozen"), made("frozen", lift="learned")
    assert torch.equal(frozen.lifts, learned.lifts)
    assert "lifts" in frozen.state_dict()
    assert dict(frozen.named_parameters()).keys() == dict(learned.named_parameters()).keys() - {"lifts"}


def test_a_fresh_network_reads_running_statistics() -> None:
    """Until a fit says that a step runs; points do not mix then (the contract), also after `.train(False)`."""
    assert not any(module.training for module in made("hourglass, batch").modules())


def test_in_a_step_the_statistics_are_those_of_the_batch(generator: torch.Generator) -> None:
    norm = RunningNorm(3).double().train()
    z = torch.randn(50, 3, generator=generator, dtype=torch.float64) * 3 + 1
    out = norm(z.view(5, 10, 3)).view(50, 3)
    torch.testing.assert_close(out.mean(0), torch.zeros(3).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(out.var(0, correction=0), torch.ones(3).double(), rtol=1e-4, atol=0)
    torch.testing.assert_close(norm.mean, 0.1 * z.mean(0))
    torch.testing.assert_close(norm.variance, 0.9 + 0.1 * z.var(0))


@pytest.mark.parametrize("n", [0, 1])
def test_a_step_of_no_point_or_one_takes_the_running_ones(n: int) -> None:
    network = made("hourglass, batch").train()
    x = torch.rand(n, 3)
    out = network(x)
    assert out.shape == (n, 2)
    assert torch.equal(out, network.eval()(x))


def test_only_batch_norm_mixes_points() -> None:
    assert [made(name).mixes_points for name in CONFIGS] == [True, False, False, False, False]
    for name in CONFIGS:
        network, x = made(name).train(), torch.rand(4, 3)
        apart = torch.stack([network(point) for point in x])
        assert torch.allclose(network(x), apart, atol=1e-6) is not network.mixes_points


def test_a_sine_inside_has_sirens_weights() -> None:
    network = ResidualMLP(2, 1, n_neurons=600, n_inner=50, n_blocks=1, activation={"otype": "Sine", "omega": 30})
    first, second = (layer.weight.detach().abs().max() for layer in (network.squeeze[0], network.widen[0]))
    assert 0.9 * math.sqrt(6 / 600) / 30 < float(first) <= math.sqrt(6 / 600) / 30
    assert 0.9 / math.sqrt(50) < float(second) <= 1 / math.sqrt(50)


def test_scaling_divides_what_blocks_add() -> None:
    plain, scaled = made("scaled", is_scaled=False, n_blocks=1), made("scaled", n_blocks=1)
    x = torch.rand(5, 3)
    assert torch.equal(plain(x), scaled(x))
    many = made("scaled", is_scaled=False)
    assert not torch.allclose(many(x), made("scaled")(x))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"norm": "rms"}, "network.norm: expected one of batch, layer, none, got 'rms'"),
        ({"lift": "random"}, "network.lift: expected one of learned, frozen"),
        ({"n_neurons": 2**15, "n_inner": 2**15}, "at most 1,073,741,824 parameters"),
        ({"n_inner": 0}, "network.n_inner: expected an integer of at least 1"),
    ],
)
def test_networks_that_cannot_be_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build("network", {"otype": "ResidualMLP", **keys}, path="network", n_input_dims=2, n_output_dims=1)
