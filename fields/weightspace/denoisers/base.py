"""What a denoiser is: noisy vectors of weights and the step they are at, to a prediction about the clean ones.

To write one, subclass `Denoiser`, keep every constructor keyword as an attribute of the same name, register it, and
run `fieldforge.contracts.check_denoiser` on it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fieldforge.checks import expect_int
from fieldforge.fields.weightspace.layout import Layout, expect_layout
from fieldforge.registry import config_of


class Denoiser(nn.Module, ABC):
    """(x_t, t, labels) to a prediction.

    Args:
        layout: of the vectors.
        n_classes: how many labels there are; 0: none are looked at.

    Attributes: ``layout``, ``n_classes``.
    """

    otype: ClassVar[str]

    def __init__(self, layout: Layout, *, n_classes: int = 0) -> None:
        super().__init__()
        self.layout = expect_layout(layout)
        self.n_classes = expect_int("n_classes", n_classes, 0)

    @abstractmethod
    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Predict.

        Args:
            x_t: (batch, n_parameters).
            t: (batch,) steps, from 1.
            labels: (batch,) int64; -1 or None: no label is told.

        Returns:
            (batch, n_parameters).
        """

    def expect_labels(self, labels: Tensor | None, like: Tensor) -> Tensor:
        """(batch,) int64 from 0 to n_classes, the last of which stands for no label.

        Raises:
            ValueError: a label is not below `n_classes`, or there are no classes; looked at on the CPU only, as numbers
                elsewhere would have to be waited for.
        """
        if labels is None:
            return torch.full((len(like),), self.n_classes, dtype=torch.int64, device=like.device)
        if labels.dtype != torch.int64 or labels.shape != (len(like),):
            raise ValueError(f"labels: expected ({len(like)},) int64, got {list(labels.shape)} {labels.dtype}")
        is_here = labels.device.type == "cpu" and len(labels) > 0
        if is_here and (int(labels.max()) >= self.n_classes or int(labels.min()) < -1):
            worst = labels[(labels >= self.n_classes) | (labels < -1)][0]
            raise ValueError(f"labels: expected -1 to {self.n_classes - 1} (-1 is no label), got {int(worst)}")
        return torch.where(labels < 0, self.n_classes, labels)

    def config(self) -> dict[str, Any]:
        """The configuration that rebuilds this denoiser beside its layout."""
        return config_of(self)


def drop_labels(labels: Tensor, probability: float, generator: torch.Generator | None = None) -> Tensor:
    """Labels with each replaced by -1 with a probability, for training what guidance needs.

    Args:
        labels: (batch,) int64.
        probability: often 0.1.
        generator: source; None is torch's global one.
    """
    device = labels.device if generator is None else generator.device
    dropped = torch.rand(labels.shape, generator=generator, device=device).to(labels.device) < probability
    return torch.where(dropped, -1, labels)
