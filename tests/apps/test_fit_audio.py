"""Fitting a sound: quality, the native step, what cannot be fitted, and the way through the command line."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from fieldforge.apps.cli import main
from fieldforge.apps.fit.audio.job import AudioFit, AudioJob, fit_audio
from fieldforge.apps.fit.audio.presets import PRESETS, preset
from fieldforge.apps.fit.fused import FusedStep
from fieldforge.apps.fit.job import Plan
from fieldforge.apps.fit.loop import PlainStep
from fieldforge.apps.images import read_image
from fieldforge.apps.render.audio import sample
from fieldforge.apps.sounds import Clip, read_sound, write_wav
from fieldforge.apps.sounds.quality import snr
from fieldforge.backends import use_backend
from fieldforge.fields.file import load_field
from fieldforge.kernels import cpu_door
from fieldforge.registry import ConfigError

SECONDS = np.arange(3000) / 8000
MELODY = (0.3 * np.sin(2 * np.pi * 440 * SECONDS) + 0.1 * np.sin(2 * np.pi * 1300 * SECONDS**1.5))[:, None]


@pytest.fixture(scope="module")
def clip() -> Clip:
    """Two tones, stereo, 0.375 s."""
    return Clip.from_array(np.concatenate([MELODY, -0.5 * MELODY], 1), 8000)


def quick(source: Clip, **options: object) -> AudioFit:
    return fit_audio(source, **{"steps": 60, "progress": "quiet", "preset": "fast", **options})  # type: ignore[arg-type]


def test_a_melody_is_fitted_well_and_measured_as_stored(clip: Clip, tmp_path: Path) -> None:
    path = tmp_path / "x.field"
    result = quick(clip, steps=300, output=path)
    assert result.snr > 25
    field, metadata = load_field(path)
    heard = sample(field)
    assert snr(clip.samples, heard) == pytest.approx(result.snr, abs=1e-3)
    assert metadata["metrics"]["snr"] == pytest.approx(result.snr, abs=1e-3)
    error = np.square(clip.samples - heard, dtype=np.float64).mean()
    assert result.figure("psnr") == pytest.approx(10 * math.log10(clip.peak**2 / error), abs=1e-3)
    assert sample(field, 22050).shape == (round(0.375 * 22050), 2)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_learns(name: str, clip: Clip) -> None:
    smaller = ["network.n_neurons=32", "fit.batch_size=512"]
    losses = []
    with AudioJob(clip).training(*_untrained(clip, name, smaller)) as (advance, _, _):
        losses = [advance(step, 10.0 if name in ("siren", "spder", "finer") else 1.0)[0] for step in range(40)]
    assert min(losses[-5:]) < 0.9 * losses[0]


def _untrained(clip: Clip, name: str, overrides: list[str]) -> tuple:  # type: ignore[type-arg]
    job = AudioJob(clip)
    config, _ = job.run_config(Plan(preset=name, overrides=overrides))
    return job.make_field(config, 0), config, 0, ()


@pytest.mark.skipif(cpu_door.missing() is not None, reason=f"no native kernels: {cpu_door.missing()}")
@pytest.mark.parametrize("name", ["fast", "siren"])
def test_the_native_step_is_the_references(name: str, clip: Clip) -> None:
    ends = []
    for backend, kind in (("auto", FusedStep), ("reference", PlainStep)):
        field, config, seed, hooks = _untrained(clip, name, ["network.n_neurons=32", "optimizer.epsilon=1e-6"])
        with use_backend(backend), AudioJob(clip).training(field, config, seed, hooks) as (advance, _, reason):
            assert isinstance(advance, kind), reason
            losses = [advance(step, 1.0)[0] for step in range(4)]
        ends.append((losses, torch.cat([parameter.detach().flatten() for parameter in field.parameters()])))
    np.testing.assert_allclose(*(losses for losses, _ in ends), rtol=1e-3)
    assert torch.nn.functional.cosine_similarity(*(end for _, end in ends), dim=0) > 0.9999


def test_stopping_at_a_quality(clip: Clip) -> None:
    result = quick(clip, steps=400, snr=10.0)
    assert result.state.stopped_by == "target"
    assert result.snr > 9
    assert result.state.step < 400


def test_a_silent_clip_is_said_to_have_no_snr() -> None:
    result = quick(Clip.from_array(np.zeros(500), 8000), steps=5)
    assert set(result.figures.values()) == {None}
    assert math.isnan(result.snr)
    assert any("silent" in note for note in result.notes)
    with pytest.raises(ValueError, match="snr: the clip is silent"):
        quick(Clip.from_array(np.zeros(500), 8000), snr=20.0)


def test_presets_scale_with_the_clip() -> None:
    short, long = preset("balanced", 40_000), preset("balanced", 400_000)
    assert long["fit"]["n_steps"] > 9 * short["fit"]["n_steps"]
    for config, n in ((short, 40_000), (long, 400_000)):
        finest = config["encoding"]["base_resolution"] * config["encoding"]["per_level_scale"] ** 5
        assert finest == pytest.approx(n, rel=1e-3)


def test_bad_configurations_name_key_and_way_out(clip: Clip) -> None:
    with pytest.raises(ConfigError, match=r"fit\.jitter: no such key"):
        quick(clip, overrides=["fit.jitter=0.5"])
    with pytest.raises(ValueError, match=r"preset: expected one of fast, .*did you mean siren"):
        quick(clip, preset="sirenn")


def test_fit_info_view_render_evaluate(clip: Clip, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, field, out = tmp_path / "x.wav", tmp_path / "x.field", tmp_path / "y.wav"
    write_wav(source, clip.samples, 8000, bits=24)
    assert main(["fit", "audio", str(source), "--from", "0.1", "--preset", "fast", "--steps", "150", "--quiet"]) == 0
    assert read_image(tmp_path / "x.report.png").width > 1000
    assert main(["evaluate", str(field), str(source), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["snr"] == pytest.approx(load_field(field)[1]["metrics"]["snr"], abs=1e-3)
    assert main(["render", str(field), "-o", str(out), "--rate", "16000", "--bits", "32"]) == 0
    heard = read_sound(out)
    assert (heard.sample_rate, heard.n_samples, heard.n_channels) == (16000, 4400, 2)
    assert main(["info", str(field)]) == 0
    assert main(["view", str(field), "--width", "40"]) == 0
    assert main(["view", str(source), "--width", "40"]) == 0
    said = capsys.readouterr().out
    assert "sample_rate 8000" in said
    assert "0.275 s, peak" in said


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["fit", "audio", "{folder}/none.wav"], 1, "there is no such file"),
        (["fit", "audio", "{folder}/not.wav"], 1, "is not a sound that is read here"),
        (["fit", "audio", "{folder}/x.wav", "--from", "2", "--to", "1"], 1, "stop: expected seconds after the start"),
        (["render", "{folder}/x.field", "-o", "{folder}/x.png"], 2, "a sound goes to a .wav file"),
        (["render", "{folder}/x.field", "-o", "{folder}/y.wav", "--bits", "8"], 2, "sounds have 16, 24 or 32"),
        (["render", "{folder}/x.field", "-o", "{folder}/y.wav", "--size", "4x4"], 2, "which has no such option"),
        (["render", "{folder}/x.field", "-o", "{folder}/y.wav", "--rate", "999999999999"], 2, "too many"),
        (["evaluate", "{folder}/x.field", "{folder}/short.wav"], 1, "give the clip it was fitted to"),
    ],
)
def test_mistakes_are_a_sentence(
    arguments: list[str], code: int, message: str, clip: Clip, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_wav(tmp_path / "x.wav", clip.samples, 8000)
    write_wav(tmp_path / "short.wav", clip.samples[:100], 8000)
    (tmp_path / "not.wav").write_text("once upon a time, in a land far away, there was a text")
    quick(clip, steps=1, output=tmp_path / "x.field")
    assert main([one.format(folder=tmp_path) for one in arguments]) == code
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.slow
def test_a_cello_is_fitted_to_35_decibels_in_half_a_minute(shared_data: Path) -> None:
    assert fit_audio(shared_data / "audio/gt_bach.wav", progress="quiet").snr > 35
