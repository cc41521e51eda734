"""What rays should look like beside their colours: covered by proposals, clear or opaque, without floaters.

`fieldforge.renderers.compositing.distortion` is one more of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fieldforge.checks import expect_float
from fieldforge.renderers.samples import Samples
from fieldforge.renderers.sampling import searchsorted
from fieldforge.renderers.scans import inclusive_sum

_LEAST_WEIGHT = 1e-7
"""Added to a weight that is divided by (nerfacto)."""


def interlevel(proposed: Samples, proposed_weights: Tensor, samples: Samples, weights: Tensor) -> Tensor:
    """How much of the weights a proposal does not cover (Barron et al. 2022, eq. 13).

    The bound of an interval is the sum of the proposal's weights over all its intervals that meet it:

        mean over i of max(0, w_i - bound_i)² / (w_i + 1e-7)

    Args:
        proposed, proposed_weights: intervals of the proposal and its weights (M,), on the same rays.
        samples, weights: those that it should have foreseen; constants here.

    Returns:
        (R,) mean over the samples of each ray, 0 on rays without any; 0 where the proposal is nowhere too low. The loss
        is their mean. Differentiable in the proposal's weights alone.

    Raises:
        ValueError: the rays are not the same, or weights do not have a row per sample.

    Example:
        >>> wide = Samples.from_dense(torch.tensor([[0.0]]), torch.tensor([[1.0]]))
        >>> thin = Samples.from_dense(torch.tensor([[0.4]]), torch.tensor([[0.6]]))
        >>> interlevel(wide, torch.tensor([0.5]), thin, torch.tensor([1.0]))
        tensor([0.2500])
    """
    if proposed.n_rays != samples.n_rays:
        raise ValueError(f"proposed: expected samples of {samples.n_rays} rays, got {proposed.n_rays}")
    for name, found, of in (("proposed_weights", proposed_weights, proposed), ("weights", weights, samples)):
        if found.shape != of.t0.shape:
            raise ValueError(f"{name}: expected {tuple(of.t0.shape)}, a row per sample, got {tuple(found.shape)}")
    if not samples.n_samples:
        return weights.new_zeros(samples.n_rays)
    weights = weights.detach()
    bound = _bound(proposed, proposed_weights, samples)
    excess = (weights - bound).clamp(min=0) ** 2 / (weights + _LEAST_WEIGHT)
    summed = excess.new_zeros(samples.n_rays).index_add(0, samples.ray_index, excess)
    return summed / samples.counts.clamp(min=1)


def _bound(proposed: Samples, proposed_weights: Tensor, samples: Samples) -> Tensor:
    """(N,) sum of the proposal's weights over its intervals that meet each sample."""
    if not proposed.n_samples:
        return samples.t0.new_zeros(samples.n_samples)
    # both edges of every interval: a value in a gap is found between an odd edge and the next
    edges = torch.stack([proposed.t0, proposed.t1], -1).reshape(-1).detach()
    first, last = (
        searchsorted(edges, 2 * proposed.offsets, t.detach().contiguous(), samples.offsets)[0]
        for t in (samples.t0, samples.t1)
    )  # fmt: skip
    first, last = (first + 1).div(2, rounding_mode="floor"), last.div(2, rounding_mode="floor")
    upper = inclusive_sum(proposed_weights, proposed.offsets)
    meets = (last >= first) & (last >= 0)  # neither in a gap nor on a ray without proposal
    first, last = torch.where(meets, first, 0), torch.where(meets, last, 0)
    return torch.where(meets, upper[last] - upper[first] + proposed_weights[first], 0.0)


def opacity_entropy(opacity: Tensor) -> Tensor:
    """-o ln o - (1 - o) ln (1 - o), (R,): least where a ray meets something or nothing, and no fog in between.

    Example:
        >>> opacity_entropy(torch.tensor([0.0, 0.5, 1.0]))
        tensor([0.0000, 0.6931, 0.0000])
    """
    inner = opacity.clamp(1e-6, 1 - 1e-6)  # the slope at the ends is infinite
    entropy = -(inner * inner.log() + (1 - inner) * (1 - inner).log())
    return torch.where((opacity > 0) & (opacity < 1), entropy, 0.0 * opacity)


def scale_gradients(samples: Samples, within: float, *values: Tensor) -> tuple[Tensor, ...]:
    """The same values, whose gradients are multiplied by min(1, (t / within)²) (Philip and Deschaintre 2023).

    Cameras see what is close to them from few sides but in many samples; unscaled, gradients there are so large that
    density settles in front of the lens ("floaters").

    Args:
        samples: t is the middle of each, in world length.
        within: the distance from which on gradients are whole; 1 in the paper, for scenes of about that size.
        values: (N,) or (N, C), a row per sample.
    """
    expect_float("within", within, 0.0, open_low=True)
    factor = (samples.t_mid.detach() / within).square().clamp(max=1.0)
    return tuple(_ScaledGradient.apply(value, factor.view(-1, *(1,) * (value.ndim - 1))) for value in values)


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(value: Tensor, factor: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (factor,) = ctx.saved_tensors
        return grad * factor, None
