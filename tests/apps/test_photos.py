"""Pixels of many photos: where they are kept, what that costs, and that the answer is always the same."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import scene_files
import torch
from PIL import Image

from fieldforge.apps.scenes import Photos, SceneError, photos, read_scene
from fieldforge.apps.scenes.files import read_header, read_photo, shrink
from fieldforge.apps.scenes.photos import plan


def test_the_plan_says_what_is_kept_where() -> None:
    many = np.array([[4000, 3000]] * 300)
    assert plan(many, 3, disk=10**11).sentence == (
        "300 photos of 4000x3000: 10.8 GB decoded; kept as bytes in a temporary file that is mapped into memory"
    )
    assert plan(many, 3, memory=10**11).kept == "memory"
    assert plan(many[:10], 3).kept == "memory"
    small_disk = plan(many, 3, disk=10**9)
    assert small_disk.kept == "cache"
    assert "at most 1.1 GB are kept and the rest decoded each time" in small_disk.sentence
    with pytest.raises(SceneError, match=r"one alone has 36\.0 MB; use downscale"):
        plan(many, 3, memory=10**7, disk=10**9)
    assert plan(np.zeros((0, 2), np.int64), 3).n_bytes == 0
    assert plan(np.array([[2**24, 2**24]] * 300), 4, disk=2**63).n_bytes == 300 * 2**50  # does not wrap around


@pytest.fixture
def pictures() -> list[np.ndarray]:
    """Of several sizes."""
    generator = np.random.default_rng(0)
    sizes = [(7, 5), (3, 9), (17, 1), (64, 48), (5, 5)]
    return [generator.integers(0, 256, (height, width, 3), dtype=np.uint8) for width, height in sizes]


@pytest.mark.parametrize(
    ("kept", "memory", "disk"), [("memory", 2**20, 0), ("file", 100, 2**30), ("cache", 64 * 48 * 3 + 100, 0)]
)
def test_pixels_are_the_same_wherever_they_are_kept(
    kept: str, memory: int, disk: int, pictures: list[np.ndarray]
) -> None:
    decoded: list[int] = []

    def decode(view: int) -> np.ndarray:
        decoded.append(view)
        return pictures[view]

    photos = Photos([picture.shape[1::-1] for picture in pictures], 3, decode, memory=memory, disk=disk)
    assert photos.plan.kept == kept
    assert decoded == []
    generator = torch.Generator().manual_seed(0)
    view = torch.randint(len(pictures), (1000,), generator=generator)
    pixels = (torch.rand(1000, 2, generator=generator) * torch.from_numpy(photos.sizes)[view]).long()
    for _ in range(2):
        found = photos.gather(view, pixels)
        expected = np.stack([pictures[v][y, x] for v, (x, y) in zip(view.tolist(), pixels.tolist(), strict=True)])
        torch.testing.assert_close(found, torch.from_numpy(expected).float() / 255, rtol=0, atol=0)
    if kept != "cache":
        assert sorted(decoded) == list(range(len(pictures)))  # once each
    for number, picture in enumerate(pictures):
        np.testing.assert_array_equal((photos.picture(number) * 255).round().numpy(), picture)
    assert photos.gather(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 2, dtype=torch.int64)).shape == (0, 3)


def test_only_the_photos_that_are_asked_for_are_decoded(pictures: list[np.ndarray]) -> None:
    decoded: list[int] = []
    photos = Photos(
        [picture.shape[1::-1] for picture in pictures], 3, lambda view: decoded.append(view) or pictures[view]
    )
    photos.gather(torch.tensor([3, 1, 3]), torch.zeros(3, 2, dtype=torch.int64))
    assert sorted(decoded) == [1, 3]
    photos.load(torch.tensor([1, 4]))
    assert sorted(decoded) == [1, 3, 4]


def test_the_cache_keeps_within_its_memory(pictures: list[np.ndarray]) -> None:
    memory = 64 * 48 * 3 + 100
    photos = Photos([p.shape[1::-1] for p in pictures], 3, lambda view: pictures[view], memory=memory, disk=0)
    for view in (0, 1, 2, 3, 0, 4, 1):
        photos.picture(view)
        assert sum(picture.nbytes for picture in photos._recent.values()) <= memory


def test_a_photo_that_changes_under_way_is_an_error(pictures: list[np.ndarray]) -> None:
    photos = Photos([(8, 5)], 3, lambda view: pictures[0])
    with pytest.raises(SceneError, match=r"expected 8x5 pixels of 3 bytes, got .* the photo changed"):
        photos.picture(0)


def test_the_mapped_file_is_gone_when_the_photos_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    photos = Photos([(100, 100)] * 4, 3, lambda view: np.full((100, 100, 3), view, np.uint8), memory=1, disk=2**30)
    assert photos.picture(3)[0, 0, 0] == torch.tensor(3 / 255)
    assert list(tmp_path.iterdir()) == []  # its name is gone at once, so that nothing is left after a crash either


@pytest.mark.skipif(not Path("/dev/shm").is_mount(), reason="no /dev/shm")
def test_temporary_files_are_not_put_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert photos._in_memory("/dev/shm")
    monkeypatch.setattr(tempfile, "tempdir", "/dev/shm")
    assert photos._roomiest()[0] != "/dev/shm"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_mapped_photos_take_no_memory_of_their_own() -> None:
    """120 MB of photos under a budget of 20 MB: what cannot be given back (RssAnon) grows by far less than that."""
    code = """
