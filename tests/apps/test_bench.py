"""The benchmarks run, and the tables they write say what the rows say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from fieldforge.apps.bench import main
from fieldforge.apps.bench.convert_picture import PICTURE, mirrored
from fieldforge.apps.bench.harness import Row, latest, save, spread
from fieldforge.apps.bench.operators_page import u_curves
from fieldforge.apps.bench.peers import PlainFrequency, PlainHashGrid
from fieldforge.apps.bench.report import TABLES, write_tables
from fieldforge.apps.shapes import quality
from fieldforge.encodings.frequency import Frequency
from fieldforge.encodings.grid import HashGrid


@pytest.mark.parametrize(
    "suite",
    [
        "clouds",
        "convert",
        "encodings",
        "image",
        "methods",
        "operators",
        "presets",
        "scene",
        "scene_models",
        "shape",
        "signals",
    ],
)
def test_suites_run_quickly_and_leave_no_rows(suite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "IOU_POINTS", 2**12)
    assert main(suite, rows=tmp_path, data=None, is_quick=True) == 0
    assert not list(tmp_path.iterdir())


def test_a_large_picture_is_fitted_both_ways(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("convert", rows=tmp_path, data=None, is_quick=True, only=["picture"]) == 0
    assert re.findall(r"^picture +(small networks|hash grid) ", capsys.readouterr().out, re.M) == [
        "small networks", "hash grid"
    ]  # fmt: skip


def test_the_mirror_image_lies_below_the_picture(tmp_path: Path) -> None:
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    (tmp_path / "images/big").mkdir(parents=True)
    Image.fromarray(pixels).save(tmp_path / PICTURE, "PNG")
    assert mirrored(tmp_path, 6 * 6 + 5).pixels[:, 0, 0].tolist() == [
        *pixels[:, 0, 0],
        pixels[3, 0, 0],
        pixels[2, 0, 0],
    ]


def test_the_peer_grid_is_the_same_function_where_both_hash() -> None:
    """Same tables, levels that hash on both sides: the peer does the work that ours does."""
    ours = HashGrid(2, n_levels=3, log2_hashmap_size=4, base_resolution=40, per_level_scale=1.5)
    peer = PlainHashGrid(2, 3, 2, 4, 40, 1.5)
    peer.table.data.copy_(torch.randn_like(peer.table))
    ours.table.data.copy_(peer.table.data)
    x = torch.rand(500, 2)
    torch.testing.assert_close(peer(x), ours(x), atol=2e-3, rtol=1e-3)  # its positions are rounded twice


def test_the_peer_frequencies_are_the_same_function() -> None:
    x = torch.rand(100, 2)
    torch.testing.assert_close(PlainFrequency(6)(x), Frequency(2, n_frequencies=6)(x), atol=1e-4, rtol=0)


def test_rows_are_kept_and_tables_written(tmp_path: Path) -> None:
    figures = {"psnr": 31.25, "ssim": 0.9, "seconds": 4.0, "bytes": 120_000}
    rows = [
        Row("presets", "cat", "fast", {}, 4.0, 0.0, 1e6, quality=figures),
        Row("presets", "dog", "fast", {}, 4.0, 0.0, 1e6, quality=figures),
    ]
    save(tmp_path, "presets", rows)
    kept = latest(tmp_path, "presets")
    assert [row["case"] for row in kept] == ["cat", "dog"]
    assert {"commit", "versions", "processor", "command", "time", "peak_mib"} <= set(kept[0])
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- bench:presets -->\nold\n<!-- /bench -->\nafter\n")
    write_tables(tmp_path, readme)
    text = readme.read_text()
    assert "| `fast` | 31.2 dB, 4 s, 120 KB | 31.2 dB, 4 s, 120 KB |" in text
    assert "old" not in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")


def test_without_meshes_the_suite_of_shapes_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=r"holds none of ingp_armadillo.obj.*--data FOLDER"):
        main("shape", rows=tmp_path, data=tmp_path, is_quick=False)
    assert f"Lucy: skipped, there is no {tmp_path / 'stanford_lucy.ply'}" in capsys.readouterr().out


def test_the_table_of_shapes_has_its_three_parts() -> None:
    about = {
        "command": "fieldforge bench shape", "processor": "p", "versions": {"torch": "2"}, "time": "2026-01-02T",
    }  # fmt: skip
    figures = {
        "volume_iou": 0.9986, "near_iou": 0.99, "f_score_0.01": 1.0, "f_score_0.005": 0.9999, "chamfer": 1.2e-4,
        "stray": 0.004, "bytes": 7_000_000, "distance_error_near": 1e-4, "distance_error_far": 1e-3,
    }  # fmt: skip
    row = {"quality": figures, "seconds": 15.0, "rate": 1e6} | about
    table = TABLES["shape"](
        [
            row | {"case": "quality cat", "candidate": "balanced"},
            row | {"case": "step of x", "candidate": "plain", "seconds": 2.0},
            row | {"case": "step of x", "candidate": "ours", "seconds": 0.1},
            row | {"case": "recipe cat", "candidate": "nglod"},
        ]
    )
    quality_of = "| cat | `balanced` | 0.9986 | 0.9900 | 1.0000 | 0.9999 | 0.012 % | 0.40 % | 15.0 s | 7.00 MB |"
    for line in (quality_of, "| step of x | ours | 1 M | 20 x |", "| cat | nglod | 0.9986 | 0.9900 | 0.010 % "):
        assert line in table


def test_the_matrix_of_conversions_is_drawn(tmp_path: Path) -> None:
    """A student above its teacher is blue, one below red, one as good pale; what never ran is not there."""
    cases = {
        "scratch: mlp": 21.0, "matrix-mlp: mlp": 21.0, "matrix-mlp: kplanes": 22.5, "matrix-mlp: pref": 12.25,
        "scratch: kplanes": 27.0, "scratch: pref": 14.0,
    }  # fmt: skip
    rows = [
        Row("convert", case, case, {}, 1.0, 0.0, 1.0, quality={"psnr": psnr, "bytes": 1, "steps": 1})
        for case, psnr in cases.items()
    ]
    save(tmp_path / "bench", "convert", rows)
    page = tmp_path / "convert.md"
    page.write_text("<!-- bench:convert --><!-- /bench -->")
    write_tables(tmp_path / "bench", page)
    drawing = ElementTree.parse(tmp_path / "pictures" / "convert.svg").getroot()
    words = [one.text for one in drawing.iterfind(".//{*}text")]
    assert [words.count(f"{psnr:.1f}") for psnr in (21.0, 22.5, 12.2)] == [2, 1, 1]
    near = "2 of 3 students are within 1 dB of their teacher, or of what they come to from photos where that is less; 1"
    assert near in page.read_text()
    colours = [one.get("fill") or "" for one in drawing.iterfind(".//{*}rect")][-3:]
    pale, blue, red = ([int(colour[at : at + 2], 16) for at in (1, 3, 5)] for colour in colours)
    assert blue[2] > blue[0]
    assert red[0] > red[2]
    assert min(pale) > 230


def test_a_mark_without_rows_is_an_error(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("<!-- bench:image --><!-- /bench -->")
    with pytest.raises(ValueError, match="no rows of image; run fieldforge bench image"):
        write_tables(tmp_path, readme)


def test_spread() -> None:
    assert spread([1.0, 2.0, 3.0]) == 1.0


def test_the_readme_tables_are_those_of_the_rows() -> None:
    """`fieldforge bench report` would change nothing."""
    root = Path(__file__).resolve().parents[2]
    text = (root / "README.md").read_text()
    shown = re.findall(r"<!-- bench:(\w+) -->", text)
    assert {"presets", "image", "encodings"} <= set(shown) <= set(TABLES)
    for name in shown:
        rows = latest(root / "data/bench", name)
        assert TABLES[name](rows) in text, (
            f"the README's table {name} is not that of data/bench: run fieldforge bench report"
        )
        assert all(json.dumps(row) for row in rows)


def test_the_study_of_operators_shows_every_figure(tmp_path: Path) -> None:
    """Tables and picture from rows of one field: the best step is the best, the ratio is that of the medians."""
    rows = []
    for method in ("autodiff", "taps6", "taps4", "quadratic"):
        for cells in (None,) if method == "autodiff" else (1.0, 2.0, 4.0):
            degrees = 2.0 if cells is None else cells / 4
            figures = {"median_degrees": degrees, "mean_degrees": 3.0, "curvature_error": degrees / 100}
            name = method if cells is None else f"{method}, {cells:g} cells"
            rows.append(
                Row("operators", "ball, fast", name, {"method": method, "cells": cells}, 1.0, 0.0, 1.0, quality=figures)
            )
    save(tmp_path, "operators", rows)
    text = TABLES["operators"](latest(tmp_path, "operators"))
    assert "| ball, fast | 2.000 (3.00) |  | 0.250 (3.00) at 1 |" in text
    assert "| 0.500 (3.00) | 0.250 (3.00) at 1 | 4.0 |" in text
    assert "| ball, fast | 2.0% | 0.2% | 0.5% | 1.0% |" in text
    u_curves(latest(tmp_path, "operators"), tmp_path / "u.webp")
    with Image.open(tmp_path / "u.webp") as picture:
        assert picture.width > 300
