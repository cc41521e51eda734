"""Absorption and emission along packed samples: weights, colours, depths, and the distortion of weights.

With the optical depth tau_i = density_i * (t1_i - t0_i) of each interval (Mildenhall et al. 2020, eq. 3; Max 1995)

    alpha_i  = 1 - exp(-tau_i)                      absorbed of what arrives
    T_i      = exp(-sum of tau_j over j < i)        arrives: the transmittance
    weight_i = T_i * alpha_i                        the share of the ray that ends in the interval

Weights are at least 0 and sum to at most 1. Cutting an interval of constant density changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fieldforge.backends import choose, provide
from fieldforge.checks import expect_float
from fieldforge.kernels import cpu_door, cpu_rendering
from fieldforge.kernels.triton import door as triton_door
from fieldforge.kernels.triton import rendering as triton_rendering
from fieldforge.renderers.samples import Samples, expect_offsets, rows_to_rays
from fieldforge.renderers.scans import exclusive_prod, exclusive_sum, inclusive_sum, scan_on_cuda, segmented_scan


class Rendered(NamedTuple):
    """What is seen along R rays with N samples."""

    color: Tensor
    """(R, C) the sum of weight * color, plus what is left of the background."""
    depth: Tensor
    """(R,) the sum of weight * t_mid, without the background; divided by the opacity it is a mean."""
    opacity: Tensor
    """(R,) in [0, 1], 1 - exp(-optical depth of the ray): the sum of the weights."""
    weights: Tensor
    """(N,)."""


def composite(samples: Samples, density: Tensor, color: Tensor, *, background: Tensor | None = None) -> Rendered:
    """Absorb and emit along each ray.

    Args:
        samples: packed intervals; t in world length, measured along unit directions.
        density: (N,) extinction, 1 / length, at least 0; infinity is a wall.
        color: (N, C) what leaves each sample toward the camera, any number of channels, linear; C may be 0.
        background: (C,) or (R, C) seen through what is left; None is black.

    Returns:
        `Rendered`; a ray without samples has the background, depth 0 and opacity 0.

    Raises:
        TypeError: a tensor is not floating point.
        ValueError: density or color do not have one row per sample, or the background fits no ray.

    Differentiable in density, color and background. In t0 and t1 as well, by the reference.

    Example:
        >>> samples = Samples.from_dense(torch.zeros(1, 1), torch.ones(1, 1))
        >>> composite(samples, torch.tensor([2.0]), torch.ones(1, 3)).opacity
        tensor([0.8647])
    """
    _expect_rows("density", density, samples, 1)
    _expect_rows("color", color, samples, 2)
    moves = torch.is_grad_enabled() and (samples.t0.requires_grad or samples.t1.requires_grad)
    dtypes = (density.dtype, color.dtype, samples.t0.dtype)
    run = choose("composite", density.device, dtypes=dtypes, moves=moves, n_channels=color.shape[-1])
    rendered: Rendered = run(samples, density, color)
    if background is None:
        return rendered
    _expect_background(background, samples, color)
    left = (1 - rendered.opacity)[:, None]
    return rendered._replace(color=rendered.color + left * background)


@provide("composite", "reference")
def composite_plain(samples: Samples, density: Tensor, color: Tensor) -> Rendered:
    """`composite` in plain PyTorch, without a background; this function defines it."""
    tau = density * samples.dt
    arrives = torch.exp(-segmented_scan(tau, samples.offsets, "exclusive_sum"))
    weights = arrives * -torch.expm1(-tau)
    # not the sum of the weights: that would round to more than 1
    opacity = -torch.expm1(-_sum_rays(tau, samples))
    return Rendered(
        _sum_rays(weights[:, None] * color, samples), _sum_rays(weights * samples.t_mid, samples), opacity, weights
    )


def alpha_from_density(samples: Samples, density: Tensor) -> Tensor:
    """(N,) share that each interval absorbs of what arrives: 1 - exp(-density * dt)."""
    _expect_rows("density", density, samples, 1)
    return -torch.expm1(-density * samples.dt)


def transmittance_from_density(samples: Samples, density: Tensor) -> Tensor:
    """(N,) share of the light that passes everything before each interval.

    Example:
        >>> samples = Samples.from_dense(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 2.0]]))
        >>> transmittance_from_density(samples, torch.tensor([1.0, 1.0]))
        tensor([1.0000, 0.3679])
    """
    _expect_rows("density", density, samples, 1)
    return torch.exp(-exclusive_sum(density * samples.dt, samples.offsets))


def weights_from_density(samples: Samples, density: Tensor) -> Tensor:
    """(N,) share of each ray that ends in each interval, for proposals and losses that need no colour."""
    return composite(samples, density, density.new_empty(*density.shape[:1], 0)).weights


def transmittance_from_alpha(samples: Samples, alpha: Tensor) -> Tensor:
    """(N,) product of 1 - alpha over the samples before each on its ray; differentiable where some alpha are 1."""
    _expect_rows("alpha", alpha, samples, 1)
    return exclusive_prod(1 - alpha, samples.offsets)


def weights_from_alpha(samples: Samples, alpha: Tensor) -> Tensor:
    """(N,) weights of samples whose absorption is known instead of their density (NeuS; Wang et al. 2021).

    Example:
        >>> samples = Samples.from_dense(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 2.0]]))
        >>> weights_from_alpha(samples, torch.tensor([0.5, 1.0]))
        tensor([0.5000, 0.5000])
    """
    return transmittance_from_alpha(samples, alpha) * alpha


def visibility(samples: Samples, density: Tensor, *, early_stop: float = 1e-4, alpha_threshold: float = 0.0) -> Tensor:
    """Which samples are worth evaluating: enough light arrives, and they absorb enough of it.

    Args:
        samples, density: as for `composite`.
        early_stop: least transmittance in front of a sample, 0 to 1.
        alpha_threshold: least absorption of a sample, 0 to 1.

    Returns:
        (N,) bool, for `Samples.keep`; no gradient. Samples of NaN density are kept, so that the NaN is seen.
    """
    early_stop, alpha_threshold = _shares(early_stop, alpha_threshold)
    with torch.no_grad():
        hidden = transmittance_from_density(samples, density) < early_stop
        return ~(hidden | (alpha_from_density(samples, density) < alpha_threshold))


def visibility_from_alpha(
    samples: Samples, alpha: Tensor, *, early_stop: float = 1e-4, alpha_threshold: float = 0.0
) -> Tensor:
    """`visibility` of samples whose absorption is known."""
    early_stop, alpha_threshold = _shares(early_stop, alpha_threshold)
    with torch.no_grad():
        return ~((transmittance_from_alpha(samples, alpha) < early_stop) | (alpha < alpha_threshold))


def accumulate(weights: Tensor, values: Tensor | None, offsets: Tensor) -> Tensor:
    """Weighted sums along each ray: colours, features, normals.

    Args:
        weights: (N,).
        values: (N, C), or None for the weights alone.
        offsets: (R + 1,) int64.

    Returns:
        (R, C), or (R, 1) for None; zero on rays without samples.

    Raises:
        TypeError, ValueError: as for `fieldforge.renderers.scans.inclusive_sum`; or values do not have a row for each
            weight.

    Example:
        >>> accumulate(torch.tensor([0.5, 0.25]), None, torch.tensor([0, 2, 2]))
        tensor([[0.7500],
                [0.0000]])
    """
    if not isinstance(weights, Tensor) or not weights.is_floating_point():
        raise TypeError(f"weights: expected a floating-point tensor, got {getattr(weights, 'dtype', type(weights))}")
    if weights.ndim != 1:
        raise ValueError(f"weights: expected (N,), got {tuple(weights.shape)}")
    if values is None:
        values = weights.new_ones(1).expand(weights.shape[0], 1)
    if values.ndim != 2 or values.shape[0] != weights.shape[0]:
        raise ValueError(f"values: expected ({weights.shape[0]}, C), got {tuple(values.shape)}")
    run = choose("accumulate", weights.device, dtypes=(weights.dtype, values.dtype))
    out: Tensor = run(weights, values, offsets)
    return out


@provide("accumulate", "reference")
def accumulate_plain(weights: Tensor, values: Tensor, offsets: Tensor) -> Tensor:
    """`accumulate` in plain PyTorch."""
    expect_offsets("offsets", offsets, weights.shape[0])
    weighted = weights[:, None] * values
    rays = rows_to_rays(offsets, weights.shape[0])
    return weighted.new_zeros(offsets.shape[0] - 1, values.shape[1]).index_add(0, rays, weighted)


def median_depth(samples: Samples, weights: Tensor) -> Tensor:
    """(R,) middle of the interval where half of the light is gone; no gradient.

    The last interval where less than half ends on the ray, 0 where there is none.
    """
    _expect_rows("weights", weights, samples, 1)
    with torch.no_grad():
        before = (inclusive_sum(weights, samples.offsets) < 0.5).to(weights.dtype)
        n_before = accumulate(before, None, samples.offsets)[:, 0].long()
        row = samples.offsets[:-1] + torch.minimum(n_before, samples.counts - 1)
        padded = torch.cat([samples.t_mid, samples.t0.new_zeros(1)])
        return torch.where(samples.counts > 0, padded[row], 0.0)


def distortion(samples: Samples, weights: Tensor) -> Tensor:
    """How far the weights of each ray are spread out (Barron et al. 2022, eq. 15), in O(N).

    With m the middles and s the lengths of the intervals

        sum over i, j of w_i w_j |m_i - m_j| + 1/3 sum over i of w_i² s_i

    Args:
        samples: intervals in order, in the space in which the loss is measured (mip-NeRF 360: the unit interval of its
            normalised distances); they need not be those that were composited.
        weights: (N,) at least 0.

    Returns:
        (R,), 0 on rays without samples; the loss is their mean. Differentiable in the weights, and in t0 and t1 by the
        reference.

    Example:
        >>> samples = Samples.from_dense(torch.tensor([[0.0, 0.5]]), torch.tensor([[0.5, 1.0]]))
        >>> distortion(samples, torch.tensor([0.5, 0.5]))
        tensor([0.3333])
    """
    _expect_rows("weights", weights, samples, 1)
    moves = torch.is_grad_enabled() and (samples.t0.requires_grad or samples.t1.requires_grad)
    run = choose("distortion", weights.device, dtypes=(weights.dtype, samples.t0.dtype), moves=moves)
    out: Tensor = run(samples, weights)
    return out


@provide("distortion", "reference")
def distortion_plain(samples: Samples, weights: Tensor) -> Tensor:
    """`distortion` in plain PyTorch.

    The gap between two neighbouring middles is crossed by every pair with one end before and one behind it. Counted
    so, no term is negative and nothing cancels, as it does in the difference of two cumulative sums.
    """
    return _distortion_by(segmented_scan, samples, weights)


def _distortion_by(scan: Callable[[Tensor, Tensor, str], Tensor], samples: Samples, weights: Tensor) -> Tensor:
    before = scan(weights, samples.offsets, "inclusive_sum")
    turned = samples.n_samples - samples.offsets.flip(0)
    behind = scan(weights.flip(0), turned, "exclusive_sum").flip(0)
    middle = samples.t_mid
    is_inner = samples.ray_index[1:] == samples.ray_index[:-1]
    gap = torch.where(is_inner, middle[1:] - middle[:-1], 0.0)
    pairs = torch.cat([before[:-1] * behind[:-1] * gap, gap.new_zeros(min(1, samples.n_samples))])
    return _sum_rays(2 * pairs + weights * weights * samples.dt / 3, samples)


# ---- native


def _refuses(**call: Any) -> str | None:
    return cpu_rendering.refuses(*call.get("dtypes", ()), moves=call.get("moves", False))


@provide("composite", "cpu", missing=cpu_door.missing, refuses=_refuses, note=cpu_door.description)
def _composite_on_cpu(samples: Samples, density: Tensor, color: Tensor) -> Rendered:
    def reference(density: Tensor, color: Tensor) -> Rendered:
        return composite_plain(samples, density, color)

    return Rendered(
        *cpu_rendering.composite(samples.t0, samples.t1, samples.offsets, density, color, reference=reference)
    )


@provide("accumulate", "cpu", missing=cpu_door.missing, refuses=_refuses, note=cpu_door.description)
def _accumulate_on_cpu(weights: Tensor, values: Tensor, offsets: Tensor) -> Tensor:
    return cpu_rendering.accumulate(
        weights, values, offsets, reference=lambda weights, values: accumulate_plain(weights, values, offsets)
    )


@provide("distortion", "cpu", missing=cpu_door.missing, refuses=_refuses, note=cpu_door.description)
def _distortion_on_cpu(samples: Samples, weights: Tensor) -> Tensor:
    return cpu_rendering.distortion(
        weights, samples.t0, samples.t1, samples.offsets, reference=lambda weights: distortion_plain(samples, weights)
    )


# ---- on a GPU


_on_cuda: dict[str, Any] = {"missing": triton_door.missing, "note": triton_door.description}


def _refuses_composite(*, dtypes: tuple[torch.dtype, ...], moves: bool, n_channels: int) -> str | None:
    *of_network, of_t = dtypes
    return triton_rendering.refuses(of_t, of_network=tuple(of_network), moves=moves, n_channels=n_channels)


@provide("composite", "cuda", refuses=_refuses_composite, **_on_cuda)
def _composite_on_cuda(samples: Samples, density: Tensor, color: Tensor) -> Rendered:
    def reference(density: Tensor, color: Tensor) -> Rendered:
        return composite_plain(samples, density, color)

    return Rendered(
        *triton_rendering.composite(samples.t0, samples.t1, samples.offsets, density, color, reference=reference)
    )


def _refuses_accumulate(*, dtypes: tuple[torch.dtype, ...]) -> str | None:
    return triton_rendering.refuses(dtypes[0], of_network=dtypes[1:])


@provide("accumulate", "cuda", refuses=_refuses_accumulate, **_on_cuda)
def _accumulate_on_cuda(weights: Tensor, values: Tensor, offsets: Tensor) -> Tensor:
    return triton_rendering.accumulate(
        weights, values, offsets, reference=lambda weights, values: accumulate_plain(weights, values, offsets)
    )


def _refuses_distortion(*, dtypes: tuple[torch.dtype, ...], moves: bool) -> str | None:
    return triton_rendering.refuses(*dtypes, moves=moves)


@provide("distortion", "cuda", refuses=_refuses_distortion, **_on_cuda)
def _distortion_on_cuda(samples: Samples, weights: Tensor) -> Tensor:
    """The plain formula with scans that go along each ray once."""
    return _distortion_by(scan_on_cuda, samples, weights)


# ---- parts


def _sum_rays(values: Tensor, samples: Samples) -> Tensor:
    """(N, ...) -> (R, ...)."""
    return values.new_zeros(samples.n_rays, *values.shape[1:]).index_add(0, samples.ray_index, values)


def _expect_rows(name: str, tensor: Tensor, samples: Samples, n_dims: int) -> None:
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        raise TypeError(f"{name}: expected a floating-point tensor, got {getattr(tensor, 'dtype', type(tensor))}")
    n = samples.n_samples
    if tensor.ndim != n_dims or tensor.shape[0] != n:
        raise ValueError(f"{name}: expected ({n},{' C' * (n_dims - 1)}), a row per sample, got {tuple(tensor.shape)}")
    if tensor.device != samples.t0.device:
        raise ValueError(f"{name}: expected {samples.t0.device}, where the samples are, got {tensor.device}")


def _expect_background(background: Tensor, samples: Samples, color: Tensor) -> None:
    shapes = ((color.shape[1],), (samples.n_rays, color.shape[1]))
    if not isinstance(background, Tensor) or tuple(background.shape) not in shapes:
        got = tuple(background.shape) if isinstance(background, Tensor) else type(background).__name__
        raise ValueError(f"background: expected a tensor {shapes[0]} or {shapes[1]}, got {got}")


def _shares(early_stop: float, alpha_threshold: float) -> tuple[float, float]:
    return expect_float("early_stop", early_stop, 0.0, 1.0), expect_float("alpha_threshold", alpha_threshold, 0.0, 1.0)
