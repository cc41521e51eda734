"""Rendering an image field: any size, any part, in bounded memory, the same however it is cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fieldforge.apps.cli import main
from fieldforge.apps.images import read_image
from fieldforge.apps.render import image as renderer
from fieldforge.apps.render.image import render, render_strips, view_of
from fieldforge.fields.file import save_field
from fieldforge.fields.kinds.image import ImageField

WIDTH, HEIGHT = 40, 30


@pytest.fixture
def plane() -> ImageField:
    """A field that is exactly linear: red is x / 40, green is y / 30, blue is a half."""
    field = ImageField(encoding="Identity", network={"otype": "MLP", "n_hidden_layers": 0, "has_bias": True},
                       width=WIDTH, height=HEIGHT)  # fmt: skip
    with torch.no_grad():
        field.network.layers[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
        field.network.layers[0].bias.copy_(torch.tensor([0.0, 0.0, 0.5]))
    return field


def test_pixels_are_colors_at_their_centres(plane: ImageField) -> None:
    picture = render(plane)
    assert picture.shape == (HEIGHT, WIDTH, 3)
    np.testing.assert_allclose(picture[7, 11], [11.5 / WIDTH, 7.5 / HEIGHT, 0.5], atol=1e-6)


@pytest.mark.parametrize("size", [(80, 60), (13, 7), (1, 1), (400, 3)])
def test_any_size_shows_the_same_picture(size: tuple[int, int], plane: ImageField) -> None:
    picture = render(plane, size=size)
    assert picture.shape == (size[1], size[0], 3)
    x = (np.arange(size[0]) + 0.5) / size[0]
    np.testing.assert_allclose(picture[0, :, 0], x, atol=1e-5)


def test_a_crop_is_a_part_of_the_whole(plane: ImageField) -> None:
    whole, part = render(plane, scale=2), render(plane, scale=2, crop=(10, 5, 8, 6))
    np.testing.assert_allclose(part, whole[10:22, 20:36], atol=1e-6)


def test_a_crop_may_reach_outside(plane: ImageField) -> None:
    picture = render(plane, crop=(-10, 0, 20, 30))
    np.testing.assert_allclose(picture[:, :10, 0], 0.0, atol=1e-6)


def test_strips_do_not_show(plane: ImageField, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = render(plane, size=(37, 53))
    monkeypatch.setattr(renderer, "_SAMPLES_A_STRIP", 64)
    strips = list(render_strips(plane, view_of(plane, size=(37, 53))))
    assert len(strips) > 20
    np.testing.assert_allclose(np.concatenate(strips), whole, atol=1e-6)


def test_reduction_averages_instead_of_skipping() -> None:
    """Stripes one pixel wide come out grey at half the size, not black or white."""
    encoding = {"otype": "DenseGrid", "n_levels": 1, "base_resolution": 65, "interpolation": "Nearest"}
    field = ImageField(encoding=encoding, network={"otype": "MLP", "n_hidden_layers": 0}, width=64, height=64)
    with torch.no_grad():
        columns = torch.arange(field.encoding.table.shape[0]) % 65
        field.encoding.table.copy_((columns % 2).float()[:, None].expand_as(field.encoding.table))
        field.network.layers[0].weight.fill_(0.5)
    full, half = render(field), render(field, scale=0.5)
    assert set(np.unique(full[32].round(3))) == {0.0, 1.0}
    assert abs(half[4:-4, 4:-4].mean() - 0.5) < 0.05
    assert half[4:-4, 4:-4].std() < 0.3


def test_srgb_is_clipped_and_linear_is_not(plane: ImageField) -> None:
    with torch.no_grad():
        plane.network.layers[0].bias.fill_(3.0)
    assert render(plane).max() == 1.0
    linear = ImageField(encoding="Identity", network=plane.network, width=8, height=8, color_space="linear")
    assert render(linear).max() > 3.0


def test_memory_does_not_grow_with_the_picture(plane: ImageField, tmp_path: Path) -> None:
    """A rendering of 32 megapixels, whose floats alone take 366 MiB, in a process that grows by less than 150."""
    import subprocess
    import sys

    save_field(tmp_path / "x.field", plane)
    code = (
        "import resource, sys\n"
        "from fieldforge.apps.cli import main\n"
        "import fieldforge.apps.render.command\n"
        "base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "code = main(sys.argv[1:])\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) / 1024)\n"
        "sys.exit(code)"
    )
    arguments = ["render", str(tmp_path / "x.field"), "-o", str(tmp_path / "big.png"), "--size", "8000x4000", "--quiet"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 150, "MiB"


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tiff", ".exr", ".hdr"])
def test_every_kind_of_file(suffix: str, plane: ImageField, tmp_path: Path) -> None:
    save_field(tmp_path / "x.field", plane)
    out = tmp_path / f"out{suffix}"
    assert main(["render", str(tmp_path / "x.field"), "-o", str(out), "--quiet"]) == 0
    picture = read_image(out)
    assert (picture.height, picture.width) == (HEIGHT, WIDTH)


def test_sixteen_bits(plane: ImageField, tmp_path: Path) -> None:
    save_field(tmp_path / "x.field", plane)
    out = tmp_path / "out.png"
    assert main(["render", str(tmp_path / "x.field"), "-o", str(out), "--bits", "16", "--quiet"]) == 0
    picture = read_image(out)
    assert picture.pixels.dtype == np.uint16
    np.testing.assert_allclose(picture.rows(0, HEIGHT), render(plane), atol=1.1 / 65535)
