"""``fieldforge fit video``."""

from __future__ import annotations

import argparse
from pathlib import Path

from fieldforge.apps.fit.command import report_of, run_fit
from fieldforge.apps.fit.video.job import VideoFit, VideoJob
from fieldforge.apps.videos import read_film


def fit_video_command(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    output: Path = options.output or Path(options.clip).with_suffix(".field")
    report = report_of(options, output)
    film = read_film(options.clip, size=options.size, downscale=options.downscale, frames=options.frames or (0, None))
    job = VideoJob(film, report=report)

    def describe(result: VideoFit) -> str:
        line = (
            f"{result.path}: PSNR {result.psnr:.2f} dB, mean of {film.n_frames} frames of {film.width}x{film.height} "
            f"({result.figure('worst_frame_psnr'):.2f} the worst), {result.n_bytes:,} bytes "
            f"({result.bits_per_pixel:.3f} bits per pixel), {result.state.step} steps in {result.seconds:.1f} s\n"
            f"fieldforge render {result.path} -o {output.with_suffix('.mp4').name}   gives a film back"
        )
        return line if report is None else f"{line}\n{report}: frames of source and fit, error"

    return run_fit(options, job, Path(options.clip), output, options.psnr, describe)
