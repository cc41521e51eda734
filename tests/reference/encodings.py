"""Encodings, one number at a time in float64, from the definitions in the papers.

Points are sequences of floats, results are lists of floats; tables are nested lists or NumPy arrays.
"""

from __future__ import annotations

import cmath
import itertools
import math
from collections.abc import Sequence
from typing import Any


def frequency(x: Sequence[float], n_frequencies: int) -> list[float]:
    """sin and cos of 2^k pi x (Mildenhall et al. 2020, eq. 4), coordinate by coordinate."""
    return [wave(2**k * math.pi * t) for t in x for k in range(n_frequencies) for wave in (math.sin, math.cos)]


def triangle_wave(x: Sequence[float], n_frequencies: int) -> list[float]:
    """A triangle wave of period 2^(1-k), value in [-1, 1], its phase shifted by k quarter turns."""
    out = []
    for t in x:
        for k in range(n_frequencies):
            turn = (t / 2 ** (1 - k) + k / 4) % 1.0
            out.append(1 - 4 * turn if turn < 0.5 else 4 * turn - 3)
    return out


def one_blob(x: Sequence[float], n_bins: int) -> list[float]:
    """Mass in each bin of a quartic kernel of radius 1/n_bins around t, in [0, 1] wrapped once to either side.

    Three-point Gauss-Legendre quadrature on the overlap of kernel and bin: exact for a polynomial of degree 4.
    """
    nodes = ((-math.sqrt(3 / 5), 5 / 9), (0.0, 8 / 9), (math.sqrt(3 / 5), 5 / 9))
    out = []
    for t in x:
        for i in range(n_bins):
            mass = 0.0
            for center in (t - 1, t, t + 1):
                low, high = max(i / n_bins, center - 1 / n_bins), min((i + 1) / n_bins, center + 1 / n_bins)
                if high > low:
                    for node, weight in nodes:
                        u = ((low + high) / 2 + node * (high - low) / 2 - center) * n_bins
                        mass += weight * (high - low) / 2 * 15 / 16 * (1 - u * u) ** 2 * n_bins
            out.append(mass)
    return out


def spherical_harmonics(v: Sequence[float], degree: int) -> list[float]:
    """Real harmonics by angles, with Condon-Shortley phase; Legendre functions from their sum over powers."""
    x, y, z = v
    theta, phi = math.acos(max(-1.0, min(1.0, z))), math.atan2(y, x)
    out = []
    for band in range(degree):
        for m in range(-band, band + 1):
            k = abs(m)
            legendre = (
                0.0  # the k-th derivative of P_band = 2^-band sum_j (-1)^j C(band,j) C(2band-2j,band) z^(band-2j)
            )
            for j in range((band - k) // 2 + 1):
                power = band - 2 * j
                term = (-1) ** j * math.comb(band, j) * math.comb(2 * band - 2 * j, band) * math.perm(power, k)
                legendre += term * math.cos(theta) ** (power - k) / 2**band
            legendre *= (-math.sin(theta)) ** k
            norm = math.sqrt((2 * band + 1) / (4 * math.pi) * math.factorial(band - k) / math.factorial(band + k))
            turn = 1.0 if m == 0 else math.sqrt(2) * (math.cos(k * phi) if m > 0 else math.sin(k * phi))
            out.append(norm * legendre * turn)
    return out


def random_fourier(x: Sequence[float], rows: Sequence[Sequence[float]]) -> list[float]:
    """sin 2 pi b.x for every row b, then cos 2 pi b.x (Tancik et al. 2020, section 5)."""
    phases = [2 * math.pi * sum(b * t for b, t in zip(row, x, strict=True)) for row in rows]
    return [math.sin(p) for p in phases] + [math.cos(p) for p in phases]


def interpolate(table: Any, x: Sequence[float]) -> list[float]:
    """Sum over all entries of the product of hat functions, with x clamped to the cube."""
    sizes, level = [], table
    for _ in x:
        sizes.append(len(level))
        level = level[0]
    out = [0.0] * len(level)
    for entry in itertools.product(*(range(size) for size in sizes)):
        weight, features = 1.0, table
        for i, size, t in zip(entry, sizes, x, strict=True):
            weight *= max(0.0, 1 - abs(min(max(t, 0.0), 1.0) * (size - 1) - i))
            features = features[i]
        out = [total + weight * float(f) for total, f in zip(out, features, strict=True)]
    return out


def planes(x: Sequence[float], tables: Sequence[Any]) -> list[list[float]]:
    """The features of a point on each plane (a, b), a < b in lexical order."""
    pairs = itertools.combinations(range(len(x)), 2)
    return [interpolate(table, (x[a], x[b])) for table, (a, b) in zip(tables, pairs, strict=True)]


def product(features: Sequence[Sequence[float]]) -> list[float]:
    return [math.prod(channel) for channel in zip(*features, strict=True)]


def tensor_vm(x: Sequence[float], plane_tables: Sequence[Any], line_tables: Sequence[Any]) -> list[float]:
    """plane_r(two axes) line_r(third axis), modes xy.z, xz.y, yz.x (Chen et al. 2022, eq. 3)."""
    lines = [interpolate(table, (x[axis],)) for table, axis in zip(line_tables, (2, 1, 0), strict=True)]
    modes = zip(planes(x, plane_tables), lines, strict=True)
    return [value for plane, line in modes for value in product((plane, line))]


def tensor_cp(x: Sequence[float], line_tables: Sequence[Any]) -> list[float]:
    """The product over axes of line_r (Chen et al. 2022, eq. 1)."""
    return product([interpolate(table, (t,)) for table, t in zip(line_tables, x, strict=True)])


def pref(
    x: Sequence[float], spectrum: Any, reduced: Sequence[float], span: float, alpha: float, *, is_complex: bool
) -> list[float]:
    """Phasors spectrum[volume][k][m][d][channel] = (re, im), frequencies in FFT order (Huang et al. 2022, eq. 5).

    Sums of exponentials at the nodes of the two full axes, hat functions between them, and a sum of exponentials
    along the third axis.
    """
    n, n_reduced = len(spectrum[0]), len(spectrum[0][0][0])
    n_channels = len(spectrum[0][0][0][0])
    turns = [min(max(t, 0.0), 1.0) * span for t in x]
    signed = [k if k < (n + 1) // 2 else k - n for k in range(n)]
    volumes = [(0, 1, None)] if len(x) == 2 else [(1, 2, 0), (0, 2, 1), (0, 1, 2)]
    total = [0j] * n_channels
    for phasors, (a, b, c) in zip(spectrum, volumes, strict=True):
        for i, j in itertools.product(range(n), repeat=2):
            hat = max(0.0, 1 - abs(turns[a] * n - i)) * max(0.0, 1 - abs(turns[b] * n - j))
            if hat == 0.0:
                continue
            for k, m, d, channel in itertools.product(range(n), range(n), range(n_reduced), range(n_channels)):
                phase = (signed[k] * i + signed[m] * j) / n + (0.0 if c is None else reduced[d] * turns[c])
                weight = hat * (1 if reduced[d] == 0 else 2)
                total[channel] += weight * complex(*phasors[k][m][d][channel]) * cmath.exp(2j * math.pi * phase)
    real = [alpha * value.real for value in total]
    return real + [alpha * value.imag for value in total] if is_complex else real