import re, numpy as np, torch
from fieldforge.apps.scenes import Photos
def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
photos = Photos([(1000, 1000)] * 40, 3, lambda view: np.full((1000, 1000, 3), view, np.uint8), memory=20 * 2**20)
before = anonymous()
photos.load()
view = torch.arange(40).repeat(100)
assert (photos.gather(view, torch.randint(1000, (4000, 2)))[:, 0] * 255).round().long().equal(view)
print(photos.plan.kept, (anonymous() - before) / 2**20)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    kept, grown = done.stdout.split()
    assert kept == "file"
    assert float(grown) < 40


# ---- decoding


def test_shrinking_averages_blocks_and_cuts_the_rest() -> None:
    pixels = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    small = shrink(pixels, 2)
    assert small.shape == (2, 3, 3)
    np.testing.assert_allclose(small[1, 2], pixels[2:4, 4:6].mean((0, 1)), atol=0.5)
    assert shrink(pixels, 1) is pixels


def test_what_lies_under_transparent_pixels_does_not_bleed_in() -> None:
    pixels = np.array([[[200, 100, 0, 255], [0, 255, 255, 0]]], np.uint8).repeat(2, 0)
    assert shrink(pixels, 2).tolist() == [[[200, 100, 0, 128]]]
    assert shrink(pixels * 0, 2).tolist() == [[[0, 0, 0, 0]]]


def test_photos_of_every_kind_become_bytes(tmp_path: Path) -> None:
    rgb = scene_files.pictures()[0]
    Image.fromarray(rgb[..., 0]).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_photo(tmp_path / "grey.png", 3), rgb[..., :1].repeat(3, 2))
    Image.fromarray(rgb).save(tmp_path / "rgb.png")
    assert read_photo(tmp_path / "rgb.png", 4)[..., 3].min() == 255
    deep = rgb[..., 0].astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_photo(tmp_path / "deep.png", 3)[..., 0], rgb[..., 0])
    Image.fromarray(rgb).convert("P").save(tmp_path / "palette.gif")
    assert read_photo(tmp_path / "palette.gif", 3).shape == rgb.shape


def test_headers_tell_size_and_alpha_as_decoding_does(tmp_path: Path) -> None:
    rgba = scene_files.pictures(4)[0]
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(rgba).save(tmp_path / "a.png")
    Image.fromarray(rgba).convert("LA").save(tmp_path / "b.png")
    Image.fromarray(rgba[..., :3]).save(tmp_path / "c.jpg", exif=turned)
    Image.fromarray(rgba[..., :3]).save(tmp_path / "d.png", exif=turned)
    Image.fromarray(rgba).save(tmp_path / "e.webp")
    Image.fromarray(rgba[..., :3]).save(tmp_path / "f.tif")
    for path in sorted(tmp_path.iterdir()):
        header = read_header(path)
        assert header.has_alpha == (path.stem in "abe"), path
        assert header.is_turned == (path.stem in "cd"), path
        assert read_photo(path, 3).shape == (header.height, header.width, 3), path


def test_downscale_shrinks_photos_and_cameras_together(tmp_path: Path) -> None:
    folder = scene_files.instant_ngp(tmp_path)
    whole, half = read_scene(folder), read_scene(folder, downscale=4)
    assert half.cameras.sizes[0].tolist() == [3, 2]
    expected = scene_files.pictures()[5, :8].reshape(2, 4, 3, 4, 3).mean((1, 3))
    np.testing.assert_allclose(half.photos.picture(5) * 255, expected, atol=0.51)
    place = torch.tensor([[2.0, 1.5]], dtype=torch.float64)
    torch.testing.assert_close(
        whole.cameras.rays(torch.tensor(5), 4 * place), half.cameras.rays(torch.tensor(5), place)
    )
    with pytest.raises(SceneError, match="has less than downscale=11 pixels on a side"):
        read_scene(folder, downscale=11)
    with pytest.raises(SceneError, match="downscale: expected 1 or more, got 0"):
        read_scene(folder, downscale=0)
