"""What a sampler of a scene fit is: it says which field is trained, and makes the training step.

To write one, subclass `Sampler` and `RayStep`, keep every constructor keyword as an attribute of the same name, and
`@register("sampler", ...)` it. `occupancy.py` is the shortest example.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from fieldforge.apps.fit.loop import Hook
from fieldforge.apps.fit.optimizers.base import Optimizer
from fieldforge.apps.fit.scene.options import SceneOptions
from fieldforge.apps.fit.scene.poses import PoseRefinement
from fieldforge.apps.fit.scene.rays import RayDraw
from fieldforge.apps.render.radiance import SceneEye
from fieldforge.fields.kinds.scene import SceneField
from fieldforge.registry import config_of


class RayStep(ABC):
    """One training step of a scene; `fieldforge.apps.fit.loop.Step`.

    Attributes:
        optimizer: with the state of the step, for the loop.
        why_plain: why steps are made in PyTorch; '' where they are native.
        n_rays, n_marched, n_evaluated: of the last step.
        poses: movements of the training cameras, where they are refined.
    """

    optimizer: Optimizer
    why_plain: str
    poses: PoseRefinement | None = None
    n_rays: int = 0
    n_marched: int = 0
    n_evaluated: int = 0

    @abstractmethod
    def __call__(self, step: int, factor: float) -> tuple[float, float]:
        """Move the parameters once; (loss, mean squared error) before the move."""

    @abstractmethod
    def eye(self, field: SceneField) -> SceneEye:
        """That looks at a field as this step does."""

    @abstractmethod
    def finish(self, field: SceneField) -> None:
        """Called when training is over: what the step knows of the field, and its file should."""


@dataclass(frozen=True)
class StepParts:
    """What a step is made of.

    Args:
        draw: rays by position.
        config: the run configuration; its sections optimizer, loss and those of the step's own.
        options: of the fit.
        seed: of what the step draws.
        hooks: as in `fieldforge.apps.fit.loop.PlainStep`; the loss is one of rays.
    """

    draw: RayDraw
    config: Mapping[str, Any]
    options: SceneOptions
    seed: int = 0
    hooks: Sequence[Hook] = ()


class Sampler(ABC):
    """Where along a ray a fit looks."""

    otype: ClassVar[str]

    @abstractmethod
    def field(self, radiance: Mapping[str, Any], options: SceneOptions) -> dict[str, Any]:
        """The configuration of what is trained, from that of a RadianceField without ``occupancy``."""

    @abstractmethod
    def step(self, field: Any, parts: StepParts) -> RayStep:
        """The training step of what `field` describes."""

    def config(self) -> dict[str, Any]:
        """The configuration that rebuilds this sampler."""
        return config_of(self)
