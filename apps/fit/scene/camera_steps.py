"""How refined cameras move: damped Gauss-Newton steps from running means over rays.

A step has few rays of each photo, too few to say where its camera should go: on Lego at 100 pixels Adam took cameras
that were 3 degrees off further away, whatever its rate, where the same gradients of whole photos brought them home. And
a turn and a shift look nearly alike in a photo, so that the way home is a narrow valley. Both are cured by keeping, of
each camera, the mean of the gradient and of the curvature over the last steps: of a ray with loss l and gradient g in
the six numbers of its camera's movement, l = r²/2 has the curvature g gᵀ / 2l (Gauss-Newton, as photos are aligned
since Lucas & Kanade 1981).
"""

from __future__ import annotations

import torch
from torch import Tensor

from fieldforge.apps.fit.optimizers.base import Optimizer, Parameters
from fieldforge.apps.fit.scene.poses import PoseRefinement
from fieldforge.checks import expect_float, expect_int

SLOPE_FADES, CURVATURE_FADES = 0.95, 0.99
"""Of the running means, a step."""
DAMPING = 0.03
"""Added to the diagonal of the curvature, as a part of its mean (Levenberg 1944)."""
LONGEST = 0.005
"""Of a step, in radians and half sides of the box."""


class CameraSteps(Optimizer):
    """Moves each camera by a part of its damped Gauss-Newton step.

    Args:
        poses: whose movements they are.
        learning_rate: the part.
        first: steps that only look before one moves anything.
    """

    otype = "CameraSteps"

    def __init__(self, poses: PoseRefinement, *, learning_rate: float = 0.1, first: int = 20) -> None:
        super().__init__(Parameters(other=[poses.movements]))
        self.poses = poses
        self.learning_rate = expect_float("learning_rate", learning_rate, 0.0, 1.0, open_low=True)
        self.first = expect_int("first", first, 1)
        n = len(poses.movements)
        self.slope, self.curvature = torch.zeros(n, 6), torch.zeros(n, 6, 6)
        self._loss: Tensor | None = None

    def note(self, per_ray: Tensor) -> None:
        """The losses (R,) of the rays that `poses` moved last, whose mean was taken backward."""
        self._loss = per_ray

    def update(self) -> None:
        slopes, photo = self.poses.slopes()
        loss, self._loss = self._loss, None
        if slopes is None or photo is None or loss is None:
            return
        n_rays, n = len(slopes), len(self.slope)
        slopes = n_rays * slopes  # each of its own loss, not of the mean
        curved = slopes[:, :, None] * slopes[:, None, :] / (2 * loss + 1e-6)[:, None, None]
        sums = torch.zeros(n, 42).index_add_(0, photo, torch.cat([slopes, curved.flatten(1)], -1))
        self.slope.lerp_(sums[:, :6], 1 - SLOPE_FADES)
        self.curvature.lerp_(sums[:, 6:].view(n, 6, 6), 1 - CURVATURE_FADES)
        t = self.n_steps_done + 1
        if t <= self.first:
            return
        slope, curvature = self.slope / (1 - SLOPE_FADES**t), self.curvature / (1 - CURVATURE_FADES**t)
        size = curvature.diagonal(dim1=1, dim2=2).mean(-1)
        damped = curvature + (DAMPING * size + 1e-9)[:, None, None] * torch.eye(6)
        step = self.learning_rate * torch.linalg.solve(damped, slope)
        step = step * (LONGEST / torch.linalg.vector_norm(step, dim=-1, keepdim=True).clamp(min=LONGEST))
        self.poses.movements.sub_(self.learning_rate_factor * step)

    def averaged(self) -> list[Tensor]:
        return [self.poses.movements]

    def own_state(self) -> dict[str, Tensor]:
        return {"slope": self.slope, "curvature": self.curvature}
