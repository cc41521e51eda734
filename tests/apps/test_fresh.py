"""FreSh: settings chosen by the spectra of untrained networks."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from reference import fresh as loops

from fieldforge.apps.cli import main
from fieldforge.apps.fit.audio.job import AudioJob
from fieldforge.apps.fit.image.job import ImageJob, fit
from fieldforge.apps.fit.job import Plan
from fieldforge.apps.fit.scene.job import SceneJob
from fieldforge.apps.fit.shape.job import ShapeJob
from fieldforge.apps.fit.slices import Slice
from fieldforge.apps.fit.tune.choose import choose_by_spectrum
from fieldforge.apps.fit.tune.family import pilot
from fieldforge.apps.fit.tune.settings import setting_of
from fieldforge.apps.fit.tune.spectra import spectrum, wasserstein
from fieldforge.apps.fit.video.job import VideoJob
from fieldforge.apps.images import write_image
from fieldforge.apps.shapes.read import Mesh
from fieldforge.apps.sounds import Clip
from fieldforge.apps.videos import Film
from fieldforge.fields.file import load_field
from fieldforge.registry import ConfigError


def wave(n: int, i: int, j: int) -> np.ndarray:
    """A picture of i cycles down and j across, (n, n, 1)."""
    y, x = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
    return np.cos(2 * np.pi * (i * y + j * x) / n)[..., None]


def noise(n: int, octave: int, seed: int = 0) -> np.ndarray:
    """A photo-like picture: waves of random direction below `octave` cycles, amplitude 1/f."""
    random = np.random.default_rng(seed)
    parts = [
        wave(n, i, j) * random.normal() / math.hypot(i, j) for i in range(1, octave) for j in range(-octave, octave)
    ]
    picture = sum(parts)
    return (0.5 + 0.15 * picture / picture.std()).clip(0, 1)


@pytest.mark.parametrize("n", [1, 2, 3, 15, 16])
@pytest.mark.parametrize("form", ["classic", "folded"])
def test_spectra_are_those_of_loops(n: int, form: str) -> None:
    values = np.random.default_rng(n).normal(size=(n, n, 2))
    for n_bins in (1, 5, 40):
        np.testing.assert_allclose(spectrum(values, n_bins, form), loops.spectrum(values, n_bins, form), atol=1e-12)


def test_one_axis_counts_its_own_frequencies() -> None:
    sound = np.cos(2 * np.pi * 5 * np.arange(40) / 40)[:, None]
    for form in ("classic", "folded"):
        assert spectrum(sound, 8, form).argmax() + 1 == 5


def test_the_classic_spectrum_sees_one_diagonal_and_the_folded_both() -> None:
    """As released, a wave (3, -4) on 64 pixels falls into bin 63, and with fewer bins nowhere."""
    assert spectrum(wave(64, 3, 4), 63).argmax() + 1 == 7
    assert spectrum(wave(64, 3, -4), 63).argmax() + 1 == 63
    assert spectrum(wave(64, 3, -4), 32, "classic").max() < 0.5 or spectrum(wave(64, 3, -4), 32).sum() == 0
    for sign in (4, -4):
        assert spectrum(wave(64, 3, sign), 32, "folded").argmax() + 1 == 7


def test_spectra_know_neither_size_nor_mean_of_a_signal() -> None:
    values = noise(32, 6)
    np.testing.assert_allclose(spectrum(5 + 3 * values, 16), spectrum(values, 16), atol=1e-12)
    assert spectrum(np.full((8, 8, 1), 0.3), 4).sum() == 0


def test_distances_are_the_work_of_moving_one_to_the_other() -> None:
    random = np.random.default_rng(0)
    p, q = random.random(40), random.random(40)
    assert math.isclose(wasserstein(p, q), loops.wasserstein(p, q), rel_tol=1e-9)
    assert wasserstein(p, 7 * p) < 1e-12
    assert wasserstein(p, np.zeros(40)) == math.inf


def waves_of(frequency: int, n: int = 64) -> list[Slice]:
    center = (torch.arange(n) + 0.5) / n
    points = torch.stack(torch.meshgrid(center, center, indexing="ij"), -1)
    return [Slice(points, torch.cos(2 * torch.pi * frequency * points.sum(-1, keepdim=True)))]


def random_waves(frequency: int, seed: int):
    """An 'untrained network' with one frequency and a random phase."""
    phase = torch.rand((), generator=torch.Generator().manual_seed(seed))
    return lambda points: torch.cos(2 * torch.pi * (frequency * points.sum(-1, keepdim=True) + phase))


def test_the_nearest_candidate_is_chosen() -> None:
    choice = choose_by_spectrum(random_waves, [1, 3, 6, 12], waves_of(5), n_bins=32)
    assert choice.best == 2
    assert [one.mean > choice.distances[2].mean for one in choice.distances] == [True, True, False, True]


def test_leaving_candidates_out_saves_passes_and_not_the_choice() -> None:
    quick = choose_by_spectrum(random_waves, [1, 3, 6, 12], waves_of(5), n_bins=32)
    full = choose_by_spectrum(random_waves, [1, 3, 6, 12], waves_of(5), n_bins=32, n_first=None)
    assert (quick.best, full.n_passes) == (full.best, 40)
    assert quick.n_passes < full.n_passes
    assert all(one.n_init == 10 for one in full.distances)


def test_a_setting_that_is_as_near_is_kept() -> None:
    """Of candidates that differ by chance alone the one that stands already stays; one that is clearly nearer wins."""

    def shaky(frequency: int, seed: int):
        jitter = int(torch.randint(-2, 3, (), generator=torch.Generator().manual_seed(seed + 31 * frequency)))
        return random_waves(frequency + jitter, seed)

    for present in (0, 1):
        assert (
            choose_by_spectrum(shaky, [9, 10], waves_of(10), n_bins=32, n_first=None, present=present).best == present
        )
    assert choose_by_spectrum(shaky, [10, 25], waves_of(10), n_bins=32, present=1).best == 0


def test_signals_and_candidates_without_a_spectrum_are_refused() -> None:
    flat = [Slice(waves_of(1)[0].points, torch.zeros(64, 64, 1))]
    with pytest.raises(ValueError, match="same everywhere"):
        choose_by_spectrum(random_waves, [1], flat)
    with pytest.raises(ValueError, match="constant or not finite"):
        choose_by_spectrum(lambda value, seed: lambda points: points[..., :1] * math.nan, [1], waves_of(2))
    with pytest.raises(ValueError, match="candidates: expected 1 to"):
        choose_by_spectrum(random_waves, [], waves_of(2))


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"encoding": "Identity", "network": {"otype": "MLP", "activation": "Sine"}}, "network.activation.first_omega"),
        ({"encoding": "Identity", "network": {"otype": "MLP", "activation": {"otype": "FINER"}}},
         "network.activation.first_bias_scale"),
        ({"encoding": {"otype": "RandomFourier"}, "network": "MLP"}, "encoding.sigma"),
    ],
)  # fmt: skip
def test_settings_are_found_and_put(config: dict, key: str) -> None:
    setting = setting_of(config, 6)
    assert setting.key == key
    assert setting.present in setting.values
    changed = setting.put(config, setting.values[0])
    assert setting_of(changed, 6).present == pytest.approx(setting.values[0], rel=1e-4)


def test_a_configuration_without_such_a_setting_is_refused() -> None:
    with pytest.raises(ConfigError, match="no setting that fresh knows"):
        setting_of({"encoding": "Identity", "network": {"otype": "MLP", "activation": "ReLU"}})


@pytest.mark.parametrize("encoding", ["Grid", "HashGrid", "DenseGrid", "TimeGrid"])
def test_a_grid_is_not_chosen_by_what_it_says_untrained(encoding: str) -> None:
    with pytest.raises(ConfigError, match=r"say nothing of what they can hold.*--encoding auto"):
        setting_of({"encoding": {"otype": encoding}, "network": "MLP"})


def test_a_sound_of_many_samples_may_need_high_frequencies() -> None:
    config = {"encoding": "Identity", "network": {"otype": "MLP", "activation": "Sine"}}
    assert max(setting_of(config, 6).values) == 300
    assert max(setting_of(config, 6, n_samples=20_000).values) == pytest.approx(math.pi * 10_000, rel=1e-4)


SMALL = ["network.n_neurons=32", "network.n_hidden_layers=2", "fit.batch_size=1024"]


def test_a_finer_picture_gets_a_higher_omega() -> None:
    chosen = []
    for octave in (3, 12):
        job = ImageJob((noise(32, octave) * 255).astype(np.uint8))
        config, notices = job.run_config(Plan(preset="siren", tune="fresh", steps=300, overrides=SMALL))
        chosen.append(config["network"]["activation"]["first_omega"])
        assert any("fresh: first omega" in one for one in notices)
    assert chosen[0] < chosen[1]


def test_a_choice_is_the_seed_s_and_leaves_random_numbers_alone() -> None:
    job = ImageJob((noise(40, 6)[:, :33] * 255).astype(np.uint8))  # not square
    plan = Plan(preset="ffn", tune="fresh", steps=50, overrides=SMALL, seed=3)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, second = job.run_config(plan), job.run_config(plan)
    assert first == second
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(("tone", "lowest", "highest"), [(40, 20, 300), (1200, 1000, 8000)])
def test_a_higher_tone_gets_a_higher_omega(tone: int, lowest: float, highest: float) -> None:
    """One axis of 5000 samples with so many cycles: an untrained layer has up to omega / pi."""
    sound = np.sin(2 * np.pi * tone * np.arange(5000) / 5000)[:, None]
    config, notices = AudioJob(Clip.from_array(sound, 8000)).run_config(
        Plan(preset="siren", tune="fresh", steps=2000, overrides=SMALL)
    )
    assert lowest < config["network"]["activation"]["first_omega"] < highest
    assert any(one.startswith("fresh: first omega") for one in notices)


def test_stretches_of_a_long_sound_keep_its_rate() -> None:
    clip = Clip.from_array(np.arange(1000) / 1000, 500)
    stretches = AudioJob(clip).slices(100)
    assert [len(one.values) for one in stretches] == [100] * 4
    for one in stretches:  # the value says which sample it is
        assert torch.allclose(one.points[:, 0], (one.values[:, 0].double() * 1000 + 0.5) / 500, rtol=0, atol=1e-4)
    assert len(AudioJob(clip).slices(1024)) == 1


def test_frames_of_a_film_are_chosen_by() -> None:
    job = VideoJob(Film.from_array(np.random.default_rng(0).random((3, 24, 40, 1)), 10.0))
    assert job.slices(64)[0].values.shape == (24, 24, 1)
    times = [float(one.points[0, 0, 2]) for one in job.slices(16)]
    assert times == sorted(set(times))
    assert all(min(abs(t - (i + 0.5) / 10) for i in range(3)) < 1e-6 for t in times)
    chosen = []
    for octave in (3, 10):
        film = Film.from_array(noise(32, octave)[None].repeat(3, 0), 10.0)
        config, _ = VideoJob(film).run_config(Plan(preset="siren", tune="fresh", steps=200, overrides=SMALL))
        chosen.append(config["network"]["activation"]["first_omega"])
    assert chosen[0] < chosen[1]


def test_planes_of_a_shape_are_chosen_by() -> None:
    """The distance to a ball of a quarter is smooth, so a lower omega than the preset's comes nearest."""
    made = trimesh.creation.icosphere(2)
    plan = Plan(preset="siren", tune="fresh", steps=100, overrides=[*SMALL, "fit.sphere=0"])
    config, notices = ShapeJob(Mesh(np.asarray(made.vertices), np.asarray(made.faces))).run_config(plan)
    assert any(one.startswith("fresh: first omega") for one in notices)
    assert config["network"]["activation"]["first_omega"] <= 30


