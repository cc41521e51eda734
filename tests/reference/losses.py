"""Losses and their gradients as loops over numbers, in float64.

Written from tiny-cuda-nn's definition of each loss (value and the gradient it states; relative losses take their
divisor as a constant) and from instant-ngp's for Huber and LogL1. `w` is 1 / pdf.
"""

import math

import numpy as np


def sign(d):
    return 1.0 if d > 0 else -1.0


def l1(p, t):
    return abs(p - t), sign(p - t)


def relative_l1(p, t):
    scale = 1 / (abs(p) + 0.01)
    return abs(p - t) * scale, sign(p - t) * scale


def mape(p, t):
    scale = 1 / (abs(t) + 0.01)
    return abs(p - t) * scale, sign(p - t) * scale


def smape(p, t):
    scale = 1 / (0.5 * (abs(t) + abs(p)) + 0.01)
    return abs(p - t) * scale, sign(p - t) * scale


def l2(p, t):
    return (p - t) ** 2, 2 * (p - t)


def relative_l2(p, t):
    divisor = p * p + 0.01
    return (p - t) ** 2 / divisor, 2 * (p - t) / divisor


def huber(p, t, alpha=0.1):
    d = p - t
    if abs(d) > alpha:
        value, gradient = abs(d) - 0.5 * alpha, sign(d)
    else:
        value, gradient = 0.5 / alpha * d * d, d / alpha
    return value / 5, gradient / 5


def log_l1(p, t):
    divisor = abs(p - t) + 1
    return math.log(divisor), sign(p - t) / divisor


def charbonnier(p, t, epsilon=0.001):
    root = math.sqrt((p - t) ** 2 + epsilon**2)
    return root - epsilon, (p - t) / root


def cross_entropy(p, t):
    return -t * math.log(p), -t / p


def variance(p, t):
    return t * t / p - t * t, -t * t / (p * p)


def binary_cross_entropy(p, t):
    inside = 1 / (1 + math.exp(-p))
    return -t * math.log(inside) - (1 - t) * math.log1p(-inside), inside - t


CHANNELWISE = {
    "L1": l1,
    "RelativeL1": relative_l1,
    "MAPE": mape,
    "SMAPE": smape,
    "L2": l2,
    "RelativeL2": relative_l2,
    "Huber": huber,
    "Charbonnier": charbonnier,
    "LogL1": log_l1,
    "CrossEntropy": cross_entropy,
    "Variance": variance,
    "BinaryCrossEntropy": binary_cross_entropy,
}


def luminance(p):
    r, g, b = p[:3]
    if len(p) >= 6:
        r, g, b = r + p[3], g + p[4], b + p[5]
    return 0.299 * r + 0.587 * g + 0.114 * b


def evaluate(name, prediction, target, weight):
    """(n, c), (n, c), (n,) -> value of each sample (n,), gradient of the mean loss (n, c)."""
    n, c = prediction.shape
    values, gradient = np.zeros(n), np.zeros((n, c))
    for i in range(n):
        divisor = luminance(prediction[i]) ** 2 + 0.01
        for j in range(c):
            p, t = prediction[i, j], target[i, j]
            if name == "RelativeL2Luminance":
                value, slope = (p - t) ** 2 / divisor, 2 * (p - t) / divisor
            else:
                value, slope = CHANNELWISE[name](p, t)
            values[i] += weight[i] * value / c
            gradient[i, j] = weight[i] * slope / (n * c)
    return values, gradient
