"""Optimizers in tiny-cuda-nn's vocabulary: Adam, SGD, Novograd, Shampoo, and wrappers that nest.

    {"otype": "EMA", "decay": 0.95, "nested": {"otype": "Adam", "learning_rate": 1e-2}}

Built by ``registry.build("optimizer", config, parameters=Parameters(matrix=..., other=...))``.
"""

from fieldforge.apps.fit.optimizers.base import Optimizer, Parameters

__all__ = ["Optimizer", "Parameters"]
