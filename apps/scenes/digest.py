"""Which scene it is: a digest that a field's file keeps, so that it is not held against another scene's photos."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch

from fieldforge.apps.scenes.scene import Scene, SceneError


def digest_of(scene: Scene) -> str:
    """SHA-256 of cameras, splits and some pixels of every photo, at the size they are read in."""
    with torch.device("cpu"):  # where photos are
        return _digest_of(scene)


def _digest_of(scene: Scene) -> str:
    digest = hashlib.sha256()
    digest.update(scene.cameras.poses.double().numpy().tobytes())
    digest.update(scene.cameras.intrinsics.double().numpy().tobytes())
    digest.update(repr([(view.name, view.split, view.time) for view in scene.views]).encode())
    for view, (width, height) in enumerate(scene.photos.sizes.tolist()):
        pixels = torch.tensor([[width * k // 16, height * ((7 * k) % 16) // 16] for k in range(16)])
        color = scene.photos.gather(torch.full((16,), view), pixels)
        digest.update((color * 255).round().to(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def expect_same_scene(scene: Scene, metadata: Mapping[str, Any], *, is_forced: bool = False) -> None:
    """A file whose header names no scene, as those of fits from memory do, is taken at its word.

    Args:
        scene: that was read.
        metadata: of the field's file.
        is_forced: say nothing.

    Raises:
        SceneError: the field was fitted to other photos.
    """
    signal = metadata.get("signal")
    known = signal.get("sha256") if isinstance(signal, Mapping) else None
    if not is_forced and isinstance(known, str) and known != digest_of(scene):
        raise SceneError(
            f"{scene.source}: is not the scene that the field was fitted to: cameras, splits or pixels differ; name "
            "the folder of its photos, or go on with --force"
        )
