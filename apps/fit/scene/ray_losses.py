"""The section ``ray_losses`` of a scene's run file: what rays should look like beside their colours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from fieldforge.apps.fit.options import read_table
from fieldforge.checks import expect_float
from fieldforge.renderers.compositing import distortion
from fieldforge.renderers.ray_losses import opacity_entropy
from fieldforge.renderers.samples import Samples


@dataclass(frozen=True)
class RayLosses:
    """Factors on losses that are added to that of a ray's colour; 0 leaves one out.

    Args:
        distortion: how far weights are spread along the ray, over what it could be spread
            (`fieldforge.renderers.compositing.distortion`); 0.01 in mip-NeRF 360, 0.002 in nerfacto.
        opacity_entropy: neither opaque nor clear (`fieldforge.renderers.ray_losses.opacity_entropy`).
        gradient_scaling: no loss: the distance from the camera below which gradients are scaled down
            (`fieldforge.renderers.ray_losses.scale_gradients`), in world units.
    """

    distortion: float = 0.0
    opacity_entropy: float = 0.0
    gradient_scaling: float = 0.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            expect_float(name, value, 0.0, 1e6)

    @classmethod
    def of(cls, section: Mapping[str, Any]) -> RayLosses:
        """From the table of a run file; ConfigError if a key is unknown or a value is bad."""
        return read_table(cls, section, "ray_losses")

    @property
    def names(self) -> str:
        """Those that are on."""
        return ", ".join(name for name, value in asdict(self).items() if value)

    def of_rays(self, samples: Samples, weights: Tensor, opacity: Tensor, length: float = 1.0) -> Tensor | float:
        """(R,) what is added to the losses of the rays.

        Args:
            samples: in shares of the rays, or in world length.
            weights, opacity: (N,) and (R,).
            length: what counts as 1 of the units of `samples`.
        """
        added: Tensor | float = 0.0
        if self.distortion:
            added = added + self.distortion / length * distortion(samples, weights)
        if self.opacity_entropy:
            added = added + self.opacity_entropy * opacity_entropy(opacity)
        return added


NO_RAY_LOSSES = RayLosses()
