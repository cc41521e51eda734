"""``fieldforge bench signals``: presets of sounds and films after equal CPU seconds of one thread.

Quality is that of the stored field. One seed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fieldforge.apps.bench.equal_time import fit_for
from fieldforge.apps.bench.harness import Row, one_thread, save, say
from fieldforge.apps.fit.audio.job import AudioJob
from fieldforge.apps.fit.job import Job, Plan
from fieldforge.apps.fit.video.job import VideoJob
from fieldforge.apps.sounds import Clip, read_sound
from fieldforge.apps.videos import Film, read_film

SOUNDS = {
    "cello": "audio/gt_bach.wav",
    "speech": "audio/198-209-0000.ogg",
}
FILMS = {"bikes": "video/bikes.mp4"}
OF_SOUNDS = ("balanced", "siren", "spder", "cam")
OF_FILMS = ("balanced", "siren", "spder", "cam")
SECONDS = 8.0
"""CPU time of training."""
LONGEST = 1.0
"""Seconds of a sound: the first of it. Of three seconds of a trumpet SIREN had learnt 0.1 dB after 4 CPU seconds."""
DOWNSCALE, N_FRAMES = 4, 60


def run(folder: Path, data: Path | None, *, is_quick: bool) -> None:
    """Fit, print, and keep the rows unless `is_quick`.

    Args:
        folder: of the rows.
        data: folder that holds `SOUNDS` and `FILMS`.

    Raises:
        ValueError: no folder given.
    """
    if data is None and not is_quick:
        raise ValueError(f"data: give the folder that holds {SOUNDS['cello']} and the others, --data FOLDER")
    rows: list[Row] = []
    with one_thread():
        for name, job, presets in _cases(data, is_quick):
            for preset in presets:
                rows.append(_row(name, job(), preset, 0.2 if is_quick else SECONDS))
    if not is_quick:
        say(f"rows: {save(folder, 'signals', rows)}")


def _cases(data: Path | None, is_quick: bool) -> list[tuple[str, Callable[[], Job[Any]], tuple[str, ...]]]:
    if is_quick or data is None:
        clip = Clip.from_array(np.sin(np.arange(400) / 5), 8000, name="tone")
        film = Film.from_array(np.random.default_rng(0).integers(0, 256, (4, 12, 16, 3), dtype=np.uint8), name="noise")
        return [("tone", lambda: AudioJob(clip), ("fast",)), ("noise", lambda: VideoJob(film), ("fast",))]
    clips = {name: read_sound(data / path, stop=LONGEST) for name, path in SOUNDS.items()}
    films = {name: read_film(data / path, downscale=DOWNSCALE, frames=(0, N_FRAMES)) for name, path in FILMS.items()}
    return [
        *((name, lambda clip=clip: AudioJob(clip), OF_SOUNDS) for name, clip in clips.items()),
        *((name, lambda film=film: VideoJob(film), OF_FILMS) for name, film in films.items()),
    ]


def _row(name: str, job: Job[Any], preset: str, seconds: float) -> Row:
    with tempfile.TemporaryDirectory() as scratch:
        result, spent, pace = fit_for(job, Plan(preset=preset, output=Path(scratch) / "x.field"), seconds)
    figures = {key: value for key, value in result.summary().items() if isinstance(value, (int, float))}
    batch_size = result.config["fit"]["batch_size"]
    sizes = {**job.metadata(), "batch_size": batch_size, "budget": seconds, "training_step": result.training_step}
    quality = f"SNR {result.figure('snr'):6.2f} dB" if "snr" in figures else f"PSNR {result.figure('psnr'):6.2f} dB"
    say(f"{name:8} {preset:9} {quality}  {result.state.step:6} steps of {batch_size}  {result.n_bytes or 0:>9,} bytes")
    return Row("signals", name, preset, sizes, spent, 0.0, batch_size / pace, quality=figures)
