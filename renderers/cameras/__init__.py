"""Cameras: where each pixel looks, and where each point lands. `renderers/cameras.md` is the page on conventions.

    origins, directions = cameras.rays(view, pixels)    # many views at once
    pixels, depth = cameras.project(view, points)

Axes are OpenGL's: in camera axes x points right, y up, and the camera looks along -z. A pixel (i, j) is the square
from (i, j) to (i + 1, j + 1), row j counted from the top; its ray goes through the centre.
"""

from fieldforge.renderers.cameras.batch import Cameras
from fieldforge.renderers.cameras.lenses import MODELS
from fieldforge.renderers.cameras.single import MAX_SIDE, Pinhole, look_at

__all__ = ["MAX_SIDE", "MODELS", "Cameras", "Pinhole", "look_at"]
