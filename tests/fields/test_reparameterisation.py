"""Fourier reparameterised layers: another way for an optimizer to move, the same functions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference import exposure as loops

from fieldforge.apps.fit.image.job import fit
from fieldforge.fields.file import load_field, read_header
from fieldforge.fields.networks.mlp import MLP
from fieldforge.fields.reparameterisation import Fourier, FourierReparameterisedLinear
from fieldforge.registry import ConfigError, build

RULE = {"otype": "Fourier", "n_low": 12, "n_high": 8, "n_phases": 3}
SMALL: dict[str, Any] = {"n_neurons": 16, "n_hidden_layers": 3, "has_bias": True}


def made(**keys: Any) -> MLP:
    return MLP(5, 2, **(SMALL | {"reparameterisation": RULE} | keys), generator=torch.Generator().manual_seed(0))


def test_the_basis_is_the_loop() -> None:
    found = Fourier(n_low=12, n_high=8, n_phases=3, alpha=0.3).basis(16)
    torch.testing.assert_close(found.tolist(), loops.fourier_basis(12, 8, 3, 0.3, 16), rtol=1e-9, atol=1e-12)


def test_only_matrices_between_hidden_layers_are_reparameterised() -> None:
    kinds = [type(layer) is FourierReparameterisedLinear for layer in made().layers]
    assert kinds == [False, True, True, False]


def test_a_materialised_network_is_the_same_function() -> None:
    network = made(activation="Sine")
    x = torch.rand(50, 5)
    before = network(x)
    network.materialise()
    assert (network(x) - before).abs().max() < 1e-5
    assert network.config()["reparameterisation"] is None
    assert all(type(layer) is torch.nn.Linear for layer in network.layers)


@pytest.mark.parametrize(("activation", "omega"), [("ReLU", 1.0), ({"otype": "Sine", "omega": 20.0}, 20.0)])
def test_initial_weights_have_the_variance_of_he(activation: Any, omega: float) -> None:
    """2 / n_in whatever alpha; for sines over omega squared."""
    for alpha in (0.05, 1.0):
        rule = {"otype": "Fourier", "n_low": 64, "n_high": 64, "n_phases": 4, "alpha": alpha}
        network = MLP(5, 2, n_neurons=128, n_hidden_layers=2, activation=activation, reparameterisation=rule,
                      generator=torch.Generator().manual_seed(0))  # fmt: skip
        variance = float(network.layers[1].weight.detach().var()) * omega**2
        assert variance == pytest.approx(2 / 128, rel=0.05)
        assert network.layers[1].bias is None


def test_rank_is_nearly_full_if_there_are_enough_low_frequencies() -> None:
    """The card's: 126 of 128 for (64, 64, 16); 94 of 128 where L is a quarter of the width."""
    for n_low, n_high, least, most in ((64, 64, 126, 126), (32, 32, 94, 94)):
        basis = Fourier(n_low=n_low, n_high=n_high, n_phases=16).basis(128)
        values = torch.linalg.svdvals(basis)
        assert least <= int((values > 1e-6 * values[0]).sum()) <= most
    kept = torch.linalg.svdvals(Fourier(n_low=64, n_high=64, n_phases=16).basis(128))[:126]
    assert float(kept[0] / kept[-1]) < 1.45


def test_the_gradient_of_the_matrix_goes_through_the_basis() -> None:
    layer = made().layers[1].double()
    x = torch.rand(7, 16, dtype=torch.float64)
    layer(x).square().sum().backward()
    plain = layer.materialise()
    plain(x).square().sum().backward()
    torch.testing.assert_close(layer.coefficients.grad, plain.weight.grad @ layer.basis.T)


def test_a_fit_leaves_a_plain_network_unless_told_to_keep_it(tmp_path: Path) -> None:
    picture = (np.random.default_rng(0).random((8, 8, 3)) * 255).astype(np.uint8)
    for keep in (False, True):
        network = {"otype": "MLP", **SMALL, "reparameterisation": RULE | {"keep": keep}}
        config = {"encoding": {"otype": "Frequency", "n_frequencies": 3}, "network": network}
        path = tmp_path / f"{keep}.field"
        result = fit(picture, config=config, steps=3, output=path, progress="quiet",
                     overrides=["fit.batch_size=64", "fit.storage=float32"])  # fmt: skip
        assert result.training_step.startswith("PyTorch, as the native network has plain matrices")
        loaded, metadata = load_field(path)
        assert ("network.layers.1.coefficients" in read_header(path).tensors) == keep
        assert metadata["run"]["reparameterisation"]["otype"] == "Fourier"
        points = torch.rand(9, 2) * 8
        assert torch.equal(loaded(points), result.field(points))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"n_neurons": 8}, "network.reparameterisation: needs hidden layers of at least 16 inputs, got 8"),
        ({"n_hidden_layers": 1}, "network.reparameterisation: is of the matrices between hidden layers"),
        ({"activation": "WIRE"}, "network.reparameterisation: is of real activations in float32"),
        ({"precision": "bfloat16"}, "network.reparameterisation: is of real activations in float32"),
        (
            {"reparameterisation": RULE | {"n_phases": 2}},
            "network.reparameterisation.n_phases: expected an integer from",
        ),
        ({"reparameterisation": RULE | {"alpha": 0.0}}, "network.reparameterisation.alpha: expected a finite number"),
        (
            {"reparameterisation": "Fourie"},
            "network.reparameterisation.otype: no reparameterisation is called 'Fourie'",
        ),
    ],
)
def test_a_bad_key_is_named(keys: dict[str, Any], message: str) -> None:
    config = {"otype": "MLP", **SMALL, "reparameterisation": RULE, **keys}
    with pytest.raises(ConfigError) as caught:
        build("network", config, path="network", n_input_dims=5, n_output_dims=2)
    assert str(caught.value).startswith(message)


def test_its_configuration_rebuilds_it() -> None:
    network = made()
    again = build("network", network.config(), n_input_dims=5, n_output_dims=2)
    again.load_state_dict(network.state_dict())
    x = torch.rand(4, 5)
    assert torch.equal(again(x), network(x))
    assert math.prod(network.layers[1].coefficients.shape) == 16 * 60
