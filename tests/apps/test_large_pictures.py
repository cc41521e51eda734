"""A picture of many million pixels as a grid of small networks: memory follows the cells, not the pixels."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fieldforge.apps.fit.image.job import fit
from fieldforge.apps.fit.image.presets import MOST_CELLS, preset
from fieldforge.apps.images import Picture
from fieldforge.apps.render.image import render_strips, view_of
from fieldforge.fields.kinds.image import ImageField
from fieldforge.kernels import cpu_door
from fieldforge.registry import build


@pytest.mark.parametrize(("width", "height"), [(10_000, 10_000), (60_000, 1_000), (2**15, 2**15), (4096, 4096)])
def test_a_large_picture_has_larger_cells_not_more(width: int, height: int) -> None:
    config = preset("kilonerf", width, height)
    with torch.device("meta"):
        field: Any = build("field", {
            "otype": "ImageField", "encoding": config["encoding"], "network": config["network"],
            "partition": config["partition"], "width": width, "height": height,
        })  # fmt: skip
    n_x, n_y = config["partition"]["resolution"]
    assert 0.9 * MOST_CELLS <= n_x * n_y <= 1.1 * MOST_CELLS
    assert 0.8 < (width / n_x) / (height / n_y) < 1.25, "cells are about square"
    assert config["fit"]["batch_size"] >= 16 * n_x * n_y
    assert sum(parameter.numel() for parameter in field.parameters()) * 4 < 150e6
    period = width / n_x / 2 ** (config["encoding"]["n_frequencies"] - 2)
    assert 5 < period < 12


def test_pictures_of_some_million_pixels_have_cells_of_32() -> None:
    config = preset("kilonerf", 512, 768)
    assert config["partition"]["resolution"] == [16, 24]
    assert config["encoding"]["n_frequencies"] == 4
    assert config["fit"]["batch_size"] == 512 * 768 // 16
    assert preset("kilonerf", 7, 5)["partition"]["resolution"] == [1, 1]


def test_no_step_and_no_measurement_looks_at_the_whole_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is turned into floats is a batch, or a strip."""
    asked: list[int] = []
    scaled = Picture._scaled

    def counted(self: Picture, stored: np.ndarray) -> np.ndarray:
        asked.append(stored.size // stored.shape[-1])
        return scaled(self, stored)

    monkeypatch.setattr(Picture, "_scaled", counted)
    y, x = np.mgrid[:900, :700].astype(np.float32)
    picture = np.stack([127 + 100 * np.sin(x / 40), 127 + 100 * np.cos(y / 60), x / 4], -1).astype(np.uint8)
    result = fit(picture, preset="kilonerf", steps=40, progress="quiet")
    assert result.psnr > 24
    assert max(asked) <= max(result.config["fit"]["batch_size"], 2**17)
    strips = list(render_strips(result.field, view_of(result.field, crop=(100, 200, 300, 50))))
    whole = np.concatenate(list(render_strips(result.field, view_of(result.field))))
    np.testing.assert_allclose(np.concatenate(strips), whole[200:250, 100:400], atol=2e-5)


LARGE = """
import sys
import numpy as np
from PIL import Image
from fieldforge.apps.cli import main

def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024

def picture(side, path):
    x = np.arange(side, dtype=np.float32)
    image = Image.new("RGB", (side, side))
    for top in range(0, side, 128):
        y = x[top : top + 128, None]
        strip = np.stack([127 + 90 * np.sin(x / 37) * np.cos(y / 53), 127 + 90 * np.sin((x + y) / 90), y + 0 * x], -1)
        image.paste(Image.fromarray((strip % 256).astype(np.uint8)), (0, top))
    image.save(path, compress_level=1)

folder, side = sys.argv[1], int(sys.argv[2])
options = ["--preset", "kilonerf", "--set", "partition.resolution=[16,16]", "--set", "fit.batch_size=65536"]

def run(name):
    path, field = f"{folder}/{name}.png", f"{folder}/{name}.field"
    assert main(["fit", "image", path, *options, "--steps", "4", "-o", field, "--quiet"]) == 0
    before = peak()
    assert main(["render", field, "-o", f"{folder}/{name}.out.png", "--quiet"]) == 0
    return before

if sys.argv[3] == "draw":
    picture(512, f"{folder}/small.png")
    picture(side, f"{folder}/large.png")
else:
    run("small")
    before = peak()
    fitted = run("large")
    print(fitted - before, peak() - fitted)
"""


@pytest.mark.slow
@pytest.mark.skipif(cpu_door.missing() is not None, reason=f"no native kernels: {cpu_door.missing()}")
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="no /proc on this system")
def test_sixteen_million_pixels_take_their_bytes_and_little_more(tmp_path: Path) -> None:
    """Stored 48 MiB, and 64 while the file is decoded; as floats, 192 more, they never exist. Report and rendering too
    take strips."""
    side = 4096
    for what in ("draw", "fit"):  # the drawing has a peak of its own
        done = subprocess.run(
            [sys.executable, "-c", LARGE, str(tmp_path), str(side), what], capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, done.stderr
    grown, rendering = map(float, done.stdout.split()[-2:])
    assert grown < (3 + 4) * 16 + 64
    assert rendering < 16
    with_picture = tmp_path / "large.out.png"
    assert with_picture.stat().st_size > 0


def test_a_field_of_cells_answers_tile_by_tile_as_at_once() -> None:
    """Points of a strip are in few cells, those of a batch in many; each gets the same answer."""
    field = ImageField(
        encoding={"otype": "Frequency", "n_frequencies": 4}, network={"otype": "MLP", "n_neurons": 8}, width=64,
        height=64, partition={"otype": "UniformGrid", "resolution": 4}, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    points = torch.rand(5000, 2, generator=torch.Generator().manual_seed(1)) * 64
    in_strips = points[points[:, 1].argsort()]
    with torch.no_grad():
        at_once = field.color(in_strips)
        parts = torch.cat([field.color(part) for part in in_strips.split(97)])
    torch.testing.assert_close(parts, at_once, rtol=1e-5, atol=1e-6)
