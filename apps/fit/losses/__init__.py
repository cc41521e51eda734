"""Losses in tiny-cuda-nn's and instant-ngp's vocabulary: how wrong a prediction is, and in which direction.

loss = registry.build("loss", {"otype": "RelativeL2"})
loss(prediction, target).backward()
"""

from fieldforge.apps.fit.losses.base import Loss

__all__ = ["Loss"]
