"""Importance sampling and search in packed histograms, against loops and the shape of the distribution."""

from __future__ import annotations

import pytest
import torch
from reference import rendering as loops
from torch import Tensor

from fieldforge.backends import use_backend
from fieldforge.renderers.samples import Samples, row_offsets
from fieldforge.renderers.sampling import histogram, importance_sample, inverse_cdf, searchsorted

BACKENDS = ["reference", "auto"]
COUNTS = [[], [0, 0], [1], [0, 3, 0, 1, 1, 17, 0, 2, 400, 0]]


def offsets_of(counts: list[int]) -> Tensor:
    return row_offsets(torch.tensor(counts, dtype=torch.int64))


def rows_of(counts: list[int], generator: torch.Generator) -> Tensor:
    """Sorted numbers on each ray, some of them equal."""
    rows = [torch.randint(0, 3 * n + 1, (n,), generator=generator).sort().values / 8 for n in counts]
    return torch.cat([*rows, torch.zeros(0)])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("counts", COUNTS)
def test_search_finds_the_bin_of_each_value(backend: str, counts: list[int], generator: torch.Generator) -> None:
    edges = rows_of(counts, generator)
    n_values = [3 * (ray % 3) for ray in range(len(counts))]
    values = torch.randint(-4, 60, (sum(n_values),), generator=generator) / 8
    with use_backend(backend):
        left, right = searchsorted(edges, offsets_of(counts), values, offsets_of(n_values))
    for ray, mine in zip(loops.rows(counts), loops.rows(n_values), strict=True):
        for i in mine:
            if len(ray) == 0:
                expected = (-1, -1)
            else:
                a, b = loops.bracket(edges[ray.start : ray.stop].tolist(), float(values[i]))
                expected = (ray.start + a, ray.start + b)
            assert (int(left[i]), int(right[i])) == expected


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("counts", COUNTS)
def test_inverse_is_linear_within_its_bin(backend: str, counts: list[int], generator: torch.Generator) -> None:
    edges, cdf = rows_of(counts, generator), rows_of(counts, generator)
    u = torch.randint(-4, 70, (len(counts), 6), generator=generator) / 16  # in no order, and beyond the ends
    with use_backend(backend):
        got = inverse_cdf(edges, cdf, offsets_of(counts), u)
    for index, ray in enumerate(loops.rows(counts)):
        rows = slice(ray.start, ray.stop)
        if len(ray) == 0:
            assert got[index].isnan().all()
            continue
        expected = [loops.inverse_cdf(edges[rows].tolist(), cdf[rows].tolist(), one) for one in u[index].tolist()]
        torch.testing.assert_close(got[index], torch.tensor(expected))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("stratified", [False, True])
@pytest.mark.parametrize("n_samples", [1, 2, 33])
def test_samples_are_intervals_in_order_inside_the_histogram(
    backend: str, stratified: bool, n_samples: int, generator: torch.Generator
) -> None:
    counts = [0, 2, 0, 17, 3, 0]
    edges, cdf = rows_of(counts, generator), rows_of(counts, generator)
    with use_backend(backend):
        samples = importance_sample(
            edges, cdf, offsets_of(counts), n_samples, stratified=stratified, generator=generator
        )
    assert samples.counts.tolist() == [0, n_samples, 0, n_samples, n_samples, 0]
    checked = Samples(samples.t0, samples.t1, samples.ray_index, 6)  # every check of the constructor
    assert torch.equal(checked.offsets, samples.offsets)
    for ray, mine in zip(loops.rows(counts), loops.rows(samples.counts.tolist()), strict=True):
        if len(mine):
            assert float(samples.t0[mine.start]) >= float(edges[ray.start])
            assert float(samples.t1[mine.stop - 1]) <= float(edges[ray.stop - 1])
            assert torch.equal(samples.t0[mine.start + 1 : mine.stop], samples.t1[mine.start : mine.stop - 1])


def test_each_sample_stands_for_the_same_share() -> None:
    edges = torch.tensor([0.0, 1.0, 2.0, 4.0])
    cdf = torch.tensor([0.0, 0.25, 0.25, 1.0])  # a quarter, nothing, three quarters over two units
    samples = importance_sample(edges, cdf, torch.tensor([0, 4]), 400)
    middle = samples.t_mid
    # the interval that crosses the gap has its middle in it
    assert abs(int((middle < 1).sum()) - 100) <= 1
    assert int(((middle > 1) & (middle < 2)).sum()) <= 2
    assert abs(int((middle > 2).sum()) - 300) <= 1


def test_stratified_samples_follow_the_distribution(generator: torch.Generator) -> None:
    """Over many rays the positions of one value fill its share evenly."""
    edges = torch.tensor([0.0, 2.0]).repeat(4000)
    cdf = torch.tensor([0.0, 1.0]).repeat(4000)
    offsets = 2 * torch.arange(4001)
    samples = importance_sample(edges, cdf, offsets, 2, stratified=True, generator=generator)
    between = samples.t1.reshape(-1, 2)[:, 0]  # half-way between two positions one unit apart: u_0 + 1/2
    assert abs(float(between.mean()) - 1.0) < 0.02
    assert abs(float(between.std()) - 12**-0.5) < 0.02


