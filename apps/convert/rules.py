"""The section ``distillation`` of a run file: how a student of a scene learns from its teacher (Fang et al. 2023, PVD).

[distillation]
features = 0.1
points = 0.3
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from fieldforge.checks import expect_choice, expect_float

FEATURES, POINTS, PIXELS = 1, 2, 3
"""The stages, in their order."""


@dataclass(frozen=True)
class Rules:
    """Stages, targets and weights.

    Differences are measured as roots of their mean squares: PVD's norms of whole batches, without their growth with
    the batch.

    Args:
        features: share of the steps in which the student learns the features before the colour network, and nothing
            else; where teacher or student has none, those steps are of points.
        points: share of the steps after these in which it learns density and colour at points, without rays.
        along_rays: share of a batch of points that lie on random rays, where the teacher sees them; the others are
            drawn in occupied cells, with directions over the whole sphere.
        remembered: share of a batch that earlier steps asked the teacher for already: of points, where density and
            colour are learnt there; of rays of random poses, where points do not count beside pixels
            (`points_weight` 0). For teachers that take longer than their students.
        density: how densities are compared. "log": their logarithms (of what one side of the box would absorb), cut to
            `clip_low` and `clip_high`; "alpha": what a sample of `alpha_length` absorbs (Reiser et al. 2021,
            KiloNeRF); "raw": as they are.
        clip_low, clip_high: of the logarithm. A student beyond an end is left alone only where its teacher is beyond
            the same end: in PVD it is cut like the teacher, and one that begins too thin never gets a gradient.
        alpha_length: a typical sample, in sides of the box. KiloNeRF's 0.0211 is that in its scenes.
        density_weight, color_weight: of points, beside each other.
        faint: in the end the student's cells are closed in which a sample absorbs less of the light than this, and rays
            pass over them; 0 closes none.
        points_weight: of both while pixels are learnt, beside the pixels' 1; at 0 a student that learns from photos
            does not ask its teacher in that stage.
    """

    features: float = 0.1
    points: float = 0.3
    along_rays: float = 0.75
    remembered: float = 0.0
    density: str = "log"
    clip_low: float = -2.0
    clip_high: float = 7.0
    alpha_length: float = 0.0088
    density_weight: float = 1.0
    color_weight: float = 1.0
    points_weight: float = 0.01
    faint: float = 0.0

    def __post_init__(self) -> None:
        expect_float("features", self.features, 0.0, 1.0)
        expect_float("points", self.points, 0.0, 1.0)
        if self.features + self.points > 1:
            raise ValueError(f"points: {self.points:g} after features' {self.features:g} is more than all steps")
        expect_float("along_rays", self.along_rays, 0.0, 1.0)
        expect_float("remembered", self.remembered, 0.0, 0.999)
        expect_float("faint", self.faint, 0.0, 0.5)
        expect_choice("density", self.density, ("log", "alpha", "raw"))
        expect_float("clip_low", self.clip_low, -1e4, 1e4)
        expect_float("clip_high", self.clip_high, self.clip_low, 1e4, open_low=True)
        expect_float("alpha_length", self.alpha_length, 0.0, 1.0, open_low=True)
        for name in ("density_weight", "color_weight", "points_weight"):
            expect_float(name, getattr(self, name), 0.0, 1e6)

    def stage(self, step: int, n_steps: int) -> int:
        """Of a step of so many.

        Example:
            >>> [Rules(features=0.1, points=0.3).stage(step, 10) for step in (0, 1, 3, 4, 9)]
            [1, 2, 2, 3, 3]
        """
        if step < round(self.features * n_steps):
            return FEATURES
        return POINTS if step < round((self.features + self.points) * n_steps) else PIXELS

    def config(self) -> dict[str, Any]:
        """The table that makes the same rules."""
        return asdict(self)
