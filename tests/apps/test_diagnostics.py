"""Diagnostics: what they say of known functions, and that they change nothing."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from fieldforge.apps.cli import main
from fieldforge.apps.fit.audio.report import write_report as audio_report
from fieldforge.apps.fit.diagnostics import spectra
from fieldforge.apps.fit.diagnostics.watching import named, random_state_kept
from fieldforge.apps.fit.image.job import ImageJob, fit
from fieldforge.apps.fit.slices import Slice
from fieldforge.apps.fit.tangent import along, gradient, jacobian, parameters_of, tangent_kernel
from fieldforge.apps.fit.video.job import VideoJob
from fieldforge.apps.fit.video.report import write_report as video_report
from fieldforge.apps.images import read_image, write_image
from fieldforge.apps.sounds import Clip
from fieldforge.apps.videos import Film
from fieldforge.backends import use_backend
from fieldforge.fields.kinds.image import ImageField
from fieldforge.registry import ConfigError, available, build

ALL = (
    "spectrum", "ntk", "mean_frequency", "lempel_ziv", "polynomial_order", "activation_patterns",
    "gradient_confusion", "spectral_norms", "dead_units",
)  # fmt: skip


def small(activation: str | dict = "ReLU", *, encoding: str | dict = "Identity", side: int = 16, seed: int = 0,
          n_neurons: int = 8, n_hidden_layers: int = 2) -> ImageField:  # fmt: skip
    network = {"otype": "MLP", "n_neurons": n_neurons, "n_hidden_layers": n_hidden_layers}
    network |= {"activation": activation, "has_bias": True}
    return ImageField(encoding=encoding, network=network, width=side, height=side, n_channels=1,
                      generator=torch.Generator().manual_seed(seed))  # fmt: skip


def lattice(side: int = 16, seed: int = 0) -> Slice:
    center = torch.arange(side) + 0.5
    y, x = torch.meshgrid(center, center, indexing="ij")
    values = torch.rand(side, side, 1, generator=torch.Generator().manual_seed(seed))
    return Slice(torch.stack([x, y], -1), values)


def complexity(activation: str, seed: int, *, a: float = 3.0, side: int = 96) -> float:
    """Mean frequency, as released, of a random network of depth 4 with weights and biases from U(-a, a)."""
    described = {"Sine": {"otype": "Sine", "omega": 1.0}, "Gaussian": {"otype": "Gaussian", "scale": 1.0}}
    field = small(described.get(activation, activation), side=side, n_neurons=64, n_hidden_layers=4,
                  encoding={"otype": "Identity", "scale": 2.0, "offset": -1.0})  # fmt: skip
    drawn = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.uniform_(-a, a, generator=drawn)
        return spectra.mean_frequency(field(lattice(side).points)[..., 0].numpy(), "released")


def test_random_networks_stand_in_the_order_of_neural_redshift() -> None:
    """Teney et al. 2024: ReLU < tanh < Gaussian < sine; our own loop in NumPy found .195 .296 .505 .541."""
    found = [
        float(np.mean([complexity(activation, seed) for seed in range(3)]))
        for activation in ("ReLU", "Tanh", "Gaussian", "Sine")
    ]
    assert found == sorted(found)
    assert found == pytest.approx([0.195, 0.296, 0.505, 0.541], abs=0.06)


@pytest.mark.parametrize(("side", "score"), [(64, 0.194), (96, 0.176)])
def test_the_released_mean_frequency_of_a_ramp_is_its_border(side: int, score: float) -> None:
    ramp = np.broadcast_to(np.linspace(-1, 1, side), (side, side))
    assert spectra.mean_frequency(ramp, "released") == pytest.approx(score, abs=0.004)
    assert spectra.mean_frequency(ramp, "windowed") < 0.05
    assert spectra.mean_frequency(ramp, "folded") < 0.04


def test_folding_sees_both_diagonals_and_the_released_one() -> None:
    y, x = np.mgrid[:96, :96]
    for sign in (1, -1):
        wave = np.sin(2 * np.pi * (20 * y + sign * 15 * x) / 96)
        assert spectra.mean_frequency(wave, "windowed") == pytest.approx(0.37, abs=0.01)
    assert abs(spectra.mean_frequency(wave, "released") - 0.37) > 0.1
    assert spectra.mean_frequency(np.ones((8, 8))) == 0.0


def test_orders_of_polynomials_are_found() -> None:
    x = np.mgrid[-1:1:33j, -1:1:33j][1]
    assert spectra.polynomial_order(2 * x**2 - 1) == pytest.approx(2.0)
    assert spectra.polynomial_order(3 + 0 * x) == 0.0
    assert spectra.polynomial_order(np.sin(9 * x)) > spectra.polynomial_order(np.sin(3 * x))


def test_noise_does_not_compress() -> None:
    noise = np.random.default_rng(0).integers(0, 16, 4096)
    assert spectra.lempel_ziv(noise) > 4 * spectra.lempel_ziv(np.zeros(4096, np.int64))
    assert spectra.lempel_ziv(np.zeros(0, np.int64)) == 0


def test_jacobians_are_those_of_autograd_one_point_at_a_time() -> None:
    field, grid = small("Tanh"), lattice(4)
    points = grid.points.flatten(0, -2)
    rows = jacobian(field, points)
    for row, point in zip(rows, points, strict=True):
        with use_backend("reference"):
            found = torch.autograd.grad(field(point[None]).sum(), list(field.parameters()))
        torch.testing.assert_close(row, torch.cat([one.ravel() for one in found]), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(tangent_kernel(field, points), rows.double() @ rows.double().T)
    weight = torch.rand(len(points), 1, generator=torch.Generator().manual_seed(1))
    pulled = gradient(field, points, weight)
    torch.testing.assert_close(torch.cat([one.ravel() for one in pulled.values()]), (rows * weight).sum(0))
    torch.testing.assert_close(along(field, points, pulled)[:, 0], rows @ (rows * weight).sum(0))
    assert all(parameter.grad is None for parameter in field.parameters())
    assert list(pulled) == list(parameters_of(field))


@pytest.mark.parametrize("encoding", ["Identity", {"otype": "HashGrid", "n_levels": 2, "log2_hashmap_size": 4}])
def test_tangent_kernels_are_positive_and_ranked(encoding: str | dict) -> None:
    found = named(["ntk"])["ntk"](small(encoding=encoding), lattice())
    values = found["eigenvalues"]
    assert len(values) == found["n_points"] == 256
    assert values == sorted(values, reverse=True)
    assert values[-1] >= 0
    assert 1 <= found["effective_rank"] <= 256


def test_the_error_of_each_frequency_is_its_own() -> None:
    """A field that is right but for one wave is wrong in the ring of that wave alone."""
    grid = lattice(64)
    said = small(side=64)
    with torch.no_grad():
        answer = said(grid.points)
    wave = 0.1 * torch.cos(2 * torch.pi * 16 / 64 * grid.points[..., :1])
    noise = torch.randn(64, 64, 1, generator=torch.Generator().manual_seed(0))
    found = named(["spectrum"])["spectrum"](said, Slice(grid.points, answer + wave + 0 * noise))
    worst = int(np.nanargmax(np.nan_to_num(found["error"])))
    assert found["frequency"][worst] == pytest.approx(0.25, abs=0.03)
    assert named(["spectrum"])["spectrum"](said, Slice(grid.points, answer + noise))["highest_learnt"] < 0.1


def test_units_that_never_speak_are_dead() -> None:
    field = small("ReLU")
    with torch.no_grad():
        field.network.layers[0].bias[:4] = -100.0
    found = named(["dead_units"])["dead_units"](field, lattice())
    assert found["layers"][0] >= 0.5
    assert found["share"] >= 0.25


def test_a_line_of_breaks_makes_regions() -> None:
    field = small("ReLU", n_neurons=2, n_hidden_layers=1)
    with torch.no_grad():
        field.network.layers[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        field.network.layers[0].bias.fill_(-0.5)
    found = named(["activation_patterns"])["activation_patterns"](field, lattice())
    assert found["n_regions"] == 4
    assert found["local_hamming"] < found["random_hamming"] == pytest.approx(0.5, abs=0.03)


def test_neighbours_agree_more_without_an_encoding() -> None:
    """Lazzari and Liu 2023: raw coordinates leave gradients of neighbours alike, encodings part them."""
    raw = named(["gradient_confusion"])["gradient_confusion"](small(n_neurons=32), lattice())
    encoding = {"otype": "RandomFourier", "n_features": 64, "sigma": 10.0}
    encoded = named(["gradient_confusion"])["gradient_confusion"](small(encoding=encoding, n_neurons=32), lattice())
    assert abs(encoded["local_mean"]) < abs(raw["local_mean"])
    assert -1.001 <= raw["random_min"] <= raw["random_mean"] <= 1.001


def test_norms_are_singular_values() -> None:
    field = small()
    found = named(["spectral_norms"])["spectral_norms"](field, lattice())
    expected = [float(np.linalg.svd(layer.weight.detach().numpy())[1][0]) for layer in field.network.layers]
    assert found["layers"] == pytest.approx(expected, rel=1e-5)
    assert found["product"] == pytest.approx(math.prod(expected), rel=1e-5)


@pytest.mark.parametrize("preset", ["siren", "fast"])
def test_a_watched_fit_is_the_same_bits(preset: str, tmp_path: Path) -> None:
    picture = (lattice(16).values.numpy() * 255).astype(np.uint8)
    small = [] if preset == "fast" else ["network.n_neurons=16", "network.n_hidden_layers=2"]
    options = {"preset": preset, "steps": 6, "overrides": [*small, "fit.batch_size=64"], "progress": "quiet"}
    plain = fit(picture, **options)
    path = tmp_path / "a.field"
    watched = fit(picture, **options, diagnose=ALL, diagnose_every=2, output=path)
    for one, other in zip(plain.field.parameters(), watched.field.parameters(), strict=True):
        assert torch.equal(one, other)
    rows = [json.loads(line) for line in (tmp_path / "a.diagnostics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 2, 4, 6]
    assert rows == watched.diagnostics
    assert all(set(row) == {"step", *ALL} for row in rows)


def test_random_numbers_go_on_as_if_nothing_was_drawn() -> None:
    before = torch.random.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    with random_state_kept():
        torch.rand(3), np.random.rand(3), random.random()
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert before[1:] == (np.random.get_state()[1].tolist(), random.getstate())


def test_the_command_writes_rows_and_a_report(tmp_path: Path) -> None:
    photo = tmp_path / "a.png"
    write_image(photo, lattice(16).values.numpy())
    options = ["fit", "image", str(photo), "-o", str(tmp_path / "b.field"), "--steps", "4", "--quiet"]
    assert main([*options, "--diagnose", "spectrum,dead_units", "--diagnose-every", "2"]) == 0
    assert len((tmp_path / "b.diagnostics.jsonl").read_text().splitlines()) == 3
    assert (tmp_path / "b.report.png").stat().st_size > 10_000


def test_reports_of_sounds_and_films_show_them_too(tmp_path: Path) -> None:
    """A row of the picture for each three."""
    clip, film = Clip.from_array(np.sin(np.arange(400) / 5), 8000), Film.from_array(np.zeros((3, 8, 8, 3), np.uint8))
    rows = [{"step": step, "ntk": {"effective_rank": 2.0 + step}} for step in range(3)]
    heights = []
    for diagnostics in ((), rows):
        sound, moving = tmp_path / "sound.png", tmp_path / "film.png"
        audio_report(sound, clip, clip.samples, [{"step": 1, "snr": 3.0}], title="", diagnostics=diagnostics)
        field = VideoJob(film).make_field(VideoJob(film).preset("fast"), 0)
        video_report(moving, film, field, [9.0] * 3, [{"step": 1, "psnr": 3.0}], title="", diagnostics=diagnostics)
        heights.append([read_image(file).height for file in (sound, moving)])
    assert np.subtract(*heights).tolist() == [-300, -300]


def test_what_cannot_be_asked_is_said() -> None:
    with pytest.raises(ConfigError, match="no diagnostic is called 'spectra'"):
        named(["spectra"])
    line, diagnostic = Slice(lattice().points[0], lattice().values[0]), named(["lempel_ziv"])["lempel_ziv"]
    with pytest.raises(ValueError, match="lattice of rows and columns"):
        diagnostic(small(), line)
    assert len(available("diagnostic")) == len(ALL)
    assert build("diagnostic", "ntk").config() == {"otype": "NTK", "n_points": 256}
    assert ImageJob(np.zeros((4, 9), np.uint8)).slices(64)[0].points.shape == (4, 4, 2)
