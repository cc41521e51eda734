"""Packed samples say the same in rows, offsets and counts, and refuse what is no packing."""

from __future__ import annotations

import pytest
import torch

from fieldforge.renderers.samples import Samples, expect_offsets, row_offsets, rows_to_rays

COUNTS = [[], [0], [0, 0, 0], [1], [3], [0, 2, 0, 1, 1, 0, 17, 0]]


def unit_intervals(counts: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    t0 = torch.cat([torch.arange(count).float() for count in [*counts, 0]])
    return t0, t0 + 1


@pytest.mark.parametrize("counts", COUNTS)
def test_rows_offsets_and_counts_say_the_same(counts: list[int]) -> None:
    t0, t1 = unit_intervals(counts)
    index = torch.tensor([ray for ray, count in enumerate(counts) for _ in range(count)], dtype=torch.int64)
    offsets = torch.tensor([sum(counts[:ray]) for ray in range(len(counts) + 1)])
    by_index, by_offsets = Samples(t0, t1, index, len(counts)), Samples.from_offsets(t0, t1, offsets)
    for samples in (by_index, by_offsets, by_index.to("cpu")):
        assert samples.offsets.tolist() == offsets.tolist()
        assert samples.counts.tolist() == counts
        assert samples.ray_index.tolist() == index.tolist()
        assert (samples.n_rays, samples.n_samples) == (len(counts), sum(counts))
        assert samples.offsets.dtype == samples.ray_index.dtype == torch.int64
    assert torch.equal(rows_to_rays(row_offsets(torch.tensor(counts, dtype=torch.int64)), sum(counts)), index)


@pytest.mark.parametrize("shape", [(3, 4), (0, 4), (3, 0), (1, 1)])
def test_dense_input_is_packed_row_by_row(shape: tuple[int, int]) -> None:
    t0 = torch.rand(shape)
    samples = Samples.from_dense(t0, t0 + 0.5)
    assert torch.equal(samples.t0, t0.reshape(-1))
    assert samples.counts.tolist() == [shape[1]] * shape[0]
    assert torch.allclose(samples.dt, torch.full((t0.numel(),), 0.5))
    assert torch.allclose(samples.t_mid, t0.reshape(-1) + 0.25)


def test_a_mask_keeps_what_it_says() -> None:
    t0 = torch.arange(12.0).reshape(3, 4)
    mask = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.bool)
    for samples in (Samples.from_dense(t0, t0 + 1, mask), Samples.from_dense(t0, t0 + 1).keep(mask.reshape(-1))):
        assert samples.t0.tolist() == [0, 2, 3, 9]
        assert samples.ray_index.tolist() == [0, 0, 0, 2]
        assert samples.offsets.tolist() == [0, 3, 3, 4]


def test_gradients_go_through_the_ends_of_intervals() -> None:
    t0 = torch.rand(2, 3, requires_grad=True)
    Samples.from_dense(t0, t0 + 1).t_mid.sum().backward()
    assert t0.grad is not None
    assert torch.equal(t0.grad, torch.ones(2, 3))


def test_nan_is_let_through() -> None:
    samples = Samples.from_offsets(torch.tensor([torch.nan]), torch.tensor([1.0]), torch.tensor([0, 1]))
    assert samples.dt.isnan().all()


ZERO, ONE = torch.zeros(2), torch.ones(2)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((ZERO, ONE, torch.tensor([1, 0]), 2), ValueError, r"ray_index: expected sorted values, got 1 before 0 at"),
        ((ZERO, ONE, torch.tensor([0, 2]), 2), ValueError, r"ray_index: expected values from 0 .* = 1, got 2"),
        ((ZERO, ONE, torch.tensor([-1, 0]), 2), ValueError, r"ray_index: expected values from 0 .*, got -1"),
        ((ZERO, ONE, torch.tensor([0, 1]).int(), 2), TypeError, r"ray_index: expected int64, got torch.int32"),
        ((ZERO, ONE, torch.tensor([0]), 2), ValueError, r"ray_index: expected one row for each of 2 samples"),
        ((ZERO, ONE, torch.tensor([0, 0]), -1), ValueError, r"n_rays: expected an integer of at least 0"),
        ((ONE, ZERO, torch.tensor([0, 0]), 1), ValueError, r"t1: expected no interval to end .* got \[1, 0\] at"),
        ((ZERO, torch.ones(3), torch.tensor([0, 0]), 1), ValueError, r"t1: expected one end for each"),
        ((ZERO, ONE.double(), torch.tensor([0, 0]), 1), TypeError, r"t1: expected torch.float32 like t0"),
        ((ZERO.long(), ONE, torch.tensor([0, 0]), 1), TypeError, r"t0: expected a floating-point tensor"),
    ],
)
def test_what_is_no_packing_is_refused_by_name(arguments: tuple, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        Samples(*arguments)


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        (torch.tensor([0, 1]), r"offsets: expected to go from 0 to the 2 rows, got 0 to 1"),
        (torch.tensor([1, 2]), r"offsets: expected to go from 0 to the 2 rows, got 1 to 2"),
        (torch.tensor([0, 2, 1, 2]), r"offsets: expected to never decrease, got 2 before 1"),
        (torch.zeros(0, dtype=torch.int64), r"offsets: expected \(n_rays \+ 1,\)"),
    ],
)
def test_offsets_that_are_none_are_refused(offsets: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Samples.from_offsets(ZERO, ONE, offsets)
    with pytest.raises(ValueError, match=message):
        expect_offsets("offsets", offsets, 2)


def test_masks_of_another_shape_are_refused() -> None:
    samples = Samples.from_offsets(ZERO, ONE, torch.tensor([0, 2]))
    with pytest.raises(ValueError, match=r"mask: expected booleans \(2,\), got"):
        samples.keep(torch.ones(2))
    with pytest.raises(ValueError, match=r"mask: expected booleans \(1, 2\), got"):
        Samples.from_dense(ZERO[None], ONE[None], torch.ones(2, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"t0: expected \(rays, samples\), got \(2,\)"):
        Samples.from_dense(ZERO, ONE)
    with pytest.raises(ValueError, match=r"t0: expected \(N,\), got \(1, 2\)"):
        Samples(ZERO[None], ONE[None], torch.zeros(1, 2, dtype=torch.int64), 1)
