"""The section ``fit`` of a scene's run file."""

from __future__ import annotations

from dataclasses import dataclass

from fieldforge.apps.fit.options import FieldOptions
from fieldforge.apps.render.radiance import cone_angle_for
from fieldforge.checks import expect_bool, expect_choice, expect_float, expect_int
from fieldforge.renderers.occupancy import MAX_CASCADES

BACKGROUNDS: dict[str, tuple[float, float, float] | None] = {
    "white": (1.0, 1.0, 1.0),
    "black": (0.0, 0.0, 0.0),
    "random": None,
    "learned": None,
}
"""What stands behind the scene in training: a colour, another one for each ray, or what a small network says of the
direction."""
TIMES = ("auto", "off")
SPACES = ("auto", "box", "ndc", "contraction", "contraction2", "nerfpp")
"""contraction: by the largest coordinate; contraction2: by the length (`fieldforge.fields.space.Contraction`); ndc:
what lies ahead of cameras that look the same way (`fieldforge.fields.kinds.ndc`); nerfpp: inside and outside of a
sphere that holds the cameras (`fieldforge.fields.kinds.inside_outside`)."""


@dataclass(frozen=True)
class SceneOptions(FieldOptions):
    """Of a scene fit.

    Args:
        batch_size: samples a step of which the colour is computed; as many rays are drawn as fill it.
        space: what the field's box stands for, one of `SPACES`; "auto" is "ndc" where all cameras look the same way,
            "contraction" where the photos show more than a box holds, and "box" elsewhere.
        cascades: boxes of the occupancy grid, each twice the size of the one before; "auto" is one for a box that holds
            all, and as many as reach the far end of a scene that goes on.
        cone_angle: length of a sample over its distance, where that is more than the sample's; "auto" is 0 for one
            cascade and `fieldforge.apps.render.radiance.cone_angle_for` more.
        near: where rays begin, world length from the camera; "auto" is 0 in a box that holds all, and else
            `fieldforge.apps.fit.scene.space.NEAR`.
        samples_across: samples along the diagonal of the box, or of its smallest cascade, were all of it occupied.
        coarse_start: share of the steps in which samples are longer than that: four times in its first quarter, then
            twice. What is coarse anyway is found with fewer samples, of more rays.
        occupancy: cells along each side of the occupancy grid.
        update_every: steps from one look at the occupancy to the next.
        early_stop: least transmittance in front of a sample that is evaluated.
        background: one of `BACKGROUNDS`; photos without alpha show it as it is.
        time: "auto": the field changes with time where the photos have times; "off": it stands still.
        duration: the part of the encoding's fourth axis that all of time takes; see `RadianceField`.
        appearance: numbers of a vector for each training photo, for exposure and weather; 0: photos are all alike.
        refine_cameras: move the poses of the training photos too. Cameras come nearer to their places while the field
            is learnt, where views overlap well; those of few photos and fine grids learn the error instead. Fields
            whose finest cells are as large as the error in poses find them best.
        camera_rate: the part of a Gauss-Newton step that they move in a step of the fit.
        camera_start: share of the steps before they begin to move: what is fog says nothing of cameras.
    """

    n_steps: int = 4000
    batch_size: int = 2**14
    space: str = "auto"
    cascades: int | str = "auto"
    cone_angle: float | str = "auto"
    near: float | str = "auto"
    samples_across: int = 512
    coarse_start: float = 0.0
    occupancy: int = 64
    update_every: int = 16
    early_stop: float = 1e-4
    background: str = "random"
    time: str = "auto"
    duration: float = 1.0
    appearance: int = 0
    refine_cameras: bool = False
    camera_rate: float = 0.1
    camera_start: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_choice("space", self.space, SPACES)
        if isinstance(self.cascades, str):
            expect_choice("cascades", self.cascades, ("auto",))
        else:
            expect_int("cascades", self.cascades, 1, MAX_CASCADES)
        if isinstance(self.cone_angle, str):
            expect_choice("cone_angle", self.cone_angle, ("auto",))
        else:
            expect_float("cone_angle", self.cone_angle, 0.0, 1.0)
        if isinstance(self.near, str):
            expect_choice("near", self.near, ("auto",))
        else:
            expect_float("near", self.near, 0.0, 1e15)
        expect_int("samples_across", self.samples_across, 8, 2**12 - 8)
        expect_float("coarse_start", self.coarse_start, 0.0, 1.0)
        expect_int("occupancy", self.occupancy, 4, 1024)
        expect_int("update_every", self.update_every, 1, 10**6)
        expect_float("early_stop", self.early_stop, 0.0, 0.5)
        expect_choice("background", self.background, BACKGROUNDS)
        expect_choice("time", self.time, TIMES)
        expect_float("duration", self.duration, 0.0, 1.0, open_low=True)
        expect_int("appearance", self.appearance, 0, 256)
        expect_bool("refine_cameras", self.refine_cameras)
        expect_float("camera_rate", self.camera_rate, 0.0, 1.0, open_low=True)
        expect_float("camera_start", self.camera_start, 0.0, 1.0)

    @property
    def near_plane(self) -> float:
        """As a number."""
        return 0.0 if isinstance(self.near, str) else self.near

    def cone_angle_for(self, n_cascades: int) -> float:
        """What "auto" comes to."""
        return cone_angle_for(n_cascades) if isinstance(self.cone_angle, str) else self.cone_angle
