"""What a gradient transform is: it makes the training step of a picture, from all of its pixels.

To write one, subclass `GradientTransform`, keep every constructor keyword as an attribute of the same name, and
`@register("gradient_transform", ...)` it. `inductive.py` is the only one so far.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from fieldforge.apps.fit.loop import Hook
from fieldforge.apps.fit.optimizers.base import Optimizer
from fieldforge.apps.images import Picture
from fieldforge.fields.kinds.image import ImageField
from fieldforge.registry import config_of


class TransformedStep(ABC):
    """One training step; `fieldforge.apps.fit.loop.Step`, with what goes into checkpoints."""

    carried: dict[str, Tensor]

    @abstractmethod
    def __call__(self, step: int, factor: float) -> tuple[float, float]:
        """Move the parameters once; (loss, mean squared error) before the move."""


class GradientTransform(ABC):
    """Residuals in, residuals out."""

    otype: ClassVar[str]

    @abstractmethod
    def step(self, field: ImageField, picture: Picture, optimizer: Optimizer, hooks: Sequence[Hook]) -> TransformedStep:
        """The training step of the mean squared error over all pixels.

        Raises:
            ConfigError: the picture or the field cannot be trained so.
        """

    def config(self) -> dict[str, Any]:
        """The configuration that rebuilds this transform."""
        return config_of(self)
