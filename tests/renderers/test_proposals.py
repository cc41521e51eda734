"""Spacings, resampling and proposals against loops, and what they promise."""

from __future__ import annotations

import math

import pytest
import torch
from reference import proposals as loops
from torch import Tensor

from fieldforge.backends import use_backend
from fieldforge.renderers.proposals import annealing, propose, resample, union
from fieldforge.renderers.samples import Samples, row_offsets
from fieldforge.renderers.spacing import SPACINGS, at_distances, spread, to_distance, to_share

BACKENDS = ["reference", "auto"]
HIT = torch.tensor([True, False, True, True, False])


def rows_of(samples: Samples, ray: int) -> slice:
    return slice(int(samples.offsets[ray]), int(samples.offsets[ray + 1]))


def edges_of(samples: Samples, ray: int) -> list[float]:
    rows = rows_of(samples, ray)
    assert torch.equal(samples.t1[rows][:-1], samples.t0[rows][1:])
    return [*samples.t0[rows].tolist(), float(samples.t1[rows][-1])]


@pytest.mark.parametrize("spacing", SPACINGS)
def test_distances_and_shares_are_each_others_inverse(spacing: str) -> None:
    near, far = torch.tensor([0.2, 0.2, 1.5, 0.5], dtype=torch.float64), torch.tensor([6.0, 0.9, 1e5, 40.0]).double()
    share = torch.linspace(0, 1, 33, dtype=torch.float64)[:, None]
    t = to_distance(share, near, far, spacing)
    torch.testing.assert_close(t[0], near)
    torch.testing.assert_close(t[-1], far)
    assert (t[1:] > t[:-1]).all()
    torch.testing.assert_close(to_share(t, near, far, spacing), share.expand_as(t), rtol=0, atol=1e-9)
    for k, s in enumerate(share[:, 0].tolist()):
        expected = [loops.distance(spacing, s, a, b) for a, b in zip(near.tolist(), far.tolist(), strict=True)]
        torch.testing.assert_close(t[k], torch.tensor(expected, dtype=torch.float64))


def test_piecewise_is_even_below_one_and_reaches_the_end_of_the_world() -> None:
    near, far = torch.tensor(0.0), torch.tensor(math.inf)
    t = to_distance(torch.tensor([0.0, 0.125, 0.25, 0.5, 0.75, 0.9375, 1.0]), near, far, "piecewise")
    assert t.tolist() == [0, 0.25, 0.5, 1, 2, 8, math.inf]


@pytest.mark.parametrize("each", [False, True])
def test_spread_samples_cover_the_ray_and_move_within_their_neighbours(each: bool, generator: torch.Generator) -> None:
    jitter = torch.rand(len(HIT), 8 if each else 1, generator=generator)
    samples = spread(HIT, 7, jitter=jitter)
    assert samples.counts.tolist() == [7, 0, 7, 7, 0]
    for ray in HIT.nonzero()[:, 0].tolist():
        expected = loops.spread(7, jitter[ray].expand(8).tolist())
        assert edges_of(samples, ray) == pytest.approx(expected, abs=1e-6)
    even = spread(HIT, 7)
    assert edges_of(even, 2) == pytest.approx([k / 7 for k in range(8)], abs=1e-6)


