"""``fieldforge fit audio``."""

from __future__ import annotations

import argparse
from pathlib import Path

from fieldforge.apps.fit.audio.job import AudioFit, AudioJob
from fieldforge.apps.fit.command import report_of, run_fit


def fit_audio_command(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    output: Path = options.output or Path(options.clip).with_suffix(".field")
    report = report_of(options, output)
    job = AudioJob(options.clip, start=options.start or 0.0, stop=options.stop, report=report)

    def describe(result: AudioFit) -> str:
        quality = "a silent clip" if job.clip.peak == 0 else f"SNR {result.snr:.2f} dB"
        distance = result.figures.get("log_spectral_distance")
        line = (
            f"{result.path}: {quality}{'' if distance is None else f', spectrograms {distance:.2f} dB apart'}, "
            f"{result.n_bytes:,} bytes ({result.kilobits_per_second:.0f} kbit/s), {result.state.step} steps in "
            f"{result.seconds:.1f} s\nfieldforge render {result.path} -o {output.with_suffix('.wav').name}   gives a "
            "sound back"
        )
        return line if report is None else f"{line}\n{report}: waveform, spectrograms, error"

    return run_fit(options, job, Path(options.clip), output, options.snr, describe)
