"""Methods side by side: equal budgets, rows that say what was run, a page that needs nothing else, going on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scene_files import ball

from fieldforge.apps.cli import main
from fieldforge.apps.compare.about import ABOUT
from fieldforge.apps.compare.dead_leaves import dead_leaves
from fieldforge.apps.compare.drawn import drifting_leaves, knot, plucked
from fieldforge.apps.compare.methods import FAMILIES, METHODS, WHY_NOT, Method, expect_methods
from fieldforge.apps.compare.page import write_report
from fieldforge.apps.compare.race import FACTORS, Budget, Race
from fieldforge.apps.compare.signals import SIGNALS, ImageSignal
from fieldforge.apps.compare.size import MAX_OVER, parameters_of, resized, sized, with_rate
from fieldforge.apps.fit import loop
from fieldforge.apps.fit.audio.job import AudioJob
from fieldforge.apps.fit.image.job import ImageJob
from fieldforge.apps.fit.job import Job, Plan
from fieldforge.apps.fit.scene.job import SceneJob
from fieldforge.apps.fit.shape.job import ShapeJob
from fieldforge.apps.fit.video.job import VideoJob
from fieldforge.apps.html import Page
from fieldforge.apps.images import Picture
from fieldforge.apps.shapes.surface import Surface
from fieldforge.fields.file import load_field

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def face(tmp_path: Path) -> Path:
    """A small piece of a photo."""
    with Image.open(ROOT / "data/images/astronaut.png") as picture:
        picture.convert("RGB").crop((190, 80, 230, 112)).save(tmp_path / "face.png")
    return tmp_path / "face.png"


def compared(face: Path, *words: str) -> list[dict[str, object]]:
    assert main(["compare", str(face), "-o", str(face.parent / "out"), "--quiet", *words]) == 0
    found: list[dict[str, object]] = json.loads((face.parent / "out/rows.json").read_text())
    return found


def test_every_run_has_a_row_a_field_and_a_place_on_the_page(face: Path) -> None:
    rows = compared(face, "--methods", "siren,hashgrid", "--steps", "20", "--seeds", "2", "--params", "8k")
    assert [(row["method"], row["seed"], row["steps"]) for row in rows] == [
        ("siren", 0, 20), ("siren", 1, 20), ("hashgrid", 0, 20), ("hashgrid", 1, 20)
    ]  # fmt: skip
    assert all(row["figures"]["psnr"] > 5 for row in rows)  # type: ignore[index]
    for row in rows:
        field, metadata = load_field(face.parent / "out" / str(row["file"]))
        assert metadata["metrics"] == row["figures"]
        assert sum(parameter.numel() for parameter in field.parameters()) == row["parameters"]
    page = (face.parent / "out/index.html").read_text()
    assert "fieldforge compare" in page
    assert page.count("<img") == 2 + 1 + 2 * 2  # curves, spectra, the signal, and fit and error of both
    assert page.count('class="card"') == 1 + 2
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "<script" not in page


def test_a_race_goes_on_where_it_stopped(face: Path) -> None:
    first = compared(face, "--methods", "siren", "--steps", "5", "--params", "2k")
    written = (face.parent / "out/siren-0.field").stat().st_mtime_ns
    again = compared(face, "--methods", "siren,pe", "--steps", "5", "--params", "2k")
    assert again[0]["figures"] == first[0]["figures"]
    assert (face.parent / "out/siren-0.field").stat().st_mtime_ns == written
    compared(face, "--methods", "siren", "--steps", "6", "--params", "2k")  # another budget is another run
    assert (face.parent / "out/siren-0.field").stat().st_mtime_ns != written


def test_equal_parameters_are_equal(face: Path) -> None:
    rows = compared(face, "--methods", "siren,pe,ffn", "--steps", "1", "--params", "20k")
    for row in rows:
        assert 0.9 * 20_000 < row["parameters"] <= MAX_OVER * 20_000  # type: ignore[operator]


@pytest.mark.parametrize(("signal", "name"), [("image", "hashgrid"), ("image", "tensorf-cp"), ("image", "rbf"),
                                              ("audio", "densegrid"), ("audio", "hashgrid"), ("shape", "hashgrid"),
                                              ("video", "kplanes"), ("video", "hashgrid")])  # fmt: skip
def test_what_grows_in_leaps_is_as_large_too(signal: str, name: str, jobs: dict[str, Job[Any]]) -> None:
    """Finer keys take what a table of the next size would be too large for; a grid stays as fine as it was."""
    job, method = jobs[signal], METHODS[signal][name]
    config, _ = job.run_config(method.plan())
    found = sized(job, config, method, 60_000)
    assert 0.95 * 60_000 < parameters_of(job, found) <= MAX_OVER * 60_000
    if name == "hashgrid" and signal != "video":
        before, after = config["encoding"], found["encoding"]
        finest = [
            grid["base_resolution"] * grid["per_level_scale"] ** (grid["n_levels"] - 1) for grid in (before, after)
        ]
        assert finest[1] == pytest.approx(finest[0], rel=1e-3)


def test_an_interrupted_run_goes_on_from_where_it_was(face: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the second of two runs: the first is on the page; again, it ends as one that was not stopped."""
    words = ("--methods", "siren,pe", "--steps", "12", "--params", "2k")
    whole = compared(face, *words)
    for file in (face.parent / "out").iterdir():
        file.unlink()
    real, asked = loop.orderly_stop, list[int]()

    @contextmanager
    def stopped_in_the_second() -> Iterator[Callable[[], bool]]:
        asked.append(0)

        def is_asked() -> bool:
            asked[-1] += 1
            return len(asked) == 2 and asked[-1] > 7

        with real():
            yield is_asked

    monkeypatch.setattr(loop, "orderly_stop", stopped_in_the_second)
    assert main(["compare", str(face), "-o", str(face.parent / "out"), "--quiet", *words]) == 130
    (done,) = json.loads((face.parent / "out/rows.json").read_text())
    assert done["figures"] == whole[0]["figures"]
    assert "Interrupted: 1 of 2 runs." in (face.parent / "out/index.html").read_text()
    assert list((face.parent / "out").glob("pe-0.field.ckpt-*"))
    again = compared(face, *words)
    assert len(asked) == 3  # and not a fourth time, for the run that was done
    assert asked[2] < 12  # asked once after each step that is left, and now and then once more
    assert [row["figures"] for row in again] == [row["figures"] for row in whole]


