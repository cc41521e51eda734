"""Scenes against their photos and true depths: planar z is never ray length, and no field is held against strangers."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scene_files import HEIGHT, WIDTH, nerf_synthetic
from torch import Tensor

from fieldforge.apps.cli import main
from fieldforge.apps.render.pictures import look
from fieldforge.apps.render.radiance import SceneEye
from fieldforge.apps.scenes import Scene, SceneError, read_scene
from fieldforge.apps.scenes.digest import digest_of, expect_same_scene
from fieldforge.apps.scenes.quality import (
    Truth,
    depth_figures,
    evaluate_views,
    normal_figures,
    read_truth,
    through_middles,
)
from fieldforge.fields.file import save_field
from fieldforge.fields.kinds.radiance import RadianceField
from fieldforge.renderers.cameras import Cameras
from fieldforge.renderers.volume import Seen

WALL = 2.0
"""Of the wall that all cameras see: along the viewing axis of a camera at the origin that looks along -z."""
NETWORK = {"otype": "MLP", "n_neurons": 16, "n_hidden_layers": 1}


class Wall(SceneEye):
    """Sees z = -WALL, whatever the field."""

    background = torch.zeros(3)

    def __call__(self, origins: Tensor, directions: Tensor, times: Tensor | None = None) -> Seen:
        distance = (-WALL - origins[:, 2]) / directions[:, 2]
        return Seen(torch.full_like(origins, 0.5), distance, torch.ones(len(origins)), 0, 0)


def wide(side: int) -> Cameras:
    """At the origin, with 90 degrees from side to side."""
    pose = torch.eye(4)[None, :3]
    half = side / 2
    return Cameras(pose, torch.tensor([[half, half, half, half]]), torch.tensor([[side, side]]))


@pytest.mark.parametrize("downscale", [1, 2, 3, 4])
def test_planar_depth_is_held_against_planar_depth(downscale: int, tmp_path: Path) -> None:
    """A slanted wall, so that another pixel's ray would show; ray lengths instead of planar z would be 15 % off."""
    side = 24
    whole = wide(side)

    class Slanted(SceneEye):
        background = torch.zeros(3)

        def __call__(self, origins: Tensor, directions: Tensor, times: Tensor | None = None) -> Seen:
            normal = torch.tensor([0.4, 0.2, 1.0])
            distance = -WALL / (directions @ normal)
            return Seen(torch.zeros_like(origins), distance, torch.ones(len(origins)), 0, 0)

    truth = look(Slanted(), whole, 0)
    shape = (side // downscale, side // downscale)
    shown = look(Slanted(), through_middles(whole.downscaled(downscale), downscale), 0)
    for values, is_right in ((truth.planar_z, True), (truth.distance, False)):
        np.savez(tmp_path / "x.npz", depth=values)
        figures = depth_figures(shown, read_truth(tmp_path / "x.npz", shape, downscale))
        assert (figures["depth_error"] < 1e-5) == is_right  # type: ignore[operator]
        assert figures["depth_within_1"] == 1.0 if is_right else figures["depth_within_1"] < 0.2  # type: ignore[operator]


def test_what_is_not_seen_is_wrong_and_what_is_not_there_is_not_asked() -> None:
    shown = look(Wall(), wide(4), 0)
    shown.planar_z[0], shown.opacity[0] = math.inf, 0.0
    depth = np.full((4, 4), WALL)
    depth[3] = 0
    figures = depth_figures(shown, Truth(depth, None, np.ones((4, 4), bool)))
    assert figures["depth_within_5"] == figures["seen"] == pytest.approx(2 / 3)
    assert figures["depth_error"] == pytest.approx(0, abs=1e-6)
    assert depth_figures(shown, Truth(0 * depth, None, depth > 0)) == {}


def test_angles_between_normals_are_in_degrees() -> None:
    shown = look(Wall(), wide(4), 0)
    ahead = np.zeros((4, 4, 3), np.float32)
    ahead[..., 2] = 1
    slanted = np.zeros_like(ahead)
    slanted[..., [0, 2]] = 2 * math.sin(math.radians(30)), 2 * math.cos(math.radians(30))
    figures = normal_figures(ahead, shown, Truth(np.full((4, 4), WALL), slanted, np.ones((4, 4), bool)))
    assert figures == pytest.approx({"normal_angle_mean": 30.0, "normal_angle_median": 30.0})


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"alpha": np.zeros((4, 4))}, "no array 'depth'"),
        ({"depth": np.zeros((5, 4))}, "depth: expected"),
        ({"depth": np.zeros((4, 4, 1))}, "depth: expected"),
        ({"depth": np.full((4, 4), -1.0)}, "at least 0"),
        ({"depth": np.full((4, 4), np.nan)}, "finite"),
        ({"depth": np.zeros((4, 4)), "normal": np.zeros((4, 4))}, "normal: expected"),
        ({"depth": np.zeros((4, 4), complex)}, "depth: expected"),
    ],
)
def test_truths_that_do_not_fit_are_one_sentence(arrays: dict[str, np.ndarray], sentence: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(SceneError, match=sentence):
        read_truth(tmp_path / "x.npz", (4, 4))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene whose first test view has a truth: nothing."""
    path = nerf_synthetic(tmp_path_factory.mktemp("photos"))
    (path / "gt_test").mkdir()
    name = Path(read_scene(path).views[int(read_scene(path).of("test")[0])].name).stem
    depth, normal = np.full((HEIGHT, WIDTH), 1.0, np.float32), np.zeros((HEIGHT, WIDTH, 3), np.float16)
    np.savez(path / "gt_test" / f"{name}.npz", depth=depth, normal=normal + np.float16(0.5))
    return path


@pytest.fixture(scope="module")
def plain() -> RadianceField:
    torch.manual_seed(0)
    return RadianceField(
        encoding="Identity", network=NETWORK, rgb_network=NETWORK, occupancy=8, low=[-3] * 3, high=[3] * 3
    )  # fmt: skip


def test_truths_are_found_beside_the_photos(folder: Path, plain: RadianceField) -> None:
    scene = read_scene(folder)
    rows = evaluate_views(plain, Wall(), scene)
    assert list(rows) == [scene.views[view].name for view in scene.of("test").tolist()]
    first, *others = rows.values()
    assert {"psnr", "ssim", "depth_error", "seen"} <= set(first)
    assert all(set(row) == {"psnr", "ssim"} for row in others)


def test_a_digest_changes_with_cameras_pixels_and_size(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    assert digest_of(read_scene(other)) == digest_of(read_scene(folder))
    content = json.loads((other / "transforms_test.json").read_text())
    content["frames"][0]["transform_matrix"][0][3] += 1e-3
    (other / "transforms_test.json").write_text(json.dumps(content))
    scenes = read_scene(folder), read_scene(other), read_scene(folder, downscale=2)
    assert len({digest_of(scene) for scene in scenes}) == 3


def test_a_header_without_a_digest_is_taken_at_its_word(folder: Path) -> None:
    scene: Scene = read_scene(folder)
    for metadata in ({}, {"signal": 3}, {"signal": {"sha256": None}}, {"signal": {"sha256": digest_of(scene)}}):
        expect_same_scene(scene, metadata)
    with pytest.raises(SceneError, match="--force"):
        expect_same_scene(scene, {"signal": {"sha256": "0"}})


def test_the_commands(folder: Path, plain: RadianceField, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own, strange = tmp_path / "own.field", tmp_path / "strange.field"
    run = {"fit": {"samples_across": 16}}
    save_field(own, plain, metadata={"signal": {"sha256": digest_of(read_scene(folder))}, "run": run})
    save_field(strange, plain, metadata={"signal": {"sha256": "0"}, "run": run})
    assert main(["evaluate", str(own), str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["mean"]["psnr"] == pytest.approx(np.mean([row["psnr"] for row in found["views"]]))
    assert "depth_error" in found["mean"]
    assert main(["evaluate", str(own), str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "PSNR" in printed
    assert "planar depths" in printed
    views = ["render", str(strange), "-o", str(tmp_path / "views"), "--split", "test", "--data", str(folder)]
    for command in (["evaluate", str(strange), str(folder)], views):
        assert main(command) == 1
        assert "is not the scene that the field was fitted to" in capsys.readouterr().err
        assert main([*command, "--force"]) == 0
        capsys.readouterr()
    assert main(["evaluate", str(own), str(folder), "--points", "9"]) == 2
    assert "is of shapes" in capsys.readouterr().err
    assert main(["render", str(own), "-o", str(tmp_path / "x.png"), "--force"]) == 2
    assert "is of a --split" in capsys.readouterr().err