def test_same_generator_same_samples() -> None:
    edges, cdf = torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0])
    drawn = [
        importance_sample(
            edges, cdf, torch.tensor([0, 2]), 4, stratified=True, generator=torch.Generator().manual_seed(seed)
        ).t0
        for seed in (1, 1, 2)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("backend", BACKENDS)
def test_gaps_between_intervals_stay_empty(backend: str) -> None:
    samples = Samples.from_dense(torch.tensor([[0.0, 5.0], [1.0, 2.0]]), torch.tensor([[1.0, 6.0], [2.0, 3.0]]))
    with use_backend(backend):
        edges, cdf, offsets = histogram(samples, torch.tensor([1.0, 1.0, 0.0, 1.0]))
        inside = inverse_cdf(edges, cdf, offsets, torch.linspace(0.01, 0.99, 50).repeat(2, 1) * cdf[[3, 7]][:, None])
        assert offsets.tolist() == [0, 4, 8]
    assert (((inside[0] <= 1) | (inside[0] >= 5)).all(), ((inside[1] >= 2) & (inside[1] <= 3)).all()) == (True, True)
    padded = histogram(samples, torch.zeros(4), padding=0.5)[1]
    assert padded.tolist() == [0, 0.5, 0.5, 1, 0, 0.5, 0.5, 1]


def test_no_rays_and_no_values() -> None:
    none, no_rays = torch.zeros(0), torch.zeros(1, dtype=torch.int64)
    assert importance_sample(none, none, no_rays, 4).n_samples == 0
    assert importance_sample(none, none, torch.zeros(4, dtype=torch.int64), 4).counts.tolist() == [0, 0, 0]
    assert inverse_cdf(none, none, no_rays, torch.zeros(0, 5)).shape == (0, 5)
    assert searchsorted(none, no_rays, none, no_rays)[0].shape == (0,)
    empty = Samples(none, none, torch.zeros(0, dtype=torch.int64), 2)
    assert [len(x) for x in histogram(empty, none)] == [0, 0, 3]


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_is_no_crash(backend: str) -> None:
    edges, cdf = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0.0, torch.nan, torch.nan])
    with use_backend(backend):
        assert inverse_cdf(edges, cdf, torch.tensor([0, 3]), torch.tensor([[0.5]])).isnan().all()
        assert inverse_cdf(edges, edges, torch.tensor([0, 3]), torch.tensor([[torch.nan]])).isnan().all()


TWO = torch.tensor([0.0, 1.0])
ONE_RAY = torch.tensor([0, 2])


@pytest.mark.parametrize("backend", BACKENDS)
def test_wrong_calls_are_refused_by_name(backend: str) -> None:
    with use_backend(backend):
        with pytest.raises(ValueError, match=r"n_samples: expected an integer of at least 1, got 0"):
            importance_sample(TWO, TWO, ONE_RAY, 0)
        with pytest.raises(ValueError, match=r"offsets: expected to go from 0 to the 2 rows, got 0 to 3"):
            importance_sample(TWO, TWO, torch.tensor([0, 3]), 1)
        with pytest.raises(ValueError, match=r"cdf: expected torch.float32 \(2,\) as the edges, got torch.float32"):
            inverse_cdf(TWO, torch.zeros(3), ONE_RAY, torch.zeros(1, 1))
        with pytest.raises(ValueError, match=r"u: expected \(1, n\), a row per ray, got \(2, 1\)"):
            inverse_cdf(TWO, TWO, ONE_RAY, torch.zeros(2, 1))
        with pytest.raises(TypeError, match=r"u: expected torch.float32 as the cdf, got torch.float64"):
            inverse_cdf(TWO, TWO, ONE_RAY, torch.zeros(1, 1).double())
        with pytest.raises(TypeError, match=r"values: expected torch.float32 as the edges, got torch.float64"):
            searchsorted(TWO, ONE_RAY, TWO.double(), ONE_RAY)
        with pytest.raises(ValueError, match=r"value_offsets: expected 1 rays as the edges have, got 2"):
            searchsorted(TWO, ONE_RAY, TWO, torch.tensor([0, 1, 2]))
        with pytest.raises(ValueError, match=r"offsets: expected to go from 0 to the 2 rows, got 0 to 1"):
            searchsorted(TWO, ONE_RAY, TWO, torch.tensor([0, 1]))
        with pytest.raises(ValueError, match=r"weights: expected \(1,\), a row per sample, got \(2,\)"):
            histogram(Samples(TWO[:1], TWO[:1], torch.tensor([0]), 1), TWO)
