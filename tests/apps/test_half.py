"""Half precision, guarded: what overflows is not learned from, and what is learned is what float32 learns."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scene_files
import torch
from torch import Tensor, nn

from fieldforge.apps.cli import main
from fieldforge.apps.fit.half import Guarded, Half, LossScale
from fieldforge.apps.fit.image.job import fit
from fieldforge.apps.fit.loop import PlainStep
from fieldforge.apps.fit.losses.squared import L2
from fieldforge.apps.fit.optimizers.adam import Adam
from fieldforge.apps.fit.optimizers.base import Parameters


def one(value: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor([value]))


def test_the_scale_leaves_gradients_as_they_are() -> None:
    weight, scale = one(3.0), LossScale(2.0**12)
    scale.up((weight**2).sum()).backward()
    assert scale.take_off([weight])
    assert weight.grad is not None
    assert weight.grad.item() == 6.0


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_a_gradient_that_is_not_finite_is_forgotten_and_halves_the_scale(bad: float) -> None:
    good, weight, scale = one(1.0), one(1.0), LossScale(64.0)
    good.grad, weight.grad = torch.ones(1), torch.tensor([bad])
    assert not scale.take_off([good, weight])
    assert good.grad is not None
    assert (good.grad.item(), scale.scale, scale.n_skipped) == (0.0, 32.0, 1)


def test_the_scale_grows_after_good_steps_and_stays_in_its_bounds() -> None:
    weight, scale = one(1.0), LossScale(2.0, patience=3, least=1.0, most=4.0)
    seen = []
    for _ in range(9):
        weight.grad = torch.ones(1)
        scale.take_off([weight])
        seen.append(scale.scale)
    assert seen == [2, 2, 4, 4, 4, 4, 4, 4, 4]
    for _ in range(5):
        weight.grad = torch.tensor([math.nan])
        scale.take_off([weight])
    assert scale.scale == 1.0
    with pytest.raises(ValueError, match="patience: expected"):
        LossScale(patience=0)


def make(gain: float = 1.0, dtype: str = "float16", scale: LossScale | None = None) -> tuple[nn.Module, PlainStep]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1))
    generator = torch.Generator().manual_seed(0)

    def draw(step: int) -> tuple[Tensor, Tensor]:
        x = torch.rand(64, 2, generator=generator)
        return x, x.sum(-1, keepdim=True)

    half = Half(dtype, torch.device("cpu"), scale)
    optimizer = half.guarded(Adam(Parameters(matrix=list(net.parameters())), learning_rate=1e-2))
    return net, PlainStep(half.query(lambda x: gain * net(x)), draw, L2(), optimizer)


def guard(step: PlainStep) -> LossScale:
    assert isinstance(step.optimizer, Guarded)
    return step.optimizer.scale


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_fit_in_half_precision_converges(dtype: str) -> None:
    net, step = make(dtype=dtype)
    losses = [step(i, 1.0)[0] for i in range(120)]
    assert losses[-1] < 0.05 * losses[0]
    assert all(parameter.dtype == torch.float32 for parameter in net.parameters())


def test_networks_multiply_in_half_precision_and_answer_in_float32() -> None:
    seen: list[torch.dtype] = []
    net = nn.Linear(2, 1)

    def ask(x: Tensor) -> Tensor:
        out: Tensor = net(x)
        seen.append(out.dtype)
        return out

    for precision in ("float32", "float16", "bfloat16"):
        assert Half(precision, torch.device("cpu")).query(ask)(torch.rand(3, 2)).dtype == torch.float32
    assert seen == [torch.float32, torch.float16, torch.bfloat16]


def test_the_scale_finds_its_size_and_steps_that_overflow_are_not_made() -> None:
    """Gradients of 64 samples times 2^20 do not fit into float16; those times 2^10 do."""
    net, step = make(scale=LossScale(2.0**24))
    before = [parameter.detach().clone() for parameter in net.parameters()]
    step(0, 1.0)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    scale = guard(step)
    assert (scale.n_skipped, scale.scale, step.optimizer.n_steps_done) == (1, 2.0**23, 0)
    for i in range(1, 40):
        step(i, 1.0)
    assert 2.0**10 < scale.scale < 2.0**24
    assert step.optimizer.n_steps_done == 40 - scale.n_skipped > 20


def test_a_loss_that_is_not_finite_moves_nothing() -> None:
    net, step = make(gain=math.inf)
    before = [parameter.detach().clone() for parameter in net.parameters()]
    loss, _ = step(0, 1.0)
    assert not math.isfinite(loss)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_the_scale_is_part_of_the_state() -> None:
    _, one = make(scale=LossScale(2.0**24))
    for i in range(3):
        one(i, 1.0)
    _, other = make(scale=LossScale(8.0))
    other.optimizer.load_state_tensors({name: t.clone() for name, t in one.optimizer.state_tensors().items()})
    assert (guard(other).scale, guard(other).n_skipped) == (guard(one).scale, guard(one).n_skipped)


# ---- whole fits


PIXELS = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
SMALL = ["encoding.n_levels=2", "encoding.log2_hashmap_size=8", "network.n_neurons=16", "fit.batch_size=64"]


def test_a_picture_in_half_precision_is_the_picture(tmp_path: Path) -> None:
    plain, half = (
        fit(PIXELS, steps=150, overrides=[*SMALL, f"fit.precision={precision}"], progress="quiet", seed=1)
        for precision in ("float32", "float16")
    )
    assert half.training_step == "PyTorch, as networks multiply in float16"
    assert half.psnr == pytest.approx(plain.psnr, abs=0.5)
    assert half.config["fit"]["precision"] == "float16"


def test_a_fit_that_was_stopped_goes_on_with_its_scale(tmp_path: Path) -> None:
    class Stop:
        """Ctrl-C at a step."""

        def __call__(self, step: int, per_sample_loss: Tensor) -> None:
            if step == 30:
                import signal

                signal.raise_signal(signal.SIGINT)

    plan: dict[str, Any] = {"steps": 60, "overrides": [*SMALL, "fit.precision=float16"], "progress": "quiet"}
    whole = fit(PIXELS, output=tmp_path / "whole.field", **plan)
    assert fit(PIXELS, output=tmp_path / "b.field", hooks=[Stop()], **plan).state.stopped_by == "signal"
    resumed = fit(PIXELS, output=tmp_path / "b.field", resume=True, **plan)
    assert resumed.state.step == 60
    for one, other in zip(resumed.field.parameters(), whole.field.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_scene_in_half_precision_learns(tmp_path: Path) -> None:
    from fieldforge.apps.fit.scene.job import fit_scene

    photos = scene_files.nerf_synthetic(tmp_path / "photos")
    small = [*SMALL[:3], "encoding.per_level_scale=1.6", "fit.batch_size=256", "rgb_network.n_neurons=16",
             "fit.samples_across=24", "fit.occupancy=8", "fit.precision=bfloat16"]  # fmt: skip
    result = fit_scene(photos, steps=4, overrides=small, progress="quiet")
    assert result.training_step == "PyTorch, as networks multiply in bfloat16"
    assert math.isfinite(result.psnr)


def test_precision_is_an_option_and_says_what_it_is_not_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    words = ["fit", "image", str(tmp_path / "a.png"), "-o", str(tmp_path / "a.field"), "--no-report", "--quiet"]
    words += ["--steps", "2", "--precision"]
    assert main([*words, "float16", "--print-config"]) == 0
    assert 'precision = "float16"' in capsys.readouterr().out
    assert main([*words, "float16", "--backend", "cpu"]) == 2
    assert "fit.precision: the backend cpu trains in float32, not float16" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*words, "int8"])
    assert main([*words, "float32", "--set", "fit.precision=half"]) == 0, "the option comes last"
    assert main([*words[:-1], "--set", "fit.precision=half"]) == 2
    assert "fit.precision: expected one of float32, float16, bfloat16" in capsys.readouterr().err
