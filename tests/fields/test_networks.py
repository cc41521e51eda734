"""The MLP, and what every network promises."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from reference import activations as formula
from reference import networks as loops
from torch import Tensor, nn

from fieldforge.contracts import check_network
from fieldforge.contracts.network import NETWORK_CHECKS
from fieldforge.fields.networks.base import Modulation, Network
from fieldforge.fields.networks.mlp import MLP
from fieldforge.registry import ConfigError, available, build, find

SMALL = {"n_neurons": 6, "n_hidden_layers": 3}
NETWORKS: dict[str, dict[str, Any]] = {
    "MLP": {"otype": "MLP", **SMALL},
    "single matrix": {"otype": "MLP", "n_hidden_layers": 0},
    "FullyFusedMLP": {"otype": "FullyFusedMLP", **SMALL, "output_activation": "Sigmoid"},
    "CutlassMLP": {"otype": "CutlassMLP", **SMALL, "activation": "Squareplus", "has_bias": True},
    "MegakernelMLP": {"otype": "MegakernelMLP", **SMALL, "activation": "Tanh", "output_activation": "Exponential"},
    "mid": {"otype": "MLP", **SMALL, "activation": "SiLU", "has_bias": True, "input_injection": "mid"},
    "all": {"otype": "MLP", **SMALL, "activation": "GELU", "has_bias": True, "input_injection": "all"},
    "SIREN": {"otype": "MLP", **SMALL, "activation": {"otype": "Sine", "omega": 3.0}, "has_bias": True},
    "WIRE": {
        "otype": "MLP",
        **SMALL,
        "activation": {"otype": "WIRE", "omega": 3, "scale": 1},
        "input_injection": "all",
    },
    "FINER": {"otype": "MLP", **SMALL, "activation": "FINER", "has_bias": True},
    "FourierMFN": {"otype": "FourierMFN", **SMALL, "input_scale": 8.0},
    "GaborMFN": {"otype": "GaborMFN", **SMALL, "input_scale": 8.0, "has_bias": False},
    "BACON": {"otype": "BACON", **SMALL, "resolution": 8, "output_layers": [1, 3]},
}


def made(name: str, seed: int = 0) -> Network:
    generator = torch.Generator().manual_seed(seed)
    return build("network", NETWORKS[name], n_input_dims=3, n_output_dims=2, generator=generator)


def test_every_registered_mlp_and_product_network_is_tested_here() -> None:
    ours = {name for name in available("network") if build_home(name) in ("mlp", "mfn", "bacon")}
    assert ours == {str(config["otype"]) for config in NETWORKS.values()}


def build_home(name: str) -> str:
    return find("network", name).factory.__module__.rsplit(".", 1)[-1]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("check", NETWORK_CHECKS, ids=lambda check: check.__name__)
def test_contract(name: str, check: Callable[..., None]) -> None:
    check(lambda: made(name))


def numbers(network: MLP) -> tuple[list[Any], list[Any]]:
    """Weights and biases as lists; no bias is zeros."""
    weights = [layer.weight.detach().tolist() for layer in network.layers]
    biases = [[0.0] * len(layer.weight) if layer.bias is None else layer.bias.tolist() for layer in network.layers]
    return weights, biases


@pytest.mark.parametrize(
    ("name", "activation", "injected"),
    [
        ("MLP", formula.relu, ()),
        ("single matrix", formula.relu, ()),
        ("CutlassMLP", formula.squareplus, ()),
        ("mid", formula.silu, (2,)),
        ("all", formula.gelu, (1, 2)),
        ("SIREN", lambda z: formula.sine(z, 3.0), ()),
        ("FINER", formula.finer, ()),
        ("WIRE", lambda z: formula.wire(z, 3.0, 1.0), (1, 2)),
    ],
)
def test_the_mlp_is_the_loop(name: str, activation: Callable[..., Any], injected: tuple[int, ...]) -> None:
    network = made(name).double()
    x = torch.rand(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) - 0.5
    expected = [[complex(v).real for v in loops.mlp(p, *numbers(network), activation, injected)] for p in x.tolist()]
    torch.testing.assert_close(network(x).tolist(), expected, rtol=1e-10, atol=1e-12)


def test_weight_gradients_agree_with_differences() -> None:
    for name in ("SIREN", "WIRE", "mid", "CutlassMLP"):
        network = made(name).double()
        x = torch.rand(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        names, parameters = zip(*network.named_parameters(), strict=True)

        def output(
            *values: Tensor, network: Network = network, names: tuple[str, ...] = names, x: Tensor = x
        ) -> Tensor:
            return torch.func.functional_call(network, dict(zip(names, values, strict=True)), x)

        assert torch.autograd.gradcheck(output, parameters, fast_mode=True), name


def test_parameter_counts() -> None:
    """n hidden layers are n + 1 matrices, as in tiny-cuda-nn."""
    assert count(MLP(32, 3, n_neurons=64, n_hidden_layers=2)) == 64 * 32 + 64 * 64 + 3 * 64
    assert count(MLP(32, 3, n_neurons=64, n_hidden_layers=2, has_bias=True)) == 64 * 33 + 64 * 65 + 3 * 65
    assert count(MLP(32, 3, n_hidden_layers=0)) == 3 * 32
    assert count(MLP(2, 1)) == 128 * 2 + 4 * 128 * 128 + 128


def test_other_names_ask_for_a_speed_not_for_another_function() -> None:
    x = torch.rand(5, 3, generator=torch.Generator().manual_seed(1))
    networks = [
        build(
            "network",
            {"otype": name, **SMALL},
            n_input_dims=3,
            n_output_dims=2,
            generator=torch.Generator().manual_seed(0),
        )
        for name in ("MLP", "CutlassMLP", "fullyfusedmlp", "MegakernelMLP")
    ]
    assert all(torch.equal(network(x), networks[0](x)) for network in networks)
    assert all(network.config() == networks[0].config() for network in networks)
    assert networks[0].config()["otype"] == "MLP"


def test_config_spells_out_the_activation() -> None:
    config = made("SIREN").config()
    assert config["activation"] == {"otype": "Sine", "omega": 3.0, "first_omega": None}
    assert config["output_activation"] == {"otype": "None"}


@pytest.mark.parametrize(("n_hidden_layers", "layer"), [(2, 1), (3, 2), (4, 3), (6, 4), (8, 5)])
def test_mid_injection_is_one_wider_layer(n_hidden_layers: int, layer: int) -> None:
    """For NeRF's eight layers the sixth reads [h, x]."""
    network = MLP(5, 1, n_neurons=7, n_hidden_layers=n_hidden_layers, input_injection="mid")
    widths = [linear.in_features for linear in network.layers]
    assert widths == [5] + [12 if index == layer else 7 for index in range(1, n_hidden_layers)] + [7]


