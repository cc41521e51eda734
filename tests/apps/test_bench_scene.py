"""The benchmark of scenes: its peer does what ours does, rows are kept part by part, tables say what rows say."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fieldforge.apps.bench import main, scene
from fieldforge.apps.bench.harness import Row, latest, save
from fieldforge.apps.bench.plain_nerf import PlainNerf, harmonics
from fieldforge.apps.bench.report import TABLES
from fieldforge.encodings.spherical_harmonics import SphericalHarmonics

NETWORK = {"n_neurons": 16, "n_hidden_layers": 1}
CONFIG = {
    "encoding": {
        "n_levels": 2, "n_features_per_level": 2, "log2_hashmap_size": 8, "base_resolution": 4, "per_level_scale": 2.0,
    },
    "network": NETWORK,
    "rgb_network": NETWORK,
}  # fmt: skip


def test_the_peer_sees_directions_as_ours_does() -> None:
    directions = torch.nn.functional.normalize(torch.randn(50, 3), dim=-1)
    ours = SphericalHarmonics(3, degree=4)(0.5 * directions + 0.5)
    torch.testing.assert_close(harmonics(directions), ours, atol=1e-5, rtol=1e-5)


def test_the_peer_absorbs_along_the_part_of_a_ray_that_is_in_the_box() -> None:
    """A field of density 1/2 in a box of side 2: what is left behind it is exp(-length / 2)."""
    model = PlainNerf(CONFIG, (-1.0, -1.0, -1.0), (1.0, 1.0, 1.0)).eval()
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    origins = torch.tensor([[0.1, 0.2, -3.0], [0.1, 0.2, 0.0], [5.0, 0.0, 0.0]])
    directions = torch.tensor([[1e-9, 1e-9, 1.0], [1e-9, 1e-9, 1.0], [1e-9, 1e-9, 1.0]])
    color = model.render(origins, directions, torch.tensor([1.0, 1.0, 1.0]), n_samples=8)
    left = torch.exp(-torch.tensor([2.0, 1.0, 0.0]) / 2)  # colour is 1/2 where a network gives 0
    torch.testing.assert_close(color, (0.5 * (1 - left) + left)[:, None].expand(-1, 3))


def test_a_part_that_does_not_exist_and_scenes_that_are_missing_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="only: expected one of race, marching, lego_tiny100"):
        main("scene", rows=tmp_path, data=tmp_path, is_quick=False, only=("castle",))
    with pytest.raises(ValueError, match=r"holds none of lego_tiny100.npz.*--data FOLDER"):
        main("scene", rows=tmp_path, data=tmp_path, is_quick=False, only=("race", "fern"))
    said = capsys.readouterr().out
    assert f"race: skipped, there is no {tmp_path / 'lego_tiny100.npz'}" in said
    assert f"fern: skipped, there is no {tmp_path / 'fern'}" in said


def test_how_good_a_fit_was_on_the_way_is_what_the_last_look_saw() -> None:
    result: Any = SimpleNamespace(seconds=700.0)
    looks = [(20.0, 22.0), (50.0, 25.0), (290.0, 29.0), (310.0, 30.0)]
    assert scene.on_the_way(result, looks) == {
        "psnr after 60 s": 25.0, "psnr after 5 min": 29.0, "psnr after 20 min": None
    }  # fmt: skip


def test_the_newest_row_of_each_part_counts(tmp_path: Path) -> None:
    def measured(case: str, value: float, time: str) -> None:
        save(tmp_path, "scene", [Row("scene", case, "x", {}, value, 0.0, 0.0)])
        lines = (tmp_path / "scene.jsonl").read_text().splitlines()
        lines[-1] = json.dumps(json.loads(lines[-1]) | {"time": time})
        (tmp_path / "scene.jsonl").write_text("\n".join(lines) + "\n")

    measured("quality fern", 1.0, "2026-01-01")
    measured("quality fox", 2.0, "2026-01-02")
    measured("quality fern", 3.0, "2026-01-03")
    assert [(row["case"], row["seconds"]) for row in latest(tmp_path, "scene")] == [
        ("quality fox", 2.0), ("quality fern", 3.0)
    ]  # fmt: skip


def test_the_tables_of_scenes() -> None:
    about = {
        "command": "fieldforge bench scene", "processor": "p", "versions": {"torch": "2"}, "time": "2026-01-02T",
        "peak_mib": 400,
    }  # fmt: skip
    sizes = {"views": 17, "size": [504, 378], "plain_rays": 128, "plain_samples": 64}
    row = {"sizes": sizes, "seconds": 400.0, "rate": 0.0, "quality": {}} | about
    quality = {"psnr": 24.04, "ssim": 0.75, "psnr after 60 s": 20.3, "steps": 16000, "bytes": 6_000_000}
    marched = {"psnr": 34.4, "marched": 0.1, "evaluated": 0.05, "psnr_to_closed": 60.0}
    large = {"wall_seconds": 0.5, "threads": 2.0}
    text = TABLES["scene"](
        [
            row | {"case": "quality fern", "candidate": "balanced", "quality": quality},
            row | {"case": "to 25 dB", "candidate": "plain", "rate": 100.0},
            row | {"case": "to 25 dB", "candidate": "ours", "seconds": 10.0, "rate": 2000.0},
            row | {"case": "training at 25 dB", "candidate": "plain", "seconds": 0.1, "rate": 100.0},
            row | {"case": "training at 25 dB", "candidate": "ours", "seconds": 0.05, "rate": 2000.0},
            row | {"case": "marching of the held-out views", "candidate": "occupancy", "rate": 5e4, "quality": marched},
            row | {"case": "a view of 400x400", "candidate": "occupancy", "seconds": 0.9, "quality": large},
        ]
    )
    for line in (
        "| fern | 17 of 504x378 | 24.04 dB | 0.750 | 20.3 dB |  |  | 400 s | 16000 | 6.00 MB | 400 MiB |",
        "| to 25 dB | ours | 10 | 2,000 | 40 x |",
        "| training at 25 dB | ours | 50 ms a step | 2,000 | 20 x |",
        "Plain PyTorch: 128 rays a step, 64 samples each.",
        "| occupancy | 34.400 dB | 10.0 % | 5.0 % | 60.0 dB | 50,000 |",
        "A view of 400x400: 0.90 s on one thread, 0.50 s on 2.",
    ):
        assert line in text
