"""INT and NINT: which pixels a fit learns from, and when they are chosen."""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from fieldforge.apps.fit.audio.job import AudioJob
from fieldforge.apps.fit.image.job import ImageFit, ImageJob, fit
from fieldforge.apps.fit.job import Plan
from fieldforge.apps.fit.options import FitOptions
from fieldforge.apps.fit.samplers import PixelDraw
from fieldforge.apps.fit.selections.base import Pool, SelectedDraw
from fieldforge.apps.fit.selections.teaching import INT, NINT, is_due, largest, ratio_at
from fieldforge.apps.fit.tangent import jacobian
from fieldforge.apps.images import Picture
from fieldforge.apps.sounds import Clip
from fieldforge.registry import ConfigError

WIDTH, HEIGHT = 13, 11
N = WIDTH * HEIGHT


@pytest.fixture
def picture() -> Picture:
    return Picture.from_array(np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8))


SMALL = ["network.n_neurons=16", "network.n_hidden_layers=2", f"fit.batch_size={N}"]


def quick(picture: Picture, selection: dict | None, **plan: object) -> ImageFit:
    config = {} if selection is None else {"selection": selection}
    options: dict = {"preset": "siren", "overrides": SMALL, "progress": "quiet", "steps": 12} | plan
    return fit(picture, config=config, **options)


def drawn(picture: Picture, selection: INT | NINT, *, n_steps: int = 40, batch_size: int = N) -> SelectedDraw:
    options = FitOptions(n_steps=n_steps, batch_size=batch_size)
    return SelectedDraw(PixelDraw(picture, options, seed=1), _field(picture), selection, n_steps)


def _field(picture: Picture):
    job = ImageJob(picture)
    config = job.preset("siren")
    config["network"] |= {"n_neurons": 8, "n_hidden_layers": 2}
    return job.make_field(config, 0)


def numbers_of(points: torch.Tensor) -> list[int]:
    return ((points[:, 1] - 0.5) * WIDTH + points[:, 0] - 0.5).long().tolist()


def test_shares_begin_and_end_as_released() -> None:
    ends = {ratio: (ratio_at(ratio, 0.2, 0, 1000), ratio_at(ratio, 0.2, 999, 1000))
            for ratio in ("constant", "linear", "step", "cosine", "reverse_cosine")}  # fmt: skip
    assert ends["constant"] == (0.2, 0.2)
    assert ends["step"] == pytest.approx((0.2, 0.92))
    assert ends["linear"] == pytest.approx((0.2, 1.0), abs=2e-3)
    assert ends["cosine"] == pytest.approx((0.2, 1.0), abs=2e-3)
    assert ends["reverse_cosine"] == pytest.approx((1.0, 0.2), abs=2e-3)
    mean = np.mean([ratio_at("step", 0.2, step, 1000) for step in range(1000)])
    assert mean == pytest.approx(0.56, abs=1e-3)


def test_choices_become_rarer() -> None:
    """Of 5000 steps, 1250 in the first quarter and 750/10 + 750/20 + ... = about 171 more."""
    due = [step for step in range(5000) if is_due("incremental", step, 5000)]
    assert due[:1250] == list(range(1250))
    assert 1415 <= len(due) <= 1430
    assert np.diff(due).max() <= 50
    assert all(is_due("dense", step, 7) for step in range(7))
    short = np.diff([step for step in range(500) if is_due("incremental", step, 500)])
    assert short.max() <= 5  # in proportion
    backward = [step for step in range(5000) if is_due("decremental", step, 5000)]
    assert backward[0] == 0
    assert backward[-1250:] == list(range(3750, 5000))


@pytest.mark.parametrize("n_steps", [1, 2, 3, 7])
@pytest.mark.parametrize("refresh", ["dense", "incremental", "decremental"])
def test_short_fits_choose_too(n_steps: int, refresh: str) -> None:
    assert is_due(refresh, 0, n_steps)


def test_the_worst_pixels_are_chosen(picture: Picture) -> None:
    draw = drawn(picture, INT(start=0.2, ratio="constant", refresh="dense"))
    errors = Pool(draw.whole, draw.field, 0).errors()
    points, values = draw(0)
    chosen = numbers_of(points)
    assert len(chosen) == round(0.2 * N)
    assert set(chosen) == set(errors.topk(len(chosen)).indices.tolist())
    torch.testing.assert_close(values, picture.values(torch.tensor(chosen)))


def test_between_two_choices_all_chosen_pixels_are_seen_equally(picture: Picture) -> None:
    draw = drawn(picture, INT(start=0.5, ratio="constant", interval=10), n_steps=400, batch_size=36)
    seen: list[int] = []
    for step in range(100, 108):  # one interval of ten
        points, _ = draw(step)
        assert len(points) == round(36 * 0.5)
        seen += numbers_of(points)
    assert draw.n_looks == 1
    times = np.bincount(seen, minlength=N)
    assert times[times > 0].max() - times[times > 0].min() <= 1
    assert (times > 0).sum() == round(0.5 * N)


