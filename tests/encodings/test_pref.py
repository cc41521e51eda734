"""PREF: volumes kept as spectra."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from reference.encodings import pref
from torch import Tensor

from fieldforge.apps.fit.optimizers.base import Parameters
from fieldforge.encodings.pref import PREF
from fieldforge.registry import build

VARIANTS: list[tuple[int, dict[str, Any]]] = [
    (3, {"resolution": 5, "n_features": 2, "n_reduced": 3}),
    (3, {"resolution": 4, "n_features": 2, "n_reduced": 4, "sampling": "Dilated", "span": 0.4}),
    (3, {"resolution": 4, "n_features": 3}),
    (3, {"resolution": 5, "n_features": 2, "parts": "Complex"}),
    (2, {"resolution": 6, "n_features": 2}),
    (2, {"resolution": 7, "n_features": 2, "parts": "Complex"}),
]


def drawn(n_input_dims: int, generator: torch.Generator, **keys: Any) -> PREF:
    encoding = PREF(n_input_dims, **keys).double()
    with torch.no_grad():
        for parameter in encoding.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return encoding


@pytest.mark.parametrize(("n_input_dims", "keys"), VARIANTS)
def test_equals_the_loop_over_phasors(n_input_dims: int, keys: dict[str, Any], generator: torch.Generator) -> None:
    encoding = drawn(n_input_dims, generator, **keys)
    x = torch.rand(3, n_input_dims, generator=generator, dtype=torch.float64) * 1.2 - 0.1
    reduced = [0, 1, 2, 4] if keys.get("sampling") == "Dilated" else [0, 1, 2]
    expected = [
        pref(
            p, encoding.spectrum.tolist(), reduced, encoding.span, float(encoding.alpha.detach()),
            is_complex=encoding.parts == "Complex",
        )
        for p in x.tolist()
    ]  # fmt: skip
    torch.testing.assert_close(encoding(x).tolist(), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("n_input_dims", "keys"), VARIANTS)
def test_derivatives_through_the_kept_transform(
    n_input_dims: int, keys: dict[str, Any], generator: torch.Generator
) -> None:
    """They are those through the transform itself, also second ones."""
    encoding = drawn(n_input_dims, generator, **keys)
    x = torch.rand(4, n_input_dims, generator=generator, dtype=torch.float64).requires_grad_()
    mix = torch.randn(encoding.n_output_dims, generator=generator, dtype=torch.float64)

    def penalty(features: Tensor) -> Tensor:
        (slope,) = torch.autograd.grad(features @ mix, x, torch.ones(4, dtype=torch.float64), create_graph=True)
        return slope.square().sum() + features.square().sum()

    wanted = [x, *encoding.parameters()]
    found = torch.autograd.grad(penalty(encoding(x)), wanted)
    swapped = {name: (1.0 * value) for name, value in encoding.named_parameters()}  # no parameters: nothing is kept
    plain = torch.autograd.grad(penalty(torch.func.functional_call(encoding, swapped, (x,))), wanted)
    for one, other in zip(found, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_a_wave_is_its_phasor(generator: torch.Generator) -> None:
    """cos 2π(3u - 2v) with u, v in periods: exact at the nodes, which stand at i / (N - 1)."""
    encoding = PREF(2, resolution=9, n_features=1, initial="Zero").double()
    with torch.no_grad():
        encoding.spectrum[0, 3, -2, 0, 0, 0] = 1.0
    i = torch.cartesian_prod(torch.arange(9), torch.arange(9)).double()
    expected = encoding.alpha * torch.cos(2 * math.pi * (3 * i[:, 0] - 2 * i[:, 1]) / 9)
    torch.testing.assert_close(encoding(i / 8)[:, 0], expected, rtol=0, atol=1e-12)


def test_positive_reduced_frequencies_stand_for_the_negative_ones_too() -> None:
    """A real wave along x is half a phasor of frequency 2, the other half of which is not kept."""
    encoding = PREF(3, resolution=4, n_features=1, n_reduced=3, initial="Zero").double()
    with torch.no_grad():
        encoding.spectrum[0, 0, 0, 2, 0, 0] = 0.5
    x = torch.rand(20, 3, dtype=torch.float64)
    expected = encoding.alpha * torch.cos(2 * math.pi * 2 * x[:, 0] * 3 / 4)
    torch.testing.assert_close(encoding(x)[:, 0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("n_input_dims", "n_reduced", "atol"), [(2, 1, 1e-6), (3, 5, 0.2)])
def test_begins_as_a_cone(n_input_dims: int, n_reduced: int, atol: float) -> None:
    """Exactly in 2-D; in 3-D as far as a few frequencies of one axis go."""
    encoding = PREF(n_input_dims, resolution=9, n_features=4, n_reduced=n_reduced)
    nodes = torch.cartesian_prod(*[torch.arange(9)] * n_input_dims)
    distance = torch.linalg.vector_norm(2 * nodes / 8 - 1, dim=-1)
    torch.testing.assert_close(encoding(nodes / 8) * 2, distance[:, None].expand(-1, 4), rtol=0, atol=atol)


@pytest.mark.parametrize(("old", "new"), [(4, 8), (5, 10), (4, 7), (9, 11)])
def test_growing_keeps_the_signal(old: int, new: int, generator: torch.Generator) -> None:
    """At nodes that both lattices have; negative frequencies stay negative, the period stays."""
    encoding = drawn(3, generator, resolution=old, n_features=1, n_reduced=2)
    grown = encoding.grow(new)
    assert grown.spectrum.shape[1:3] == (new, new)
    assert grown.config() == encoding.config() | {"resolution": new, "span": (old - 1) / old}
    kept, before = (one.spectrum.detach().square().sum() for one in (grown, encoding))
    torch.testing.assert_close(kept, before)
    further = grown.grow(old * new)
    assert torch.equal(further.spectrum, encoding.grow(old * new).spectrum)
    nodes = torch.randint(old, (30, 3), generator=generator).double() / (old - 1)
    torch.testing.assert_close(further(nodes), encoding(nodes), rtol=0, atol=1e-9)


@pytest.mark.parametrize("n", [48, 49, 107])
def test_frequencies_are_whole_numbers(n: int) -> None:
    full, _ = PREF(2, resolution=n, n_features=1, initial="Zero").frequencies()
    assert full.tolist() == [k if k < (n + 1) // 2 else k - n for k in range(n)]


def test_parseval_is_the_mean_square_of_the_gradient(generator: torch.Generator) -> None:
    """A quarter of it, over one period, divided by the number of terms."""
    encoding = drawn(2, generator, resolution=7, n_features=2, parts="Complex", span=0.5)
    squares = torch.zeros((), dtype=torch.float64)
    for axis in range(2):
        slope = encoding.filtered(lambda k, axis=axis: 2j * math.pi * k[..., axis])
        squares = squares + (slope.alpha * slope.tables() / 0.5).square().sum() / 49  # per period, not per side
    torch.testing.assert_close(encoding.parseval(), squares / 4 / (49 * 2 * 2))


@pytest.mark.parametrize("n_reduced", [1, 3])
def test_filtering_is_a_convolution(n_reduced: int, generator: torch.Generator) -> None:
    """The derivative along every axis, against differences of the signal of few frequencies on a fine lattice."""
    encoding = drawn(3, generator, resolution=4, n_features=1, n_reduced=n_reduced)
    with torch.no_grad():
        encoding.spectrum[:, 2] = 0  # the frequency -N/2 has no partner, and no derivative that is real
        encoding.spectrum[:, :, 2] = 0
    fine = encoding.grow(512)
    x = torch.rand(10, 3, generator=generator, dtype=torch.float64) * 0.9
    for axis in range(3):
        step = torch.zeros(3, dtype=torch.float64)
        step[axis] = fine.finest_cell or 0.0
        slope = fine.filtered(lambda k, axis=axis: 2j * math.pi * k[..., axis])(x)
        difference = (fine(x + step) - fine(x - step)) / (2 * step[axis])
        torch.testing.assert_close(slope, difference, rtol=0, atol=0.05)


def test_transforms_are_made_once_for_each_state_of_the_spectrum(monkeypatch: pytest.MonkeyPatch) -> None:
    encoding = PREF(3, resolution=4, n_features=2)
    calls: list[int] = []
    inverse = torch.fft.ifftn

    def counted(*given: Any, **keys: Any) -> Tensor:
        calls.append(1)
        return inverse(*given, **keys)

    monkeypatch.setattr(torch.fft, "ifftn", counted)
    optimizer = build("optimizer", "Adam", parameters=Parameters(other=list(encoding.parameters())))
    x = torch.rand(9, 3)
    for step in range(3):
        with torch.no_grad():
            for _ in range(4):
                before = encoding(x)
        encoding(x).sum().backward()
        assert len(calls) == step + 1
        optimizer.step()
        optimizer.zero_grad()
        assert not torch.equal(encoding(x), before)
    encoding.spectrum.data = torch.zeros_like(encoding.spectrum)
    assert not encoding(x).any()
    assert not encoding.double()(x.double()).any()


@pytest.mark.parametrize(
    ("n_input_dims", "keys", "message"),
    [
        (4, {}, "n_input_dims: expected an integer from 2 to 3"),
        (2, {"n_reduced": 2}, "n_reduced: expected an integer from 1 to 1"),
        (3, {"n_reduced": 2, "parts": "Complex"}, "parts: 'Complex' needs n_reduced=1"),
        (3, {"resolution": 8, "span": 0.9}, r"span: expected a finite number above 0 and at most 0\.875"),
        (3, {"resolution": 2048, "n_features": 512}, "resolution: 2048 makes"),
        (3, {"sampling": "Log"}, "sampling: expected one of Linear, Dilated"),
    ],
)
def test_refuses_by_name(n_input_dims: int, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PREF(n_input_dims, **keys)


def test_does_not_shrink() -> None:
    with pytest.raises(ValueError, match="resolution: expected an integer of at least 8"):
        PREF(2, resolution=8, n_features=1).grow(4)
