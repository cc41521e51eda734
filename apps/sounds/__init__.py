"""Read and write sounds, and say how alike two are.

    clip = read_sound("clip.wav", start=2.0, stop=7.0)
    write_wav("copy.wav", clip.samples, clip.sample_rate)

WAV is read and written here; OGG, FLAC, MP3 and kin by PyAV. Sizes in headers are checked against the file before
memory is taken. Whatever is wrong with a file is a `MediaError` of one sentence.
"""

from fieldforge.apps.sounds.clip import Clip
from fieldforge.apps.sounds.read import read_sound
from fieldforge.apps.sounds.wav import write_wav

__all__ = ["Clip", "read_sound", "write_wav"]
