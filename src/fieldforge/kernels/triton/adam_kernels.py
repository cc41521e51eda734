# mypy: ignore-errors
"""One step of Adam over a parameter and what is kept beside it, in one pass; the rule is `apps.fit.optimizers.adam`'s.

Each operation is written where the plain version has one, and none is joined with the next (``enable_fp_fusion`` off),
so that the two differ by at most the rounding of a root or a quotient.
"""

import triton
import triton.language as tl


@triton.jit
def step(
    weight, gradient, first, second, counts, corrections, n, rate, beta1, beta2, rest1, rest2, epsilon, l2,
    relative_decay, absolute_decay, gradient_limit, limit, low, high,
    SKIPS_ZERO: tl.constexpr, HAS_L2: tl.constexpr, HAS_DECAY: tl.constexpr, LIMITS_GRADIENT: tl.constexpr,
    LIMITS: tl.constexpr, HAS_EPSILON: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """With SKIPS_ZERO, entries whose gradient is zero stay, and each counts its own steps for the bias correction."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    moves = place < n
    g = tl.load(gradient + place, mask=moves, other=0.0)
    if SKIPS_ZERO:
        moves = moves & (g != 0.0)
        count = tl.load(counts + place, mask=moves, other=0) + 1
        tl.store(counts + place, count, mask=moves)
        rate = rate * tl.load(corrections + count, mask=moves, other=0.0)
    w = tl.load(weight + place, mask=moves, other=0.0)
    if HAS_L2:
        g = g + l2 * w
    if LIMITS_GRADIENT:
        g = _clamp(g, -gradient_limit, gradient_limit)
    m = tl.load(first + place, mask=moves, other=0.0) * beta1 + g * rest1
    v = tl.load(second + place, mask=moves, other=0.0) * beta2 + g * g * rest2
    effective = rate / (tl.sqrt_rn(v) + epsilon)
    if not HAS_EPSILON:
        effective = tl.where(effective == effective, effective, low)  # 0 / 0: nothing learned yet
    effective = _clamp(effective, low, high)
    new = w
    if HAS_DECAY:
        sign = tl.where(w.to(tl.int32, bitcast=True) < 0, -1.0, 1.0)  # also of zeros
        new = w * (1.0 - rate * relative_decay) - sign * (rate * absolute_decay)
    new = new - effective * m
    if LIMITS:
        new = _clamp(new, -limit, limit)
    tl.store(first + place, m, mask=moves)
    tl.store(second + place, v, mask=moves)
    tl.store(weight + place, new, mask=moves)


@triton.jit
def _clamp(x, low, high):
    return tl.where(x < low, low, tl.where(x > high, high, x))  # NaN passes
