"""Read folders of posed photos: cameras, pixels, splits and bounds.

    scene = read_scene("lego")
    cameras = scene.cameras.to(torch.float32)
    origins, directions = cameras.rays(view, pixels)     # (n, 3) each; view (n,), pixels (n, 2) int64 x and y
    color = scene.photos.gather(view, pixels)            # (n, 3 or 4) float32, alpha straight

Files come from strangers: sizes are checked before memory is taken, names of files may not lead out of the folder, and
nothing is unpickled. Whatever is wrong is a `SceneError` of one sentence.
"""

from fieldforge.apps.scenes.describe import describe
from fieldforge.apps.scenes.photos import Photos
from fieldforge.apps.scenes.read import read_scene
from fieldforge.apps.scenes.scene import Bounds, Scene, SceneError, View

__all__ = ["Bounds", "Photos", "Scene", "SceneError", "View", "describe", "read_scene"]
