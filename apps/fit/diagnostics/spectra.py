"""How much detail a field holds: error by frequency, mean frequency, order of polynomials, compressibility.

Mean frequency, polynomial order and Lempel-Ziv complexity are the measures of Neural Redshift (Teney et al., CVPR
2024). The released mean frequency has two artefacts, and both are shown: borders that do not match leak (a plain ramp
scores 0.19 on 64 samples), and waves along one of the two diagonals are not seen. "windowed" and "folded" repair that;
what each says of a ramp stands beside it, as its floor.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fieldforge.apps.fit.diagnostics.base import Diagnostic, picture
from fieldforge.apps.fit.slices import Slice
from fieldforge.apps.metrics import radial_spectrum
from fieldforge.checks import expect_int
from fieldforge.fields.kinds.base import Field
from fieldforge.registry import register

FREQUENCIES = ("released", "windowed", "folded")


@register("diagnostic", "Spectrum")
class Spectrum(Diagnostic):
    """Error of a field by radial frequency, relative to the signal: √(power of the error / power of the signal).

    1 where nothing is learnt yet, 0 where all is; over time it shows which frequencies come first (Rahaman et al.
    2019).

    Args:
        n_bands: rings from 0 to the corner of the spectrum.
    """

    otype = "Spectrum"
    headline = "highest_learnt"
    unit = "cycles per sample with error below 1/2"

    def __init__(self, *, n_bands: int = 16) -> None:
        self.n_bands = expect_int("n_bands", n_bands, 1, 4096)

    def __call__(self, field: Field, grid: Slice) -> dict[str, Any]:
        said, true = picture(field, grid, self)
        frequency, of_error = radial_spectrum((said - true).numpy(), self.n_bands)
        _, of_signal = radial_spectrum(true.numpy(), self.n_bands)
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = np.sqrt(of_error / of_signal)
        learnt = np.flatnonzero(~(relative < 0.5))  # the first ring that is not
        last = frequency[learnt[0] - 1] if len(learnt) and learnt[0] else 0.0 if len(learnt) else frequency[-1]
        return {"frequency": frequency.tolist(), "error": relative.tolist(), "highest_learnt": float(last)}


@register("diagnostic", "MeanFrequency")
class MeanFrequency(Diagnostic):
    """The mean radial frequency of a field by amplitude, as a share of the highest, see `mean_frequency`."""

    otype = "MeanFrequency"
    headline = "folded"
    unit = "of the highest frequency"

    def __call__(self, field: Field, grid: Slice) -> dict[str, Any]:
        said, _ = picture(field, grid, self)
        h, w, _ = said.shape
        floor = np.broadcast_to(np.linspace(0, 1, w), (h, w))
        planes = said.permute(2, 0, 1).numpy()
        found: dict[str, Any] = {
            way: float(np.mean([mean_frequency(plane, way) for plane in planes])) for way in FREQUENCIES
        }
        return found | {f"floor_{way}": mean_frequency(floor, way) for way in FREQUENCIES}


def mean_frequency(values: np.ndarray, way: str = "folded") -> float:
    """Σ k c_k / Σ c_k / k_max, with c_k the sum of |FFT| over the coefficients at round(√(i² + j²)) = k, without DC.

    Args:
        values: (h, w).
        way: "released": |rfft2| of the values, rows of frequencies 0 and above; "windowed": without the mean, under a
            Hann window, rows of negative frequencies folded onto the positive ones; "folded": of the values and their
            mirror images, which match at all borders, folded too.

    Returns:
        0 for a constant; white noise gives 0.54.

    Example:
        >>> y, x = np.mgrid[:96, :96]
        >>> wave = np.sin(2 * np.pi * (20 * y - 15 * x) / 96)
        >>> round(mean_frequency(wave, "windowed"), 2)
        0.37
    """
    values = np.asarray(values, np.float64)
    values = values - values.mean()
    if way == "windowed":
        h, w = values.shape
        values = values * np.outer(*(0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(n) + 0.5) / n) for n in (h, w)))
        values = values - values.mean()
    elif way == "folded":
        values = np.block([[values, values[:, ::-1]], [values[::-1], values[::-1, ::-1]]])
    h, w = values.shape
    amplitude = np.abs(np.fft.rfft2(values))
    rows = np.arange(h)
    if way == "released":
        amplitude, rows = amplitude[: (h + 1) // 2], rows[: (h + 1) // 2]
    else:
        rows = np.minimum(rows, h - rows)
    amplitude[0, 0] = 0
    k = np.rint(np.hypot(rows[:, None], np.arange(amplitude.shape[1])))
    total = float(amplitude.sum())
    return float((k * amplitude).sum() / total / k.max()) if total > 1e-12 * values.size and k.max() else 0.0


@register("diagnostic", "PolynomialOrder")
class PolynomialOrder(Diagnostic):
    """The mean degree of the Chebyshev polynomials that a field is made of, weighted by |coefficient|.

    Args:
        degree: the highest of each axis; coefficients are fitted by least squares.
    """

    otype = "PolynomialOrder"
    headline = "order"
    unit = "mean degree"

    def __init__(self, *, degree: int = 20) -> None:
        self.degree = expect_int("degree", degree, 1, 256)

    def __call__(self, field: Field, grid: Slice) -> dict[str, Any]:
        said, _ = picture(field, grid, self)
        orders = [polynomial_order(plane, self.degree) for plane in said.permute(2, 0, 1).numpy()]
        return {"order": float(np.mean(orders))}


def polynomial_order(values: np.ndarray, degree: int = 20) -> float:
    """Σ (i + j) |c_ij| / Σ |c_ij| without the constant, of the least-squares fit Σ c_ij T_i(y) T_j(x) on [-1, 1]².

    Example:
        >>> y, x = np.mgrid[-1:1:33j, -1:1:33j]
        >>> round(polynomial_order(y * x), 6)          # T_1(y) T_1(x)
        2.0
    """
    h, w = values.shape
    bases = [
        np.polynomial.chebyshev.chebvander(np.linspace(-1, 1, n) if n > 1 else np.zeros(1), min(degree, n - 1))
        for n in (h, w)
    ]
    c = np.abs(np.linalg.pinv(bases[0]) @ values @ np.linalg.pinv(bases[1]).T)
    c[0, 0] = 0
    c[c < 1e-12 * max(1e-300, float(np.abs(values).max()))] = 0
    order = np.add.outer(np.arange(c.shape[0]), np.arange(c.shape[1]))
    total = float(c.sum())
    return float((order * c).sum() / total) if total else 0.0


@register("diagnostic", "LempelZiv")
class LempelZiv(Diagnostic):
    """Phrases of a Lempel-Ziv dictionary (1978) over samples, of the quantised field; rows and columns are averaged.

    Args:
        n_levels: symbols, from the smallest value to the largest.
    """

    otype = "LempelZiv"
    headline = "complexity"
    unit = "phrases per sample"

    def __init__(self, *, n_levels: int = 16) -> None:
        self.n_levels = expect_int("n_levels", n_levels, 2, 2**16)

    def __call__(self, field: Field, grid: Slice) -> dict[str, Any]:
        said, _ = picture(field, grid, self)
        found = []
        for plane in said.permute(2, 0, 1).numpy():
            low, high = plane.min(), plane.max()
            symbols = np.zeros(plane.shape, np.int64)
            if high > low:
                symbols = np.minimum(((plane - low) / (high - low) * self.n_levels).astype(np.int64), self.n_levels - 1)
            found.append([lempel_ziv(symbols.ravel()) / symbols.size, lempel_ziv(symbols.T.ravel()) / symbols.size])
        rows, columns = np.mean(found, axis=0)
        return {"complexity": float((rows + columns) / 2), "rows": float(rows), "columns": float(columns)}


def lempel_ziv(symbols: np.ndarray) -> int:
    """How many phrases LZ78 cuts a sequence into; each is the longest known one and a symbol more.

    Example:
        >>> lempel_ziv(np.array([0, 0, 1, 0, 1, 1]))       # 0 | 01 | 011
        3
    """
    known: dict[tuple[int, int], int] = {}
    n_phrases, here = 0, 0
    for symbol in symbols.tolist():
        after = known.get((here, symbol))
        if after is None:
            n_phrases += 1
            known[here, symbol] = n_phrases
            here = 0
        else:
            here = after
    return n_phrases + (here != 0)
