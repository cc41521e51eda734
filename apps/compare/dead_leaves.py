"""A picture that is nobody's: discs over discs, whose sizes follow a power law as those of things in photos do.

Lee, Mumford and Huang 2001, "Occlusion models for natural images": radii with density proportional to r^-3 give edges
and spectra like those of photos. Learning rates are tuned on it, so that the picture of a comparison stays unseen.
"""

from __future__ import annotations

import numpy as np

from fieldforge.apps.images import Picture


def dead_leaves(side: int, seed: int = 0) -> Picture:
    """A picture of side x side pixels in colour; the same for the same seed."""
    random = np.random.Generator(np.random.PCG64(seed))
    pixels = np.full((side, side, 3), 128, np.uint8)
    least, most = 1.5 / side, 0.35
    y, x = (np.mgrid[:side, :side] + 0.5) / side
    for _ in range(6 * side):
        radius = 1 / np.sqrt(random.uniform(most**-2, least**-2))
        centre = random.uniform(-0.1, 1.1, 2)
        color = random.integers(0, 256, 3, dtype=np.uint8)
        pixels[(x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2] = color
    return Picture.from_array(pixels)
