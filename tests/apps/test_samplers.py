"""Shuffled indices: each sample once per epoch, a function of the step alone."""

from __future__ import annotations

import pytest
import torch

from fieldforge.apps.fit.samplers import ShuffledIndices, permute


@pytest.mark.parametrize("n", [1, 2, 3, 7, 100, 4096, 12345])
def test_a_key_gives_a_permutation(n: int) -> None:
    shuffled = permute(torch.arange(n), n, torch.full((n,), 5))
    assert torch.equal(shuffled.sort().values, torch.arange(n))


def test_each_epoch_visits_every_sample_once_in_another_order() -> None:
    n, batch_size = 1000, 128
    indices = ShuffledIndices(n, batch_size=batch_size, seed=1)
    drawn = torch.cat([indices(step) for step in range(3 * n // batch_size + 1)])
    epochs = drawn[: 3 * n].view(3, n)
    for epoch in epochs:
        assert torch.equal(epoch.sort().values, torch.arange(n))
    assert not torch.equal(epochs[0], epochs[1])


def test_a_step_does_not_depend_on_the_steps_before() -> None:
    one, other = (ShuffledIndices(50_000, batch_size=4096, seed=3) for _ in range(2))
    for step in range(200):
        expected = one(step)
    assert torch.equal(other(199), expected)
    assert torch.equal(other(0), one(0))


def test_seeds_differ_and_order_has_no_visible_structure() -> None:
    n = 4096
    one, other = (ShuffledIndices(n, batch_size=n, seed=seed)(0).double() for seed in (0, 1))
    assert not torch.equal(one, other)
    for left, right in ((one, other), (one, torch.arange(n).double()), (one[1:], one[:-1])):
        correlation = torch.corrcoef(torch.stack([left, right]))[0, 1]
        assert abs(float(correlation)) < 0.06  # four standard deviations of 4096 independent draws
