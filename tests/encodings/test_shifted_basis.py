"""Shifted bases, and what is said of any encoding's features."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from reference import shifted_basis as loops

from fieldforge.encodings.diagnostics import distance_profile, ridge, ridge_kronecker, stable_rank
from fieldforge.encodings.random_fourier import RandomFourier
from fieldforge.encodings.sape import SAPE
from fieldforge.encodings.shifted_basis import KINDS, ShiftedBasis
from fieldforge.registry import ConfigError, build


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reduction", ["Concatenation", "Kronecker"])
def test_features_are_the_loop(kind: str, reduction: str, generator: torch.Generator) -> None:
    encoding = ShiftedBasis(2, kind=kind, width=0.3, n_shifts=4, reduction=reduction, margin=0.1)
    x = torch.rand(6, 2, dtype=torch.float64, generator=generator) * 1.4 - 0.2
    longest = max(math.sqrt(sum(v * v for v in loops.shifted(i / 1024, kind, 0.3, 4, 0.1))) for i in range(1025))
    expected = []
    for point in x.tolist():
        a, b = ([v / longest for v in loops.shifted(p, kind, 0.3, 4, 0.1)] for p in point)
        expected.append([u * v for u in a for v in b] if reduction == "Kronecker" else a + b)
    torch.testing.assert_close(encoding(x).tolist(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("width", [0.1, 0.05, 0.01, 0.005])
def test_stable_rank_of_gaussians_is_one_over_two_root_pi_widths(width: float) -> None:
    """Within 2 % (Zheng et al. 2021, section 3.2; borders weigh in where bumps are wide)."""
    encoding = ShiftedBasis(1, width=width, n_shifts=1000)
    rank = stable_rank(encoding(torch.linspace(0, 1, 1000, dtype=torch.float64)[:, None]))
    assert rank == pytest.approx(1 / (2 * math.sqrt(math.pi) * width), rel=0.02 if width < 0.1 else 0.03)


def test_matched_random_features_have_the_same_profile() -> None:
    """exp(-d² / (4 width²)), up to what few frequencies leave to chance."""
    width = 0.05
    bumps = ShiftedBasis(1, width=width, n_shifts=400, margin=0.3)
    waves = RandomFourier(
        1, n_features=20000, sigma=1 / (2 * math.sqrt(2) * math.pi * width), generator=torch.Generator().manual_seed(0)
    )
    d = torch.linspace(-0.2, 0.2, 21)
    middle = torch.tensor([0.5])
    expected = torch.exp(-(d**2) / (4 * width**2))
    torch.testing.assert_close(distance_profile(bumps, middle, d), expected, rtol=0, atol=1e-3)
    torch.testing.assert_close(distance_profile(waves, middle, d), expected, rtol=0, atol=0.02)


def test_shifted_sines_of_one_frequency_span_two_directions() -> None:
    features = ShiftedBasis(1, kind="Sine", width=0.25, n_shifts=50)(torch.rand(200, 1).double())
    assert int((torch.linalg.svdvals(features) > 1e-9).sum()) == 2


def test_side_by_side_ranks_add_and_products_multiply(generator: torch.Generator) -> None:
    x = torch.rand(300, 2, dtype=torch.float64, generator=generator)
    ranks = [
        int(torch.linalg.matrix_rank(ShiftedBasis(2, width=0.1, n_shifts=8, reduction=reduction)(x)))
        for reduction in ("Concatenation", "Kronecker")
    ]
    assert ranks[0] <= 16 < ranks[1] == 64


def test_stable_rank_of_known_matrices() -> None:
    assert stable_rank(torch.diag(torch.tensor([2.0, 1.0, 1.0]))) == pytest.approx(1.5)
    assert stable_rank(torch.ones(5, 4)) == pytest.approx(1.0)
    assert stable_rank(torch.zeros(3, 2)) == 0.0
    assert stable_rank(torch.zeros(0, 2)) == 0.0


def test_ridge_solves_the_normal_equations(generator: torch.Generator) -> None:
    features = torch.rand(30, 7, dtype=torch.float64, generator=generator)
    values = torch.rand(30, 2, dtype=torch.float64, generator=generator)
    length = float(features.square().sum(-1).mean())
    for strength in (1e-6, 0.1):
        left = features.T @ features + strength * length * torch.eye(7).double()
        torch.testing.assert_close(ridge(features, values, strength), torch.linalg.solve(left, features.T @ values))


def test_ridge_of_a_grid_is_that_of_all_products(generator: torch.Generator) -> None:
    rows, columns = (torch.rand(n, k, dtype=torch.float64, generator=generator) for n, k in ((9, 4), (7, 5)))
    values = torch.rand(9, 7, 3, dtype=torch.float64, generator=generator)
    products = torch.einsum("if,jg->ijfg", rows, columns).reshape(63, 20)
    for strength in (0.0, 1e-3):
        expected = ridge(products, values.reshape(63, 3), strength).view(4, 5, 3)
        torch.testing.assert_close(ridge_kronecker(rows, columns, values, strength), expected)


def test_a_linear_head_remembers_more_the_narrower_the_bumps() -> None:
    """Zheng et al.: memory grows with the stable rank, what is between samples is best at a middle width."""
    x = torch.linspace(0, 1, 256, dtype=torch.float64)[:, None]
    signal = (torch.sin(40 * x) + torch.sin(90 * x**2)) / 2
    errors = []
    for width in (0.1, 0.01, 0.0005):
        encoding = ShiftedBasis(1, width=width, n_shifts=256, margin=0.02)
        features = encoding(x)
        weight = ridge(features[::2], signal[::2], 1e-6)
        miss = (features @ weight - signal).square()
        errors.append((float(miss[::2].mean()), float(miss[1::2].mean())))
    assert errors[0][0] > 100 * errors[1][0]
    assert errors[1][1] < 0.01 * min(errors[0][1], errors[2][1])


def test_several_widths_are_in_order_and_open_in_it() -> None:
    encoding = ShiftedBasis(2, width=[0.3, 0.1, 0.02], n_shifts=5)
    assert encoding.channel_order().tolist() == [0] * 10 + [1] * 10 + [2] * 10
    assert ShiftedBasis(2).channel_order() is None
    sape = SAPE(2, nested=encoding, resolution=8)
    assert sape.blocks().tolist() == [0] * 10 + [1] * 10 + [2] * 10


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"kind": "Gauss"}, "encoding.kind: expected one of Gaussian, Square"),
        ({"width": 0.0}, "encoding.width: expected a finite number above 0"),
        ({"width": [0.1, 0.1]}, "encoding.width: expected one number, or several from wide to narrow"),
        ({"n_shifts": 2000, "reduction": "Kronecker"}, "encoding.n_shifts: 2000 makes 4,000,000 features"),
        ({"n_shift": 3}, "encoding.n_shift: ShiftedBasis has no such key; did you mean n_shifts?"),
    ],
)
def test_a_bad_key_is_named(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build("encoding", {"otype": "ShiftedBasis", **keys}, path="encoding", n_input_dims=2)
    assert str(caught.value).startswith(message)


def test_bad_matrices_are_named() -> None:
    with pytest.raises(ValueError, match=r"^features: expected a matrix"):
        stable_rank(torch.zeros(3))
    with pytest.raises(ValueError, match=r"^values: expected a row for each of 3"):
        ridge(torch.zeros(3, 2), torch.zeros(4, 1))
    with pytest.raises(ValueError, match=r"^values: expected \(3, 4, C\)"):
        ridge_kronecker(torch.zeros(3, 2), torch.zeros(4, 2), torch.zeros(4, 3, 1))