def test_a_scene_says_why_it_is_not_tuned() -> None:
    with pytest.raises(ConfigError, match="known along rays"):
        SceneJob.slices(object.__new__(SceneJob), 32)


def test_the_choice_stands_in_the_run_file_and_the_field(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo, out = tmp_path / "a.png", tmp_path / "a.field"
    write_image(photo, noise(32, 5))
    options = ["fit", "image", str(photo), "--preset", "siren", "--tune", "fresh", "--steps", "3", "--no-report"]
    options += [word for one in SMALL for word in ("--set", one)]
    assert main([*options, "--print-config"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("# fresh: first omega")
    assert main([*options, "-o", str(out), "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert any("fresh: first omega" in one for one in events[-1]["notes"])
    field, header = load_field(out)
    tuned = header["run"]["tuned"]
    assert tuned["chosen"] == field.network.activation.first_omega
    assert f"first_omega = {tuned['chosen']}" in printed
    assert len(tuned["candidates"]) >= 20


def test_equal_fits_leave_equal_files(tmp_path: Path) -> None:
    """No second of the clock stands in the header."""
    picture = (noise(24, 5) * 255).astype(np.uint8)
    for name in ("a", "b"):
        fit(picture, output=tmp_path / name, preset="siren", steps=2, tune="fresh", overrides=SMALL, progress="quiet")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.slow
def test_auto_takes_the_family_that_learns_best() -> None:
    picture = (noise(24, 5) * 255).astype(np.uint8)
    result = fit(picture, steps=20, tune="auto", overrides=["fit.batch_size=256"], progress="quiet")
    assert result.tuned is not None
    quality = {family: one["quality"] for family, one in result.tuned["families"].items()}
    assert set(quality) == {"siren", "ffn", "finer", "grid"}
    assert result.tuned["chosen"] == max(quality, key=lambda family: quality[family])


def test_a_pilot_is_a_whole_training_with_its_schedule_squeezed() -> None:
    picture = (noise(24, 5) * 255).astype(np.uint8)
    plan = Plan(preset="siren", steps=1000, overrides=[*SMALL, "fit.storage=float32"])
    config, _ = ImageJob(picture).run_config(plan)
    whole = fit(picture, config=config, steps=30, progress="quiet")
    again = pilot(ImageJob(picture), config, 0, 30)
    assert again == pytest.approx(whole.psnr, abs=0.02)


def test_auto_does_not_fight_over_the_encoding() -> None:
    with pytest.raises(ConfigError, match="auto chooses encoding and network"):
        fit(np.zeros((8, 8), np.uint8), tune="auto", overrides=["encoding.n_levels=2"], progress="quiet")


def test_one_colour_has_no_spectrum_to_choose_by() -> None:
    with pytest.raises(ValueError, match="same everywhere"):
        fit(np.full((16, 16), 7, np.uint8), preset="siren", tune="fresh", progress="quiet")