def test_full_injection_widens_every_hidden_layer_but_the_first() -> None:
    network = MLP(5, 1, n_neurons=7, n_hidden_layers=4, input_injection="all")
    assert [linear.in_features for linear in network.layers] == [5, 12, 12, 12, 7]


def test_injection_with_zero_columns_is_the_plain_network() -> None:
    plain, injected = (MLP(3, 2, **SMALL, activation="Tanh", input_injection=how) for how in ("none", "all"))
    with torch.no_grad():
        for source, target in zip(plain.layers, injected.layers, strict=True):
            target.weight.zero_()
            target.weight[:, : source.in_features] = source.weight
    x = torch.rand(5, 3, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(injected(x), plain(x))


def test_siren_keeps_its_variance_at_any_depth(generator: torch.Generator) -> None:
    """omega z has standard deviation about 1 in every hidden layer after the first (Sitzmann et al., theorem 1.8)."""
    network = MLP(2, 1, n_neurons=256, n_hidden_layers=8, activation="Sine", has_bias=True, generator=generator)
    x = torch.rand(2000, 2, generator=generator) * 2 - 1
    deviations: list[float] = []

    def watch(index: int, z: Tensor) -> Tensor:
        deviations.append(float((30 * (z - network.layers[index].bias)).std()))
        return z

    with torch.no_grad():
        network(x, modulate=watch)
    assert all(0.85 < deviation < 1.15 for deviation in deviations[1:]), deviations


def test_the_hidden_omega_of_a_siren_cancels_with_its_weights(generator: torch.Generator) -> None:
    """omega in the activation and 1 / omega in the weights cancel in every layer but the first."""
    outputs = []
    for omega in (10.0, 40.0):
        network = MLP(
            2, 1, n_neurons=64, n_hidden_layers=3, activation={"otype": "Sine", "omega": omega, "first_omega": 30.0},
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        outputs.append(network(torch.rand(50, 2, generator=torch.Generator().manual_seed(1))) * omega)
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-3, atol=1e-4)


def test_initial_weights_are_the_activations_and_the_last_layer_is_hidden() -> None:
    network = MLP(16, 3, n_neurons=64, n_hidden_layers=2, activation="Sine", generator=torch.Generator().manual_seed(0))
    bounds = [1 / 16, math.sqrt(6 / 64) / 30, math.sqrt(6 / 64) / 30]
    for layer, bound in zip(network.layers, bounds, strict=True):
        assert 0.9 * bound < float(layer.weight.detach().abs().max()) <= bound
    network = MLP(16, 3, n_neurons=64, n_hidden_layers=2, generator=torch.Generator().manual_seed(0))
    for layer in network.layers:
        bound = math.sqrt(6 / (layer.in_features + layer.out_features))
        assert 0.9 * bound < float(layer.weight.detach().abs().max()) <= bound


@pytest.mark.parametrize("n_neurons", [64, 128, 256])
def test_wire_has_about_as_many_real_numbers_as_a_real_network(n_neurons: int) -> None:
    kind = {"n_neurons": n_neurons, "n_hidden_layers": 4, "has_bias": True}
    wire, real = MLP(2, 1, **kind, activation="WIRE"), MLP(2, 1, **kind)
    assert wire.width == int(n_neurons / math.sqrt(2))
    assert count(wire) / count(real) == pytest.approx(1.0, abs=0.05)
    assert [layer.weight.is_complex() for layer in wire.layers] == [False, True, True, True, True]


def test_complex_layers_follow_double_and_float() -> None:
    network = made("WIRE")
    types = [layer.weight.dtype for layer in network.double().layers]
    assert types == [torch.float64] + [torch.complex128] * 3
    assert [layer.weight.dtype for layer in network.float().layers] == [torch.float32] + [torch.complex64] * 3


def test_modulation_comes_before_the_activation() -> None:
    """gamma z + beta with z = W h + b (CAM): checked by doing the layers by hand."""
    network = made("SIREN").double()
    x = torch.rand(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    first, second, third, last = network.layers
    h = torch.sin(3 * (1.5 * first(x) + 0.25))
    h = torch.sin(3 * (2.5 * second(h) + 0.25))
    h = torch.sin(3 * (3.5 * third(h) + 0.25))
    torch.testing.assert_close(network(x, modulate=lambda index, z: (index + 1.5) * z + 0.25), last(h))


def test_smoothness_is_that_of_the_roughest_part() -> None:
    assert made("MLP").smoothness == 0
    assert made("single matrix").smoothness == math.inf
    assert MLP(1, 1, activation="Sine", output_activation="ReLU").smoothness == 0
    assert MLP(1, 1, activation="SPDER").smoothness == 1
    assert made("SIREN").smoothness == math.inf


def test_torch_sets_the_seed_when_no_generator_is_given() -> None:
    with torch.random.fork_rng(devices=[]):
        weights = []
        for _ in range(2):
            torch.manual_seed(3)
            weights.append(MLP(2, 1, **SMALL).layers[0].weight)
    assert torch.equal(*weights)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"n_neurons": 0}, "network.n_neurons: expected an integer of at least 1, got 0"),
        ({"n_neurons": 10**9}, "network.n_neurons: at most 1,073,741,824 parameters are allowed"),
        ({"n_hidden_layers": 10**9}, "network.n_hidden_layers: expected an integer from 0 to 1024"),
        ({"activation": "Relu2"}, "network.activation.otype: no activation is called 'Relu2'; did you mean ReLU?"),
        (
            {"activation": {"otype": "Sine", "omga": 3}},
            "network.activation.omga: Sine has no such key; did you mean omega?",
        ),
        ({"output_activation": "WIRE"}, "network.output_activation: expected an activation with real values, got WIRE"),
        ({"input_injection": "some"}, "network.input_injection: expected one of none, mid, all, got 'some'"),
        ({"input_injection": "all", "n_hidden_layers": 1}, "network.input_injection: 'all' needs n_hidden_layers"),
        ({"n_neuron": 64}, "network.n_neuron: MLP has no such key; did you mean n_neurons?"),
    ],
)
def test_a_bad_key_is_named(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build("network", {"otype": "MLP", **config}, path="network", n_input_dims=2, n_output_dims=1)
    assert str(caught.value).startswith(message)


def count(network: nn.Module) -> int:
    """Real numbers in the parameters."""
    return sum(p.numel() * (2 if p.is_complex() else 1) for p in network.parameters())


class Linear(Network):
    """A network that keeps every promise; the broken ones below break one each."""

    otype, smoothness = "Linear", math.inf

    def __init__(self, n_input_dims: int, n_output_dims: int, *, gain: float = 2.0, generator: Any = None) -> None:
        super().__init__()
        self.n_input_dims, self.n_output_dims, self.gain = n_input_dims, n_output_dims, gain
        self.weight = nn.Parameter(torch.empty(n_output_dims, n_input_dims))
        self.draw(generator)

    def draw(self, generator: Any) -> None:
        if not self.weight.is_meta:
            nn.init.normal_(self.weight, generator=generator)

    def forward(self, features: Tensor, *, modulate: Modulation | None = None) -> Tensor:
        if not features.is_floating_point():
            raise TypeError(f"features: expected floating-point numbers, got {features.dtype}")
        if features.shape[-1] != self.n_input_dims:
            raise ValueError(f"features: expected (..., {self.n_input_dims}), got {tuple(features.shape)}")
        z = self.gain * nn.functional.linear(features, self.weight)
        return self.after(z if modulate is None else modulate(0, z))

    def after(self, z: Tensor) -> Tensor:
        return z


def test_the_contract_accepts_a_good_stranger() -> None:
    check_network(lambda: Linear(3, 2))


class MixesPoints(Linear):
    def after(self, z: Tensor) -> Tensor:
        return z - z.mean(0) if z.ndim > 1 and len(z) else z


class OneAxisOnly(Linear):
    def after(self, z: Tensor) -> Tensor:
        return z.reshape(-1, self.n_output_dims)


class IgnoresGenerator(Linear):
    def draw(self, generator: Any) -> None:
        if not self.weight.is_meta:
            nn.init.normal_(self.weight)


class DrawsOnMeta(Linear):
    def draw(self, generator: Any) -> None:
        with torch.no_grad():
            self.weight.copy_(torch.randn(self.weight.shape, device="cpu", generator=generator))


class HidesItsState(Linear):
    def draw(self, generator: Any) -> None:
        super().draw(generator)
        self.shift = float(torch.rand((), device="cpu", generator=generator or torch.Generator()))

    def after(self, z: Tensor) -> Tensor:
        return z + self.shift


class AnyWidth(Linear):
    def forward(self, features: Tensor, *, modulate: Modulation | None = None) -> Tensor:
        return super().forward(features[..., : self.n_input_dims], modulate=modulate)


class ForgetsItsKey(Linear):
    def draw(self, generator: Any) -> None:
        super().draw(generator)
        self.gain = self.gain * 2


class StaysFloat(Linear):
    def after(self, z: Tensor) -> Tensor:
        return z.float()


class IgnoresModulation(Linear):
    def forward(self, features: Tensor, *, modulate: Modulation | None = None) -> Tensor:
        z = super().forward(features)
        if modulate is not None:
            modulate(0, z)
        return z


class DetachesSquare(Linear):
    def after(self, z: Tensor) -> Tensor:
        return z * z.detach()


@pytest.mark.parametrize(
    ("broken", "promise"),
    [
        (MixesPoints, "points_do_not_mix"),
        (OneAxisOnly, "any_batch_shape"),
        (AnyWidth, "bad_input_is_named"),
        (ForgetsItsKey, "config_rebuilds"),
        (IgnoresGenerator, "one_seed_one_network"),
        (HidesItsState, "state_is_complete"),
        (DrawsOnMeta, "builds_on_meta"),
        (StaysFloat, "double_is_the_same_function"),
        (IgnoresModulation, "identity_modulation_changes_nothing"),
        (DetachesSquare, "gradients_are_right"),
    ],
)
def test_the_contract_catches(broken: type[Linear], promise: str) -> None:
    with pytest.raises(AssertionError, match=f"^{promise}: "), torch.random.fork_rng(devices=[]):
        check_network(lambda: broken(3, 2))
