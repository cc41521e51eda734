"""What rendering took: time, samples and multiply-adds of a pixel."""

from __future__ import annotations

import time
from typing import Any

from torch import Tensor

from fieldforge.apps.render.radiance import SceneEye
from fieldforge.renderers.volume import Seen


class Tally(SceneEye):
    """An eye that counts what another one does.

    Args:
        eye: that looks.

    Attributes:
        n_rays, n_evaluated: pixels that were looked at, and samples on the way whose colour was asked for.
        multiply_adds: of all of them, in the matrices of networks; None where nobody knows.
        seconds: of looking, by the clock.
    """

    def __init__(self, eye: SceneEye) -> None:
        self.eye, self.background, self.has_time, self.time = eye, eye.background, eye.has_time, eye.time
        self.n_rays_at_once = eye.n_rays_at_once
        self.n_rays = self.n_evaluated = 0
        self.multiply_adds: int | None = 0
        self.seconds = 0.0

    def __call__(self, origins: Tensor, directions: Tensor, *times: Tensor) -> Seen:
        start = time.perf_counter()
        seen = self.eye(origins, directions, *times)
        self.seconds += time.perf_counter() - start
        self.n_rays += len(origins)
        self.n_evaluated += seen.n_evaluated
        cost = self.eye.multiply_adds(seen)
        self.multiply_adds = None if cost is None or self.multiply_adds is None else self.multiply_adds + cost
        return seen

    def summary(self, n_pictures: int) -> dict[str, Any]:
        """The figures of so many pictures, as a table of JSON."""
        per_pixel = None if self.multiply_adds is None else round(self.multiply_adds / max(1, self.n_rays))
        return {
            "engine": self.eye.engine,
            "frames_per_second": float(f"{n_pictures / max(self.seconds, 1e-9):.4g}"),
            "seconds": round(self.seconds, 4),
            "samples_per_pixel": round(self.n_evaluated / max(1, self.n_rays), 2),
            "multiply_adds_per_pixel": per_pixel,
        }

    def sentence(self, n_pictures: int) -> str:
        """The same for people."""
        found = self.summary(n_pictures)
        cost = found["multiply_adds_per_pixel"]
        per_pixel = "" if cost is None else f", {cost:,} multiply-adds"
        return (
            f"{found['frames_per_second']:.3g} pictures a second ({found['engine']}), "
            f"{found['samples_per_pixel']:g} samples{per_pixel} a pixel"
        )
