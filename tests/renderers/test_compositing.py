"""Compositing: three-way agreement with loops, and what must hold of weights, depths and spread."""

from __future__ import annotations

import pytest
import torch
from reference import rendering as loops
from torch import Tensor

from fieldforge.backends import use_backend
from fieldforge.renderers.compositing import (
    Rendered,
    accumulate,
    alpha_from_density,
    composite,
    distortion,
    median_depth,
    transmittance_from_alpha,
    transmittance_from_density,
    visibility,
    visibility_from_alpha,
    weights_from_alpha,
    weights_from_density,
)
from fieldforge.renderers.samples import Samples, row_offsets

COUNTS = [[], [0, 0], [1], [0, 3, 0, 1, 1, 17, 0, 2, 40, 0]]
BACKENDS = ["reference", "auto"]


def make(counts: list[int], generator: torch.Generator, n_channels: int = 3) -> tuple[Samples, Tensor, Tensor]:
    """Samples with gaps, densities with some zeros, and colours, in float64."""
    n = sum(counts)
    steps = torch.rand(2 * n, dtype=torch.float64, generator=generator) * 0.2
    t = steps.cumsum(0).reshape(n, 2)
    samples = Samples.from_offsets(t[:, 0], t[:, 1], row_offsets(torch.tensor(counts, dtype=torch.int64)))
    density = (10 * torch.randn(n, dtype=torch.float64, generator=generator)).relu()
    return samples, density, torch.randn(n, n_channels, dtype=torch.float64, generator=generator)


def line(density: list[float], length: float = 1.0) -> tuple[Samples, Tensor]:
    """One ray of equal intervals from 0 to `length`."""
    edges = torch.linspace(0, length, len(density) + 1)[None]
    return Samples.from_dense(edges[:, :-1], edges[:, 1:]), torch.tensor(density)


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("n_channels", [0, 1, 3, 5])
def test_compositing_is_the_loop_over_each_ray(counts: list[int], n_channels: int, generator: torch.Generator) -> None:
    samples, density, color = make(counts, generator, n_channels)
    grads = [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in
             ((len(counts), n_channels), (len(counts),), (len(counts),), (sum(counts),))]  # fmt: skip
    expected: list[list] = [[], [], [], []]
    slopes: list[list] = [[], []]
    for index, ray in enumerate(loops.rows(counts)):
        rows = slice(ray.start, ray.stop)
        t0, t1, here, seen = (x[rows].tolist() for x in (samples.t0, samples.t1, density, color))
        *of_ray, weights = loops.composite(t0, t1, here, seen)
        for which, one in enumerate(of_ray):
            expected[which].append(one or [0.0] * n_channels if which == 0 else one)
        expected[3] += weights
        g = grads[0][index].tolist(), float(grads[1][index]), float(grads[2][index]), grads[3][rows].tolist()
        for which, one in enumerate(loops.composite_gradients(t0, t1, here, seen, *g)):
            slopes[which] += one
    density.requires_grad_()
    color.requires_grad_()
    got = composite(samples, density, color)
    for name, one, two in zip(Rendered._fields, got, expected, strict=True):
        torch.testing.assert_close(one, torch.tensor(two, dtype=torch.float64).reshape(one.shape), msg=name)
    found = torch.autograd.grad(got, (density, color), grads, allow_unused=True)
    for tensor, one, two in zip((density, color), found, slopes, strict=True):
        assert one is not None
        torch.testing.assert_close(one, torch.tensor(two, dtype=torch.float64).reshape(tensor.shape))


