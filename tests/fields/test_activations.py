"""Activations: what the formulas say, what autograd says, what their initial weights are."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from reference import activations as formula
from torch import Tensor

from fieldforge.contracts import check_activation
from fieldforge.contracts.activation import ACTIVATION_CHECKS
from fieldforge.fields.activations.base import Activation
from fieldforge.fields.activations.finer import FINER
from fieldforge.fields.activations.gaussian import Gaussian
from fieldforge.fields.activations.pointwise import Pointwise, ReLU, Softplus, Squareplus
from fieldforge.fields.activations.sine import Sine
from fieldforge.fields.activations.spder import SPDER, SPDERSmooth
from fieldforge.fields.activations.wire import WIRE
from fieldforge.registry import ConfigError, available, build

FORMULAS: dict[str, tuple[str | dict[str, Any], Callable[..., Any]]] = {
    "None": ("None", lambda z: z),
    "Linear": ("Linear", lambda z: z),
    "ReLU": ("ReLU", formula.relu),
    "LeakyReLU": ("LeakyReLU", formula.leaky_relu),
    "GELU": ("GELU", formula.gelu),
    "SiLU": ("SiLU", formula.silu),
    "Softplus": ("Softplus", formula.softplus),
    "Softplus of beta 1": ({"otype": "Softplus", "beta": 1}, lambda z: formula.softplus(z, 1.0)),
    "Squareplus": ("Squareplus", formula.squareplus),
    "Sigmoid": ("Sigmoid", formula.sigmoid),
    "Tanh": ("Tanh", math.tanh),
    "Exponential": ("Exponential", math.exp),
    "Sine": ("Sine", formula.sine),
    "FINER": ("FINER", formula.finer),
    "FINER with gradient": ({"otype": "FINER", "scale_requires_grad": True}, formula.finer),
    "Gaussian": ("Gaussian", formula.gaussian),
    "WIRE": ("WIRE", formula.wire),
    "SPDER": ("SPDER", formula.spder),
    "SPDER arctan": ({"otype": "SPDER", "damping": "arctan"}, formula.spder_arctan),
    "SPDERSmooth": ("SPDERSmooth", formula.spder_smooth),
}
EVERY = pytest.mark.parametrize("name", FORMULAS)


def made(name: str) -> Activation:
    return build("activation", FORMULAS[name][0])


def test_every_registered_activation_is_tested_here() -> None:
    assert {made(name).otype for name in FORMULAS} == {
        build("activation", name).otype for name in available("activation")
    }


@EVERY
@pytest.mark.parametrize("check", ACTIVATION_CHECKS, ids=lambda check: check.__name__)
def test_contract(name: str, check: Callable[..., None]) -> None:
    check(lambda: made(name))


@EVERY
def test_values_are_the_formula(name: str) -> None:
    z = torch.tensor([-2.0, -0.7, -0.05, -1e-4, 0.0, 1e-4, 0.03, 0.4, 1.0, 1.9], dtype=torch.float64)
    values = made(name)(z)
    expected = torch.tensor([FORMULAS[name][1](float(one)) for one in z], dtype=values.dtype)
    torch.testing.assert_close(values, expected, rtol=1e-9, atol=1e-12)


@EVERY
def test_gradients_agree_with_differences(name: str) -> None:
    """Once where smooth, twice where twice smooth; complex values as their two parts."""
    activation = made(name)
    z = torch.tensor([-0.31, -0.02, 0.013, 0.24], dtype=torch.float64, requires_grad=True)

    def real(at: Tensor) -> Tensor:
        out = activation(at)
        return torch.view_as_real(out) if out.is_complex() else out

    if activation.smoothness >= 1:
        assert torch.autograd.gradcheck(real, z)
    if activation.smoothness >= 2:
        assert torch.autograd.gradgradcheck(real, z)


def test_wire_of_complex_numbers_is_the_formula() -> None:
    z = torch.complex(torch.linspace(-0.3, 0.3, 7), torch.linspace(0.2, -0.2, 7)).to(torch.complex128)
    expected = torch.tensor([formula.wire(complex(one)) for one in z], dtype=torch.complex128)
    torch.testing.assert_close(WIRE()(z), expected, rtol=1e-12, atol=1e-12)


def test_wire_differentiates_through_complex_numbers() -> None:
    parts = torch.tensor([[0.05, -0.02], [0.0, 0.0], [-0.1, 0.07]], dtype=torch.float64, requires_grad=True)

    def wavelet(at: Tensor) -> Tensor:
        return torch.view_as_real(WIRE()(torch.view_as_complex(at)))

    assert torch.autograd.gradcheck(wavelet, parts)
    assert torch.autograd.gradgradcheck(wavelet, parts)


def test_wire_derivative_is_along_the_real_axis() -> None:
    z, step = torch.tensor([0.05 - 0.02j, 0.01j, -0.1 + 0.07j], dtype=torch.complex128), 1e-7
    slope = (WIRE()(z + step) - WIRE()(z - step)) / (2 * step)
    torch.testing.assert_close(WIRE().derivative(z), slope, rtol=1e-6, atol=1e-6)


def test_a_large_imaginary_part_outgrows_the_wave_but_not_the_gaussian() -> None:
    """|exp(j omega z)| = exp(-omega Im z); its largest size under the Gaussian is exp((omega / 2 scale)²)."""
    z = torch.complex(torch.zeros(2001), torch.linspace(-2, 2, 2001)).to(torch.complex128)
    largest = WIRE(omega=20.0, scale=10.0)(z).abs().max()
    assert largest == pytest.approx(math.exp((20 / (2 * 10)) ** 2), rel=1e-5)


def test_the_first_layer_has_its_own_frequency() -> None:
    z = torch.tensor([0.01, 0.02])
    for activation in (
        Sine(first_omega=60.0),
        FINER(first_omega=60.0),
        SPDER(first_omega=60.0),
        SPDERSmooth(first_omega=60.0),
    ):
        other = type(activation)(omega=60.0)
        assert torch.equal(activation(z, is_first=True), other(z))
        assert not torch.equal(activation(z), other(z))
    assert torch.equal(WIRE(first_omega=40.0)(z, is_first=True), WIRE(omega=40.0)(z))


def test_garf_is_a_gaussian_of_scale_seven() -> None:
    z = torch.linspace(-0.5, 0.5, 11, dtype=torch.float64)
    garf = torch.exp(-(z**2) / (2 * 0.1**2))
    torch.testing.assert_close(Gaussian(scale=1 / (math.sqrt(2) * 0.1))(z), garf)


def test_squareplus_keeps_its_digits_far_below_zero() -> None:
    """The textbook formula gives 0 here in float32."""
    assert float(Squareplus()(torch.tensor(-1000.0))) == pytest.approx(1 / (10 * 1e4), rel=1e-6)


def test_softplus_of_a_large_number_is_the_number() -> None:
    z = torch.tensor([50.0, 1e4])
    assert torch.equal(Softplus()(z), z)


def test_finer_lets_autograd_see_the_scale_only_when_asked() -> None:
    z = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
    slopes = [torch.autograd.grad(FINER(omega=2.0, scale_requires_grad=seen)(z), z)[0].item() for seen in (False, True)]
    wave = 2 * math.cos(2 * 1.3 * 0.3)
    assert slopes == pytest.approx([1.3 * wave, 1.6 * wave])


def test_smooth_spder_is_spder_away_from_zero() -> None:
    z = torch.linspace(0.1, 2, 50, dtype=torch.float64)
    assert float((SPDERSmooth()(z) - SPDER()(z)).abs().max()) < 1e-4


def test_spder_starts_flat_and_bends_without_bound() -> None:
    """sin(u) √|u| is about u √|u| near 0: slope 0 there, second derivative like |u|^(-1/2)."""
    z = torch.tensor([0.0, 1e-8, 1e-6], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(SPDER(omega=1.0)(z).sum(), z, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), z)
    assert abs(float(slope[0].detach())) < 1e-5
    assert float(bend[1] / bend[2]) == pytest.approx(10.0, rel=1e-3)
    assert torch.isfinite(bend).all()


def drawn(
    draw: Callable[..., None], n_out: int = 256, n_in: int = 64, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    tensors = [torch.full((n_out, n_in), torch.nan, dtype=dtype), torch.full((n_out,), torch.nan, dtype=dtype)]
    draw(*tensors, torch.Generator().manual_seed(0))
    return tensors


def assert_uniform(tensor: Tensor, bound: float) -> None:
    """Within the bound, reaching for it, and of the standard deviation bound / √3."""
    assert float(tensor.abs().max()) <= bound * (1 + 1e-6)
    assert float(tensor.abs().max()) > 0.9 * bound
    assert abs(float(tensor.mean())) < 0.12 * bound
    assert float(tensor.std()) == pytest.approx(bound / math.sqrt(3), rel=0.12)


@pytest.mark.parametrize(
    ("activation", "first", "hidden"),
    [
        (ReLU(), math.sqrt(6 / 320), math.sqrt(6 / 320)),
        (Sine(), 1 / 64, math.sqrt(6 / 64) / 30),
        (Sine(omega=10.0, first_omega=90.0), 1 / 64, math.sqrt(6 / 64) / 10),
        (FINER(), 1 / 64, math.sqrt(6 / 64) / 30),
        (SPDER(), 1 / 64, math.sqrt(6 / 64) / 30),
        (SPDERSmooth(omega=20.0), 1 / 64, math.sqrt(6 / 64) / 20),
        (Gaussian(), 1 / 8, 1 / 8),
        (WIRE(), 1 / 8, 1 / 8),
    ],
    ids=lambda value: str(value.config()) if isinstance(value, Activation) else "",
)
def test_initial_weights_have_the_law_of_the_paper(activation: Activation, first: float, hidden: float) -> None:
    for draw, bound in ((activation.init_first, first), (activation.init_hidden, hidden)):
        weight, bias = drawn(draw)
        assert_uniform(weight, bound)
        assert_uniform(bias, 1 / 8)


def test_complex_weights_are_uniform_in_both_parts() -> None:
    weight, _ = drawn(WIRE().init_hidden, dtype=torch.complex64)
    assert_uniform(weight.real, 1 / 8)
    assert_uniform(weight.imag, 1 / 8)


def test_finer_draws_wide_first_biases() -> None:
    activation = FINER(first_bias_scale=5.0)
    assert_uniform(drawn(activation.init_first)[1], 5.0)
    assert_uniform(drawn(activation.init_hidden)[1], 1 / 8)


def test_a_bad_key_is_named() -> None:
    with pytest.raises(ConfigError, match=r"omega: expected a finite number above 0, got 0"):
        build("activation", {"otype": "Sine", "omega": 0})
    with pytest.raises(ConfigError, match=r"damping: expected one of sqrt, arctan, got 'log'"):
        build("activation", {"otype": "SPDER", "damping": "log"})
    with pytest.raises(ConfigError, match=r"did you mean ReLU\?"):
        build("activation", "RelLU")


class WrongDerivative(Pointwise):
    otype, smoothness = "WrongDerivative", math.inf

    def forward(self, z: Tensor, is_first: bool = False) -> Tensor:
        return torch.tanh(z)

    def derivative(self, z: Tensor, is_first: bool = False) -> Tensor:
        return 1 - torch.tanh(z)


class TooSmooth(ReLU):
    otype, smoothness = "TooSmooth", 1


class DetachedYetSmooth(Pointwise):
    """Its `derivative` is autograd's, and neither is the slope."""

    otype, smoothness = "DetachedYetSmooth", math.inf

    def forward(self, z: Tensor, is_first: bool = False) -> Tensor:
        return z.detach() * z

    def derivative(self, z: Tensor, is_first: bool = False) -> Tensor:
        return z


