"""Permuted, sign-flipped and canonical weights are the same function; parity is what the activation is."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fieldforge.contracts.codec import SYMMETRY_CHECKS
from fieldforge.fields.networks.mlp import MLP
from fieldforge.fields.weightspace.chain import Chain
from fieldforge.fields.weightspace.layout import Layout
from fieldforge.fields.weightspace.symmetries import Change, Symmetries, parity
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

    from fieldforge.contracts.codec import orbit, require_same_function

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
