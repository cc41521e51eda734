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