def test_what_fails_does_not_end_a_race(face: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = ImageJob.run

    def run(job: ImageJob, plan: Plan, target: float | None = None) -> object:
        if plan.config["encoding"]["otype"] == "Frequency":  # type: ignore[index, call-overload]
            raise RuntimeError("no luck")
        return real(job, plan, target)

    monkeypatch.setattr(ImageJob, "run", run)
    rows = compared(face, "--methods", "pe,siren", "--steps", "3", "--params", "2k")
    assert [row["failure"] for row in rows] == ["no luck", ""]
    assert "pe failed: no luck" in (face.parent / "out/index.html").read_text()


def test_sizes_grow_up_to_the_number_asked_for() -> None:
    job = ImageJob(dead_leaves(32))
    config, _ = job.run_config(Plan(preset="siren"))
    method = Method("siren")
    for wanted in (500, 5_000, 50_000):
        found = parameters_of(job, sized(job, config, method, wanted))
        assert 0.85 * wanted < found <= MAX_OVER * wanted
    with pytest.raises(ValueError, match="is the smallest there is and has 87 parameters, more than 10"):
        sized(job, config, method, 10)


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Job[Any]]:
    """A small signal of each kind; those that are drawn are what learning rates are tuned on."""
    return {
        "image": ImageJob(Picture.from_array(np.zeros((256, 256, 3), np.uint8))),
        "audio": AudioJob(plucked(seconds=0.5)),
        "video": VideoJob(drifting_leaves(16, 4)),
        "shape": ShapeJob(knot(60, 10)),
        "scene": SceneJob(ball(tmp_path_factory.mktemp("scene") / "ball.npz")),
    }


@pytest.mark.parametrize("signal", SIGNALS)
def test_every_method_can_be_configured_and_made_larger(signal: str, jobs: dict[str, Job[Any]]) -> None:
    """The key that it names, and those beside it, change the number of parameters."""
    job = jobs[signal]
    for name, method in METHODS[signal].items():
        if method.tune != "none":
            continue
        config, _ = job.run_config(method.plan())
        sizes = method.sizes[0], min(16 * method.sizes[0], method.sizes[1])
        small, large = (parameters_of(job, resized(config, method, size)) for size in sizes)
        assert small < large, name
        assert small <= parameters_of(job, sized(job, config, method, 2 * small)) <= MAX_OVER * 2 * small


def test_a_method_is_there_or_the_reason_is() -> None:
    assert METHODS.keys() == SIGNALS.keys() == WHY_NOT.keys()
    known = {name for table in METHODS.values() for name in table}
    for signal, table in METHODS.items():
        assert not table.keys() & WHY_NOT[signal].keys()
        assert known == table.keys() | WHY_NOT[signal].keys(), signal
    assert known == ABOUT.keys()
    with pytest.raises(ValueError, match=r"pref is not for audio: its phasors are of two or three .*; there are siren"):
        expect_methods("audio", ["siren", "pref"])


def test_drawn_signals_are_the_same_every_time_and_move() -> None:
    sound, film = plucked(), drifting_leaves()
    assert np.array_equal(sound.samples, plucked().samples)
    assert sound.samples.std() > 0.02
    assert np.abs(np.diff(film.frames.astype(int), axis=0)).mean() > 5
    assert Surface.of(knot(60, 10)).health.is_closed


