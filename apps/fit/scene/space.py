"""Which space a scene's field lives in, and how far it is marched."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from fieldforge.apps.fit.scene.ndc import place_in_ndc, why_not_forward
from fieldforge.apps.fit.scene.options import SceneOptions
from fieldforge.apps.scenes import Scene

MOST_CASCADES = 5
"""That "auto" takes: a box and all around it up to 16 times its size. What is beyond is seen at the end of these."""

NEAR = 0.2
"""Where rays of a scene without an end begin, in halves of its box (mip-NeRF 360's near plane): what is right before a
camera is seen by no other, and would be fog that only that photo knows."""


def settled(options: SceneOptions, scene: Scene) -> SceneOptions:
    """The options of a scene, with nothing left that says "auto"."""
    is_open = not scene.bounds.is_bounded
    space = options.space
    if space == "auto":
        is_ahead = not scene.has_alpha and not why_not_forward(scene)
        space = "ndc" if is_ahead else "contraction" if is_open else "box"
    low, high = scene.bounds.box
    half = float((high - low).max() / 2)
    cascades, near = options.cascades, options.near
    if isinstance(cascades, str):
        reach = math.ceil(math.log2(max(1.0, scene.bounds.far / half)))
        cascades = 1 if space in ("box", "ndc", "nerfpp") else min(MOST_CASCADES, max(2, 1 + reach))
    if isinstance(near, str):
        near = NEAR * half if is_open and space != "ndc" else 0.0
    return replace(options, space=space, cascades=cascades, cone_angle=options.cone_angle_for(cascades), near=near)


def notices(options: SceneOptions, scene: Scene) -> list[str]:
    """What the user should know of settled options."""
    if options.space == "box":
        if scene.bounds.is_bounded:
            return []
        return ["space: box, though the photos may show more than it holds"]
    if options.space == "ndc":
        return [f"space: ndc; all that lies ahead of the cameras, from {scene.bounds.near:.3g} on"]
    if options.space == "nerfpp":
        *center, radius = (f"{number:.3g}" for number in sphere(scene))
        return [f"space: nerfpp; the sphere around {', '.join(center)} of radius {radius}, and all that is outside"]
    size = 2.0 ** (int(options.cascades) - 1)
    return [
        f"space: {options.space}; the box and, drawn together, the world around it; samples up to {size:g} times its "
        f"size, with lengths that grow by {options.cone_angle:.3g} of the distance"
    ]


def place(options: SceneOptions, scene: Scene) -> dict[str, Any]:
    """The part of a field's configuration that says where in the world it is; of settled options."""
    if options.space == "nerfpp":
        *center, radius = sphere(scene)
        return {"low": [c - radius for c in center], "high": [c + radius for c in center]}
    if options.space == "ndc":
        return place_in_ndc(scene)
    low, high = scene.bounds.box
    middle, half = (low + high) / 2, (high - low).max() / 2  # a cube: cells are as long as they are wide
    found: dict[str, Any] = {"low": (middle - half).tolist(), "high": (middle + half).tolist()}
    if options.space != "box":
        norm = "2" if options.space == "contraction2" else "inf"
        found["space"] = {"otype": "Contraction", "norm": norm}
    return found


def sphere(scene: Scene) -> tuple[float, float, float, float]:
    """Centre and radius of a sphere that holds the cameras, a tenth larger than it must be."""
    places = scene.cameras.positions.double()
    middle = (places.amin(0) + places.amax(0)) / 2
    radius = 1.1 * float(torch.linalg.vector_norm(places - middle, dim=-1).max()) or 1.0
    x, y, z = middle.tolist()
    return x, y, z, radius


def inside_outside(radiance: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of an inside and an outside, of equal encodings and networks, from that of the inside."""
    low, high = radiance["low"], radiance["high"]
    shared = {f"outside_{part}": radiance[part] for part in ("encoding", "network", "rgb_network")}
    return {
        "otype": "InsideOutside",
        "inside": {key: value for key, value in radiance.items() if key not in ("low", "high")},
        "center": [(a + b) / 2 for a, b in zip(low, high, strict=True)],
        "radius": (high[0] - low[0]) / 2,
        **shared,
    }
