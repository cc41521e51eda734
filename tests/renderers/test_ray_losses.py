"""Losses of rays against loops."""

from __future__ import annotations

import pytest
import torch
from reference import proposals as loops
from reference.rendering import rows
from torch import Tensor

from fieldforge.backends import use_backend
from fieldforge.renderers.proposals import resample
from fieldforge.renderers.ray_losses import interlevel, opacity_entropy, scale_gradients
from fieldforge.renderers.samples import Samples, row_offsets

BACKENDS = ["reference", "auto"]
COUNTS = [4, 0, 17, 1, 0, 8]


def intervals(counts: list[int], generator: torch.Generator, *, gaps: bool = False) -> Samples:
    """Edges at multiples of 1/64, so that some of two sets are the same, between 0 and 1."""
    begin, end = [], []
    for n in counts:
        if n:
            inner = torch.randperm(63, generator=generator)[: n - 1].sort().values + 1
            edges = torch.cat([torch.tensor([0]), inner, torch.tensor([64])]) / 64
            begin.append(edges[:-1])
            end.append(edges[1:])
    samples = Samples.from_offsets(torch.cat(begin), torch.cat(end), row_offsets(torch.tensor(counts)))
    return samples.keep(torch.arange(samples.n_samples) % 3 != 1) if gaps else samples


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("gaps", [False, True])
def test_interlevel_is_what_the_bound_leaves(backend: str, gaps: bool, generator: torch.Generator) -> None:
    proposed = intervals([3, 0, 9, 20, 0, 5], generator)
    samples = intervals(COUNTS, generator, gaps=gaps)
    given = (torch.rand(proposed.n_samples, generator=generator) / 10).requires_grad_()
    weights = torch.rand(samples.n_samples, generator=generator)
    with use_backend(backend):
        got = interlevel(proposed, given, samples, weights)
        (slope,) = torch.autograd.grad(got.sum(), given)
    for ray, (mine, theirs) in enumerate(
        zip(rows(samples.counts.tolist()), rows(proposed.counts.tolist()), strict=True)
    ):
        loss, gradient = loops.interlevel(
            [(float(proposed.t0[i]), float(proposed.t1[i])) for i in theirs],
            given.detach()[theirs.start : theirs.stop].tolist(),
            [(float(samples.t0[i]), float(samples.t1[i])) for i in mine], [float(weights[i]) for i in mine],
        )  # fmt: skip
        assert float(got[ray].detach()) == pytest.approx(loss, rel=1e-4, abs=1e-6)
        assert [float(slope[i]) for i in theirs] == pytest.approx(gradient, rel=1e-4, abs=1e-5)


def test_interlevel_asks_nothing_of_a_proposal_that_covers(generator: torch.Generator) -> None:
    samples = intervals(COUNTS, generator)
    weights = torch.rand(samples.n_samples, generator=generator) / 20
    finer = resample(samples, weights, 30)
    share = 0.5 * weights.min()
    assert (interlevel(samples, weights, finer, torch.full_like(finer.t0, float(share))) == 0).all()
    assert (interlevel(samples, weights, samples, weights) == 0).all()


def test_a_proposal_without_samples_covers_nothing() -> None:
    none = Samples(torch.empty(0), torch.empty(0), torch.empty(0, dtype=torch.long), 1)
    one = Samples.from_dense(torch.tensor([[0.0]]), torch.tensor([[1.0]]))
    assert float(interlevel(none, none.t0, one, torch.tensor([0.5]))) == pytest.approx(0.5)
    assert interlevel(one, torch.tensor([0.5]), none, none.t0).tolist() == [0]


def test_entropy_pushes_opacities_to_their_nearer_end() -> None:
    opacity = torch.tensor([0.0, 1e-7, 0.2, 0.5, 0.8, 1.0], requires_grad=True)
    entropy = opacity_entropy(opacity)
    expected = [0.0, 0.5004024, 0.6931472, 0.5004024, 0.0]
    assert entropy[[0, 2, 3, 4, 5]].tolist() == pytest.approx(expected, abs=1e-6)
    entropy.sum().backward()
    assert opacity.grad is not None
    assert opacity.grad.isfinite().all()
    assert opacity.grad[2] > 0 > opacity.grad[4]


def test_gradients_near_the_camera_are_scaled_and_values_are_not() -> None:
    samples = Samples.from_dense(torch.tensor([[0.0, 0.2, 1.0]]), torch.tensor([[0.2, 1.0, 9.0]]))
    density, color = torch.rand(3, requires_grad=True), torch.rand(3, 4, requires_grad=True)
    scaled: tuple[Tensor, ...] = scale_gradients(samples, 2.0, density, color)
    assert torch.equal(scaled[0], density)
    assert torch.equal(scaled[1], color)
    grads = torch.autograd.grad(scaled[0].sum() + 2 * scaled[1].sum(), [density, color])
    factor = torch.tensor([0.05**2, 0.3**2, 1.0])
    torch.testing.assert_close(grads[0], factor)
    torch.testing.assert_close(grads[1], 2 * factor[:, None].expand(3, 4))


def test_wrong_calls_are_refused_by_name() -> None:
    one = Samples.from_dense(torch.tensor([[0.0]]), torch.tensor([[1.0]]))
    two = Samples.from_dense(torch.zeros(2, 1), torch.ones(2, 1))
    with pytest.raises(ValueError, match="proposed: expected samples of 2 rays"):
        interlevel(one, torch.ones(1), two, torch.ones(2))
    with pytest.raises(ValueError, match="proposed_weights"):
        interlevel(one, torch.ones(2), one, torch.ones(1))
    with pytest.raises(ValueError, match="within"):
        scale_gradients(one, 0.0, torch.ones(1))
