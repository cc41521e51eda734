"""Half precision, guarded: what overflows is not learned from, and what is learned is what float32 learns."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from fieldforge.apps.fit.half import HalfStep, LossScale
from fieldforge.apps.fit.losses.squared import L2
from fieldforge.apps.fit.optimizers.adam import Adam
from fieldforge.apps.fit.optimizers.base import Parameters


def one(value: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor([value]))


def test_the_scale_leaves_gradients_as_they_are() -> None:
    weight, scale = one(3.0), LossScale(2.0**12)
    scale.backward((weight**2).sum())
    assert scale.take_off([weight])
    assert weight.grad is not None
    assert weight.grad.item() == 6.0


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_a_gradient_that_is_not_finite_is_forgotten_and_halves_the_scale(bad: float) -> None:
    good, weight, scale = one(1.0), one(1.0), LossScale(64.0)
    good.grad, weight.grad = torch.ones(1), torch.tensor([bad])
    assert not scale.take_off([good, weight])
    assert (good.grad, weight.grad, scale.scale, scale.n_skipped) == (None, None, 32.0, 1)


def test_the_scale_grows_after_good_steps_and_stays_in_its_bounds() -> None:
    weight, scale = one(1.0), LossScale(2.0, patience=3, least=1.0, most=4.0)
    seen = []
    for _ in range(9):
        weight.grad = torch.ones(1)
        scale.take_off([weight])
        seen.append(scale.scale)
    assert seen == [2, 2, 4, 4, 4, 4, 4, 4, 4]
    for _ in range(5):
        scale.halve()
    assert scale.scale == 1.0


def test_the_scale_goes_on_from_its_state() -> None:
    scale, other = LossScale(8.0, patience=2), LossScale(8.0, patience=2)
    scale.halve()
    other.load(scale.state())
    assert other.state() == scale.state() == {"scale": 4.0, "n_good": 0, "n_skipped": 1}
    with pytest.raises(ValueError, match="scale: expected"):
        other.load({"scale": -1.0, "n_good": 0, "n_skipped": 0})
    with pytest.raises(ValueError, match="patience: expected"):
        LossScale(patience=0)


def make(gain: float = 1.0, dtype: str = "bfloat16") -> tuple[nn.Module, HalfStep]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1))
    generator = torch.Generator().manual_seed(0)

    def draw(step: int) -> tuple[Tensor, Tensor]:
        x = torch.rand(64, 2, generator=generator)
        return x, x.sum(-1, keepdim=True)

    optimizer = Adam(Parameters(matrix=list(net.parameters())), learning_rate=1e-2)
    return net, HalfStep(lambda x: gain * net(x), draw, L2(), optimizer, dtype=dtype)


def test_a_fit_in_half_precision_converges() -> None:
    net, step = make()
    losses = [step(i, 1.0)[0] for i in range(120)]
    assert losses[-1] < 0.05 * losses[0]
    assert all(parameter.dtype == torch.float32 for parameter in net.parameters())


def test_an_overflow_moves_nothing_and_the_next_step_can() -> None:
    net, step = make()
    step.scale = LossScale(2.0**20)
    before = [parameter.detach().clone() for parameter in net.parameters()]
    step.query = lambda x: net(x) + _Overflowing.apply(next(net.parameters()), x).to(x.dtype)
    step(0, 1.0)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert (step.scale.n_skipped, step.scale.scale) == (1, 2.0**19)
    for i in range(1, 16):
        step(i, 1.0)
    assert any(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_a_loss_that_is_not_finite_moves_nothing() -> None:
    net, step = make(gain=math.inf)
    before = [parameter.detach().clone() for parameter in net.parameters()]
    loss, _ = step(0, 1.0)
    assert not math.isfinite(loss)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


class _Overflowing(torch.autograd.Function):
    """Zero, with a gradient that goes through float16 and is too large for it while the scale is."""

    @staticmethod
    def forward(ctx: object, weight: Tensor, x: Tensor) -> Tensor:
        ctx.shape = weight.shape  # type: ignore[attr-defined]
        return x.new_zeros(len(x), 1)

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        size = (4.0 * 64 / 2 * grad.abs().sum()).half().float()
        return 1e-30 * size.expand(ctx.shape), None  # type: ignore[attr-defined]