def test_random_pixels_follow_from_seed_and_step(picture: Picture) -> None:
    first, second = (drawn(picture, INT(mode="random", refresh="dense")) for _ in range(2))
    second(0)
    assert numbers_of(first(3)[0]) == numbers_of(second(3)[0])
    assert numbers_of(first(4)[0]) != numbers_of(second(3)[0])
    mixed = drawn(picture, INT(mode="mix", random_share=0.5, ratio="constant"))
    worst = set(largest(Pool(mixed.whole, mixed.field, 0).errors(), 14).tolist())
    chosen = numbers_of(mixed(0)[0])
    assert len(chosen) == round(0.2 * N)
    assert worst <= set(chosen)


def test_all_pixels_are_the_plain_fit_bit_for_bit(picture: Picture) -> None:
    overrides = [*SMALL[:2], "fit.batch_size=64", "fit.jitter=0.25"]
    plain = quick(picture, None, overrides=overrides)
    taught = quick(picture, {"otype": "INT", "start": 1.0}, overrides=overrides)
    for one, other in zip(plain.field.parameters(), taught.field.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("selection", [{"otype": "INT", "start": 0.3}, {"otype": "NINT", "decay": 30.0}])
def test_a_fit_that_was_interrupted_chooses_as_if_it_was_not(selection: dict, picture: Picture, tmp_path: Path) -> None:
    """Stopped between two choices: the pixels chosen are in the checkpoint."""
    n_steps, stop = 24, 14
    whole = quick(picture, selection, steps=n_steps)

    def interrupt(step: int, per_sample: torch.Tensor) -> None:
        if step == stop:
            os.kill(os.getpid(), signal.SIGTERM)

    path = tmp_path / "a.field"
    stopped = quick(picture, selection, steps=n_steps, output=path, hooks=[interrupt])
    assert (stopped.state.stopped_by, stopped.state.step < n_steps) == ("signal", True)
    resumed = quick(picture, selection, steps=n_steps, output=path, resume=True)
    assert resumed.state.step == n_steps
    for one, other in zip(whole.field.parameters(), resumed.field.parameters(), strict=True):
        assert torch.equal(one, other)


def test_kernel_scores_are_those_of_the_kernel(picture: Picture) -> None:
    draw = drawn(picture, NINT())
    pool = Pool(draw.whole, draw.field, 0)
    points, values = pool.strip(0)
    residual = (draw.field.color(points) - values).detach().double()
    rows = torch.stack([jacobian(draw.field, points, lambda said, _, c=c: said[c]).double() for c in range(3)])
    moved = torch.einsum("cnp,p->nc", rows, torch.einsum("cnp,nc->p", rows, residual))
    torch.testing.assert_close(pool.tangent_errors().double(), moved.norm(dim=-1), rtol=1e-3, atol=1e-4)
    assert len(draw(0)[0]) == round(0.2 * N)


@pytest.mark.parametrize("selection", [{"otype": "INT", "start": 0.2, "ratio": "constant"}, {"otype": "NINT"}])
def test_of_a_sound_the_worst_samples_are_chosen(selection: dict) -> None:
    """Zhang et al. 2024 fit sounds too; a click in silence is what is learnt from."""
    samples = np.zeros((200, 2), np.float32)
    samples[50:60] = 0.9
    job, sizes = AudioJob(Clip.from_array(samples, 8000)), [*SMALL[:2], "fit.batch_size=200"]
    config, _ = job.run_config(Plan(preset="siren", config={"selection": selection}, overrides=sizes, steps=3))
    fitted = job.make_field(config, 0)
    with job.training(fitted, config, 0, ()) as training:
        draw = training.advance.draw  # type: ignore[attr-defined]
        points, values = draw(0)
        training.advance(0, 1.0)
    assert len(points) == round(0.2 * 200)
    numbers = (points[:, 0] * 8000 - 0.5).round().long()
    torch.testing.assert_close(values, torch.from_numpy(samples)[numbers])
    if selection["otype"] == "INT":
        assert set(range(50, 60)) <= set(numbers.tolist())


def test_bad_settings_name_key_and_way_out(picture: Picture) -> None:
    for selection, message in (
        ({"otype": "INT", "mode": "best"}, "selection.mode: "),
        ({"otype": "INT", "start": 0.0}, "selection.start: "),
        ({"otype": "INTT"}, "selection.otype: no selection is called 'INTT'"),
    ):
        with pytest.raises(ConfigError, match=message):
            quick(picture, selection)


def test_nan_is_among_the_worst() -> None:
    assert largest(torch.tensor([1.0, math.nan, 3.0, 3.0]), 2).tolist() == [1, 2]
