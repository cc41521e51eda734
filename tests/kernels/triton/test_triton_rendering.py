"""Scans, compositing and weighted sums on a GPU are the plain ones in float64."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from interpreted import DEVICE, needs_triton
from torch import Tensor

from fieldforge.kernels.triton import rendering as on_gpu
from fieldforge.renderers import compositing
from fieldforge.renderers.samples import Samples, row_offsets
from fieldforge.renderers.scans import segmented_scan

pytestmark = needs_triton
KINDS = ("inclusive_sum", "exclusive_sum", "inclusive_prod", "exclusive_prod")
COUNTS = [3, 0, 1, 70, 33, 0]


def make(counts: list[int], generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Samples:
    rays = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts, dtype=torch.int64))
    edges = torch.rand(len(rays), generator=generator).cumsum(0)
    t0 = edges.to(DEVICE, dtype)
    t1 = t0 + 0.2 * torch.rand(len(rays), generator=generator).to(DEVICE, dtype)
    return Samples(t0, t1, rays.to(DEVICE), len(counts))


def draw(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.rand(*shape, generator=generator).to(DEVICE).requires_grad_()


def error(got: Tensor, expected: Tensor) -> float:
    got, expected = got.detach().double(), expected.detach().double()
    assert got.shape == expected.shape
    return float((got - expected).norm() / expected.norm().clamp_min(1e-30)) if expected.numel() else 0.0


@pytest.mark.parametrize("counts", [COUNTS, [], [0], [1]], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_scans_and_their_gradients(kind: str, counts: list[int], generator: torch.Generator) -> None:
    offsets = row_offsets(torch.tensor(counts, dtype=torch.int64)).to(DEVICE)
    values = draw(sum(counts), generator=generator)
    with torch.no_grad():
        values[4:5] = 0.0  # nothing is divided
    exact = values.detach().double().requires_grad_()
    got = on_gpu.scan(values, offsets, kind, reference=partial(segmented_scan, kind=kind))
    expected = segmented_scan(exact, offsets, kind)
    assert error(got, expected) < 1e-6
    grad = torch.randn(got.shape, generator=generator).to(DEVICE)
    (one,), (other,) = torch.autograd.grad(got, values, grad), torch.autograd.grad(expected, exact, grad.double())
    assert error(one, other) < 2e-6


@pytest.mark.parametrize(("counts", "n_channels"), [(COUNTS, 3), (COUNTS, 0), ([], 1), ([1], 5)])
def test_compositing_and_its_gradients(counts: list[int], n_channels: int, generator: torch.Generator) -> None:
    samples = make(counts, generator)
    density, color = draw(sum(counts), generator=generator), draw(sum(counts), n_channels, generator=generator)
    fine = Samples(samples.t0.double(), samples.t1.double(), samples.ray_index, samples.n_rays)
    exact = [tensor.detach().double().requires_grad_() for tensor in (density, color)]
    got = compositing._composite_on_cuda(samples, density, color)
    expected = compositing.composite_plain(fine, *exact)
    grads = [torch.randn(one.shape, generator=generator).to(DEVICE) for one in got]
    for one, other in zip(got, expected, strict=True):
        assert error(one, other) < 1e-6
    found = torch.autograd.grad(got, (density, color), grads)
    truth = torch.autograd.grad(expected, exact, [grad.double() for grad in grads])
    for one, other in zip(found, truth, strict=True):
        assert error(one, other) < 3e-6


def test_densities_and_colours_of_half_precision_are_composited_in_float32(generator: torch.Generator) -> None:
    """As in the reference, where the lengths of intervals promote them; gradients have the dtype of the inputs."""
    samples = make(COUNTS, generator)
    given = [draw(sum(COUNTS), *more, generator=generator).detach().half() for more in ((), (3,))]
    halves, wide = [one.clone().requires_grad_() for one in given], [one.double().requires_grad_() for one in given]
    fine = Samples(samples.t0.double(), samples.t1.double(), samples.ray_index, samples.n_rays)
    got, expected = compositing._composite_on_cuda(samples, *halves), compositing.composite_plain(fine, *wide)
    for one, other in zip(got, expected, strict=True):
        assert one.dtype == torch.float32
        assert error(one, other) < 1e-6
    found, truth = (torch.autograd.grad(out.color.sum() + out.depth.sum(), of) for out, of in
                    ((got, halves), (expected, wide)))  # fmt: skip
    for one, other in zip(found, truth, strict=True):
        assert one.dtype == torch.float16
        assert error(one, other) < 1e-3
    values, exact = given[1].clone().requires_grad_(), given[1].double().requires_grad_()
    sums = compositing._accumulate_on_cuda(got.weights.detach(), values, samples.offsets)
    of_exact = compositing.accumulate_plain(expected.weights.detach(), exact, samples.offsets)
    assert error(sums, of_exact) < 1e-6
    (one,), (other,) = torch.autograd.grad(sums.sum(), values), torch.autograd.grad(of_exact.sum(), exact)
    assert one.dtype == torch.float16
    assert error(one, other) < 1e-3


def test_what_is_refused() -> None:
    half, single, double = torch.float16, torch.float32, torch.float64
    composite = {"moves": False, "n_channels": 3}
    assert compositing._refuses_composite(dtypes=(half, torch.bfloat16, single), **composite) is None
    assert "not float16" in str(compositing._refuses_composite(dtypes=(single, single, half), **composite))
    assert "not float64" in str(compositing._refuses_composite(dtypes=(double, single, single), **composite))
    assert "no gradient in t0" in str(
        compositing._refuses_composite(dtypes=(single,) * 3, **composite | {"moves": True})
    )
    assert compositing._refuses_accumulate(dtypes=(single, half)) is None
    assert "not float16" in str(compositing._refuses_accumulate(dtypes=(half, single)))
    assert "not float16" in str(compositing._refuses_distortion(dtypes=(half, single), moves=False))


def test_a_wall_hides_what_is_behind_it_and_gradients_stay_finite(generator: torch.Generator) -> None:
    samples = make([4, 3], generator)
    density, color = draw(7, generator=generator), draw(7, 3, generator=generator)
    with torch.no_grad():
        density[1] = math.inf
    seen = compositing._composite_on_cuda(samples, density, color)
    assert seen.opacity[0] == 1
    assert seen.weights[2:4].tolist() == [0, 0]
    slopes = torch.autograd.grad(seen.color.sum(), (density, color))
    assert all(slope.isfinite().all() for slope in slopes)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_nan_stays_on_its_ray(generator: torch.Generator) -> None:
    samples = make([3, 3, 3], generator)
    density = torch.rand(9, generator=generator).to(DEVICE)
    density[4] = math.nan
    seen = compositing._composite_on_cuda(samples, density, torch.ones(9, 2, device=DEVICE))
    assert seen.color.isnan().any(1).tolist() == [False, True, False]
    assert seen.weights.isnan().tolist() == [False] * 4 + [True] * 2 + [False] * 3


def test_thin_samples_keep_their_digits() -> None:
    """1 - exp(-tau) as it stands would have three of them left."""
    tau = torch.tensor([1e-4, 1e-7, 0.3, 0.6], device=DEVICE)
    samples = Samples(torch.zeros_like(tau), torch.ones_like(tau), torch.arange(4, device=DEVICE), 4)
    weights = compositing._composite_on_cuda(samples, tau, tau[:, None]).weights
    assert weights.tolist() == pytest.approx((-torch.expm1(-tau.double())).tolist(), rel=3e-7)


def test_gradients_that_nobody_wants_are_not_made(generator: torch.Generator) -> None:
    offsets = row_offsets(torch.tensor(COUNTS)).to(DEVICE)
    weights, values = draw(sum(COUNTS), generator=generator), draw(sum(COUNTS), 3, generator=generator)
    both = torch.autograd.grad(compositing._accumulate_on_cuda(weights, values, offsets).square().sum(),
                               (weights, values))  # fmt: skip
    for given, wanted, expected in (
        ((weights, values.detach()), weights, both[0]), ((weights.detach(), values), values, both[1]),
    ):  # fmt: skip
        (found,) = torch.autograd.grad(compositing._accumulate_on_cuda(*given, offsets).square().sum(), wanted)
        assert torch.equal(found, expected)


@pytest.mark.parametrize("n_channels", [1, 3, 40])
def test_weighted_sums_and_their_gradients(n_channels: int, generator: torch.Generator) -> None:
    offsets = row_offsets(torch.tensor(COUNTS)).to(DEVICE)
    given = draw(sum(COUNTS), generator=generator), draw(sum(COUNTS), n_channels, generator=generator)
    exact = [tensor.detach().double().requires_grad_() for tensor in given]
    got, expected = compositing._accumulate_on_cuda(*given, offsets), compositing.accumulate_plain(*exact, offsets)
    assert error(got, expected) < 1e-6
    grad = torch.randn(got.shape, generator=generator).to(DEVICE)
    for one, other in zip(
        torch.autograd.grad(got, given, grad), torch.autograd.grad(expected, exact, grad.double()), strict=True
    ):
        assert error(one, other) < 1e-6


def test_distortion_and_its_gradient(generator: torch.Generator) -> None:
    samples, weights = make(COUNTS, generator), draw(sum(COUNTS), generator=generator)
    fine = Samples(samples.t0.double(), samples.t1.double(), samples.ray_index, samples.n_rays)
    exact = weights.detach().double().requires_grad_()
    got, expected = compositing._distortion_on_cuda(samples, weights), compositing.distortion_plain(fine, exact)
    assert error(got, expected) < 1e-5
    (one,), (other,) = torch.autograd.grad(got.sum(), weights), torch.autograd.grad(expected.sum(), exact)
    assert error(one, other) < 1e-5


def test_gradients_in_a_batch_are_the_references(generator: torch.Generator) -> None:
    """`is_grads_batched` sends gradients without memory."""
    samples = make([2, 3], generator)
    density, color = draw(5, generator=generator), draw(5, 2, generator=generator)
    out = compositing._composite_on_cuda(samples, density, color).color
    grads = torch.randn(3, 2, 2, generator=generator).to(DEVICE)
    (found,) = torch.autograd.grad(out, density, grads, is_grads_batched=True, retain_graph=True)
    one_by_one = [torch.autograd.grad(out, density, grad, retain_graph=True)[0] for grad in grads]
    assert error(found, torch.stack(one_by_one)) < 1e-6


def test_second_derivatives_are_the_references(generator: torch.Generator) -> None:
    samples = make([2, 3], generator)
    density, color = draw(5, generator=generator), draw(5, 2, generator=generator)
    found = []
    for run in (compositing._composite_on_cuda, compositing.composite_plain):
        (slope,) = torch.autograd.grad(run(samples, density, color).color.square().sum(), density, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), density)[0])
    assert error(*found) < 1e-5


def test_the_door_names_what_is_wrong(generator: torch.Generator) -> None:
    values, offsets = torch.rand(3, device=DEVICE), torch.tensor([0, 3], device=DEVICE)
    with pytest.raises(TypeError, match="offsets: expected int64 on a CUDA device"):
        on_gpu.scan(values, offsets.int(), "inclusive_sum", reference=lambda values, offsets: values)
    with pytest.raises(ValueError, match=r"values: expected shape \(3, 2\), got \(2, 2\)"):
        on_gpu.accumulate(values, torch.rand(2, 2, device=DEVICE), offsets, reference=lambda weights, values: values)
    assert "at most 128 channels" in str(on_gpu.refuses(torch.float32, n_channels=200))
