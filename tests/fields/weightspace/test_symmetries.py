"""Permuted, sign-flipped and canonical weights are the same function; parity is what the activation is."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from fieldforge.contracts.codec import SYMMETRY_CHECKS, orbit, require_same_function
from fieldforge.fields.activations.sine import Sine
from fieldforge.fields.networks.mlp import MLP
from fieldforge.fields.weightspace.chain import Chain
from fieldforge.fields.weightspace.layout import Layout
from fieldforge.fields.weightspace.symmetries import Change, Symmetries, fold_phases, parity
from fieldforge.registry import available, build

ODD = ("None", "Linear", "Sine", "Tanh", "FINER", "SPDER", "SPDERSmooth")
PARITIES = {name: "odd" for name in ODD} | {"Gaussian": "even"}
REAL = [name for name in available("activation") if not build("activation", name).is_complex]


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("check", SYMMETRY_CHECKS, ids=lambda check: check.__name__)
def test_symmetries_keep_their_promises(check: Any, name: str) -> None:
    check(lambda generator: MLP(2, 3, n_neurons=6, n_hidden_layers=3, activation=name, has_bias=True,
                                generator=generator))  # fmt: skip


@pytest.mark.parametrize("check", SYMMETRY_CHECKS, ids=lambda check: check.__name__)
def test_so_do_those_without_biases(check: Any) -> None:
    check(lambda generator: MLP(2, 3, n_neurons=5, n_hidden_layers=2, activation="Sine", generator=generator))


@pytest.mark.parametrize("name", available("activation"))
def test_parity_is_the_activations(name: str) -> None:
    assert parity(build("activation", name)) == PARITIES.get(name, "none")


def test_a_sine_flips_its_bias_with_its_weights() -> None:
    """One unit by hand: sin(-(w x + b)) times -v."""
    mlp = MLP(2, 1, n_neurons=2, n_hidden_layers=1, activation="Sine", has_bias=True)
    layout = Layout.of(mlp.state_dict())
    group = Symmetries(Chain.find(layout), mlp.activation)
    before = layout.flatten(mlp.state_dict())[None]
    change = Change((torch.tensor([[1, 0]]),), (torch.tensor([[-1.0, 1.0]]),))
    after = layout.unflatten(group.apply(before, change)[0])
    first, last = mlp.layers
    assert torch.equal(after["layers.0.weight"], torch.stack([-first.weight[1], first.weight[0]]))
    assert torch.equal(after["layers.0.bias"], torch.stack([-first.bias[1], first.bias[0]]))
    assert torch.equal(after["layers.1.weight"], torch.stack([-last.weight[:, 1], last.weight[:, 0]], 1))
    assert torch.equal(after["layers.1.bias"], last.bias)


def test_the_contract_can_see() -> None:
    """With a sign that only the weights follow, a sine is another function."""

    class Careless(Symmetries):
        def apply(self, vectors: torch.Tensor, change: Change) -> torch.Tensor:
            ones = tuple(torch.ones_like(sign) for sign in change.signs)
            flipped = Change(change.orders, tuple(-one for one in ones))
            tensors = self.chain.layout.unflatten(super().apply(vectors, flipped))
            tensors["layers.0.bias"] = -tensors["layers.0.bias"]
            return self.chain.layout.flatten(tensors)

    mlp, group, given = orbit(lambda generator: MLP(2, 1, n_neurons=4, n_hidden_layers=1, activation="Sine",
                                                    has_bias=True, generator=generator))  # fmt: skip
    careless = Careless(group.chain, mlp.activation)
    with pytest.raises(AssertionError, match=r"the function changes by"):
        require_same_function(mlp, given, careless.apply(given, careless.draw(len(given))))


def test_tensors_beside_the_chain_stay(generator: torch.Generator) -> None:
    layout = Layout(
        (("encoding.planes", (3, 2, 2, 2)), ("a.0.weight", (4, 2)), ("a.0.bias", (4,)), ("a.1.weight", (1, 4)))
    )
    group = Symmetries(Chain.find(layout))
    vectors = torch.randn(3, layout.n_parameters, generator=generator)
    after = group.apply(vectors, group.draw(3, generator))
    assert torch.equal(after[:, :24], vectors[:, :24])
    assert torch.equal(after.sort(-1).values, vectors.sort(-1).values)


def test_a_sines_bias_moves_by_half_periods(generator: torch.Generator) -> None:
    """Folded biases are in a quarter of a period, the function is the same, and moved ones fold to the same place."""
    sine = Sine(omega=6.0, first_omega=9.0)
    mlp, group, given = orbit(lambda generator: MLP(2, 1, n_neurons=5, n_hidden_layers=2, activation=sine,
                                                    has_bias=True, generator=generator))  # fmt: skip
    chain = group.chain
    folded = fold_phases(given, chain, sine)
    assert not torch.equal(folded, given)
    require_same_function(mlp, given, folded)
    for bias, omega in zip(chain.split(folded).biases[:-1], (9.0, 6.0), strict=True):
        assert 0 <= float(bias.min())
        assert float(bias.max()) <= math.pi / 2 / omega
    tensors = chain.layout.unflatten(given.clone())
    tensors["layers.0.bias"][:, 2] += 3 * math.pi / 9  # an odd number of half periods: the column changes its sign
    tensors["layers.1.weight"][:, :, 2] *= -1
    moved = chain.layout.flatten(tensors)
    require_same_function(mlp, given, moved)
    torch.testing.assert_close(fold_phases(moved, chain, sine), folded, rtol=0, atol=1e-12)
    flipped = group.apply(given, group.draw(len(given), generator))
    plain = Symmetries(chain)
    torch.testing.assert_close(plain.canonical(fold_phases(flipped, chain, sine)), plain.canonical(folded),
                               rtol=0, atol=1e-12)  # fmt: skip
