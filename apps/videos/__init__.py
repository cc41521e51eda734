"""Read films into frames that fit on a disk, and say how alike two are.

    film = read_film("clip.mp4", downscale=4, frames=(0, 100))

Frames are decoded one by one into a file without a name, which is mapped into memory: a long film takes disk, not
memory. What is wrong with a file is a `MediaError` of one sentence.
"""

from fieldforge.apps.videos.film import Film
from fieldforge.apps.videos.read import read_film

__all__ = ["Film", "read_film"]