@pytest.mark.parametrize("signal", ["audio", "video", pytest.param("shape", marks=pytest.mark.slow),
                                    pytest.param("scene", marks=pytest.mark.slow)])  # fmt: skip
def test_a_race_of_other_signals_has_its_page(signal: str, jobs: dict[str, Job[Any]], tmp_path: Path) -> None:
    race = Race(SIGNALS[signal](), jobs[signal], ["hashgrid", "cam"], Budget(steps=2))
    results = list(race.run(tmp_path, lambda text: None, progress="quiet"))
    assert all(result.figures and not result.failure for result in results)
    page = write_report(tmp_path, race, results, "fieldforge compare ...", "two").read_text()
    assert page.count('class="card"') == 1 + 2
    assert "Spectra" in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page)


@pytest.mark.slow
def test_what_chooses_is_as_large_as_the_others(face: Path) -> None:
    (row,) = compared(face, "--methods", "auto", "--steps", "20", "--params", "20k")
    assert row["chosen"] in FAMILIES
    assert row["parameters"] <= MAX_OVER * 20_000  # type: ignore[operator]


def test_rates_are_multiplied_wherever_they_stand() -> None:
    config = {"optimizer": {"otype": "EMA", "nested": {"otype": "Adam", "learning_rate": 0.01}}}
    assert with_rate(config, 0.5)["optimizer"]["nested"]["learning_rate"] == 0.005
    assert config["optimizer"]["nested"]["learning_rate"] == 0.01  # type: ignore[index]


def test_learning_rates_are_tuned_on_another_picture(face: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rate that is far too small is raised; the picture of the comparison is not looked at."""
    job, told = ImageJob(face), list[str]()
    monkeypatch.setitem(METHODS["image"], "slow", Method("siren", overrides=("optimizer.learning_rate=1e-5",)))
    budget = Budget(steps=40, parameters=2000)
    race = Race(ImageSignal(), job, ["slow"], budget, tuning=ImageJob(dead_leaves(24)))
    (result,) = race.run(face.parent, told.append, progress="quiet")
    assert result.rate_factor == max(FACTORS)
    assert any("best on the other signal" in text for text in told)
    rate = result.config["optimizer"]["learning_rate"]
    assert rate == pytest.approx(result.rate_factor * race.configs["slow"]["optimizer"]["learning_rate"])


def test_the_drawn_picture_is_the_same_every_time_and_has_detail() -> None:
    one, two = dead_leaves(64).pixels, dead_leaves(64).pixels
    assert np.array_equal(one, two)
    assert not np.array_equal(one, dead_leaves(64, seed=1).pixels)
    assert one.std() > 30
    assert (np.abs(np.diff(one.astype(int), axis=0)).max(-1) > 20).mean() > 0.1


def test_what_cannot_be_compared_is_said(face: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(face.parent / "out")
    cases = [
        (["--methods", "sirn"], "did you mean siren"),
        (["--params", "20"], "ask for more, or leave the method out"),
        (["--budget", "soon"], "expected a time such as 30s"),
        (["--params", "many"], "expected a number such as 200000"),
        (["--tune-lr", str(face)], "on another signal than the one compared on"),
        (["--methods", "kplanes"], "kplanes is not for image: its planes or lines need three coordinates; there are"),
        (["--methods", "siren,siren"], "expected names with commas between them, each once"),
        (["--downscale", "2"], "downscale: is for scenes"),
    ]
    for words, message in cases:
        try:
            code = main(["compare", str(face), "-o", out, "--steps", "1", "--methods", "siren", *words])
        except SystemExit as stop:
            code = int(str(stop.code))
        assert code == 2, words
        assert message in capsys.readouterr().err
    assert main(["compare", str(face.parent / "none.png"), "-o", out, "--steps", "1"]) == 1


def test_texts_of_a_page_are_escaped(tmp_path: Path) -> None:
    page = Page("<b>")
    page.paragraph("a < b & c")
    page.table(["<i>"], [["<u>"]])
    page.picture(np.array([[0.0, np.nan], [2.0, 1.0]]), 'say "<s>"', width=64)
    page.write(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert not re.findall(r"<(b|i|u|s)>", text)
    assert "a &lt; b &amp; c" in text


def test_a_comparison_leaves_torch_as_it_was(face: Path) -> None:
    before = torch.random.get_rng_state()
    compared(face, "--methods", "siren", "--steps", "1", "--params", "2k")
    assert torch.equal(before, torch.random.get_rng_state())


def test_jobs_know_their_digest(face: Path) -> None:
    """What a race goes on by."""
    job: Job[object] = ImageJob(face)  # type: ignore[assignment]
    assert job.digest is not None
    assert ImageJob(dead_leaves(16)).digest is None
