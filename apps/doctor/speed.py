"""``fieldforge doctor --speed``: a training step of the default preset, natively and by the reference, side by side."""

from __future__ import annotations

import statistics

import numpy as np

from fieldforge.apps.bench.harness import one_thread, take_turns
from fieldforge.apps.fit.image.job import ImageJob, step_of
from fieldforge.apps.fit.job import Plan
from fieldforge.apps.fit.options import FitOptions
from fieldforge.apps.fit.samplers import PixelDraw
from fieldforge.apps.images import Picture
from fieldforge.backends import use_backend
from fieldforge.kernels import cpu_door


def main(*, side: int = 512, repeats: int = 5) -> int:
    """Time steps on a picture of noise and print one line; returns the exit code 0."""
    missing = cpu_door.missing()
    if missing is not None:
        print(f"training step: PyTorch, as {missing}")
        return 0
    picture = Picture.from_array(np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8))
    with one_thread():
        seconds = take_turns({name: _Steps(picture, name) for name in ("cpu", "reference")}, repeats=repeats)
    native, plain = statistics.median(seconds["cpu"]), statistics.median(seconds["reference"])
    batch_size = ImageJob(picture).run_config(Plan())[0]["fit"]["batch_size"]
    print(
        f"training step of the preset 'balanced', {batch_size} pixels: {cpu_door.description()} {1e3 * native:.1f} ms, "
        f"reference in PyTorch {1e3 * plain:.1f} ms: {plain / native:.1f} times as fast "
        f"(medians of {repeats} CPU times in turns, one thread)"
    )
    return 0


class _Steps:
    """A fit that goes one step further whenever it is called."""

    def __init__(self, picture: Picture, backend: str) -> None:
        job = ImageJob(picture)
        config, _ = job.run_config(Plan())
        self.backend, self.n_done = backend, 0
        with use_backend(backend):
            draw = PixelDraw(picture, FitOptions.of(config["fit"]), seed=0)
            self.step, _, _ = step_of(job.make_field(config, seed=0), config, draw)

    def __call__(self) -> None:
        with use_backend(self.backend):
            self.step(self.n_done, 1.0)
        self.n_done += 1
