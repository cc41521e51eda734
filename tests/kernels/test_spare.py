"""Memory of gradients is used again where nobody else looks at it, and only there."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fieldforge.kernels import spare


def parameter(n: int = 6) -> nn.Parameter:
    return nn.Parameter(torch.zeros(n, 2))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spare, "LEAST", 10)


def with_gradient(one: nn.Parameter) -> int:
    """As a backward pass leaves it."""
    one.grad = spare.empty_gradient(one)
    one.grad.fill_(1.0)
    return one.grad.data_ptr()


def test_the_next_gradient_lies_where_the_last_one_lay() -> None:
    one = parameter()
    place = with_gradient(one)
    spare.set_aside(one)
    assert one.grad is None
    assert spare.empty_gradient(one).data_ptr() == place
    spare.set_aside(one)  # nothing to forget


@pytest.mark.parametrize("hold", [lambda g: g, lambda g: g.detach(), lambda g: g[1:], lambda g: g.numpy()])
def test_a_gradient_that_somebody_holds_stays_as_it_is(hold: object) -> None:
    one = parameter()
    with_gradient(one)
    held = hold(one.grad)  # type: ignore[operator]
    spare.set_aside(one)
    assert one.grad is None
    spare.empty_gradient(one).fill_(7.0)
    assert held.max() == 1


def test_small_gradients_and_those_that_no_kernel_made_are_given_back() -> None:
    small = parameter(2)
    with_gradient(small)
    other = parameter()
    other.grad = torch.ones(6, 2)
    for one in (small, other):
        spare.set_aside(one)
        assert one.grad is None
    assert small not in spare._SPARE
    assert other not in spare._SPARE
