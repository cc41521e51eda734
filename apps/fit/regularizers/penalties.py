"""Three penalties of encodings whose parameters are values or spectra.

{"otype": "TotalVariation", "weight": 0.01}    neighbouring entries alike (TensoRF, Plenoxels, K-planes)
{"otype": "L1", "weight": 1e-4}                few entries, so that empty space is empty (TensoRF)
{"otype": "Parseval", "weight": 1e-3}          little of high frequencies (PREF)
"""

from __future__ import annotations

from fieldforge.apps.fit.regularizers.base import EncodingPenalty
from fieldforge.registry import register


@register("regularizer", "TotalVariation")
class TotalVariation(EncodingPenalty):
    """The mean squared difference of neighbours, summed over axes and tables.

    Example:
        >>> TotalVariation(weight=0.5).config()
        {'otype': 'TotalVariation', 'weight': 0.5, 'part': 'encoding', 'until': 0}
    """

    otype = "TotalVariation"
    name = "total_variation"


@register("regularizer", "L1")
class L1(EncodingPenalty):
    """The mean of absolute entries, summed over tables."""

    otype = "L1"
    name = "l1"


@register("regularizer", "Parseval")
class Parseval(EncodingPenalty):
    """The mean square of the gradient of the features, from their spectrum."""

    otype = "Parseval"
    name = "parseval"