class InPlace(Pointwise):
    otype, smoothness = "InPlace", 0

    def forward(self, z: Tensor, is_first: bool = False) -> Tensor:
        return z.relu_()

    def derivative(self, z: Tensor, is_first: bool = False) -> Tensor:
        return (z > 0).to(z.dtype)


class Mixes(Pointwise):
    otype, smoothness = "Mixes", math.inf

    def forward(self, z: Tensor, is_first: bool = False) -> Tensor:
        return z - z.mean() if z.numel() else z

    def derivative(self, z: Tensor, is_first: bool = False) -> Tensor:
        return torch.ones_like(z)


class NotFiniteAtZero(Pointwise):
    """sin z √|z|, the way one writes it first."""

    otype, smoothness = "NotFiniteAtZero", 0

    def forward(self, z: Tensor, is_first: bool = False) -> Tensor:
        return torch.sin(z) * z.abs().sqrt()

    def derivative(self, z: Tensor, is_first: bool = False) -> Tensor:
        return torch.func.grad(lambda at: self(at).sum())(z)


class GlobalRandomness(ReLU):
    otype = "GlobalRandomness"

    def init_hidden(self, weight: Tensor, bias: Tensor | None, generator: torch.Generator | None = None) -> None:
        torch.nn.init.xavier_uniform_(weight)


