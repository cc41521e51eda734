# mypy: ignore-errors
"""Activations and their slopes in float32, chosen when a kernel is compiled; names and numbers as in `cpu_ops.NUMBERS`.

Formulas are those of ``fields/activations``, arranged so that nothing overflows on the way. A NaN stays one.
"""

import triton
import triton.language as tl


@triton.jit
def _sigmoid(z):
    small = tl.exp(-tl.abs(z))
    return tl.where(z < 0, small, 1.0) / (1.0 + small)


@triton.jit
def _tanh(z):
    small = tl.exp(-2.0 * tl.abs(z))
    size = (1.0 - small) / (1.0 + small)
    return tl.where(z < 0, -size, size)


@triton.jit
def _log_of_one_and(small):
    """log(1 + small), to all digits near 0 (Goldberg 1991, theorem 4): what the sum loses, the quotient gives back."""
    total = 1.0 + small
    kept = total - 1.0
    return tl.where(kept == 0, small, tl.log(total) * (small / tl.where(kept == 0, 1.0, kept)))


@triton.jit
def _squareplus(x):
    """(x + √(x² + 4)) / 2; at x and -x it is inverse, and the formula itself cancels on the negative side."""
    above = 0.5 * (tl.abs(x) + tl.sqrt(x * x + 4.0))
    return tl.where(x < 0, 1.0 / above, above)


@triton.jit
def _root(u):
    return tl.sqrt(tl.maximum(tl.abs(u), 1e-12))


@triton.jit
def activate(z, number, NAME: tl.constexpr):
    if NAME == "ReLU":
        return tl.where(z <= 0, 0.0, z)
    elif NAME == "LeakyReLU":
        return tl.where(z > 0, z, number * z)
    elif NAME == "Sine":
        return tl.sin(number * z)
    elif NAME == "SiLU":
        return z * _sigmoid(z)
    elif NAME == "Sigmoid":
        return _sigmoid(z)
    elif NAME == "Tanh":
        return _tanh(z)
    elif NAME == "GELU":
        return 0.5 * z * (1.0 + tl.erf(z * 0.7071067811865476))
    elif NAME == "Softplus":
        x = number * z
        return (tl.where(x < 0, 0.0, x) + _log_of_one_and(tl.exp(-tl.abs(x)))) / number
    elif NAME == "Squareplus":
        return _squareplus(number * z) / number
    elif NAME == "Exponential":
        return tl.exp(z)
    elif NAME == "Gaussian":
        return tl.exp(-(number * z) * (number * z))
    elif NAME == "SPDER":
        return tl.sin(number * z) * _root(number * z)
    elif NAME == "FINER" or NAME == "FINER with the true slope":
        return tl.sin(number * (tl.abs(z) + 1.0) * z)
    else:
        tl.static_assert(NAME == "None")
        return z


@triton.jit
def slope(z, number, NAME: tl.constexpr):
    if NAME == "ReLU":
        return tl.where(z > 0, 1.0, 0.0)
    elif NAME == "LeakyReLU":
        return tl.where(z > 0, 1.0, number)
    elif NAME == "Sine":
        return number * tl.cos(number * z)
    elif NAME == "SiLU":
        sigmoid = _sigmoid(z)
        return sigmoid * (1.0 + z * (1.0 - sigmoid))
    elif NAME == "Sigmoid":
        sigmoid = _sigmoid(z)
        return sigmoid * (1.0 - sigmoid)
    elif NAME == "Tanh":
        value = _tanh(z)
        return 1.0 - value * value
    elif NAME == "GELU":
        density = tl.exp(-0.5 * z * z) * 0.3989422804014327
        return 0.5 * (1.0 + tl.erf(z * 0.7071067811865476)) + z * density
    elif NAME == "Softplus":
        return _sigmoid(number * z)
    elif NAME == "Squareplus":
        x = number * z
        return _squareplus(x) / tl.sqrt(x * x + 4.0)
    elif NAME == "Exponential":
        return tl.exp(z)
    elif NAME == "Gaussian":
        return -2.0 * number * number * z * tl.exp(-(number * z) * (number * z))
    elif NAME == "SPDER":
        u = number * z
        sign = tl.where(u > 0, 1.0, tl.where(u < 0, -1.0, 0.0))
        return number * (tl.cos(u) * _root(u) + tl.sin(u) * sign / (2.0 * _root(u)))
    elif NAME == "FINER":
        scale = tl.abs(z) + 1.0
        return number * scale * tl.cos(number * scale * z)
    elif NAME == "FINER with the true slope":
        scale = tl.abs(z) + 1.0
        return number * (2.0 * scale - 1.0) * tl.cos(number * scale * z)
    else:
        tl.static_assert(NAME == "None")
        return z * 0.0 + 1.0
