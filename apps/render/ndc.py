"""What is seen of a field in normalised device coordinates: rays are bent, and distances made straight again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fieldforge.apps.render.radiance import EYES, Eye, SceneEye, occupancy_eye
from fieldforge.fields.kinds.ndc import NDCField
from fieldforge.renderers import volume


class NDCEye(SceneEye):
    """Looks at a field along rays of the world.

    Args:
        field: what is seen.
        eye: that looks at the field inside, along bent rays.
    """

    def __init__(self, field: NDCField, eye: Eye) -> None:
        self.field, self.eye, self.background = field, eye, eye.background

    @torch.no_grad()
    def __call__(self, origins: Tensor, directions: Tensor) -> volume.Seen:
        bent = self.field.frustum.bend(origins, directions)
        seen = self.eye(*bent)
        return seen._replace(distance=self.field.frustum.distance(bent, seen.distance, origins, directions))


def _eye(field: NDCField, metadata: Mapping[str, Any]) -> NDCEye:
    return NDCEye(field, occupancy_eye(field.field, metadata))


EYES[NDCField] = _eye
