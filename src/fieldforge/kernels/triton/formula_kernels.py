# mypy: ignore-errors
"""Kernels of the encodings that are formulas, and of their gradients, in float32.

The functions are those of ``encodings/frequency.py``, ``triangle_wave.py``, ``one_blob.py``, ``random_fourier.py`` and
``spherical_harmonics.py``. Outputs may have more than 2^31 numbers: no product of sizes is taken in 32 bits.
"""

import triton
import triton.language as tl


@triton.jit
def _turns(x, k):
    """2^k x less a whole number of periods, both exact: (-1 to 1, the octave)."""
    octave = ((k + 127) << 23).to(tl.float32, bitcast=True)
    turns = x * octave
    half = 0.5 * turns
    whole = tl.where(tl.abs(half) < 4194304.0, tl.floor(half + 0.5), half)  # beyond, all numbers are whole or halves
    return turns - 2.0 * whole, octave


@triton.jit(do_not_specialize=["n"])
def frequency(x, out, n, K: tl.constexpr, BLOCK: tl.constexpr):
    """n = (N d) coordinates -> (n, K, 2)."""
    element = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    is_element = element // K < n
    value = tl.load(x + element // K, mask=is_element, other=0.0)
    turns, _ = _turns(value, (element % K).to(tl.int32))
    angle = 3.141592653589793 * turns
    tl.store(out + 2 * element, tl.sin(angle), mask=is_element)
    tl.store(out + 2 * element + 1, tl.cos(angle), mask=is_element)


@triton.jit(do_not_specialize=["n"])
def frequency_backward(x, grad, grad_x, n, K: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    k = tl.arange(0, COLUMNS)
    is_there = (row < n)[:, None] & (k < K)[None, :]
    value = tl.load(x + row, mask=row < n, other=0.0)
    turns, octave = _turns(value[:, None], k[None, :])
    angle = 3.141592653589793 * turns
    place = 2 * (row[:, None] * K + k[None, :])
    to_sine = tl.load(grad + place, mask=is_there, other=0.0)
    to_cosine = tl.load(grad + place + 1, mask=is_there, other=0.0)
    slope = 3.141592653589793 * octave * (to_sine * tl.cos(angle) - to_cosine * tl.sin(angle))
    tl.store(grad_x + row, tl.sum(tl.where(is_there, slope, 0.0), 1), mask=row < n)


@triton.jit
def _wave(x, k):
    """Where in the wave of octave 2^(k - 1) a coordinate is, -1/2 to 1/2, and the octave."""
    octave = ((k + 126) << 23).to(tl.float32, bitcast=True)
    turns = x * octave + 0.25 * k.to(tl.float32)  # rounded once, as the product is exact
    return turns - tl.floor(turns) - 0.5, octave


@triton.jit(do_not_specialize=["n"])
def triangle_wave(x, out, n, K: tl.constexpr, BLOCK: tl.constexpr):
    """n = (N d) coordinates -> (n, K)."""
    element = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    is_element = element // K < n
    value = tl.load(x + element // K, mask=is_element, other=0.0)
    place, _ = _wave(value, (element % K).to(tl.int32))
    tl.store(out + element, 4.0 * tl.abs(place) - 1.0, mask=is_element)


@triton.jit(do_not_specialize=["n"])
def triangle_wave_backward(x, grad, grad_x, n, K: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr):
    """At a turning point above the slope is that on its right, at one below 0, as PyTorch has it."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    k = tl.arange(0, COLUMNS)
    is_there = (row < n)[:, None] & (k < K)[None, :]
    value = tl.load(x + row, mask=row < n, other=0.0)
    place, octave = _wave(value[:, None], k[None, :])
    sign = tl.where(place > 0, 1.0, tl.where(place < 0, -1.0, 0.0 * place))  # NaN stays
    given = tl.load(grad + row[:, None] * K + k[None, :], mask=is_there, other=0.0)
    tl.store(grad_x + row, tl.sum(tl.where(is_there, 4.0 * octave * sign * given, 0.0), 1), mask=row < n)


@triton.jit
def _turns_along(x, frequencies, row, n, feature, n_features, D: tl.constexpr):
    """(rows, features) how many turns x is along each frequency, less whole ones."""
    turns = tl.zeros((row.shape[0], feature.shape[0]), tl.float32)
    for axis in tl.static_range(D):
        value = tl.load(x + row * D + axis, mask=row < n, other=0.0)
        factor = tl.load(frequencies + feature * D + axis, mask=feature < n_features, other=0.0)
        turns += value[:, None] * factor[None, :]
    return turns - tl.floor(turns + 0.5)


@triton.jit(do_not_specialize=["n"])
def random_fourier(
    x, frequencies, out, n, n_features, D: tl.constexpr, BLOCK: tl.constexpr, COLUMNS: tl.constexpr
):  # fmt: skip
    """(n, D) points -> (n, 2 n_features), sines first; a program has some rows and some features."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    feature = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    angle = 6.283185307179586 * _turns_along(x, frequencies, row, n, feature, n_features, D)
    place = row[:, None] * (2 * n_features) + feature[None, :]
    is_there = (row < n)[:, None] & (feature < n_features)[None, :]
    tl.store(out + place, tl.sin(angle), mask=is_there)
    tl.store(out + place + n_features, tl.cos(angle), mask=is_there)


@triton.jit(do_not_specialize=["n"])
def random_fourier_backward(
    x, frequencies, grad, grad_x, n, n_features,
    D: tl.constexpr, AXES: tl.constexpr, BLOCK: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """A program has some rows and goes through all features; AXES is a power of two of at least D."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    axis = tl.arange(0, AXES)
    total = tl.zeros((BLOCK, AXES), tl.float32)
    for first in range(0, n_features, COLUMNS):
        feature = first + tl.arange(0, COLUMNS)
        angle = 6.283185307179586 * _turns_along(x, frequencies, row, n, feature, n_features, D)
        place = row[:, None] * (2 * n_features) + feature[None, :]
        is_there = (row < n)[:, None] & (feature < n_features)[None, :]
        to_sine = tl.load(grad + place, mask=is_there, other=0.0)
        to_cosine = tl.load(grad + place + n_features, mask=is_there, other=0.0)
        slope = 6.283185307179586 * (to_sine * tl.cos(angle) - to_cosine * tl.sin(angle))
        is_factor = (feature < n_features)[:, None] & (axis < D)[None, :]
        factor = tl.load(frequencies + feature[:, None] * D + axis[None, :], mask=is_factor, other=0.0)
        total += tl.sum(slope[:, :, None] * factor[None, :, :], 1)
    tl.store(grad_x + row[:, None] * D + axis[None, :], total, mask=(row < n)[:, None] & (axis < D)[None, :])


@triton.jit
def _cdf(u):
    """Integral of 15/16 (1 - t²)² from -1 to u."""
    u = tl.where(u < -1.0, -1.0, tl.where(u > 1.0, 1.0, u))  # NaN passes
    side = 1.0 + u
    return side * side * side * (8.0 - 9.0 * u + 3.0 * u * u) / 16.0


@triton.jit
def _density(u):
    inner = 1.0 - u * u
    return tl.where(tl.abs(u) <= 1.0, 0.9375 * inner * inner, 0.0)


@triton.jit
def _left_of(x, edge, BINS: tl.constexpr):
    """How much of the three blobs lies left of an edge."""
    u = (edge.to(tl.float32) / BINS - x) * BINS
    return _cdf(u - BINS) + _cdf(u) + _cdf(u + BINS)


@triton.jit
def _density_at(x, edge, BINS: tl.constexpr):
    u = (edge.to(tl.float32) / BINS - x) * BINS
    return _density(u - BINS) + _density(u) + _density(u + BINS)


@triton.jit(do_not_specialize=["n"])
def one_blob(x, out, n, BINS: tl.constexpr, BLOCK: tl.constexpr):
    """n = (N d) coordinates -> (n, BINS)."""
    element = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    is_element = element // BINS < n
    value = tl.load(x + element // BINS, mask=is_element, other=0.0)
    edge = (element % BINS).to(tl.int32)
    tl.store(out + element, _left_of(value, edge + 1, BINS) - _left_of(value, edge, BINS), mask=is_element)


@triton.jit(do_not_specialize=["n"])
def one_blob_backward(x, grad, grad_x, n, BINS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + row, mask=row < n, other=0.0)[:, None]
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, BINS, COLUMNS):
        edge = (first + tl.arange(0, COLUMNS))[None, :]
        given = tl.load(grad + row[:, None] * BINS + edge, mask=(row < n)[:, None], other=0.0)
        total += tl.sum(given * (_density_at(value, edge, BINS) - _density_at(value, edge + 1, BINS)), 1)
    tl.store(grad_x + row, total * BINS, mask=row < n)


@triton.jit(do_not_specialize=["n"])
def spherical_harmonics(x, norms, out, n, DEGREE: tl.constexpr, BLOCK: tl.constexpr):
    """`norms` has a factor for each channel, the diagonal (-1)^m (2m - 1)!! included."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    is_row = row < n
    vx = 2.0 * tl.load(x + 3 * row, mask=is_row, other=0.0) - 1.0
    vy = 2.0 * tl.load(x + 3 * row + 1, mask=is_row, other=0.0) - 1.0
    vz = 2.0 * tl.load(x + 3 * row + 2, mask=is_row, other=0.0) - 1.0
    place = out + row * (DEGREE * DEGREE)
    cosine, sine = 1.0 + 0.0 * vx, 0.0 * vx  # Re, Im (x + iy)^m
    for m in tl.static_range(DEGREE):
        before, legendre = 0.0 * vz, 1.0 + 0.0 * vz
        for band in tl.static_range(m, DEGREE):
            if band > m:
                ahead = ((2 * band - 1) * vz * legendre - (band + m - 1) * before) / (band - m)
                before, legendre = legendre, ahead
            center = band * band + band
            scaled = tl.load(norms + center + m) * legendre
            if m == 0:
                tl.store(place + center, scaled, mask=is_row)
            else:
                tl.store(place + center + m, scaled * cosine, mask=is_row)
                tl.store(place + center - m, scaled * sine, mask=is_row)
        cosine, sine = vx * cosine - vy * sine, vx * sine + vy * cosine


@triton.jit(do_not_specialize=["n"])
def spherical_harmonics_backward(x, norms, grad, grad_x, n, DEGREE: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    is_row = row < n
    vx = 2.0 * tl.load(x + 3 * row, mask=is_row, other=0.0) - 1.0
    vy = 2.0 * tl.load(x + 3 * row + 1, mask=is_row, other=0.0) - 1.0
    vz = 2.0 * tl.load(x + 3 * row + 2, mask=is_row, other=0.0) - 1.0
    place = grad + row * (DEGREE * DEGREE)
    cosine, sine = 1.0 + 0.0 * vx, 0.0 * vx
    last_cosine, last_sine = 0.0 * vx, 0.0 * vx  # of m - 1: the derivative of (x + iy)^m is m (x + iy)^(m - 1)
    gx, gy, gz = 0.0 * vx, 0.0 * vy, 0.0 * vz
    for m in tl.static_range(DEGREE):
        before, legendre = 0.0 * vz, 1.0 + 0.0 * vz
        slope_before, slope = 0.0 * vz, 0.0 * vz
        for band in tl.static_range(m, DEGREE):
            if band > m:
                ahead = ((2 * band - 1) * vz * legendre - (band + m - 1) * before) / (band - m)
                slope_ahead = ((2 * band - 1) * (legendre + vz * slope) - (band + m - 1) * slope_before) / (band - m)
                before, legendre, slope_before, slope = legendre, ahead, slope, slope_ahead
            center = band * band + band
            norm = tl.load(norms + center + m)
            above = norm * tl.load(place + center + m, mask=is_row, other=0.0)
            if m == 0:
                gz += above * slope
            else:
                below = norm * tl.load(place + center - m, mask=is_row, other=0.0)
                gx += m * legendre * (above * last_cosine + below * last_sine)
                gy += m * legendre * (below * last_cosine - above * last_sine)
                gz += slope * (above * cosine + below * sine)
        last_cosine, last_sine = cosine, sine
        cosine, sine = vx * cosine - vy * sine, vx * sine + vy * cosine
    tl.store(grad_x + 3 * row, 2.0 * gx, mask=is_row)
    tl.store(grad_x + 3 * row + 1, 2.0 * gy, mask=is_row)
    tl.store(grad_x + 3 * row + 2, 2.0 * gz, mask=is_row)
