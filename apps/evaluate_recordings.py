"""How good the field of a sound or a film is, against the file it should be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fieldforge.apps.media import MediaError
from fieldforge.apps.render.audio import sample
from fieldforge.apps.render.film import frame_quality
from fieldforge.apps.render.remembered import remembered
from fieldforge.apps.sounds import read_sound
from fieldforge.apps.sounds.quality import figures_of
from fieldforge.apps.videos import read_film
from fieldforge.fields.kinds.audio import AudioField
from fieldforge.fields.kinds.video import VideoField

SOUND_MEANING = {
    "snr": "power of the clip over that of the error, in dB",
    "psnr": "square of its largest amplitude over the mean squared error, in dB",
    "log_spectral_distance": "how far the log spectrograms are apart, in dB",
}
FILM_MEANING = {
    "psnr": "mean of the PSNR of each frame, in dB",
    "worst_frame_psnr": "of the worst one",
    "best_frame_psnr": "of the best one",
}


def of_sound(field: AudioField, metadata: dict[str, Any], source: Path) -> dict[str, float | None]:
    """Figures of a field against the part of a sound that it was fitted to.

    Raises:
        MediaError: the sound cannot be read, or is another one: shorter, or of another rate.
    """
    start = remembered(metadata, "signal.start", 0.0, least=0.0, most=1e9)
    clip = read_sound(source, start=start, stop=start + field.duration + 0.5 / field.sample_rate)
    theirs, ours = (clip.n_channels, clip.sample_rate), (field.n_channels, field.sample_rate)
    if theirs != ours or clip.n_samples < field.n_samples:
        raise MediaError(
            f"{source}: {clip.n_samples:,} samples from {start:g} s on, {theirs[0]} channels at {theirs[1]} Hz; the "
            f"field is of {field.n_samples:,}, {ours[0]} channels at {ours[1]} Hz: give the clip it was fitted to"
        )
    return figures_of(clip.samples[: field.n_samples], sample(field))


def of_film(
    field: VideoField, metadata: dict[str, Any], source: Path, observe: Callable[[float], None]
) -> dict[str, float | None]:
    """Figures of a field against the frames of a film that it was fitted to, at the size it was fitted at.

    Raises:
        MediaError: the film cannot be read, or has fewer frames.
    """
    n_frames = max(1, round(field.duration * field.frames_per_second))
    first = int(remembered(metadata, "signal.first_frame", 0, least=0, most=10**9))
    film = read_film(source, size=(field.width, field.height), frames=(first, first + n_frames))
    if film.n_frames != n_frames or film.n_channels != field.n_channels:
        raise MediaError(
            f"{source}: {film.n_frames} frames from {first} on, and the field is of {n_frames}; give its film"
        )
    found = frame_quality(film, field, observe)
    return {"psnr": float(np.mean(found)), "worst_frame_psnr": min(found), "best_frame_psnr": max(found)}