class ForgetsItsKey(ReLU):
    otype = "ForgetsItsKey"

    def __init__(self, *, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = 1.0
        self.used = gain

    def forward(self, z: Tensor, is_first: bool = False) -> Tensor:
        return self.used * torch.relu(z)

    def derivative(self, z: Tensor, is_first: bool = False) -> Tensor:
        return self.used * (z > 0).to(z.dtype)


class SaysItIsComplex(ReLU):
    otype, is_complex = "SaysItIsComplex", True


@pytest.mark.parametrize(
    ("make", "promise"),
    [
        (WrongDerivative, "derivative_is_what_autograd_gives"),
        (TooSmooth, "smoothness_is_true"),
        (DetachedYetSmooth, "derivative_is_the_slope"),
        (InPlace, "values_keep_shape_and_input"),
        (Mixes, "values_are_elementwise"),
        (NotFiniteAtZero, "derivatives_are_finite|derivative_is_what_autograd_gives"),
        (GlobalRandomness, "initial_weights_are_drawn"),
        (lambda: ForgetsItsKey(gain=2.0), "config_rebuilds"),
        (SaysItIsComplex, "type_follows_input"),
    ],
)
def test_the_contract_catches(make: Callable[[], Activation], promise: str) -> None:
    with pytest.raises(AssertionError, match=f"^({promise}): "):
        check_activation(make)
