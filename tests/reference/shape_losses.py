"""Losses of signed distances from the papers, and the sums over oriented points, as loops in float64.

Lengths of the losses are in half sides of the cube. Samples are (f, gradient, normal or zeros, is_on).
"""

import math

import numpy as np


def norm(v):
    return math.sqrt(sum(float(x) ** 2 for x in v))


def siren(samples):
    """Sitzmann et al. 2020, code: 3e3 |f| + 1e2 (1 - cos) on, 1e2 exp(-1e2 |f|) off, 5e1 ||g| - 1| everywhere."""
    losses = []
    for f, g, n, is_on in samples:
        loss = 50.0 * abs(norm(g) - 1)
        if is_on:
            loss += 3000.0 * abs(f)
            if norm(n) > 0:
                loss += 100.0 * (1 - float(np.dot(g, n)) / (norm(g) * norm(n)))
        else:
            loss += 100.0 * math.exp(-100.0 * abs(f))
        losses.append(loss)
    return sum(losses) / len(losses)


def igr(samples):
    """Gropp et al. 2020, code: mean |f| + mean |g - n| over points on, 0.1 mean (|g| - 1)^2 over points off."""
    on = [one for one in samples if one[3]]
    off = [one for one in samples if not one[3]]
    loss = sum(abs(f) + (norm(g - n) if norm(n) > 0 else 0.0) for f, g, n, _ in on) / len(on)
    return loss + 0.1 * sum((norm(g) - 1) ** 2 for _, g, _, _ in off) / len(off)


def clamped_l1(p, t, delta):
    def clamp(v):
        return max(-delta, min(delta, v))

    return abs(clamp(p) - clamp(t))


def winding_number(x, points, normals, areas):
    """Barill et al. 2018, eq. 5, one term a point."""
    total = 0.0
    for p, n, a in zip(points, normals, areas, strict=True):
        r = p - x
        total += a * float(np.dot(r, n)) / (4 * math.pi * norm(r) ** 3)
    return total


def moving_planes(x, points, normals, areas, n_nearest):
    """Gaussian average, of width h / 2, of the heights over the planes through the nearest points (IMLS)."""
    order = sorted(range(len(points)), key=lambda i: norm(x - points[i]))[:n_nearest]
    h = math.sqrt(areas[order[0]])
    nearest = norm(x - points[order[0]])
    top = bottom = 0.0
    for i in order:
        weight = math.exp(-4 * (norm(x - points[i]) ** 2 - nearest**2) / h**2)
        top += weight * float(np.dot(normals[i], x - points[i]))
        bottom += weight
    return top / bottom
