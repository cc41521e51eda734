"""Which space a scene's field lives in, and how far it is marched."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from fieldforge.apps.fit.scene.options import SceneOptions
from fieldforge.apps.scenes import Scene

MOST_CASCADES = 6
"""That "auto" takes: a box and all around it up to 32 times its size. What is beyond is seen at the end of these."""


def settled(options: SceneOptions, scene: Scene) -> SceneOptions:
    """The options of a scene, with nothing left that says "auto"."""
    is_open = not scene.bounds.is_bounded
    space = options.space if options.space != "auto" else "contraction" if is_open else "box"
    cascades = options.cascades
    if isinstance(cascades, str):
        cascades = 1 if space == "box" else min(MOST_CASCADES, max(2, 1 + math.ceil(math.log2(_reach(scene)))))
    return replace(options, space=space, cascades=cascades, cone_angle=options.cone_angle_for(cascades))


def notices(options: SceneOptions, scene: Scene) -> list[str]:
    """What the user should know of settled options."""
    if options.space == "box":
        if scene.bounds.is_bounded:
            return []
        return ["space: box, though the photos may show more than it holds"]
    size = 2.0 ** (int(options.cascades) - 1)
    return [
        f"space: {options.space}; the box and, drawn together, the world around it; samples up to {size:g} times its "
        f"size, with lengths that grow by {options.cone_angle:.3g} of the distance"
    ]


def place(options: SceneOptions, scene: Scene) -> dict[str, Any]:
    """The part of a field's configuration that says where in the world it is; of settled options."""
    low, high = scene.bounds.box
    middle, half = (low + high) / 2, (high - low).max() / 2  # a cube: cells are as long as they are wide
    found: dict[str, Any] = {"low": (middle - half).tolist(), "high": (middle + half).tolist()}
    if options.space != "box":
        norm = "2" if options.space == "contraction2" else "inf"
        found["space"] = {"otype": "Contraction", "norm": norm}
    return found


def _reach(scene: Scene) -> float:
    """The far end of a scene, in halves of its box."""
    low, high = scene.bounds.box
    return max(1.0, scene.bounds.far / float((high - low).max() / 2))
