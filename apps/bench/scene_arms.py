"""One arm of a comparison of scene fits: fitted, measured on the held-out views, printed, and a row of it."""

from __future__ import annotations

from pathlib import Path

from fieldforge.apps.bench.harness import Row, say
from fieldforge.apps.fit.job import Plan
from fieldforge.apps.fit.scene.job import SceneFit, SceneJob


def fit_arm(suite: str, arm: str, job: SceneJob, plan: Plan, *, downscale: int) -> tuple[SceneFit, Row]:
    """Fit and say how it went.

    Args:
        suite, arm: of the row.
        job, plan: the fit.
        downscale: what the row says of the photos' size.
    """
    result: SceneFit = job.run(plan)
    figures = {name: value for name, value in result.figures.items() if value is not None}
    sizes = {"downscale": downscale, "steps": result.state.step, "config": result.config}
    rate = result.state.step / max(result.seconds, 1e-9)
    say(f"{arm:20} PSNR {result.psnr:.2f} dB  SSIM {result.ssim:.4f}  {result.seconds:6.1f} s")
    return result, Row(suite, Path(job.scene.source).name, arm, sizes, result.seconds, 0.0, rate, quality=figures)
