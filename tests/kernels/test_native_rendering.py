"""Native rendering is the plain one, in value and in every derivative, to the last bit for any number of threads."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fieldforge.backends import BackendError, report, use_backend
from fieldforge.kernels import cpu_door
from fieldforge.renderers import scans
from fieldforge.renderers.compositing import accumulate, composite, distortion, weights_from_density
from fieldforge.renderers.samples import Samples, row_offsets
from fieldforge.renderers.sampling import inverse_cdf, searchsorted

pytestmark = pytest.mark.skipif(cpu_door.missing() is not None, reason=f"no native kernels: {cpu_door.missing()}")

COUNTS = [[], [0, 0, 0], [1], [0, 3, 15, 16, 17, 1, 0, 2, 2503, 0, 64], [7] * 200]
OPERATIONS = ("accumulate", "composite", "distortion", "inverse_cdf", "searchsorted", "segmented_scan")


def make(counts: list[int], n_channels: int = 3, seed: int = 0) -> tuple[Samples, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    offsets = row_offsets(torch.tensor(counts, dtype=torch.int64))
    n = sum(counts)
    t = (torch.rand(2 * n, generator=generator, dtype=torch.float64) * 0.02).cumsum(0).float().reshape(n, 2)
    samples = Samples.from_offsets(t[:, 0].contiguous(), t[:, 1].contiguous(), offsets)
    density = (20 * torch.randn(n, generator=generator)).relu()
    return samples, density, torch.randn(n, n_channels, generator=generator)


def double(samples: Samples) -> Samples:
    return Samples.trusted(samples.t0.double(), samples.t1.double(), samples.ray_index, samples.offsets)


def assert_close(got: Tensor | None, expected: Tensor | None, tolerance: float = 2e-5) -> None:
    """Relative to the largest number, and as a vector; the gradient of a depth is a difference of distances."""
    assert got is not None
    assert expected is not None
    assert got.shape == expected.shape
    difference = (got.double() - expected.double()).abs()
    scale = expected.abs().max() if expected.numel() else 0.0
    assert difference.numel() == 0 or difference.max() <= tolerance * scale + 1e-30
    assert difference.norm() <= tolerance * expected.double().norm() + 1e-30


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("n_channels", [0, 1, 3, 4, 33])
def test_compositing_and_its_gradients_are_those_of_the_reference(counts: list[int], n_channels: int) -> None:
    samples, density, color = make(counts, n_channels)
    found = []
    generator = torch.Generator().manual_seed(1)
    grads = [torch.randn(shape, generator=generator) for shape in
             ((len(counts), n_channels), (len(counts),), (len(counts),), (sum(counts),))]  # fmt: skip
    for backend, dtype, where in (("cpu", torch.float32, samples), ("reference", torch.float64, double(samples))):
        inputs = [x.to(dtype).requires_grad_() for x in (density.clone(), color.clone())]
        with use_backend(backend):
            out = composite(where, *inputs)
        slopes = torch.autograd.grad(out, inputs, [g.to(dtype) for g in grads], allow_unused=True)
        found.append([*out, *(torch.zeros_like(x) if s is None else s for x, s in zip(inputs, slopes, strict=True))])
    for got, expected in zip(*found, strict=True):
        assert_close(got.detach(), expected.detach())


@pytest.mark.parametrize("which", [0, 1, 2, 3])
def test_each_output_alone_has_its_gradient(which: int) -> None:
    samples, density, color = make(COUNTS[3])
    found = []
    for backend, dtype, where in (("cpu", torch.float32, samples), ("reference", torch.float64, double(samples))):
        inputs = [x.to(dtype).requires_grad_() for x in (density.clone(), color.clone())]
        with use_backend(backend):
            out = composite(where, *inputs)[which]
        found.append(torch.autograd.grad((out * out).sum(), inputs, allow_unused=True))
    assert_close(found[0][0], found[1][0])
    assert (found[0][1] is None) or which == 0 or not found[0][1].any()
    if which == 0:
        assert_close(found[0][1], found[1][1])


@pytest.mark.parametrize("kind", ["inclusive_sum", "exclusive_sum", "inclusive_prod", "exclusive_prod"])
@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("n_zeros", [0, 1, 40])
def test_scans_are_those_of_the_reference(kind: str, counts: list[int], n_zeros: int) -> None:
    samples, _, _ = make(counts)
    generator = torch.Generator().manual_seed(2)
    values = 1 + 0.02 * torch.randn(samples.n_samples, generator=generator)
    values[torch.randperm(len(values), generator=generator)[:n_zeros]] = 0
    grad = torch.randn(values.shape, generator=generator)
    found = []
    for backend, dtype in (("cpu", torch.float32), ("reference", torch.float64)):
        x = values.to(dtype, copy=True).requires_grad_()
        with use_backend(backend):
            out = getattr(scans, kind)(x, samples.offsets)
        found.append((out.detach(), torch.autograd.grad(out, x, grad.to(dtype))[0]))
    for got, expected in zip(*found, strict=True):
        assert_close(got, expected)


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("n_channels", [1, 3, 17])
def test_sums_and_distortion_are_those_of_the_reference(counts: list[int], n_channels: int) -> None:
    samples, density, color = make(counts, n_channels)
    weights = weights_from_density(samples, density)
    found = []
    for backend, dtype, where in (("cpu", torch.float32, samples), ("reference", torch.float64, double(samples))):
        inputs = [x.to(dtype, copy=True).requires_grad_() for x in (weights, color)]
        with use_backend(backend):
            out = accumulate(*inputs, samples.offsets), distortion(where, inputs[0])
        slopes = torch.autograd.grad(out[0].square().sum() + out[1].square().sum(), inputs)
        found.append([*out, *slopes])
    for got, expected in zip(*found, strict=True):
        assert_close(got.detach(), expected.detach())


def test_search_is_exactly_the_reference() -> None:
    generator = torch.Generator().manual_seed(3)
    samples, _, _ = make(COUNTS[3])
    edges = samples.t0
    cdf = scans.inclusive_sum(torch.rand(len(edges), generator=generator), samples.offsets)
    n_values = row_offsets(torch.randint(0, 40, (samples.n_rays,), generator=generator))
    values = edges.max() * (1.2 * torch.rand(int(n_values[-1]), generator=generator) - 0.1)
    u = 30 * torch.rand(samples.n_rays, 50, generator=generator) - 1
    found = []
    for backend in ("cpu", "reference"):
        with use_backend(backend):
            found.append((*searchsorted(edges, samples.offsets, values, n_values),
                          inverse_cdf(edges, cdf, samples.offsets, u)))  # fmt: skip
    (left, right, place), (left_plain, right_plain, place_plain) = found
    assert torch.equal(left, left_plain)
    assert torch.equal(right, right_plain)
    assert torch.equal(place.nan_to_num(-1), place_plain.nan_to_num(-1))


def recorded(run: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """Derivatives of the squared gradient."""
    inputs = tuple(x.detach().clone().requires_grad_() for x in inputs)
    grads = torch.autograd.grad(run(*inputs).square().sum(), inputs, create_graph=True)
    return list(torch.autograd.grad(torch.stack([g.square().sum() for g in grads]).sum(), inputs))


@pytest.mark.parametrize("name", ["composite", "accumulate", "distortion", "exclusive_prod", "inclusive_sum"])
def test_second_derivatives_are_those_of_the_reference(name: str) -> None:
    samples, density, color = make([0, 5, 20, 1])
    weights = weights_from_density(samples, density)
    runs: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = {
        "composite": (lambda d, c: torch.cat([x.flatten() for x in composite(samples, d, c)]), (density, color)),
        "accumulate": (lambda w, v: accumulate(w, v, samples.offsets), (weights, color)),
        "distortion": (lambda w: distortion(samples, w), (weights,)),
        "exclusive_prod": (lambda x: scans.exclusive_prod(x, samples.offsets), (weights,)),
        "inclusive_sum": (lambda x: scans.inclusive_sum(x, samples.offsets).exp(), (weights,)),
    }
    run, inputs = runs[name]
    with use_backend("cpu"):
        got = recorded(run, *inputs)
    with use_backend("reference"):
        expected = recorded(run, *inputs)
    for one, two in zip(got, expected, strict=True):
        assert_close(one, two, 1e-5)


def everything(counts: list[int]) -> list[Tensor]:
    samples, density, color = make(counts)
    density.requires_grad_()
    color.requires_grad_()
    out = composite(samples, density, color)
    spread = distortion(samples, out.weights)
    products = scans.inclusive_prod(1 - out.weights, samples.offsets)
    sums = accumulate(products, color, samples.offsets)
    grads = torch.autograd.grad(
        out.color.sum() + out.depth.sum() + out.opacity.sum() + spread.sum() + sums.sum(), (density, color)
    )
    cdf = scans.inclusive_sum(out.weights.detach(), samples.offsets)
    u = torch.linspace(0, 1, 64).expand(samples.n_rays, 64)
    place = inverse_cdf(samples.t0, cdf, samples.offsets, u).nan_to_num(-1)
    return [*(x.detach() for x in (*out, spread, products, sums)), *grads, place]


@pytest.mark.parametrize("counts", [COUNTS[3], [13] * 700, [0] * 100 + [3001]])
def test_any_number_of_threads_gives_the_same_bits(counts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for n_threads in ("1", "2", "3"):
        monkeypatch.setenv("FIELDFORGE_NUM_THREADS", n_threads)
        results.append(everything(counts))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_a_ray_is_the_same_wherever_it_stands() -> None:
    """Vectors end with the ray: neighbours in memory are not read into it."""
    alone, density, color = make([37])
    out = composite(alone, density, color)
    t0, t1, d, c = (torch.cat([x, 1e30 + x, x]) for x in (alone.t0, alone.t1, density, color))
    crowd = composite(Samples.trusted(t0, t1, torch.arange(3).repeat_interleave(37), 37 * torch.arange(4)), d, c)
    for ray in (0, 2):
        assert torch.equal(crowd.color[ray], out.color[0])
        assert torch.equal(crowd.weights[37 * ray : 37 * (ray + 1)], out.weights)


def test_strided_tensors_are_read_as_they_mean() -> None:
    samples, density, color = make([3, 0, 20])
    expected = composite(samples, density, color)
    t = torch.stack([samples.t0, samples.t1], -1)
    strided = Samples.from_offsets(t[:, 0], t[:, 1], samples.offsets)
    d = density.repeat_interleave(2)[::2].requires_grad_()
    c = color.t().contiguous().t()
    got = composite(strided, d, c)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    got.weights.sum().backward()  # the gradient of a sum has stride 0


def test_what_is_not_native_is_said_and_falls_to_the_reference() -> None:
    samples, density, color = make([3, 0, 20])
    with use_backend("cpu"), pytest.raises(BackendError, match="native rendering is float32, not float64"):
        composite(samples, density.double(), color)
    assert composite(double(samples), density.double(), color.double()).color.dtype == torch.float64
    t0 = samples.t0.clone().requires_grad_()
    moving = Samples.trusted(t0, samples.t1, samples.ray_index, samples.offsets)
    with use_backend("cpu"), pytest.raises(BackendError, match="no gradient in t0 and t1"):
        composite(moving, density, color)
    composite(moving, density, color).color.sum().backward()
    assert t0.grad is not None
    assert t0.grad.abs().sum() > 0


def test_offsets_that_would_leave_the_tensors_are_refused() -> None:
    samples, density, color = make([3, 0, 20])
    for offsets, message in [
        (torch.tensor([0, 3, 3, 24]), "offsets: expected to go from 0 to the 23 rows, got 0 to 24"),
        (torch.tensor([0, 30, 3, 23]), "offsets: expected to never decrease, got 30 before 3"),
        (torch.tensor([-1, 3, 3, 23]), "offsets: expected to go from 0 to the 23 rows, got -1 to 23"),
    ]:
        lying = Samples.trusted(samples.t0, samples.t1, samples.ray_index, offsets)
        with use_backend("cpu"), pytest.raises(ValueError, match=message):
            composite(lying, density, color)
    with use_backend("cpu"), pytest.raises(ValueError, match="offsets: expected a contiguous tensor"):
        scans.inclusive_sum(density, samples.offsets.repeat_interleave(2)[::2])


def test_the_report_lists_every_operation() -> None:
    rows = {(row.operation, row.backend): row for row in report()}
    for operation in OPERATIONS:
        assert rows[operation, "reference"].is_available
        assert rows[operation, "cpu"].reason == cpu_door.description()


@pytest.mark.slow
def test_a_million_samples() -> None:
    samples, density, color = make([1000003 - 30000, 0, *([100] * 300)])
    out = composite(samples, density, color)
    with use_backend("reference"):
        plain = composite(double(samples), density.double(), color.double())
    assert_close(out.color, plain.color, 1e-5)
    assert_close(out.weights, plain.weights, 1e-5)
