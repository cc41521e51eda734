"""Where along a ray a fit of a scene looks: the section ``sampler`` of its run file.

{"otype": "Occupancy"}
"""

from fieldforge.apps.fit.scene.samplers.base import RayStep, Sampler

__all__ = ["RayStep", "Sampler"]
