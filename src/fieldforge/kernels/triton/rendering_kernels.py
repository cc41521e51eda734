# mypy: ignore-errors
"""Kernels of packed volume rendering: a program goes along one ray, a chunk of samples at a time.

The functions are those of ``renderers/scans.py`` and ``renderers/compositing.py``, in float32, whatever the dtype of
densities, colours and values. Nothing is taken off a sum over several rays, so what is infinite or NaN on one ray stays
there; sums are added in a fixed order.
"""

import triton
import triton.language as tl


@triton.jit
def _last(values, CHUNK: tl.constexpr):
    """The last of a chunk."""
    return tl.sum(tl.where(tl.arange(0, CHUNK) == CHUNK - 1, values, 0.0), 0)


@triton.jit
def scan(
    values, offsets, out,
    IS_PRODUCT: tl.constexpr, IS_EXCLUSIVE: tl.constexpr, IS_REVERSED: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    start = tl.load(offsets + tl.program_id(0))
    count = (tl.load(offsets + tl.program_id(0) + 1) - start).to(tl.int32)
    shift: tl.constexpr = 1 if IS_EXCLUSIVE else 0
    neutral: tl.constexpr = 1.0 if IS_PRODUCT else 0.0
    carry = tl.full((), neutral, tl.float32)
    for first in range(0, count, CHUNK):
        place = first + tl.arange(0, CHUNK)
        source = place - shift
        if IS_REVERSED:
            source = count - 1 - source
            target = count - 1 - place
        else:
            target = place
        is_there = (source >= 0) & (source < count)
        value = tl.load(values + start + source, mask=is_there, other=neutral)
        if IS_PRODUCT:
            scanned = carry * tl.cumprod(value, 0)
        else:
            scanned = carry + tl.cumsum(value, 0)
        tl.store(out + start + target, scanned, mask=place < count)
        carry = _last(scanned, CHUNK)


@triton.jit(do_not_specialize=["n_rays"])
def product_backward(
    values, before, offsets, grad, grad_values, n_rays, IS_EXCLUSIVE: tl.constexpr, BLOCK: tl.constexpr
):
    """Each lane goes back along its ray: behind[i] = g[i] + v[i + 1] behind[i + 1], and nothing is divided."""
    ray = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    start = tl.load(offsets + ray, mask=ray < n_rays, other=0)
    end = tl.load(offsets + ray + 1, mask=ray < n_rays, other=0)
    longest = tl.max(end - start, 0)
    behind = tl.zeros((BLOCK,), tl.float32)
    last_value, last_grad = behind, behind
    for step in range(0, longest):
        row = end - 1 - step
        is_there = row >= start
        value = tl.load(values + row, mask=is_there, other=0.0)
        given = tl.load(grad + row, mask=is_there, other=0.0)
        if IS_EXCLUSIVE:
            behind = last_grad + last_value * behind
        else:
            behind = given + last_value * behind
        tl.store(grad_values + row, behind * tl.load(before + row, mask=is_there, other=0.0), mask=is_there)
        last_value, last_grad = value, given


@triton.jit
def _absorbed(tau):
    """1 - exp(-tau), to all digits near 0."""
    series = 1.0 - tau / 8.0
    series = 1.0 - tau / 7.0 * series
    series = 1.0 - tau / 6.0 * series
    series = 1.0 - tau / 5.0 * series
    series = 1.0 - tau / 4.0 * series
    series = 1.0 - tau / 3.0 * series
    series = tau * (1.0 - tau / 2.0 * series)
    return tl.where(tl.abs(tau) < 0.5, series, 1.0 - tl.exp(-tau))


@triton.jit
def _tau(t0, t1, density, row, is_there):
    length = tl.load(t1 + row, mask=is_there, other=0.0) - tl.load(t0 + row, mask=is_there, other=0.0)
    return tl.load(density + row, mask=is_there, other=0.0).to(tl.float32) * length


@triton.jit
def composite(
    t0, t1, density, color, offsets, out_color, depth, opacity, weights, passed, n_channels,
    C: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Also the optical depth before each sample (`passed`), for the gradients."""
    ray = tl.program_id(0).to(tl.int64)
    start, end = tl.load(offsets + ray), tl.load(offsets + ray + 1)
    channel = tl.arange(0, C)
    is_channel = channel < n_channels
    carry = tl.full((), 0.0, tl.float32)
    all_tau, all_depth = carry, carry
    seen = tl.zeros((C,), tl.float32)
    for first in range(0, (end - start).to(tl.int32), CHUNK):
        row = start + first + tl.arange(0, CHUNK)
        is_there = row < end
        tau = _tau(t0, t1, density, row, is_there)
        before = carry + tl.cumsum(_tau(t0, t1, density, row - 1, is_there & (row > start)), 0)
        carry = _last(before, CHUNK)
        weight = tl.exp(-before) * _absorbed(tau)
        weight = tl.where(is_there, weight, 0.0)
        middle = 0.5 * (tl.load(t0 + row, mask=is_there, other=0.0) + tl.load(t1 + row, mask=is_there, other=0.0))
        place = row[:, None] * n_channels + channel[None, :]
        emitted = tl.load(color + place, mask=is_there[:, None] & is_channel[None, :], other=0.0)
        seen += tl.sum(weight[:, None] * emitted.to(tl.float32), 0)
        all_depth += tl.sum(weight * middle, 0)
        all_tau += tl.sum(tau, 0)
        tl.store(weights + row, weight, mask=is_there)
        tl.store(passed + row, before, mask=is_there)
    tl.store(depth + ray, all_depth)
    tl.store(opacity + ray, _absorbed(all_tau))
    tl.store(out_color + ray * n_channels + channel, seen, mask=is_channel)


@triton.jit
def composite_backward(
    t0, t1, density, color, offsets, weights, passed, opacity, grad_seen, grad_depth, grad_opacity, grad_weights,
    grad_density, grad_color, n_channels, C: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """From the far end: a sample's density dims what lies behind it. Gradients that do not exist are None."""
    ray = tl.program_id(0).to(tl.int64)
    start, end = tl.load(offsets + ray), tl.load(offsets + ray + 1)
    channel = tl.arange(0, C)
    is_channel = channel < n_channels
    to_seen = tl.zeros((C,), tl.float32)
    if grad_seen is not None:
        to_seen = tl.load(grad_seen + ray * n_channels + channel, mask=is_channel, other=0.0)
    to_all = tl.full((), 0.0, tl.float32)
    if grad_opacity is not None:
        to_all = tl.load(grad_opacity + ray) * (1.0 - tl.load(opacity + ray))
    behind = tl.full((), 0.0, tl.float32)
    for first in range(0, (end - start).to(tl.int32), CHUNK):
        row = end - 1 - first - tl.arange(0, CHUNK)
        is_there = row >= start
        near, far = tl.load(t0 + row, mask=is_there, other=0.0), tl.load(t1 + row, mask=is_there, other=0.0)
        tau = tl.load(density + row, mask=is_there, other=0.0).to(tl.float32) * (far - near)
        weight = tl.load(weights + row, mask=is_there, other=0.0)
        place = row[:, None] * n_channels + channel[None, :]
        is_here = is_there[:, None] & is_channel[None, :]
        given = tl.sum(tl.load(color + place, mask=is_here, other=0.0).to(tl.float32) * to_seen[None, :], 1)
        if grad_depth is not None:
            given += tl.load(grad_depth + ray) * (0.5 * (near + far))
        if grad_weights is not None:
            given += tl.load(grad_weights + row, mask=is_there, other=0.0)
        share = tl.where(is_there, given * weight, 0.0)
        so_far = behind + tl.cumsum(share, 0)
        if grad_density is not None:
            left = tl.exp(-tl.load(passed + row, mask=is_there, other=0.0) - tau)
            slope = given * left - (so_far - share) + to_all
            tl.store(grad_density + row, (slope * (far - near)).to(density.dtype.element_ty), mask=is_there)
        if grad_color is not None:
            to_color = weight[:, None] * to_seen[None, :]
            tl.store(grad_color + place, to_color.to(color.dtype.element_ty), mask=is_here)
        behind = _last(so_far, CHUNK)


@triton.jit
def accumulate(weights, values, offsets, out, n_channels, C: tl.constexpr, CHUNK: tl.constexpr):
    ray = tl.program_id(0).to(tl.int64)
    start, end = tl.load(offsets + ray), tl.load(offsets + ray + 1)
    channel = tl.program_id(1) * C + tl.arange(0, C)
    is_channel = channel < n_channels
    total = tl.zeros((C,), tl.float32)
    for first in range(0, (end - start).to(tl.int32), CHUNK):
        row = start + first + tl.arange(0, CHUNK)
        is_here = (row < end)[:, None] & is_channel[None, :]
        value = tl.load(values + row[:, None] * n_channels + channel[None, :], mask=is_here, other=0.0).to(tl.float32)
        total += tl.sum(tl.load(weights + row, mask=row < end, other=0.0)[:, None] * value, 0)
    tl.store(out + ray * n_channels + channel, total, mask=is_channel)


@triton.jit
def accumulate_backward(
    weights, values, offsets, grad, grad_weights, grad_values, n_channels, C: tl.constexpr, CHUNK: tl.constexpr
):
    """Gradients that nobody wants are None."""
    ray = tl.program_id(0).to(tl.int64)
    start, end = tl.load(offsets + ray), tl.load(offsets + ray + 1)
    for first in range(0, (end - start).to(tl.int32), CHUNK):
        row = start + first + tl.arange(0, CHUNK)
        is_there = row < end
        weight = tl.load(weights + row, mask=is_there, other=0.0)
        total = tl.zeros((CHUNK,), tl.float32)
        for low in range(0, n_channels, C):
            channel = low + tl.arange(0, C)
            is_here = is_there[:, None] & (channel < n_channels)[None, :]
            place = row[:, None] * n_channels + channel[None, :]
            given = tl.load(grad + ray * n_channels + channel, mask=channel < n_channels, other=0.0)[None, :]
            if grad_weights is not None:
                total += tl.sum(given * tl.load(values + place, mask=is_here, other=0.0).to(tl.float32), 1)
            if grad_values is not None:
                tl.store(grad_values + place, (weight[:, None] * given).to(values.dtype.element_ty), mask=is_here)
        if grad_weights is not None:
            tl.store(grad_weights + row, total, mask=is_there)
