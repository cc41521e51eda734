"""Fitting a film: frames in, a field, frames out; hostile and odd films; the way through the command line."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from fieldforge.apps.cli import main
from fieldforge.apps.fit.fused import FusedStep
from fieldforge.apps.fit.job import Plan
from fieldforge.apps.fit.loop import PlainStep
from fieldforge.apps.fit.samplers import RasterDraw
from fieldforge.apps.fit.video.job import VideoFit, VideoJob, fit_video
from fieldforge.apps.fit.video.presets import PRESETS
from fieldforge.apps.images import read_image
from fieldforge.apps.media import MediaError
from fieldforge.apps.render.film import frame, moments
from fieldforge.apps.render.video import VideoWriter
from fieldforge.apps.videos import Film, read_film
from fieldforge.backends import use_backend
from fieldforge.fields.file import load_field
from fieldforge.kernels import cpu_door
from fieldforge.kernels.cpu_training import Draw


def ball(n_frames: int = 9, width: int = 32, height: int = 24) -> np.ndarray:
    """(n_frames, height, width, 3) uint8: a disc that crosses a gradient."""
    y, x = np.mgrid[0:height, 0:width]
    frames = np.empty((n_frames, height, width, 3), np.uint8)
    for i in range(n_frames):
        disc = np.hypot(x - 4 - (width - 8) * i / n_frames, y - height / 2) < 4
        frames[i] = np.stack([np.where(disc, 250, 4 * x), 5 * y, np.where(disc, 20, 120)], -1)
    return frames


FILM = Film.from_array(ball(), 10.0)
SMALL = ["fit.batch_size=1024"]


@pytest.fixture(scope="module")
def mp4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ball as a file."""
    pytest.importorskip("av")
    path = tmp_path_factory.mktemp("films") / "ball.mp4"
    with VideoWriter(path, width=32, height=24, frames_per_second=10) as video:
        for picture in FILM.frames:
            video.write(picture)
    return path


def quick(film: Film, **options: object) -> VideoFit:
    return fit_video(
        film, **{"steps": 60, "progress": "quiet", "preset": "fast", "overrides": SMALL, **options}  # type: ignore[arg-type]
    )  # fmt: skip


def test_a_film_is_fitted_well_and_measured_as_stored(tmp_path: Path) -> None:
    result = quick(FILM, steps=250, output=tmp_path / "x.field")
    assert result.psnr > 28
    field, metadata = load_field(tmp_path / "x.field")
    each = [
        -10 * np.log10(np.mean((frame(field, FILM.time(i)).astype(np.float64) - FILM.frames[i] / 255.0) ** 2))
        for i in range(FILM.n_frames)
    ]
    np.testing.assert_allclose(result.frame_psnr, each, atol=1e-3)
    assert metadata["metrics"]["psnr"] == pytest.approx(np.mean(each), abs=1e-3)
    assert metadata["metrics"]["worst_frame_psnr"] == pytest.approx(min(each), abs=1e-3)
    assert frame(field, 0.33, size=(80, 50)).shape == (50, 80, 3)
    assert len(moments(field, 25.0)) == round(0.9 * 25)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_learns(name: str) -> None:
    job = VideoJob(FILM)
    smaller = ["fit.batch_size=512", "network.n_neurons=32"]
    config, _ = job.run_config(Plan(preset=name, overrides=smaller))
    with job.training(job.make_field(config, 0), config, 0, ()) as (advance, _, _):
        losses = [advance(step, 5.0 if name in ("siren", "spder") else 1.0)[0] for step in range(30)]
    assert min(losses[-5:]) < 0.5 * losses[0]


@pytest.mark.skipif(cpu_door.missing() is not None, reason=f"no native kernels: {cpu_door.missing()}")
@pytest.mark.parametrize("name", ["fast", "siren"])
def test_the_native_step_is_the_references(name: str) -> None:
    ends = []
    for backend, kind in (("auto", FusedStep), ("reference", PlainStep)):
        job = VideoJob(FILM)
        changes = [*SMALL, "network.n_neurons=32", "optimizer.epsilon=1e-6"]
        config, _ = job.run_config(Plan(preset=name, overrides=changes))
        field = job.make_field(config, 0)
        with use_backend(backend), job.training(field, config, 0, ()) as (advance, _, reason):
            assert isinstance(advance, kind), reason
            losses = [advance(step, 1.0)[0] for step in range(4)]
        ends.append((losses, torch.cat([parameter.detach().flatten() for parameter in field.parameters()])))
    np.testing.assert_allclose(*(losses for losses, _ in ends), rtol=1e-3)
    assert torch.nn.functional.cosine_similarity(*(end for _, end in ends), dim=0) > 0.9999


