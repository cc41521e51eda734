"""Networks as loops over neurons, one point at a time, written from the papers. A matrix is a list of rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Number = float | complex
Matrix = Sequence[Sequence[Number]]
Vector = Sequence[Number]


def linear(weight: Matrix, bias: Vector, x: Vector) -> list[Number]:
    return [b + sum((w * v for w, v in zip(row, x, strict=True)), 0.0) for row, b in zip(weight, bias, strict=True)]


def mlp(
    x: Vector,
    weights: Sequence[Matrix],
    biases: Sequence[Vector],
    activation: Callable[[Number], Number],
    injected_layers: Sequence[int] = (),
) -> list[Number]:
    """Hidden layers with an activation, then a linear one; `injected_layers` (from 0) also read x."""
    h = list(x)
    for index, (weight, bias) in enumerate(zip(weights[:-1], biases[:-1], strict=True)):
        h = [activation(z) for z in linear(weight, bias, h + list(x) if index in injected_layers else h)]
    return linear(weights[-1], biases[-1], h)


def fourier_filter(x: Vector, frequency: Matrix, phase: Vector) -> list[float]:
    return [math.sin(z) for z in linear(frequency, phase, x)]


def gabor_filter(x: Vector, frequency: Matrix, phase: Vector, center: Matrix, gamma: Vector) -> list[float]:
    waves = fourier_filter(x, frequency, phase)
    squares = [sum((a - m) ** 2 for a, m in zip(x, row, strict=True)) for row in center]
    return [wave * math.exp(-0.5 * g * square) for wave, g, square in zip(waves, gamma, squares, strict=True)]


def products(filters: Sequence[Vector], weights: Sequence[Matrix], biases: Sequence[Vector]) -> list[list[Number]]:
    """z_0 = g_0, z_i = (W_i z_{i-1} + b_i) * g_i; all of them, from the values g_i(x) of the filters at one point."""
    levels = [list(filters[0])]
    for g, weight, bias in zip(filters[1:], weights, biases, strict=True):
        levels.append([a * b for a, b in zip(linear(weight, bias, levels[-1]), g, strict=True)])
    return levels


def stacked_mlp(
    points: Sequence[Vector],
    network_index: Sequence[int],
    weights: Sequence[Sequence[Matrix]],
    biases: Sequence[Sequence[Vector]],
    activation: Callable[[Number], Number],
) -> list[list[Number]]:
    """Each point through the network of its number; weights[layer][network] is a matrix."""
    return [
        mlp(x, [layer[i] for layer in weights], [layer[i] for layer in biases], activation)
        for x, i in zip(points, network_index, strict=True)
    ]


def block_sums(x: Vector, n_blocks: int) -> list[float]:
    size = len(x) // n_blocks
    return [sum(x[j * size : (j + 1) * size]) for j in range(n_blocks)]


def dot_products(x: Vector, n_outputs: int, n_basis: int) -> list[float]:
    """Coefficients of each output, then the values of the basis, at the end of x."""
    first, values = len(x) - (n_outputs + 1) * n_basis, x[len(x) - n_basis :]
    return [sum(x[first + c * n_basis + k] * values[k] for k in range(n_basis)) for c in range(n_outputs)]


def mixed(x: Vector, matrix: Matrix, n_direct: int, n_frequencies: int) -> list[float]:
    """B x, its sines and cosines at 1, 2, 4, ... times, and the end of x."""
    features, direct = list(x[: len(x) - n_direct]), list(x[len(x) - n_direct :])
    basis = [sum(b * f for b, f in zip(row, features, strict=True)) for row in matrix]
    waves = [wave(2**k * b) for wave in (math.sin, math.cos) for k in range(n_frequencies) for b in basis]
    return basis + waves + direct


def squared_distance(x: Vector, center: Vector, log_precision: Vector) -> float:
    return sum(math.exp(b) * (f - c) ** 2 for f, c, b in zip(x, center, log_precision, strict=True))


RADIAL: dict[str, Callable[[float], float]] = {
    "gaussian": lambda d: math.exp(-d / 2),
    "multiquadric": lambda d: math.sqrt(d + 1),
    "inverse_multiquadric": lambda d: 1 / math.sqrt(d + 1),
    "cubic": lambda d: math.sqrt(d) ** 3,
    "thin_plate": lambda d: d * math.log(math.sqrt(d)) if d > 0 else 0.0,
    "wendland": lambda d: max(0.0, 1 - math.sqrt(d)) ** 9 * (9 * math.sqrt(d) + 1),
}


def radial(
    x: Vector, centers: Matrix, log_precisions: Matrix, weight: Matrix, bias: Vector, kernel: str
) -> list[float]:
    squares = [squared_distance(x, c, b) for c, b in zip(centers, log_precisions, strict=True)]
    return linear(weight, bias, [RADIAL[kernel](d) for d in squares])


def fan_layer(
    h: Vector,
    periodic: tuple[Matrix, Vector],
    other: tuple[Matrix, Vector],
    activation: Callable[[float], float],
    omega: float = 1.0,
    gate: float | None = None,
) -> list[float]:
    """Cosines, then sines, then the rest."""
    phases = [omega * z for z in linear(*periodic, h)]
    rest = [activation(z) for z in linear(*other, h)]
    share = 0.5 if gate is None else 1 / (1 + math.exp(-gate))
    a, b = (1.0, 1.0) if gate is None else (share, 1 - share)
    return [a * math.cos(z) for z in phases] + [a * math.sin(z) for z in phases] + [b * z for z in rest]


def b_spline(x: float, knots: Vector, m: int, degree: int) -> float:
    """B_{m,k}(x): Cox and de Boor, as it stands in every book."""
    if degree == 0:
        return 1.0 if knots[m] <= x < knots[m + 1] else 0.0
    left = (x - knots[m]) / (knots[m + degree] - knots[m])
    right = (knots[m + degree + 1] - x) / (knots[m + degree + 1] - knots[m + 1])
    return left * b_spline(x, knots, m, degree - 1) + right * b_spline(x, knots, m + 1, degree - 1)


def spline(x: float, knots: Vector, coefficients: Vector, degree: int) -> float:
    return sum(c * b_spline(x, knots, m, degree) for m, c in enumerate(coefficients))


def silu(x: float) -> float:
    return x / (1 + math.exp(-x))


def kan_layer(
    x: Vector, knots: Matrix, coefficients: Sequence[Matrix], scale: Matrix, base: Matrix, degree: int
) -> list[float]:
    return [
        sum(b * silu(v) + s * spline(v, t, c, degree) for v, t, c, s, b in zip(x, knots, c_o, s_o, b_o, strict=True))
        for c_o, s_o, b_o in zip(coefficients, scale, base, strict=True)
    ]


def residual(
    x: Vector,
    lift: Matrix,
    blocks: Sequence[tuple[Matrix, Matrix]],
    last: Matrix,
    activation: Callable[[float], float],
    norm: Callable[[int, list[float]], list[float]],
    factor: float = 1.0,
) -> list[float]:
    """`norm` is told the number of the block."""

    def product(matrix: Matrix, v: Vector) -> list[float]:
        return [sum(w * a for w, a in zip(row, v, strict=True)) for row in matrix]

    z = product(lift, x)
    for index, (squeeze, widen) in enumerate(blocks):
        more = product(widen, [activation(v) for v in product(squeeze, norm(index, z))])
        z = [a + factor * b for a, b in zip(z, more, strict=True)]
    return product(last, z)


def layer_norm(z: Sequence[float], epsilon: float = 1e-5) -> list[float]:
    mean = sum(z) / len(z)
    variance = sum((v - mean) ** 2 for v in z) / len(z)
    return [(v - mean) / math.sqrt(variance + epsilon) for v in z]


STEP = 2 / 7


def pool(name: str, x: float) -> list[float]:
    """The functions of one basis of S-KAN at x, of which all but the SiLU are asked at tanh(x)."""
    t = math.tanh(x)
    ways = [(t + 1 - STEP * m) / STEP for m in range(8)]
    knots = [-1 + 0.4 * m for m in range(-3, 9)]
    values: dict[str, Callable[[], list[float]]] = {
        "b_spline": lambda: [b_spline(t, knots, m, 3) for m in range(8)],
        "gaussian": lambda: [math.exp(-w * w) for w in ways],
        "switch": lambda: [1 / math.cosh(w) ** 2 for w in ways],
        "chebyshev": lambda: [math.cos(n * math.acos(t)) for n in range(5)],
        "jacobi": lambda: [1.0, 2 * t, (15 * t * t - 3) / 4, 7 * t**3 - 3 * t],
        "gram": lambda: gram(t, 3, 8),
        "wavelet": lambda: [mexican_hat(2 * n * (t - (2 * i + 1 - n) / n)) for n in (1, 2, 4) for i in range(n)],
        "relu_square": lambda: [max(0.0, 1 - w / 2) ** 2 * max(0.0, 1 + w / 2) ** 2 for w in ways],
        "silu": lambda: [silu(x)],
    }
    return values[name]()


def mexican_hat(t: float) -> float:
    """The second derivative of a Gaussian, turned over."""
    return (1 - t * t) * math.exp(-t * t / 2)


def gram(x: float, degree: int, n_points: int) -> list[float]:
    """Powers of x made orthonormal one after another over equidistant points of [-1, 1] (Gram and Schmidt)."""
    at = [-1 + 2 * i / (n_points - 1) for i in range(n_points)]
    done: list[list[float]] = []  # values at the points, then at x
    for n in range(degree + 1):
        values = [p**n for p in [*at, x]]
        for _ in range(2):  # twice is enough
            for other in done:
                share = sum(a * b for a, b in zip(values[:-1], other[:-1], strict=True)) / n_points
                values = [a - share * b for a, b in zip(values, other, strict=True)]
        length = math.sqrt(sum(v * v for v in values[:-1]) / n_points)
        done.append([v / length for v in values])
    return [values[-1] for values in done]
