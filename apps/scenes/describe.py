"""A scene in a few lines, for people."""

from __future__ import annotations

from collections import Counter

from fieldforge.apps.scenes.scene import SPLITS, Scene


def describe(scene: Scene) -> list[str]:
    """What was found: format, views, sizes, cameras, where the scene is, how photos are kept, what to know.

    For lego these are::

        lego: NeRF-synthetic: transforms_train.json, transforms_val.json, transforms_test.json
        130 views: 100 train, 5 val, 25 test; 400x400 RGBA, pinhole, focal length 555.6 px
        box (-1.45, -1.45, -1.45) to (1.45, 1.45, 1.45), rays from 1.51 to 6.54: an object that all photos show whole
        130 photos of 400x400: 83.2 MB decoded; kept as bytes in memory
    """
    cameras = scene.cameras
    counts = [f"{n} {split}" for split in SPLITS if (n := len(scene.of(split)))]
    sizes = Counter(tuple(size) for size in cameras.sizes.tolist())
    (width, height), _ = sizes.most_common(1)[0]
    size = f"{width}x{height}" if len(sizes) == 1 else f"{len(sizes)} sizes, most {width}x{height}"
    low, high = (", ".join(f"{value:.3g}" for value in corner) for corner in scene.bounds.box.tolist())
    lines = [
        f"{scene.source}: {scene.format}",
        f"{len(scene.views)} views: {', '.join(counts)}; {size} {'RGBA' if scene.has_alpha else 'RGB'}, "
        f"{cameras.model}{_focal(scene)}{', with times' if scene.times is not None else ''}",
        f"box ({low}) to ({high}), rays from {scene.bounds.near:.3g} to {scene.bounds.far:.3g}: {scene.bounds.reason}",
        scene.photos.plan.sentence,
    ]
    if scene.points is not None:
        lines.append(f"{len(scene.points)} points of a COLMAP model")
    return lines + [f"note: {note}" for note in scene.notes]


def _focal(scene: Scene) -> str:
    if scene.cameras.model == "equirectangular":
        return ""
    low, high = (float(value) for value in scene.cameras.intrinsics[:, :2].aminmax())
    between = f"{low:.1f}" if high - low < 0.05 else f"{low:.1f} to {high:.1f}"
    if scene.cameras.model == "orthographic":
        return f", {between} px per unit of length"
    return f", focal length {between} px"