@pytest.mark.skipif(cpu_door.missing() is not None, reason=f"no native kernels: {cpu_door.missing()}")
@pytest.mark.parametrize("shape", [(3000, 2), (9, 24, 32, 3)])
def test_native_draws_are_those_of_the_definition(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    box = ((0.0,) * (len(shape) - 1), tuple(float(size) for size in shape[-2::-1]))
    ours, native = RasterDraw(values, 255.0, box, 700, 3), Draw(values, 255.0, 700, 3)
    for step in (0, 5, 40):
        points, expected = ours(step)
        x, found = native.batch(step)
        torch.testing.assert_close(x, (points / torch.tensor(box[1])).float(), atol=1e-7, rtol=0)
        assert torch.equal(found, expected)
    places = points.long()
    assert torch.equal(ours.values_at(_flat(places, shape)), expected)


def _flat(places: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    index = torch.zeros(len(places), dtype=torch.int64)
    for axis, size in zip(reversed(range(places.shape[1])), shape[:-1], strict=True):
        index = index * size + places[:, axis]
    return index


def test_frames_are_read_scaled_and_chosen(mp4: Path) -> None:
    film = read_film(mp4)
    assert (film.n_frames, film.width, film.height, film.frames_per_second) == (9, 32, 24, 10.0)
    assert np.abs(film.frames.astype(int) - FILM.frames).mean() < 12  # H.264 keeps colours at half the resolution
    some = read_film(mp4, downscale=2, frames=(3, 6))
    assert some.frames.shape == (3, 12, 16, 3)
    assert some.first == 3
    blocks = film.frames[3:6].reshape(3, 12, 2, 16, 2, 3).mean((2, 4))
    assert np.abs(blocks - some.frames).mean() < 8
    assert read_film(mp4, size=(20, 10)).frames.shape == (9, 10, 20, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": (9, None)}, "has 9 frames, and none from 9 on; --frames counts from 0"),
        ({"frames": (5, 5)}, "frames: expected first before last"),
        ({"max_bytes": 10_000}, "more than 4 frames of 32x24.*--frames A:B, or smaller ones with --downscale"),
        ({"downscale": 30}, "frames of 1x1 pixels; a side has at least 2"),
    ],
)
def test_frames_that_cannot_be_had_are_a_sentence(mp4: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(MediaError, match=message):
        read_film(mp4, **options)  # type: ignore[arg-type]


def test_files_that_are_no_films_are_a_sentence(mp4: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.mp4"
    whole = mp4.read_bytes()
    for content, message in (
        (b"", "is empty"),
        (b"a text, and no film at all, of more than some bytes", "is not a film that is read here"),
        (b"ffconcat version 1.0\nfile http://example.org/x.mp4\n", "is not a film that is read here"),
        (whole[:300], "damaged or cut short|holds no"),
        (whole[:40] + bytes(len(whole) - 40), "damaged or cut short|holds no"),
    ):
        path.write_bytes(content)
        with pytest.raises(MediaError, match=message) as caught:
            read_film(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(MediaError, match="there is no such file"):
        read_film(tmp_path / "none.mp4")


def test_a_sound_has_no_frames(tmp_path: Path) -> None:
    pytest.importorskip("av")
    from fieldforge.apps.sounds import write_wav

    write_wav(tmp_path / "x.wav", np.zeros((100, 1)), 8000)
    with pytest.raises(MediaError, match="holds no video stream, only audio"):
        read_film(tmp_path / "x.wav")


def test_frames_at_uneven_times_are_taken_as_even_and_said_so(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / "x.mkv"
    with av.open(str(path), "w", format="matroska") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 10)
        for pts, picture in zip((0, 1, 2, 3, 4, 5, 16, 17, 18), FILM.frames, strict=True):
            made = av.VideoFrame.from_ndarray(picture, format="rgb24")
            made.pts = pts
            for packet in stream.encode(made):
                file.mux(packet)
        for packet in stream.encode():
            file.mux(packet)
    film = read_film(path)
    assert film.n_frames == 9
    assert any("uneven times" in note for note in film.notes)
    assert film.frames_per_second == pytest.approx(8 / 1.8, rel=0.02)


def test_without_pyav_the_extra_is_named(mp4: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(MediaError, match=r"pip install 'fieldforge\[video\]' brings it"):
        read_film(mp4)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 4, 4)), r"expected \(n_frames, height, width, 1 or 3\)"),
        (np.zeros((3, 4, 4, 3)) - 1, "expected finite values from 0 to 1"),
        (np.zeros((3, 4, 4, 3), np.int32), "expected uint8 or floats"),
        (np.zeros((3, 1, 4, 3), np.uint8), "frames of 4x1 pixels"),
    ],
)
def test_bad_arrays_are_a_sentence(array: np.ndarray, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        Film.from_array(array)


def test_fit_info_view_render_evaluate(mp4: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    field, out, still = tmp_path / "x.field", tmp_path / "y.mp4", tmp_path / "y.png"
    options = ["--frames", "1:7", "--preset", "fast", "--steps", "80", "--set", "fit.batch_size=1024", "--quiet"]
    assert main(["fit", "video", str(mp4), "-o", str(field), *options]) == 0
    assert read_image(tmp_path / "x.report.png").width > 1000
    assert main(["evaluate", str(field), str(mp4), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["psnr"] == pytest.approx(load_field(field)[1]["metrics"]["psnr"], abs=1e-3)
    assert main(["render", str(field), "-o", str(out), "--fps", "30", "--size", "64x48", "--quiet"]) == 0
    shown = read_film(out)
    assert (shown.n_frames, shown.width, shown.height, shown.frames_per_second) == (18, 64, 48, 30.0)
    assert main(["render", str(field), "-o", str(still), "--time", "0.25", "--scale", "2", "--quiet"]) == 0
    assert read_image(still).pixels.shape == (48, 64, 3)
    assert main(["info", str(field)]) == 0
    assert main(["view", str(field), "--width", "20"]) == 0
    assert "first_frame 1" in " ".join(capsys.readouterr().out.split())
    assert main(["render", str(field), "-o", str(out), "--time", "1"]) == 2
    assert main(["render", str(field), "-o", str(still), "--rate", "8000"]) == 2
    said = capsys.readouterr().err
    assert "--time: an .mp4 shows the whole film" in said
    assert "--rate: " in said
