"""The section ``fit`` of a scene's run file."""

from __future__ import annotations

from dataclasses import dataclass

from fieldforge.apps.fit.options import Options
from fieldforge.checks import expect_choice, expect_float, expect_int

BACKGROUNDS: dict[str, tuple[float, float, float] | None] = {
    "white": (1.0, 1.0, 1.0),
    "black": (0.0, 0.0, 0.0),
    "random": None,
}
"""What stands behind the scene in training: a colour, or another one for each ray."""


@dataclass(frozen=True)
class SceneOptions(Options):
    """Of a scene fit.

    Args:
        batch_size: samples a step of which the colour is computed; as many rays are drawn as fill it.
        samples_across: samples along the diagonal of the box, were all of it occupied.
        occupancy: cells along each side of the occupancy grid.
        update_every: steps from one look at the occupancy to the next.
        early_stop: least transmittance in front of a sample that is evaluated.
        background: one of `BACKGROUNDS`; photos without alpha show it as it is.
    """

    n_steps: int = 4000
    batch_size: int = 2**14
    samples_across: int = 512
    occupancy: int = 64
    update_every: int = 16
    early_stop: float = 1e-4
    background: str = "random"

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_int("samples_across", self.samples_across, 8, 2**12 - 8)
        expect_int("occupancy", self.occupancy, 4, 1024)
        expect_int("update_every", self.update_every, 1, 10**6)
        expect_float("early_stop", self.early_stop, 0.0, 0.5)
        expect_choice("background", self.background, BACKGROUNDS)
