"""Where along a ray a fit of a scene looks: the section ``sampler`` of its run file.

{"otype": "Occupancy"}                                     in occupied cells
{"otype": "Proposal", "n_samples": [64, 48, 24]}           where small networks expect something
{"otype": "Hierarchical", "n_samples": [64, 128]}          where a coarse field found something
"""

from fieldforge.apps.fit.scene.samplers.base import RayStep, Sampler

__all__ = ["RayStep", "Sampler"]
