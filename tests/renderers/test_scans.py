"""Scans along rays: three-way agreement, zeros among factors, and rays that do not see one another."""

from __future__ import annotations

import pytest
import torch
from reference import rendering as loops

from fieldforge.backends import use_backend
from fieldforge.renderers.samples import row_offsets
from fieldforge.renderers.scans import exclusive_prod, exclusive_sum, inclusive_prod, inclusive_sum

SCANS = [inclusive_sum, exclusive_sum, inclusive_prod, exclusive_prod]
COUNTS = [[], [0, 0], [1], [0, 3, 0, 1, 1, 17, 0, 2, 40, 0]]


def offsets_of(counts: list[int]) -> torch.Tensor:
    return row_offsets(torch.tensor(counts, dtype=torch.int64))


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("counts", COUNTS)
def test_scans_are_the_loops_of_each_ray(scan, counts: list[int], generator: torch.Generator) -> None:
    values = 1.5 * torch.rand(sum(counts), dtype=torch.float64, generator=generator) - 0.25
    values[::5] = 0  # zeros among the factors
    grad = torch.randn(values.shape, dtype=torch.float64, generator=generator)
    expected, slopes = [], []
    for ray in loops.rows(counts):
        here, g = values[ray.start : ray.stop].tolist(), grad[ray.start : ray.stop].tolist()
        expected += loops.scan(here, scan.__name__)
        slopes += loops.scan_gradient(here, scan.__name__, g)
    values.requires_grad_()
    got = scan(values, offsets_of(counts))
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64))
    (found,) = torch.autograd.grad(got, values, grad)
    torch.testing.assert_close(found, torch.tensor(slopes, dtype=torch.float64))


@pytest.mark.parametrize("scan", SCANS)
def test_derivatives_of_both_orders(scan, generator: torch.Generator) -> None:
    values = torch.randn(7, dtype=torch.float64, generator=generator)
    values[2] = 0
    offsets = torch.tensor([0, 4, 4, 5, 7])
    values.requires_grad_()
    assert torch.autograd.gradcheck(lambda v: scan(v, offsets), values)
    assert torch.autograd.gradgradcheck(lambda v: scan(v, offsets), values)


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("backend", ["reference", "auto"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1e30])
def test_what_is_wrong_on_a_ray_stays_there(scan, backend: str, bad: float) -> None:
    values = torch.ones(40)
    offsets = torch.tensor([0, 10, 20, 40])
    with use_backend(backend):
        expected = scan(values, offsets)
        values[12] = bad
        values.requires_grad_()
        got = scan(values, offsets)
        grad = torch.autograd.grad(got.sum(), values)[0]
    is_other = torch.cat([torch.ones(10), torch.zeros(10), torch.ones(20)]).bool()
    assert torch.equal(got.detach()[is_other], expected[is_other])
    assert torch.equal(got.detach()[:12], expected[:12])
    assert grad[is_other].isfinite().all()
    if bad != bad:
        assert got[13:20].isnan().all()


def test_long_rays_do_not_cancel() -> None:
    """A cumulative sum over all rays would have lost the small ones behind the large."""
    values = torch.cat([torch.full((1000,), 1e6), torch.full((1000,), 1e-6)])
    got = inclusive_sum(values, torch.tensor([0, 1000, 2000]))
    torch.testing.assert_close(got[1000:], torch.arange(1, 1001) * 1e-6, rtol=1e-5, atol=0)


@pytest.mark.parametrize("backend", ["reference", "auto"])
@pytest.mark.parametrize(
    ("values", "offsets", "error", "message"),
    [
        (torch.ones(3), torch.tensor([0, 2]), ValueError, "offsets: expected to go from 0 to the 3 rows, got 0 to 2"),
        (torch.ones(3), torch.tensor([0, 4]), ValueError, "offsets: expected to go from 0 to the 3 rows, got 0 to 4"),
        (torch.ones(3), torch.tensor([0, 2, 1, 3]), ValueError, "offsets: expected to never decrease, got 2 before 1"),
        (torch.ones(3), torch.tensor([0, 3]).int(), TypeError, "offsets: expected (torch.)?int64"),
        (torch.ones(3).long(), torch.tensor([0, 3]), TypeError, "values: expected a floating-point tensor"),
        (torch.ones(3, 1), torch.tensor([0, 3]), ValueError, r"values: expected \(N,\), got \(3, 1\)"),
    ],
)
def test_wrong_calls_are_refused_by_name(
    backend: str, values: torch.Tensor, offsets: torch.Tensor, error: type, message: str
) -> None:
    with use_backend(backend), pytest.raises(error, match=message):
        inclusive_sum(values, offsets)
