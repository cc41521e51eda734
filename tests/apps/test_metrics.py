"""PSNR and SSIM agree with scikit-image and with themselves in strips; the spectrum obeys Parseval."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from fieldforge.apps.images import read_image
from fieldforge.apps.metrics import Metrics, psnr, radial_spectrum, ssim

ASTRONAUT = Path(__file__).parents[2] / "data" / "images" / "astronaut.png"


def pair(n_channels: int, height: int = 53, width: int = 47) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(n_channels)
    target = random.random((height, width, n_channels))
    return target + 0.1 * random.standard_normal(target.shape), target


def theirs(prediction: np.ndarray, target: np.ndarray, peak: float) -> float:
    return float(
        structural_similarity(
            prediction,
            target,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=peak,
            channel_axis=2,
        )
    )


@pytest.mark.parametrize("n_channels", [1, 2, 3, 4])
@pytest.mark.parametrize("peak", [1.0, 37.5])
def test_scikit_image_agrees(n_channels: int, peak: float) -> None:
    prediction, target = (peak * picture for picture in pair(n_channels))
    assert ssim(prediction, target, peak) == pytest.approx(theirs(prediction, target, peak), abs=1e-9)
    assert psnr(prediction, target, peak) == pytest.approx(
        peak_signal_noise_ratio(target, prediction, data_range=peak), abs=1e-9
    )


def test_a_photo_that_scikit_image_measures_too() -> None:
    target = read_image(ASTRONAUT).rows(0, 512).astype(np.float64)
    prediction = (target + np.roll(target, 1, 1)) / 2
    assert ssim(prediction, target) == pytest.approx(theirs(prediction, target, 1.0), abs=1e-9)


def test_ssim_at_one_place_is_wangs_formula() -> None:
    prediction, target = pair(1, 11, 11)
    distance = np.hypot(*np.mgrid[-5:6, -5:6])
    weight = np.exp(-0.5 * (distance / 1.5) ** 2)
    weight /= weight.sum()
    x, y = prediction[..., 0], target[..., 0]
    mean_x, mean_y = (weight * x).sum(), (weight * y).sum()
    variance_x, variance_y = (weight * (x - mean_x) ** 2).sum(), (weight * (y - mean_y) ** 2).sum()
    covariance = (weight * (x - mean_x) * (y - mean_y)).sum()
    expected = (2 * mean_x * mean_y + 0.01**2) * (2 * covariance + 0.03**2)
    expected /= (mean_x**2 + mean_y**2 + 0.01**2) * (variance_x + variance_y + 0.03**2)
    assert ssim(prediction, target) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("heights", [[53], [1] * 53, [10, 1, 12, 30], [3, 7, 43], [42, 11]], ids=str)
def test_strips_give_the_answer_of_the_whole(heights: list[int]) -> None:
    prediction, target = pair(3)
    metrics = Metrics()
    top = 0
    for n_rows in heights:
        metrics.add(prediction[top : top + n_rows], torch.from_numpy(target[top : top + n_rows]))
        top += n_rows
    assert metrics.psnr() == pytest.approx(psnr(prediction, target), abs=1e-9)
    assert metrics.ssim() == pytest.approx(theirs(prediction, target, 1.0), abs=1e-9)


def test_a_large_picture_is_cut_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    prediction, target = pair(3)
    whole = ssim(prediction, target)
    monkeypatch.setattr("fieldforge.apps.metrics._STRIP_VALUES", 1)
    assert ssim(prediction, target) == pytest.approx(whole, abs=1e-12)


def test_equal_pictures_and_known_decibels() -> None:
    _, target = pair(3)
    assert psnr(target, target) == math.inf
    assert ssim(target, target) == 1
    assert psnr(np.full((4, 4), 3.0), np.full((4, 4), 2.0), peak=10) == pytest.approx(20)
    assert math.isnan(psnr(np.full((4, 4), math.nan), np.zeros((4, 4))))


@pytest.mark.parametrize("shape", [(10, 40, 3), (40, 10, 3), (1, 1, 1)])
def test_ssim_is_not_defined_below_eleven_pixels(shape: tuple[int, ...]) -> None:
    assert ssim(np.zeros(shape), np.ones(shape)) is None
    assert psnr(np.zeros(shape), np.ones(shape)) == 0


def test_integers_are_read_as_shares_of_white() -> None:
    _, target = pair(3)
    byte = (target * 255).astype(np.uint8)
    word = (target * 65535).astype(np.uint16)
    assert psnr(byte, byte / 255) == math.inf
    assert psnr(word, word / 65535) == math.inf


def test_what_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match=r"prediction: expected the target's shape \(4, 5, 3\), got \(4, 5, 1\)"):
        psnr(np.zeros((4, 5)), np.zeros((4, 5, 3)))
    with pytest.raises(ValueError, match="prediction: expected floats, uint8 or uint16, got int64"):
        psnr(np.zeros((4, 5), int), np.zeros((4, 5), int))
    with pytest.raises(ValueError, match="peak"):
        Metrics(0.0)
    with pytest.raises(ValueError, match="no rows"):
        Metrics().psnr()
    metrics = Metrics()
    metrics.add(np.zeros((2, 5)), np.zeros((2, 5)))
    with pytest.raises(ValueError, match="as before"):
        metrics.add(np.zeros((2, 6)), np.zeros((2, 6)))


def coefficients_in_rings(height: int, width: int, n_bins: int) -> np.ndarray:
    """How many Fourier coefficients, without the mean, fall into each ring."""
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)).ravel()[1:]
    return np.histogram(radius, n_bins, (0, math.sqrt(0.5) * (1 + 1e-12)))[0]


@pytest.mark.parametrize(("height", "width"), [(32, 32), (31, 40), (40, 31), (17, 1), (1, 16), (2, 2)])
def test_power_sums_to_the_variance(height: int, width: int) -> None:
    picture = np.random.default_rng(0).random((height, width, 3))
    _, power = radial_spectrum(picture, 7, has_window=False)
    total = np.nansum(power * coefficients_in_rings(height, width, 7))
    assert total == pytest.approx(picture.var((0, 1)).mean(), rel=1e-9)


def test_the_window_keeps_the_power_of_white_noise() -> None:
    noise = np.random.default_rng(0).standard_normal((256, 256))
    _, power = radial_spectrum(noise, 16)
    np.testing.assert_allclose(power[1:-1] * 256 * 256, 1, rtol=0.1)  # variance 1, spread over all coefficients


@pytest.mark.parametrize("has_window", [True, False])
def test_a_wave_stands_at_its_frequency(has_window: bool) -> None:
    y, x = np.mgrid[:96, :128]
    wave = 5 + np.cos(2 * np.pi * (0.1875 * x + 0.25 * y))  # 0.3125 cycles per pixel
    frequency, power = radial_spectrum(wave, 40, has_window=has_window)
    peak = int(np.nanargmax(power))
    assert abs(frequency[peak] - 0.3125) <= (frequency[1] - frequency[0]) / 2 + 1e-12
    assert np.nansum(power[: peak - 3]) + np.nansum(power[peak + 4 :]) < 1e-9 * power[peak]


def test_a_constant_picture_has_no_power() -> None:
    _, power = radial_spectrum(np.full((20, 30, 3), 0.7))
    assert np.nanmax(power) < 1e-30
