"""Fitting a picture from Python: quality, seeds, sizes, kinds of pictures, configurations."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fieldforge
from fieldforge.apps.fit.image.job import ImageFit, ImageJob, fit, measure
from fieldforge.apps.fit.image.presets import PRESETS, preset
from fieldforge.apps.fit.job import Plan
from fieldforge.apps.fit.options import FitOptions
from fieldforge.apps.fit.recipe import shrink
from fieldforge.apps.fit.samplers import PixelDraw
from fieldforge.apps.images import ImageError, Picture, read_image, write_image
from fieldforge.apps.render.image import render
from fieldforge.fields.file import load_field
from fieldforge.registry import ConfigError

ROOT = Path(__file__).resolve().parents[2]
ASTRONAUT = ROOT / "data/images/astronaut.png"


@pytest.fixture(scope="module")
def face() -> np.ndarray:
    """(48, 64, 3) uint8 piece of a photo."""
    return read_image(ASTRONAUT).pixels[80:128, 190:254]


def quick(source: object, **options: object) -> ImageFit:
    return fit(source, **{"steps": 60, "progress": "quiet", **options})  # type: ignore[arg-type]


def test_a_small_photo_is_fitted_well(face: np.ndarray) -> None:
    result = quick(face, steps=400)
    assert result.psnr > 35
    assert result.ssim is not None
    assert result.ssim > 0.95
    assert result.state.stopped_by == "steps"


def test_the_figures_are_those_of_the_file(face: np.ndarray, tmp_path: Path) -> None:
    """PSNR and SSIM are measured on the stored, rounded field, and scikit-image agrees with them."""
    skimage = pytest.importorskip("skimage.metrics")
    path = tmp_path / "face.field"
    result = quick(face, output=path)
    field, metadata = load_field(path)
    picture = render(field)
    source = face.astype(np.float64) / 255
    assert skimage.peak_signal_noise_ratio(source, picture.astype(np.float64), data_range=1) == pytest.approx(
        result.psnr, abs=1e-3
    )
    similarity = skimage.structural_similarity(
        source, picture.astype(np.float64), data_range=1, channel_axis=2, gaussian_weights=True,
        sigma=1.5, use_sample_covariance=False,
    )  # fmt: skip
    assert similarity == pytest.approx(result.ssim, abs=1e-5)
    assert metadata["metrics"]["psnr"] == pytest.approx(result.psnr, abs=1e-4)
    assert path.stat().st_size == result.n_bytes


def test_same_seed_same_bytes_for_any_thread_count(face: np.ndarray, tmp_path: Path) -> None:
    n_threads = torch.get_num_threads()
    written = []
    try:
        for number, (threads, seed) in enumerate([(1, 0), (2, 0), (1, 1)]):
            torch.set_num_threads(threads)
            path = tmp_path / f"{number}.field"
            quick(face, output=path, seed=seed, steps=20)
            written.append(path.read_bytes())
    finally:
        torch.set_num_threads(n_threads)
    assert written[0] == written[1]
    assert written[0] != written[2]


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_learns(name: str, face: np.ndarray) -> None:
    smaller = ["network.n_neurons=64", "fit.batch_size=512"]
    before = quick(face, preset=name, steps=1, overrides=smaller)
    after = quick(face, preset=name, steps=60, overrides=smaller)
    assert after.psnr > before.psnr + 3


@pytest.mark.parametrize("name", ["fast", "balanced", "best"])
def test_presets_scale_with_the_picture(name: str) -> None:
    small, large = preset(name, 256, 256), preset(name, 4096, 2048)
    assert large["fit"]["n_steps"] > 8 * small["fit"]["n_steps"]
    assert large["encoding"]["log2_hashmap_size"] > small["encoding"]["log2_hashmap_size"]
    finest = large["encoding"]["base_resolution"] * large["encoding"]["per_level_scale"] ** 7
    assert name == "best" or finest == pytest.approx(4 / 3 * 4096, rel=1e-3)


def as_picture(face: np.ndarray, kind: str, folder: Path) -> Path:
    """The face in another kind of file."""
    path = folder / ("face.exr" if kind == "linear" else "face.png")
    grey = face.mean(2).astype(np.uint8)
    if kind == "linear":
        write_image(path, (face.astype(np.float32) / 64) ** 2, color_space="linear")
    elif kind == "16 bit":
        write_image(path, face.astype(np.uint16) * 257)
    elif kind == "alpha":
        Image.fromarray(np.dstack([face, grey])).save(path)
    else:
        Image.fromarray(grey).save(path)
    return path


@pytest.mark.parametrize(("kind", "n_channels"), [("grey", 1), ("alpha", 4), ("16 bit", 3), ("linear", 3)])
def test_kinds_of_pictures(kind: str, n_channels: int, face: np.ndarray, tmp_path: Path) -> None:
    result = quick(as_picture(face, kind, tmp_path), steps=200)
    assert result.field.n_channels == n_channels
    assert result.psnr > 27
    out = render(result.field)
    assert out.shape == (48, 64, n_channels)
    assert (out.max() > 1.5) == (kind == "linear"), "only linear light goes beyond 1"


def test_tensors_and_arrays_give_the_same_field(face: np.ndarray) -> None:
    one = quick(face, steps=5)
    other = quick(torch.from_numpy(face.astype(np.float32) / 255), steps=5)
    assert one.psnr == pytest.approx(other.psnr, abs=1e-3)


def test_notebooks_get_a_picture(face: np.ndarray) -> None:
    shown = Image.open(io.BytesIO(quick(face, steps=2)._repr_png_()))
    assert shown.size == (64, 48)


def test_stopping_at_a_quality(face: np.ndarray) -> None:
    result = quick(face, steps=400, psnr=25.0)
    assert result.state.stopped_by == "target"
    assert 24.9 < result.psnr < 32  # rounding to 16 bits may cost a little
    assert result.state.step < 400


@pytest.mark.parametrize("max_bytes", [30_000, 100_000])
def test_files_are_no_larger_than_asked(max_bytes: int, face: np.ndarray, tmp_path: Path) -> None:
    result = quick(np.tile(face, (4, 4, 1)), steps=2, output=tmp_path / "x.field", max_bytes=max_bytes)
    assert result.n_bytes is not None
    assert result.n_bytes <= max_bytes
    assert result.n_bytes > max_bytes / 8


def test_impossible_sizes_are_refused(face: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"max_bytes: 100 bytes are too few.*takes"):
        quick(face, max_bytes=100)


def test_stored_bytes_bound_the_file(face: np.ndarray, tmp_path: Path) -> None:
    picture = Picture.from_array(face)
    for storage in ("float32", "float16", "int8"):
        path = tmp_path / f"{storage}.field"
        result = quick(face, steps=2, output=path, overrides=[f"fit.storage={storage}"])
        assert result.n_bytes is not None
        assert result.n_bytes <= ImageJob(picture).stored_bytes(result.config) <= 1.2 * result.n_bytes + 8192


def test_shrinking_keeps_what_it_need_not_change(face: np.ndarray) -> None:
    job = ImageJob(face)
    config, _ = job.run_config(Plan())
    before = json.dumps(config)
    shrink(config, lambda: job.stored_bytes(config), 10**9)
    assert json.dumps(config) == before


def test_a_tiny_cuda_nn_file_fits(face: np.ndarray) -> None:
    tcnn = sorted((ROOT / "data/configs/tcnn").glob("*image*.json"))
    assert tcnn, "no image configuration in data/configs/tcnn"
    result = quick(face, config=tcnn[0], overrides=["encoding.log2_hashmap_size=12"], steps=100)
    assert result.config["encoding"]["log2_hashmap_size"] == 12
    assert result.psnr > 20


def test_instant_ngp_leaves_the_growth_to_the_picture(face: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "ngp.json"
    path.write_text('{"encoding": {"otype": "HashGrid", "n_levels": 4, "base_resolution": 4}, // no growth\n}')
    config, notices = ImageJob(face).run_config(Plan(config=path))
    assert config["encoding"]["per_level_scale"] == pytest.approx((32 / 4) ** (1 / 3), abs=1e-5)
    assert any("per_level_scale" in notice for notice in notices)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["encoding.n_level=3"], r"encoding\.n_level.*did you mean n_levels"),
        (["encoding.n_levels=many"], r"encoding\.n_levels: expected an integer, got 'many'"),
        (["fit.batchsize=3"], r"fit\.batchsize: no such key; did you mean batch_size"),
        (["fit.batch_size=0"], r"fit\.batch_size: expected an integer from 1"),
        (["encodin.n_levels=3"], r"encodin.*did you mean encoding"),
        (["network.activation=RELUU"], r"network\.activation.*RELUU.*ReLU"),
        (["optimizer.learning_rate=-1"], r"optimizer\.learning_rate"),
        (["encoding.n_levels"], r"encoding\.n_levels"),
        (["dir_encoding.otype=Identity"], r"dir_encoding"),
    ],
)
def test_bad_configurations_name_key_and_way_out(overrides: list[str], message: str, face: np.ndarray) -> None:
    with pytest.raises(ConfigError, match=message):
        quick(face, overrides=overrides)


def test_another_part_drops_the_keys_of_the_one_before(face: np.ndarray) -> None:
    overrides = ["encoding.otype=Frequency", "network.otype=FullyFusedMLP", "encoding.n_frequencies=6"]
    config, _ = ImageJob(face).run_config(Plan(overrides=overrides))
    assert config["encoding"] == {"otype": "Frequency", "n_frequencies": 6}
    assert config["network"]["n_neurons"] == 64, "a key that both have stays"


def test_a_side_of_one_pixel_is_refused() -> None:
    with pytest.raises(ImageError, match=r"1x5 pixels.*at least 2"):
        quick(np.zeros((5, 1, 3), np.uint8))


def test_draws_are_pixels_and_jitter_stays_between_them(face: np.ndarray) -> None:
    picture = Picture.from_array(face)
    points, target = PixelDraw(picture, FitOptions(batch_size=500), seed=0)(3)
    index = points.long()
    assert torch.equal(points, index + 0.5)
    assert torch.equal(target, torch.from_numpy(face)[index[:, 1], index[:, 0]].float() / 255)
    points, target = PixelDraw(picture, FitOptions(batch_size=500, jitter=1.0), seed=0)(3)
    assert bool(((points >= 0.5) & (points <= torch.tensor([63.5, 47.5]))).all())
    assert not torch.equal(points, points.floor() + 0.5)
    low, high = torch.from_numpy(face).float().amin() / 255, torch.from_numpy(face).float().amax() / 255
    assert bool(((target >= low) & (target <= high)).all())


def test_jitter_is_bilinear() -> None:
    """On a picture that is linear in x and y, the colour between the pixels is that of the plane."""
    y, x = np.mgrid[0:20, 0:30].astype(np.float32)
    picture = Picture.from_array((x / 60 + y / 80)[..., None])
    points, target = PixelDraw(picture, FitOptions(batch_size=300, jitter=1.0), seed=0)(0)
    plane = (points[:, :1] - 0.5) / 60 + (points[:, 1:] - 0.5) / 80
    torch.testing.assert_close(target, plane, atol=1e-6, rtol=1e-5)


def test_measuring_an_untrained_field_is_measuring_its_picture(face: np.ndarray) -> None:
    job = ImageJob(face)
    field = job.make_field(job.run_config(Plan())[0], 0)
    expected = -10 * np.log10(np.mean((render(field).astype(np.float64) - face / 255.0) ** 2))
    assert measure(job.picture, field)[0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("crop", [48, 400])
def test_a_sample_of_the_pixels_speaks_until_the_target_is_near(crop: int) -> None:
    """The same sample every time; of a small picture, all of it."""
    picture = Picture.from_array(np.ascontiguousarray(read_image(ASTRONAUT).pixels[:crop, :crop]))
    job = ImageJob(picture)
    field = job.make_field(job.run_config(Plan())[0], 0).requires_grad_(False)
    exact = measure(picture, field)[0]
    points, _ = job._some_pixels
    assert len(points) == min(crop**2, 2**14)
    assert len(torch.unique(points, dim=0)) == len(points)
    once, again = (job.quality(field, math.inf) for _ in range(2))
    assert once == again == pytest.approx(exact, abs=0.2 if crop**2 > 2**14 else 1e-4)
    assert job.quality(field, 0.0) == exact


def test_the_face_of_the_package(face: np.ndarray, tmp_path: Path) -> None:
    result = fieldforge.fit(face, output=tmp_path / "x.field", steps=2, progress="quiet")
    field, _ = fieldforge.load(tmp_path / "x.field")
    assert fieldforge.render(field, size=(20, 10)).shape == (10, 20, 3)
    assert result.path == tmp_path / "x.field"
    assert set(fieldforge.__all__) <= set(dir(fieldforge))
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        _ = fieldforge.fitt


@pytest.mark.slow
def test_astronaut_reaches_40_decibels() -> None:
    assert fit(ASTRONAUT, seed=0, progress="quiet").psnr >= 40


@pytest.mark.slow
def test_tiny_holds_astronaut_at_30_decibels_in_100_kilobytes(tmp_path: Path) -> None:
    result = fit(ASTRONAUT, preset="tiny", seed=0, output=tmp_path / "x.field", progress="quiet")
    assert result.psnr >= 30
    assert result.n_bytes is not None
    assert result.n_bytes <= 100_000
