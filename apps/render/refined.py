"""The cameras of a scene where the fit of a file brought them, or in the file's own world, as its header remembers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fieldforge.apps.render.remembered import remembered
from fieldforge.apps.scenes import Scene


def as_refined(scene: Scene, metadata: Mapping[str, Any]) -> Scene:
    """A scene with its cameras where a fit brought them, if it refined any.

    Training photos are found by their names; the others move as all of them moved together.
    """
    signal = metadata.get("signal")
    kept = signal if isinstance(signal, Mapping) else {}
    movement, refined = _pose(kept.get("movement")), kept.get("refined_poses")
    if movement is None or not isinstance(refined, Mapping):
        return scene
    poses = scene.cameras.poses.clone()
    for view, about in enumerate(scene.views):
        own = _pose(refined.get(about.name)) if about.split == "train" else None
        moved = movement[:, :3] @ poses[view].to(movement)
        moved[:, 3] += movement[:, 3]
        poses[view] = (moved if own is None else own).to(poses)
    return replace(scene, cameras=replace(scene.cameras, poses=poses))


def in_its_world(scene: Scene, metadata: Mapping[str, Any]) -> Scene:
    """A scene with its cameras in the world of a field that was trained elsewhere; most fields are in the photos' own.

    A header may say ``signal.world``: axes, scale and offset, of which a place p becomes (scale p + offset)[axes].
    """
    signal = metadata.get("signal")
    world = signal.get("world") if isinstance(signal, Mapping) else None
    if not isinstance(world, Mapping):
        return scene
    scale, axes = remembered(metadata, "signal.world.scale", 1.0, least=1e-6, most=1e6), world.get("axes")
    axes = axes if isinstance(axes, list) and sorted(map(str, axes)) == ["0", "1", "2"] else [0, 1, 2]
    offset = world.get("offset")
    if not (isinstance(offset, list) and len(offset) == 3 and all(isinstance(x, (int, float)) for x in offset)):
        offset = [0.0, 0.0, 0.0]
    poses = scene.cameras.poses.clone()
    poses[:, :, 3] = poses[:, :, 3] * scale + poses.new_tensor(offset)
    return replace(scene, cameras=replace(scene.cameras, poses=poses[:, [int(axis) for axis in axes]]))


def _pose(value: Any) -> Tensor | None:
    """(3, 4) float64 of lists from a file; None for what is no turn beside a place."""
    try:
        pose = torch.tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None
    if pose.shape != (3, 4) or not bool(torch.isfinite(pose).all()):
        return None
    off = pose[:, :3] @ pose[:, :3].T - torch.eye(3, dtype=torch.float64)
    return pose if float(off.abs().max()) < 1e-3 else None
