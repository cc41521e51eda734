"""An engine for neural fields: fit images, sounds, films, shapes and scenes, see them, and generate new ones.

    import fieldforge as ff
    result = ff.fit("photo.png", output="photo.field")
    picture = ff.render(result.field, size=(2000, 1500))

The names below load their room when they are first used; importing fieldforge itself loads next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fieldforge.apps.convert.job import Conversion as Conversion
    from fieldforge.apps.convert.job import convert as convert
    from fieldforge.apps.fit.audio.job import AudioFit as AudioFit
    from fieldforge.apps.fit.audio.job import fit_audio as fit_audio
    from fieldforge.apps.fit.collection.job import fit_collection as fit_collection
    from fieldforge.apps.fit.image.job import ImageFit as ImageFit
    from fieldforge.apps.fit.image.job import fit as fit
    from fieldforge.apps.fit.scene.job import SceneFit as SceneFit
    from fieldforge.apps.fit.scene.job import fit_scene as fit_scene
    from fieldforge.apps.fit.shape.job import ShapeFit as ShapeFit
    from fieldforge.apps.fit.shape.job import fit_shape as fit_shape
    from fieldforge.apps.fit.video.job import VideoFit as VideoFit
    from fieldforge.apps.fit.video.job import fit_video as fit_video
    from fieldforge.apps.mesh import extract as extract
    from fieldforge.apps.render.image import render as render
    from fieldforge.apps.render.shape import orbit as orbit
    from fieldforge.apps.render.shape import render_shape as render_shape
    from fieldforge.backends import use_backend as use_backend
    from fieldforge.encodings.base import Encoding as Encoding
    from fieldforge.encodings.grid import HashGrid as HashGrid
    from fieldforge.fields.collection import Collection as Collection
    from fieldforge.fields.file import load_field as load  # noqa: F401
    from fieldforge.fields.file import save_field as save  # noqa: F401
    from fieldforge.fields.kinds.audio import AudioField as AudioField
    from fieldforge.fields.kinds.image import ImageField as ImageField
    from fieldforge.fields.kinds.radiance import RadianceField as RadianceField
    from fieldforge.fields.kinds.shape import OccupancyField as OccupancyField
    from fieldforge.fields.kinds.shape import SDFField as SDFField
    from fieldforge.fields.kinds.shape import UDFField as UDFField
    from fieldforge.fields.kinds.video import VideoField as VideoField
    from fieldforge.fields.networks.mlp import MLP as MLP
    from fieldforge.registry import available as available
    from fieldforge.registry import build as build
    from fieldforge.registry import register as register

_HOMES = {
    "AudioField": "fields.kinds.audio",
    "AudioFit": "apps.fit.audio.job",
    "Collection": "fields.collection",
    "Conversion": "apps.convert.job",
    "Encoding": "encodings.base",
    "HashGrid": "encodings.grid",
    "ImageField": "fields.kinds.image",
    "ImageFit": "apps.fit.image.job",
    "MLP": "fields.networks.mlp",
    "OccupancyField": "fields.kinds.shape",
    "RadianceField": "fields.kinds.radiance",
    "SDFField": "fields.kinds.shape",
    "SceneFit": "apps.fit.scene.job",
    "ShapeFit": "apps.fit.shape.job",
    "UDFField": "fields.kinds.shape",
    "VideoField": "fields.kinds.video",
    "VideoFit": "apps.fit.video.job",
    "available": "registry",
    "build": "registry",
    "convert": "apps.convert.job",
    "extract": "apps.mesh",
    "fit": "apps.fit.image.job",
    "fit_audio": "apps.fit.audio.job",
    "fit_collection": "apps.fit.collection.job",
    "fit_scene": "apps.fit.scene.job",
    "fit_shape": "apps.fit.shape.job",
    "fit_video": "apps.fit.video.job",
    "load": "fields.file:load_field",
    "orbit": "apps.render.shape",
    "register": "registry",
    "render": "apps.render.image",
    "render_shape": "apps.render.shape",
    "save": "fields.file:save_field",
    "use_backend": "backends",
}
"""Public name -> module below fieldforge, with the name there when it differs."""

__all__ = [*sorted(_HOMES), "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fieldforge' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    value = getattr(importlib.import_module(f"fieldforge.{module}"), attribute or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
