"""What a loss is: predictions and targets in, one number per sample out.

To write one, subclass `Loss` and give `per_channel`. `absolute.py` and `squared.py` are short examples.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor

from fieldforge.registry import config_of


class Loss(ABC):
    """Predictions against targets.

    The relative losses divide by something that holds the prediction, and take that divisor as a constant when they
    are differentiated, as tiny-cuda-nn does: otherwise a prediction could be made to look better by making it large.
    Absolute differences have gradient 0 where prediction and target agree (tiny-cuda-nn: 1).
    """

    otype: ClassVar[str]

    @abstractmethod
    def per_channel(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(n, c), (n, c) -> (n, c): the loss of each channel."""

    def per_sample(self, prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """The mean over channels.

        Args:
            prediction: (n, c).
            target: (n, c).
            weight: (n, 1) factors on the samples' losses, such as 1 / (probability density of drawing them).

        Returns:
            (n,).

        Raises:
            ValueError: the shapes do not belong together.
        """
        if prediction.ndim != 2 or prediction.shape[1] == 0:
            raise ValueError(f"prediction: expected shape (n, c) with c of at least 1, got {tuple(prediction.shape)}")
        if target.shape != prediction.shape:
            raise ValueError(
                f"target: expected the shape of the prediction {tuple(prediction.shape)}, got {tuple(target.shape)}"
            )
        if weight is not None and weight.shape != (len(prediction), 1):
            raise ValueError(f"weight: expected shape ({len(prediction)}, 1), got {tuple(weight.shape)}")
        loss = self.per_channel(prediction, target).mean(-1)
        return loss if weight is None else loss * weight[:, 0]

    def __call__(self, prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """The mean of `per_sample`, a scalar; weights are not normalised.

        Raises:
            ValueError: the shapes do not belong together, or there is no sample.
        """
        if len(prediction) == 0:
            raise ValueError("prediction: expected at least one sample, got none")
        return self.per_sample(prediction, target, weight).mean()

    def config(self) -> dict[str, Any]:
        """The configuration that rebuilds this loss."""
        return config_of(self)