def test_derivatives_of_both_orders_also_in_the_intervals(generator: torch.Generator) -> None:
    samples, density, color = make([0, 3, 1], generator, 2)
    inputs = [x.detach().clone().requires_grad_() for x in (samples.t0, samples.t1, density + 0.1, color)]

    def run(t0: Tensor, t1: Tensor, density: Tensor, color: Tensor) -> tuple[Tensor, ...]:
        moved = Samples.from_offsets(t0, t1, samples.offsets)
        out = composite(moved, density, color, background=color[0])
        return *out, distortion(moved, out.weights)

    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs)


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_are_shares_of_a_ray(backend: str, generator: torch.Generator) -> None:
    samples, density, color = make([0, 300, 1, 64], generator)
    samples = Samples.from_offsets(samples.t0.float(), samples.t1.float(), samples.offsets)
    with use_backend(backend):
        out = composite(samples, density.float(), color.float())
    assert (out.weights >= 0).all()
    assert (out.opacity <= 1).all()
    total = accumulate(out.weights, None, samples.offsets)[:, 0]
    torch.testing.assert_close(total, out.opacity)
    assert (total <= 1 + 1e-6).all()
    assert (out.opacity[0], out.depth[0]) == (0, 0)
    assert out.color[0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_cutting_an_interval_of_constant_density_changes_nothing(backend: str, generator: torch.Generator) -> None:
    samples, density, color = make([0, 9, 1, 20], generator)
    t0, t1 = samples.t0.float(), samples.t1.float()
    cut = t0 + torch.rand(t0.shape, generator=generator) * (t1 - t0)
    finer = Samples.from_offsets(
        torch.stack([t0, cut], -1).reshape(-1), torch.stack([cut, t1], -1).reshape(-1), 2 * samples.offsets
    )
    twice = torch.arange(len(t0)).repeat_interleave(2)
    with use_backend(backend):
        whole = composite(Samples.from_offsets(t0, t1, samples.offsets), density.float(), color.float())
        parts = composite(finer, density.float()[twice], color.float()[twice])
    torch.testing.assert_close(parts.color, whole.color, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(parts.opacity, whole.opacity)
    torch.testing.assert_close(parts.weights.reshape(-1, 2).sum(-1), whole.weights, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("huge", [1e4, 1e30, torch.inf])
def test_a_wall_is_opaque_and_hides_what_is_behind(backend: str, huge: float) -> None:
    samples, density = line([0.5, huge, 1.0, huge], 4.0)
    density.requires_grad_()
    color = torch.eye(4)[:, :3].clone().requires_grad_()
    with use_backend(backend):
        out = composite(samples, density, color, background=torch.ones(3))
    assert out.opacity.item() == 1
    assert out.weights[2:].tolist() == [0, 0]
    torch.testing.assert_close(out.color[0], torch.tensor([1 - 0.6065307, 0.6065307, 0.0]))
    grads = torch.autograd.grad(out.color.sum() + out.depth.sum() + out.weights.square().sum(), (density, color))
    assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_slab_follows_beer_and_lambert(backend: str) -> None:
    samples, density = line([1.5] * 100, 2.0)
    with use_backend(backend):
        out = composite(samples, density, torch.ones(100, 1), background=torch.full((1, 1), 3.0))
    passed = torch.exp(torch.tensor(-3.0))
    torch.testing.assert_close(out.opacity[0], 1 - passed)
    torch.testing.assert_close(out.color[0, 0], 1 - passed + 3 * passed)
    mean = (1 - passed * (1 + 3)) / 1.5  # the integral of t * 1.5 exp(-1.5 t) from 0 to 2
    torch.testing.assert_close(out.depth[0], mean, rtol=1e-4, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_thin_fog_keeps_its_digits(backend: str) -> None:
    """1 - exp(-tau) in float32 would be 0 or 6e-8."""
    samples, density = line([3e-9] * 5)
    with use_backend(backend):
        out = composite(samples, density, torch.ones(5, 3))
    torch.testing.assert_close(out.opacity, torch.tensor([3e-9]), rtol=1e-5, atol=0)
    torch.testing.assert_close(out.color, torch.full((1, 3), 3e-9), rtol=1e-5, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_reaches_its_own_ray_only(backend: str) -> None:
    edges = torch.linspace(0, 1, 21).expand(3, 21)
    samples = Samples.from_dense(edges[:, :-1], edges[:, 1:])
    density, color = torch.ones(60), torch.ones(60, 3)
    density[25], color[45, 1] = torch.nan, torch.nan
    density.requires_grad_()
    color.requires_grad_()
    with use_backend(backend):
        out = composite(samples, density, color)
    assert out.color.isnan().tolist() == [[False] * 3, [True] * 3, [False, True, False]]
    assert out.opacity.isnan().tolist() == out.depth.isnan().tolist() == [False, True, False]
    assert out.weights.isnan().nonzero()[:, 0].tolist() == list(range(25, 40))
    grad = torch.autograd.grad(out.color.sum(), density)[0]
    assert grad[:20].isfinite().all()
    assert grad[20:40].isnan().all()


def test_parts_agree_with_the_whole(generator: torch.Generator) -> None:
    samples, density, color = make([0, 9, 1, 20], generator)
    out = composite(samples, density, color)
    alpha = alpha_from_density(samples, density)
    arrives = transmittance_from_density(samples, density)
    torch.testing.assert_close(arrives * alpha, out.weights)
    torch.testing.assert_close(transmittance_from_alpha(samples, alpha), arrives)
    torch.testing.assert_close(weights_from_alpha(samples, alpha), out.weights)
    torch.testing.assert_close(weights_from_density(samples, density), out.weights)
    torch.testing.assert_close(accumulate(out.weights, color, samples.offsets), out.color)
    torch.testing.assert_close(accumulate(out.weights, samples.t_mid[:, None], samples.offsets)[:, 0], out.depth)
    seen = visibility(samples, density, early_stop=0.01, alpha_threshold=0.1)
    assert seen.tolist() == ((arrives >= 0.01) & (alpha >= 0.1)).tolist()
    assert torch.equal(seen, visibility_from_alpha(samples, alpha, early_stop=0.01, alpha_threshold=0.1))
    assert 0 < int(seen.sum()) < len(seen)


def test_opaque_alpha_leaves_gradients_to_those_before() -> None:
    samples, _ = line([0.0] * 3)
    alpha = torch.tensor([0.5, 1.0, 0.5], requires_grad=True)
    weights_from_alpha(samples, alpha)[2].backward()
    assert alpha.grad is not None
    assert alpha.grad.tolist() == [0, -0.25, 0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_left_of_the_ray_sees_the_background(backend: str) -> None:
    samples = Samples(torch.zeros(1), torch.ones(1), torch.tensor([1]), 3)
    density, color = torch.ones(1), torch.zeros(1, 2)
    each = torch.arange(6.0).reshape(3, 2).requires_grad_()
    with use_backend(backend):
        out = composite(samples, density, color, background=each)
    passed = torch.exp(-torch.tensor([0.0, 1.0, 0.0]))
    torch.testing.assert_close(out.color, passed[:, None] * each)
    torch.testing.assert_close(torch.autograd.grad(out.color.sum(), each)[0], passed[:, None].expand(3, 2))


def test_median_depth_is_where_half_is_gone() -> None:
    edges = torch.linspace(0, 1, 5).expand(3, 5)
    mask = torch.tensor([[True] * 4, [False] * 4, [True] * 4])
    samples = Samples.from_dense(edges[:, :-1], edges[:, 1:], mask)
    weights = torch.tensor([0.1, 0.3, 0.2, 0.4, 0.1, 0.1, 0.1, 0.1])
    assert median_depth(samples, weights).tolist() == [0.625, 0, 0.875]
    assert median_depth(Samples.from_dense(torch.zeros(0, 2), torch.ones(0, 2)), torch.zeros(0)).shape == (0,)


@pytest.mark.parametrize("counts", COUNTS)
def test_distortion_counts_every_pair(counts: list[int], generator: torch.Generator) -> None:
    samples, density, _ = make(counts, generator)
    weights = weights_from_density(samples, density).requires_grad_()
    losses, slopes = [], []
    grad = torch.randn(len(counts), dtype=torch.float64, generator=generator)
    for index, ray in enumerate(loops.rows(counts)):
        rows = slice(ray.start, ray.stop)
        loss, slope = loops.distortion(*(x[rows].tolist() for x in (samples.t0, samples.t1, weights)))
        losses.append(loss)
        slopes += [float(grad[index]) * one for one in slope]
    got = distortion(samples, weights)
    torch.testing.assert_close(got, torch.tensor(losses, dtype=torch.float64))
    found = torch.autograd.grad(got, weights, grad)[0]
    torch.testing.assert_close(found, torch.tensor(slopes, dtype=torch.float64))


@pytest.mark.parametrize("backend", BACKENDS)
def test_distortion_far_from_the_origin_does_not_cancel(backend: str) -> None:
    edges = 1024 + torch.arange(65.0) / 64
    samples = Samples.from_dense(edges[None, :-1], edges[None, 1:])
    weights = torch.full((64,), 1 / 64)
    with use_backend(backend):
        # the double integral of |x - y| over the unit square
        torch.testing.assert_close(distortion(samples, weights), torch.tensor([1 / 3]), rtol=1e-5, atol=0)


THREE = Samples(torch.zeros(3), torch.ones(3), torch.tensor([0, 0, 1]), 2)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("density", "color", "error", "message"),
    [
        (torch.ones(2), torch.ones(3, 3), ValueError, r"density: expected \(3,\), a row per sample, got \(2,\)"),
        (torch.ones(3), torch.ones(2, 3), ValueError, r"color: expected \(3, C\), a row per sample, got \(2, 3\)"),
        (torch.ones(3), torch.ones(3), ValueError, r"color: expected \(3, C\), a row per sample, got \(3,\)"),
        (torch.ones(3).long(), torch.ones(3, 3), TypeError, r"density: expected a floating-point .*torch.int64"),
    ],
)
def test_wrong_calls_are_refused_by_name(
    backend: str, density: Tensor, color: Tensor, error: type, message: str
) -> None:
    with use_backend(backend), pytest.raises(error, match=message):
        composite(THREE, density, color)


def test_wrong_backgrounds_values_and_shares_are_refused() -> None:
    with pytest.raises(ValueError, match=r"background: expected a tensor \(3,\) or \(2, 3\), got \(3, 3\)"):
        composite(THREE, torch.ones(3), torch.ones(3, 3), background=torch.ones(3, 3))
    with pytest.raises(ValueError, match=r"values: expected \(3, C\), got \(2, 1\)"):
        accumulate(torch.ones(3), torch.ones(2, 1), THREE.offsets)
    with pytest.raises(ValueError, match=r"offsets: expected to go from 0 to the 3 rows, got 0 to 2"):
        accumulate(torch.ones(3), None, THREE.offsets[:2])
    with pytest.raises(ValueError, match=r"early_stop: expected a finite number"):
        visibility(THREE, torch.ones(3), early_stop=2.0)