@pytest.mark.parametrize("joins", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_where_every_ray_has_samples_those_that_are_not_hit_have_none_of_a_length(
    backend: str, joins: bool, generator: torch.Generator
) -> None:
    """And the others have the samples that they have anyway."""
    origins = torch.randn(5, 3, generator=generator)
    directions = torch.nn.functional.normalize(torch.randn(5, 3, generator=generator), dim=-1)
    near = torch.full((5,), 0.2)
    rays = origins, directions, near, torch.where(HIT, 4.0, near)
    densities = [lambda points: points[:, 0].exp(), lambda points: points[:, 1].exp()]
    jitter = torch.rand(5, 3, generator=generator)
    with use_backend(backend):
        levels, *packed = propose(*rays, densities, [9, 7, 5], spacing="piecewise", exponent=0.5, jitter=jitter)
        ends, *whole = propose(
            *rays, densities, [9, 7, 5], spacing="piecewise", exponent=torch.tensor(0.5), jitter=jitter, every=True
        )
        if joins:
            packed, whole = ([union(level.shares, shares), union(level.samples, samples)] for level, (shares, samples)
                             in ((levels[-1], packed), (ends[-1], whole)))  # fmt: skip
    of_hit = HIT.repeat_interleave(13 if joins else 5)
    for one, other in zip(packed, whole, strict=True):
        assert one.n_each is None
        assert other.n_each == len(of_hit) / 5
        torch.testing.assert_close(other.t0[of_hit], one.t0, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(other.t1[of_hit], one.t1, rtol=1e-5, atol=1e-6)
    assert (whole[1].dt[~of_hit] == 0).all()
    torch.testing.assert_close(ends[0].weights[HIT.repeat_interleave(9)], levels[0].weights)
    assert (ends[0].weights[~HIT.repeat_interleave(9)] == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("padding", [0.0, 0.01])
def test_resampled_edges_are_at_equal_steps_of_the_weights(
    backend: str, padding: float, generator: torch.Generator
) -> None:
    counts = [3, 0, 1, 17, 0]
    parts = [torch.rand(n + 1, generator=generator).sort().values for n in counts]
    ends = [(part[:-1], part[1:]) for part in parts]
    samples = Samples.from_offsets(
        torch.cat([a for a, _ in ends]), torch.cat([b for _, b in ends]), row_offsets(torch.tensor(counts))
    )
    weights = torch.rand(samples.n_samples, generator=generator) ** 4
    jitter = torch.rand(5, 1, generator=generator)
    with use_backend(backend):
        got = resample(samples, weights, 9, padding=padding, jitter=jitter)
    assert got.counts.tolist() == [9, 0, 9, 9, 0]
    for ray, n in enumerate(counts):
        if n:
            of = weights[rows_of(samples, ray)].tolist()
            expected = loops.resample(parts[ray].tolist(), of, 9, padding, [float(jitter[ray])] * 10)
            assert edges_of(got, ray) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("counts", [[6], [12, 5], [16, 9, 5]])
def test_proposals_of_any_number_are_those_of_the_loops(
    backend: str, spacing: str, counts: list[int], generator: torch.Generator
) -> None:
    """Rays along z from the origin, so that a density of z is one of the distance; every other ray is empty."""
    n_rays = 6
    directions = torch.tensor([[0.0, 0.0, 1.0]]).expand(n_rays, 3)
    near = 0.2 + torch.rand(n_rays, generator=generator)
    far = torch.where(torch.arange(n_rays) % 2 == 0, near + 3, near)
    jitter = torch.rand(n_rays, len(counts), generator=generator)
    scale = torch.tensor(2.0, requires_grad=True)

    def density(points: Tensor) -> Tensor:
        return scale * torch.exp(-4 * (points[:, 2] - 1.7) ** 2)

    with use_backend(backend):
        levels, shares, samples = propose(
            torch.zeros(n_rays, 3), directions, near, far, [density] * (len(counts) - 1), counts,
            spacing=spacing, exponent=0.7, jitter=jitter,
        )  # fmt: skip
    for ray in range(n_rays):
        for level, n in zip([*(level.shares for level in levels), shares], counts, strict=True):
            assert int(level.counts[ray]) == (n if ray % 2 == 0 else 0)
        if ray % 2 == 0:
            a, b = float(near[ray]), float(far[ray])
            edges, weights = loops.propose(
                lambda t: 2 * math.exp(-4 * (t - 1.7) ** 2), a, b, counts, spacing, 0.7, 0.01, jitter[ray].tolist()
            )
            assert edges_of(shares, ray) == pytest.approx(edges[-1], abs=2e-5)
            inside = [loops.distance(spacing, share, a, b) for share in edges[-1]]
            assert edges_of(samples, ray) == pytest.approx(inside, abs=2e-4)
            for level, expected in zip(levels, weights, strict=True):
                assert level.weights[rows_of(level.shares, ray)].tolist() == pytest.approx(expected, abs=2e-4)
    for level in levels:
        (slope,) = torch.autograd.grad(level.weights.sum(), scale, retain_graph=True)
        assert float(slope) > 0
    assert not samples.t0.requires_grad


def test_samples_gather_where_the_proposal_is_dense() -> None:
    directions = torch.tensor([[0.0, 0.0, 1.0]])
    wall = [lambda points: 300.0 * ((points[:, 2] > 2) & (points[:, 2] < 2.1))] * 2
    origins, near, far = torch.zeros(1, 3), torch.zeros(1), torch.full((1,), 6.0)
    kept = propose(origins, directions, near, far, wall, [128, 64, 16], padding=0.0)[2]
    assert float((kept.t_mid - 2.03).abs().max()) < 0.1
    alike = propose(origins, directions, near, far, wall, [128, 64, 16], exponent=0.0)[2]
    torch.testing.assert_close(alike.dt, torch.full((16,), 6 / 17), rtol=0.1, atol=0)


def test_annealing_goes_from_even_to_whole() -> None:
    assert annealing(0) == 0
    assert annealing(1000) == annealing(5000) == annealing(3, n_steps=0) == 1
    assert annealing(500) == pytest.approx(10 * 0.5 / (9 * 0.5 + 1))


def test_a_union_has_every_edge_of_both(generator: torch.Generator) -> None:
    near, far = torch.full((5,), 2.0), torch.full((5,), 6.0)
    one = at_distances(spread(HIT, 4), near, far)
    two = at_distances(spread(HIT, 3, jitter=torch.rand(5, 4, generator=generator)), near, far)
    both = union(one, two)
    assert both.counts.tolist() == [8, 0, 8, 8, 0]
    for ray in HIT.nonzero()[:, 0].tolist():
        assert edges_of(both, ray) == sorted([*edges_of(one, ray), *edges_of(two, ray)])
    nothing = spread(torch.zeros(5, dtype=torch.bool), 3)
    assert union(nothing, nothing).n_samples == 0
    with pytest.raises(ValueError, match="second: expected samples of 5 rays"):
        union(one, spread(HIT[:2], 3))


def test_no_rays_at_all() -> None:
    none = torch.empty(0)
    points = torch.empty(0, 3)
    levels, shares, samples = propose(points, points, none, none, [lambda points: points[:, 0]], [4, 2])
    assert samples.n_samples == shares.n_rays == levels[0].weights.numel() == 0


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: spread(HIT, 0), ValueError, "n_samples"),
        (lambda: spread(HIT, 3, jitter=torch.zeros(5, 3)), ValueError, r"jitter: expected \(5, 1\) or \(5, 4\)"),
        (lambda: spread(HIT, 3, jitter=torch.ones(5, 1)), ValueError, r"jitter: expected numbers in \[0, 1\)"),
        (lambda: spread(HIT, 3, jitter=torch.zeros(5, 1).long()), TypeError, "jitter: expected a floating"),
        (lambda: at_distances(spread(HIT, 2), torch.ones(5), torch.ones(5), "log"), ValueError, "spacing"),
        (lambda: annealing(-1), ValueError, "step"),
        (lambda: propose(*torch.zeros(2, 4, 3), *torch.ones(2, 4), [], [1, 2]), ValueError, "counts: expected 1"),
        (
            lambda: propose(*torch.zeros(2, 4, 3), *torch.ones(2, 4), [], [1], jitter=torch.zeros(4, 2)),
            ValueError,
            r"jitter: expected \(4, 1\)",
        ),
    ],
)
def test_wrong_calls_are_refused_by_name(call, error: type[Exception], message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=message):
        call()
