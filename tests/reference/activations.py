"""Activations of one number, in Python's float and complex, written from the papers."""

from __future__ import annotations

import cmath
import math
from typing import Any

NATIVE: list[dict[str, Any]] = [
    {"otype": "None"},
    {"otype": "ReLU"},
    {"otype": "LeakyReLU", "slope": 0.1},
    {"otype": "Sine", "omega": 3.0, "first_omega": 5.0},
    {"otype": "SiLU"},
    {"otype": "Sigmoid"},
    {"otype": "Tanh"},
    {"otype": "GELU"},
    {"otype": "Softplus"},
    {"otype": "Squareplus"},
    {"otype": "Exponential"},
    {"otype": "Gaussian", "scale": 2.0},
    {"otype": "FINER", "omega": 2.0},
    {"otype": "FINER", "omega": 2.0, "scale_requires_grad": True},
    {"otype": "SPDER", "omega": 3.0},
]
"""Those with a native kernel, each as a configuration."""


def relu(z: float) -> float:
    return z if z > 0 else 0.0


def leaky_relu(z: float, slope: float = 0.01) -> float:
    return z if z > 0 else slope * z


def gelu(z: float) -> float:
    return z * 0.5 * (1 + math.erf(z / math.sqrt(2)))


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def silu(z: float) -> float:
    return z * sigmoid(z)


def softplus(z: float, beta: float = 10.0) -> float:
    """tiny-cuda-nn: log(exp(10 z) + 1) / 10."""
    return math.log1p(math.exp(beta * z)) / beta


def squareplus(z: float, beta: float = 10.0) -> float:
    """tiny-cuda-nn: (x + sqrt(x^2 + 4)) / 2 / 10 with x = 10 z."""
    x = beta * z
    return 0.5 * (x + math.sqrt(x * x + 4)) / beta


def sine(z: float, omega: float = 30.0) -> float:
    return math.sin(omega * z)


def finer(z: float, omega: float = 30.0) -> float:
    return math.sin(omega * (abs(z) + 1) * z)


def gaussian(z: float, scale: float = 30.0) -> float:
    return math.exp(-((scale * z) ** 2))


def wire(z: complex, omega: float = 20.0, scale: float = 10.0) -> complex:
    return cmath.exp(1j * omega * z - abs(scale * z) ** 2)


def spder(z: float, omega: float = 30.0) -> float:
    return math.sin(omega * z) * math.sqrt(abs(omega * z))


def spder_arctan(z: float, omega: float = 30.0) -> float:
    return math.sin(omega * z) * math.atan(omega * z)


def spder_smooth(z: float, omega: float = 30.0, epsilon: float = 1e-4) -> float:
    return math.sin(omega * z) * ((omega * z) ** 2 + epsilon) ** 0.25
