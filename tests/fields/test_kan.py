"""Networks of splines: the basis, KAN and its moving knots, SplineMLP."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from reference import networks as loops
from torch import Tensor

from fieldforge.contracts.network import NETWORK_CHECKS
from fieldforge.fields.networks import splines
from fieldforge.fields.networks.base import Network
from fieldforge.fields.networks.kan import KAN
from fieldforge.fields.networks.spline_mlp import SplineMLP
from fieldforge.registry import ConfigError, build

CONFIGS: dict[str, dict[str, Any]] = {
    "KAN": {"otype": "KAN", "n_neurons": 4, "n_hidden_layers": 2},
    "KAN, one layer, lines": {"otype": "KAN", "n_hidden_layers": 0, "degree": 1, "n_intervals": 3},
    "KAN, tanh": {"otype": "KAN", "n_neurons": 4, "n_hidden_layers": 1, "normalization": "tanh", "degree": 2},
    "KAN, layer": {"otype": "KAN", "n_neurons": 4, "n_hidden_layers": 1, "normalization": "layer", "low": -2.0},
    "SplineMLP": {"otype": "SplineMLP", "n_neurons": 4, "n_hidden_layers": 2},
    "SplineMLP, shared": {"otype": "SplineMLP", "n_neurons": 4, "sharing": "layer", "degree": 5, "low": -4, "high": 4},
    "SplineMLP, silu": {"otype": "SplineMLP", "n_neurons": 4, "initial": "silu", "has_bias": False, "degree": 2},
}


def made(name: str, seed: int = 0) -> Network:
    generator = torch.Generator().manual_seed(seed)
    network: Network = build("network", CONFIGS[name], n_input_dims=3, n_output_dims=2, generator=generator)
    return network


def lively(name: str) -> Network:
    """With splines as large as everything else."""
    network = made(name).double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            if "coefficients" in key:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return network


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("check", NETWORK_CHECKS, ids=lambda check: check.__name__)
def test_contract(name: str, check: Callable[..., None]) -> None:
    check(lambda: made(name))


@pytest.mark.parametrize("degree", [0, 1, 3, 5])
@pytest.mark.parametrize("is_uniform", [True, False])
def test_the_basis_is_the_recursion(degree: int, is_uniform: bool, generator: torch.Generator) -> None:
    knots = splines.uniform_knots(-1, 1, 5, degree).double()
    if not is_uniform:
        knots = knots + 0.1 * torch.rand(len(knots), generator=generator, dtype=torch.float64)
    x = torch.cat([torch.linspace(-3, 3, 37, dtype=torch.float64), knots[[0, degree, -1]]])
    expected = [[loops.b_spline(v, knots.tolist(), m, degree) for m in range(5 + degree)] for v in x.tolist()]
    torch.testing.assert_close(splines.basis(x[:, None], knots[None], degree)[:, 0].tolist(), expected)


@pytest.mark.parametrize("degree", [0, 1, 2, 3, 5])
def test_the_basis_sums_to_one_between_the_inner_knots_and_fades_beyond(degree: int) -> None:
    knots = splines.uniform_knots(-1, 1, 7, degree).double()
    inside = splines.basis(torch.linspace(-1, 1 - 1e-9, 101, dtype=torch.float64)[:, None], knots[None], degree)
    torch.testing.assert_close(inside.sum(-1), torch.ones_like(inside[..., 0]))
    assert float(inside.min()) >= 0
    far = torch.tensor([[float(knots[0]) - 1e-9], [float(knots[-1]) + 1e-9]], dtype=torch.float64)
    assert not splines.basis(far, knots[None], degree).any()


@pytest.mark.parametrize("degree", [1, 2, 3, 5])
def test_autograd_gives_the_spline_of_one_degree_less(degree: int, generator: torch.Generator) -> None:
    """d/dx sum c_m B_{m,k} = sum k (c_m - c_{m-1}) / (t_{m+k} - t_m) B_{m,k-1}, on knots that are not uniform."""
    knots = splines.uniform_knots(-1, 1, 5, degree).double()
    knots = knots + 0.15 * torch.rand(len(knots), generator=generator, dtype=torch.float64)
    c = torch.randn(5 + degree, generator=generator, dtype=torch.float64)
    x = torch.linspace(-1, 1, 53, dtype=torch.float64, requires_grad=True)
    value = (splines.basis(x[:, None], knots[None], degree)[:, 0] * c).sum(-1)
    (slope,) = torch.autograd.grad(value.sum(), x)
    padded = torch.cat([c.new_zeros(1), c, c.new_zeros(1)])
    step = knots[degree:] - knots[:-degree]
    lower = degree * padded.diff() / step  # G + k + 1 coefficients of degree k - 1 on the same knots
    expected = (splines.basis(x.detach()[:, None], knots[None], degree - 1)[:, 0] * lower).sum(-1)
    torch.testing.assert_close(slope, expected)


def test_equal_knots_are_an_empty_interval() -> None:
    knots = torch.tensor([[-1.0, -1.0, -1.0, 0.0, 1.0, 1.0, 1.0]])
    x = torch.tensor([[-1.0], [-0.5], [0.5]], requires_grad=True)
    values = splines.basis(x, knots, 2)
    torch.testing.assert_close(values.sum(-1), torch.ones(3, 1))
    values.square().sum().backward()
    assert x.grad is not None
    assert bool(torch.isfinite(x.grad).all())


@pytest.mark.parametrize("n", [0, 1, 15, 17, 5003])
def test_any_number_of_points(n: int) -> None:
    network = made("KAN")
    x = torch.rand(n, 3)
    assert network(x).shape == (n, 2)
    torch.testing.assert_close(network(x)[-1:], network(x[-1:]))


def test_what_is_no_number_stays_none() -> None:
    for name in CONFIGS:
        assert bool(torch.isnan(made(name)(torch.full((1, 3), math.nan))).all())


def test_a_kan_layer_is_the_loop(generator: torch.Generator) -> None:
    for name in ("KAN, one layer, lines", "KAN"):
        network = lively(name)
        assert isinstance(network, KAN)
        x = 2 * torch.rand(4, 3, generator=generator, dtype=torch.float64) - 1
        expected = []
        for h in x.tolist():
            for layer in network.layers:
                parts = (layer.knots, layer.coefficients, layer.scale, layer.base)
                h = loops.kan_layer(h, *(part.tolist() for part in parts), layer.degree)
            expected.append(h)
        torch.testing.assert_close(network(x).tolist(), expected, rtol=1e-9, atol=1e-11)


def test_a_spline_mlp_is_the_loop(generator: torch.Generator) -> None:
    for name in ("SplineMLP", "SplineMLP, shared", "SplineMLP, silu"):
        network = lively(name)
        assert isinstance(network, SplineMLP)
        x = 2 * torch.rand(4, 3, generator=generator, dtype=torch.float64) - 1
        layers = [
            (one.weight.tolist(), [0.0] * len(one.weight) if one.bias is None else one.bias.tolist())
            for one in network.layers
        ]
        expected = []
        for h in x.tolist():
            for layer, table in zip(layers[:-1], network.coefficients, strict=True):
                tables = table.expand(4, -1).tolist()
                z = loops.linear(*layer, h)
                h = [loops.spline(v, network.knots.tolist(), c, network.degree) for v, c in zip(z, tables, strict=True)]
            expected.append(loops.linear(*layers[-1], h))
        torch.testing.assert_close(network(x).tolist(), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", CONFIGS)
def test_parameter_gradients_agree_with_differences(name: str, generator: torch.Generator) -> None:
    network = lively(name)
    x = torch.rand(2, 3, generator=generator, dtype=torch.float64) - 0.5
    names, parameters = zip(*network.named_parameters(), strict=True)

    def output(*values: Tensor) -> Tensor:
        return torch.func.functional_call(network, dict(zip(names, values, strict=True)), x)

    assert torch.autograd.gradcheck(output, parameters, fast_mode=True)


def count(network: Network) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_parameter_counts() -> None:
    """KAN: n_in n_out (G + k + 2); SplineMLP: (n_in + 1) n_out, and G + k for each neuron, or each layer."""
    kan = KAN(5, 3, n_neurons=7, n_hidden_layers=2, n_intervals=6, degree=2)
    assert count(kan) == (5 * 7 + 7 * 7 + 7 * 3) * (6 + 2 + 2)
    linear = 7 * 6 + 7 * 8 + 3 * 8
    sizes: dict[str, Any] = {"n_neurons": 7, "n_hidden_layers": 2, "n_intervals": 6, "degree": 2}
    assert count(SplineMLP(5, 3, **sizes)) == linear + 2 * 7 * (6 + 2)
    assert count(SplineMLP(5, 3, sharing="layer", **sizes)) == linear + 2 * (6 + 2)


def test_initial_splines_are_noise_at_the_inner_knots() -> None:
    """Within ±0.05 / G, so nothing beside the SiLUs; weights and scales within ±1/√n_in."""
    layer = KAN(16, 32, n_hidden_layers=0, generator=torch.Generator().manual_seed(0)).layers[0]
    at = layer.knots[:, 3:-3].T[:-1]
    values = torch.einsum("pim,oim->poi", splines.basis(at, layer.knots, 3), layer.coefficients).detach()
    assert 0.009 < float(values.abs().max()) <= 0.01 + 1e-6
    for table in (layer.base, layer.scale):
        assert 0.24 < float(table.detach().abs().max()) <= 0.25


def test_splines_that_begin_as_the_silu_are_it_at_the_knots() -> None:
    network = SplineMLP(2, 1, n_neurons=4, initial="silu", n_intervals=8, low=-3.0, high=3.0)
    at = torch.linspace(-3, 3, 9)
    values = splines.basis(at[:, None], network.knots[None], 3)[:, 0] @ network.coefficients[0][0]
    torch.testing.assert_close(values, torch.nn.functional.silu(at), rtol=1e-4, atol=1e-5)


def polynomial(network: KAN) -> KAN:
    """Every spline one cubic between the ends of all knots, with scales far from 1.

    B-spline coefficients of a polynomial are its blossom at the knots between: of x³ the mean product.
    """
    with torch.no_grad():
        generator = torch.Generator().manual_seed(5)
        for layer in network.layers:
            a, b, c = (t := layer.knots)[:, 1:-3], t[:, 2:-2], t[:, 3:-1]
            powers = torch.stack([torch.ones_like(a), (a + b + c) / 3, (a * b + a * c + b * c) / 3, a * b * c])
            weights = torch.randn(*layer.scale.shape, 4, generator=generator).to(powers)
            layer.coefficients.copy_(torch.einsum("oip,pim->oim", weights, powers))
            layer.scale.copy_(1.5 + torch.rand(layer.scale.shape, generator=generator))
    return network


@pytest.mark.parametrize("n_hidden_layers", [0, 1])
def test_moving_knots_keeps_the_function(n_hidden_layers: int) -> None:
    """To 1e-4 and to rounding in float64, with scales of 1.5 to 2.5 that would show if they counted twice."""
    network = KAN(3, 2, n_neurons=4, n_hidden_layers=n_hidden_layers, normalization="tanh")
    network = polynomial(network).double()
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1500, 3, generator=generator, dtype=torch.float64) * torch.tensor([0.3, 0.5, 0.1]).double()
    before, knots = network(x).detach(), [layer.knots.clone() for layer in network.layers]
    network.move_knots(x)
    assert all(float((layer.knots - old).abs().max()) > 0.1 for layer, old in zip(network.layers, knots, strict=True))
    worst = float((network(x) - before).abs().max().detach())
    assert worst < 1e-4
    assert worst < 1e-8 * float(before.abs().max())


def test_moving_knots_comes_as_near_as_splines_on_them_can(generator: torch.Generator) -> None:
    """Of a spline with bends: the least squares solution that one gets for each output by itself."""
    layer = lively("KAN, one layer, lines").layers[0]
    x = torch.randn(400, 3, generator=generator, dtype=torch.float64) * 0.4
    old = torch.einsum("pim,oim->iop", splines.basis(x, layer.knots, 1), layer.coefficients).detach()
    layer.move_knots(x)
    bases = splines.basis(x, layer.knots, 1)
    new = torch.einsum("pim,oim->iop", bases, layer.coefficients).detach()
    best = bases.permute(1, 0, 2) @ torch.linalg.pinv(bases.permute(1, 0, 2)) @ old.transpose(1, 2)
    torch.testing.assert_close(new, best.transpose(1, 2), rtol=1e-7, atol=1e-9)


def test_moving_knots_twice_to_the_same_samples_changes_nothing(generator: torch.Generator) -> None:
    network = lively("KAN")
    x = torch.rand(700, 3, generator=generator, dtype=torch.float64)
    network.move_knots(x)
    before, state = network(x).detach(), {key: value.clone() for key, value in network.state_dict().items()}
    network.layers[0].move_knots(x)
    torch.testing.assert_close(network(x).detach(), before, rtol=1e-9, atol=1e-11)
    assert torch.equal(state["layers.0.knots"], network.layers[0].knots)


def test_knots_go_where_the_samples_are() -> None:
    """Equal counts between them but for a fiftieth, ends a little beyond; more samples than are fitted at."""
    x = torch.rand(9000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 3
    knots = splines.quantile_knots(x, 4, 3, uniform=0.02, margin=0.01)[0]
    assert bool((knots.diff() > 0).all())
    inner = knots[3:-3]
    assert float(inner[0]) == pytest.approx(float(x.min()) - 0.02 * 0.01, abs=1e-9)
    shares = [float(((x >= a) & (x < b)).double().mean()) for a, b in itertools.pairwise(inner)]
    assert shares == pytest.approx([0.25] * 4, abs=0.03)
    layer = KAN(1, 1, n_hidden_layers=0, n_intervals=4).double().layers[0]
    layer.move_knots(x)
    torch.testing.assert_close(layer.knots[0], knots)


def test_samples_that_say_nothing_move_no_knots() -> None:
    """None at all, and one that is not finite; one place alone gives knots that rise."""
    layer = KAN(1, 1, n_hidden_layers=0).layers[0]
    knots = layer.knots.clone()
    layer.move_knots(torch.zeros(0, 1))
    layer.move_knots(torch.tensor([[0.0], [math.inf]]))
    assert torch.equal(layer.knots, knots)
    layer.move_knots(torch.full((5, 1), 0.3))
    assert bool((layer.knots.diff() > 0).all())
    assert bool(torch.isfinite(layer.coefficients).all())


def test_knots_move_in_steps_of_a_fit_when_it_is_their_turn() -> None:
    network = KAN(1, 1, n_hidden_layers=0, update_every=2)
    x, moved = torch.linspace(0, 3, 50)[:, None], []
    network.train()
    for step in range(9):
        network.on_step(step, 9)
        before = network.layers[0].knots.clone()
        network(x + step)
        after = network.layers[0].knots.clone()
        network(x - 9)  # once a step
        assert torch.equal(network.layers[0].knots, after)
        if not torch.equal(before, after):
            moved.append(step)
    assert moved == [0, 2]  # until half of nine
    network.on_step(0, 9)
    network.eval()
    network(x + 7)
    assert torch.equal(network.layers[0].knots, after)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"otype": "KAN", "degree": 0}, "network.degree: expected an integer from 1 to 9"),
        ({"otype": "KAN", "low": 1.0, "high": 1.0}, "network.high: expected a number above low = 1, got 1"),
        ({"otype": "KAN", "normalization": "batch"}, "network.normalization: expected one of none, tanh, layer"),
        ({"otype": "KAN", "n_neurons": 2**15, "n_intervals": 4096}, "at most 1,073,741,824 parameters"),
        ({"otype": "KAN", "activation": "WIRE"}, "network.activation: expected an activation with real values"),
        ({"otype": "SplineMLP", "sharing": "none"}, "network.sharing: expected one of channel, layer"),
    ],
)
def test_networks_that_cannot_be_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build("network", config, path="network", n_input_dims=2, n_output_dims=1)
