"""Losses against tiny-cuda-nn's values and gradients in float64, and what else they promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reference.losses import evaluate

from fieldforge.apps.fit.losses import Loss
from fieldforge.registry import ConfigError, build

NAMES = [
    "L1",
    "RelativeL1",
    "MAPE",
    "SMAPE",
    "L2",
    "RelativeL2",
    "RelativeL2Luminance",
    "Huber",
    "Charbonnier",
    "LogL1",
    "CrossEntropy",
    "Variance",
    "BinaryCrossEntropy",
]
SIGNED = [name for name in NAMES if name not in ("CrossEntropy", "Variance", "BinaryCrossEntropy")]


def samples(name: str, n_channels: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    """Prediction and target of both signs (densities: positive), on both sides of Huber's corner, and weights."""
    generator = torch.Generator().manual_seed(3)
    prediction, target = torch.randn(2, 40, n_channels, generator=generator, dtype=torch.float64)
    target[:20] = prediction[:20] + 0.1 * target[:20]
    if name not in SIGNED:
        prediction, target = prediction.abs() + 0.05, target.abs()
    weight = torch.rand(40, 1, generator=generator, dtype=torch.float64) + 0.1
    return prediction.to(dtype), target.to(dtype), weight.to(dtype)


@pytest.mark.parametrize("n_channels", [3, 7])
@pytest.mark.parametrize("name", NAMES)
def test_value_and_gradient_are_those_of_the_definition(name: str, n_channels: int) -> None:
    prediction, target, weight = samples(name, n_channels)
    values, slope = evaluate(name, prediction.numpy(), target.numpy(), weight.numpy()[:, 0])
    loss = build("loss", name)
    prediction.requires_grad_()
    mean = loss(prediction, target, weight)
    (gradient,) = torch.autograd.grad(mean, prediction)
    np.testing.assert_allclose(loss.per_sample(prediction, target, weight).detach().numpy(), values, rtol=1e-12)
    assert float(mean.detach()) == pytest.approx(values.mean(), rel=1e-12)
    np.testing.assert_allclose(gradient.numpy(), slope, rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_float32_is_close_to_float64(name: str) -> None:
    exact = build("loss", name)(*samples(name, 3))
    assert float(build("loss", name)(*samples(name, 3, torch.float32))) == pytest.approx(float(exact), rel=1e-5)


@pytest.mark.parametrize("name", SIGNED)
def test_a_perfect_prediction_costs_nothing_and_stays(name: str) -> None:
    target = torch.tensor([[0.0, 1.0, -2.0]])
    prediction = target.clone().requires_grad_()
    loss = build("loss", name)(prediction, target)
    loss.backward()
    assert loss == 0.0
    assert prediction.grad is not None
    assert torch.equal(prediction.grad, torch.zeros_like(target))


def test_huber_joins_l2_near_zero_and_has_no_corner() -> None:
    small = torch.linspace(-0.1, 0.1, 9).reshape(-1, 1)
    huber, l2 = build("loss", "Huber"), build("loss", "L2")
    torch.testing.assert_close(huber.per_sample(small, 0 * small), l2.per_sample(small, 0 * small))
    around = torch.tensor([[0.1 - 1e-6], [0.1 + 1e-6]], dtype=torch.float64, requires_grad=True)
    huber.per_sample(around, torch.zeros_like(around)).sum().backward()
    assert around.grad is not None
    assert float(around.grad[1] - around.grad[0]) == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_config_rebuilds_in_any_case_of_letters(name: str) -> None:
    loss = build("loss", {"otype": name.lower()})
    assert isinstance(loss, Loss)
    assert build("loss", loss.config()).config() == loss.config() | {"otype": name}


def test_smooth_l1_is_instant_ngps_old_name_of_huber() -> None:
    assert build("loss", {"otype": "SmoothL1", "delta": 0.5}).config() == {"otype": "Huber", "delta": 0.5}


@pytest.mark.parametrize(
    ("prediction", "target", "weight", "message"),
    [
        (torch.zeros(4, 3), torch.zeros(4, 1), None, r"target: expected the shape of the prediction \(4, 3\)"),
        (torch.zeros(4), torch.zeros(4), None, r"prediction: expected shape \(n, c\)"),
        (torch.zeros(4, 3), torch.zeros(4, 3), torch.ones(4), r"weight: expected shape \(4, 1\), got \(4,\)"),
        (torch.zeros(0, 3), torch.zeros(0, 3), None, "at least one sample"),
    ],
)
def test_shapes_that_would_broadcast_in_silence_are_refused(
    prediction: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build("loss", "L2")(prediction, target, weight)


def test_luminance_needs_colour() -> None:
    with pytest.raises(ValueError, match="red, green and blue, got 1 channels"):
        build("loss", "RelativeL2Luminance")(torch.zeros(4, 1), torch.zeros(4, 1))


def test_a_corner_at_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"loss\.delta: expected a finite number above 0"):
        build("loss", {"otype": "Huber", "delta": 0.0}, path="loss")
