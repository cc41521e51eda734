"""Penalties on the parameters of a field, beside the loss of its answers: the list ``regularizers`` of a run file.

[[regularizers]]
otype = "TotalVariation"
weight = 1e-2
"""

from fieldforge.apps.fit.regularizers.base import Regularizer, counting, penalty, penalty_of, regularizers_of

__all__ = ["Regularizer", "counting", "penalty", "penalty_of", "regularizers_of"]
