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
