"""Pictures: what is read is what the file stores, bad files are one sentence, files are written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import OpenEXR
import pytest
import tifffile
import torch
from PIL import Image

from fieldforge.apps.images import (
    ImageError,
    ImageWriter,
    Picture,
    linear_to_srgb,
    read_image,
    srgb_to_linear,
    write_image,
)

ASTRONAUT = Path(__file__).parents[2] / "data" / "images" / "astronaut.png"


def noise(dtype: type, n_channels: int, height: int = 23, width: int = 31) -> np.ndarray:
    random = np.random.default_rng(n_channels)
    if dtype is np.float32:
        return random.normal(0, 3, (height, width, n_channels)).astype(np.float32)
    return random.integers(0, np.iinfo(dtype).max, (height, width, n_channels), dtype, endpoint=True)


def refusal(path: Path, **options: Any) -> str:
    """The sentence about a file: one line that begins with the path."""
    with pytest.raises(ImageError) as caught:
        read_image(path, **options)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


# Reading


def test_a_photo_is_read_as_pillow_reads_it() -> None:
    picture = read_image(ASTRONAUT)
    with Image.open(ASTRONAUT) as image:
        np.testing.assert_array_equal(picture.pixels, np.asarray(image))
    assert (picture.height, picture.width, picture.n_channels) == (512, 512, 3)
    assert picture.color_space == "srgb"
    assert not picture.has_alpha
    assert picture.sha256 == hashlib.sha256(ASTRONAUT.read_bytes()).hexdigest()
    assert picture.source == str(ASTRONAUT)


@pytest.mark.parametrize("n_channels", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [
        ("png", np.uint8),
        ("png", np.uint16),
        ("tif", np.uint8),
        ("tif", np.uint16),
        ("tif", np.float32),
        ("exr", np.float32),
    ],
)
def test_what_is_written_is_read_back(tmp_path: Path, suffix: str, dtype: type, n_channels: int) -> None:
    array = noise(dtype, n_channels)
    path = tmp_path / f"picture.{suffix}"
    write_image(path, array, color_space="linear" if dtype is np.float32 else "srgb")
    picture = read_image(path)
    assert picture.pixels.dtype == dtype
    np.testing.assert_array_equal(picture.pixels, array)
    assert picture.has_alpha == (n_channels in (2, 4))
    assert picture.color_space == ("linear" if dtype is np.float32 else "srgb")


@pytest.mark.parametrize("n_channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_others_read_our_tiff(tmp_path: Path, dtype: type, n_channels: int) -> None:
    array = noise(dtype, n_channels)
    write_image(tmp_path / "picture.tif", array, color_space="linear" if dtype is np.float32 else "srgb")
    if dtype is not np.uint8 and n_channels in (1, 3):
        theirs = cv2.imread(str(tmp_path / "picture.tif"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(theirs.reshape(array.shape)[..., ::-1], array)
    elif dtype is np.uint8:
        with Image.open(tmp_path / "picture.tif") as image:
            np.testing.assert_array_equal(np.asarray(image).reshape(array.shape), array)
    with tifffile.TiffFile(tmp_path / "picture.tif") as file:
        assert file.pages[0].shape == (array.shape if n_channels > 1 else array.shape[:2])


@pytest.mark.parametrize("n_channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_others_read_our_png(tmp_path: Path, dtype: type, n_channels: int) -> None:
    array = noise(dtype, n_channels)
    write_image(tmp_path / "picture.png", array)
    if dtype is np.uint8:
        with Image.open(tmp_path / "picture.png") as image:
            np.testing.assert_array_equal(np.asarray(image).reshape(array.shape), array)
    elif n_channels != 2:
        theirs = cv2.imread(str(tmp_path / "picture.png"), cv2.IMREAD_UNCHANGED).reshape(array.shape)
        order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[n_channels]
        np.testing.assert_array_equal(theirs[..., order], array)


def test_sixteen_bit_colour_is_not_cut_to_eight(tmp_path: Path) -> None:
    array = noise(np.uint16, 3)
    cv2.imwrite(str(tmp_path / "deep.png"), array[..., ::-1])
    picture = read_image(tmp_path / "deep.png")
    np.testing.assert_array_equal(picture.pixels, array)
    assert len(np.unique(picture.pixels % 257)) > 100  # 8-bit values, widened, are all multiples of 257


def test_a_transparent_colour_becomes_alpha_at_sixteen_bits(tmp_path: Path) -> None:
    array = noise(np.uint16, 3)
    write_image(tmp_path / "deep.png", array)
    code = (tmp_path / "deep.png").read_bytes()
    name_and_key = b"tRNS" + array[4, 5].astype(">u2").tobytes()
    chunk = struct.pack(">I", 6) + name_and_key + struct.pack(">I", zlib.crc32(name_and_key))
    (tmp_path / "key.png").write_bytes(code[:33] + chunk + code[33:])
    picture = read_image(tmp_path / "key.png")
    np.testing.assert_array_equal(picture.pixels[..., :3], array)
    assert picture.pixels[4, 5, 3] == 0
    assert (picture.pixels[..., 3] == 65535).sum() == 23 * 31 - 1


@pytest.mark.parametrize(("mode", "n_channels"), [("1", 1), ("L", 1), ("LA", 2), ("P", 3), ("RGB", 3), ("RGBA", 4)])
def test_every_png_mode(tmp_path: Path, mode: str, n_channels: int) -> None:
    image = Image.fromarray(noise(np.uint8, 3)).convert(mode)
    image.save(tmp_path / "mode.png")
    expected = np.asarray(image.convert({"1": "L", "P": "RGB"}.get(mode, mode)))
    picture = read_image(tmp_path / "mode.png")
    np.testing.assert_array_equal(picture.pixels, expected.reshape(23, 31, n_channels))
    assert picture.has_alpha == (n_channels in (2, 4))


def test_a_palette_with_a_transparent_colour_has_alpha(tmp_path: Path) -> None:
    Image.fromarray(noise(np.uint8, 3)).convert("P").save(tmp_path / "palette.png", transparency=7)
    assert read_image(tmp_path / "palette.png").n_channels == 4


@pytest.mark.parametrize(("suffix", "kind"), [("jpg", "JPEG"), ("webp", "WEBP"), ("bmp", "BMP"), ("gif", "GIF")])
def test_pillow_formats(tmp_path: Path, suffix: str, kind: str) -> None:
    path = tmp_path / f"picture.{suffix}"
    Image.fromarray(noise(np.uint8, 3)).save(path, kind)
    with Image.open(path) as image:
        np.testing.assert_array_equal(read_image(path).pixels, np.asarray(image.convert("RGB")))


def test_cmyk_becomes_rgb_and_says_so(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8, 3), (200, 30, 60), np.uint8)).convert("CMYK").save(tmp_path / "print.jpg")
    picture = read_image(tmp_path / "print.jpg")
    assert abs(picture.pixels.astype(int) - (200, 30, 60)).max() < 12
    assert "CMYK" in picture.notes[0]


def test_the_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (5, 4), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "two.webp", save_all=True, append_images=frames[1:], lossless=True)
    picture = read_image(tmp_path / "two.webp")
    assert tuple(picture.pixels[0, 0]) == (255, 0, 0)
    assert picture.notes == ("only the first of 2 frames is read",)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "webp", "deep.png"])
def test_a_picture_is_turned_upright(tmp_path: Path, suffix: str, orientation: int) -> None:
    path, exif = tmp_path / f"turned.{suffix}", Image.Exif()
    exif[0x0112] = orientation
    array = noise(np.uint8, 3)
    Image.fromarray(array).save(path, exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    if suffix == "deep.png":
        code = path.read_bytes()
        start = code.index(b"eXIf") - 4
        length = int.from_bytes(code[start : start + 4], "big")
        write_image(path, array.astype(np.uint16) * 257)
        plain = path.read_bytes()
        path.write_bytes(plain[:33] + code[start : start + length + 12] + plain[33:])
    from PIL import ImageOps

    plain_image = Image.fromarray(array)
    plain_image.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(plain_image))
    pixels = read_image(path).pixels
    np.testing.assert_array_equal(pixels // (257 if suffix == "deep.png" else 1), expected)
    assert pixels.flags.c_contiguous


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"byteorder": ">"},
        {"bigtiff": True, "rowsperstrip": 5},
        {"tile": (16, 16)},
        {"tile": (16, 16), "compression": "zlib", "predictor": 2, "byteorder": ">"},
        {"compression": "zlib", "rowsperstrip": 4},
        {"planarconfig": "separate"},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32, np.float64])
def test_tiff_layouts(tmp_path: Path, options: dict[str, Any], dtype: type) -> None:
    array = noise(np.float32, 3).astype(dtype) if np.issubdtype(dtype, np.floating) else noise(dtype, 3)
    layout = np.moveaxis(array, -1, 0) if "planarconfig" in options else array
    if "predictor" in options and np.issubdtype(dtype, np.floating):
        options = options | {"predictor": 1}
    tifffile.imwrite(tmp_path / "layout.tif", layout, photometric="rgb", **options)
    picture = read_image(tmp_path / "layout.tif")
    np.testing.assert_array_equal(picture.pixels, array.astype(picture.pixels.dtype))
    assert picture.pixels.dtype == (dtype if np.issubdtype(dtype, np.integer) else np.float32)
    assert picture.color_space == ("srgb" if np.issubdtype(dtype, np.integer) else "linear")


@pytest.mark.parametrize(
    ("compression", "predictor", "dtype"),
    [
        *[
            (5, 1, np.uint8),
            (5, 2, np.uint8),
            (5, 1, np.uint16),
            (5, 2, np.uint16),
            (5, 1, np.float32),
            (5, 3, np.float32),
        ],
        *[(8, 1, np.uint16), (8, 2, np.uint16), (8, 2, np.float32), (8, 3, np.float32)],
        *[(32773, 1, np.uint8), (32773, 1, np.uint16), (32773, 1, np.float32)],
    ],
)
def test_tiff_compressions_of_libtiff(tmp_path: Path, compression: int, predictor: int, dtype: type) -> None:
    array, path = noise(dtype, 3), tmp_path / "packed.tif"
    tags = [cv2.IMWRITE_TIFF_COMPRESSION, compression, cv2.IMWRITE_TIFF_PREDICTOR, predictor]
    assert cv2.imwrite(str(path), array[..., ::-1], tags)
    np.testing.assert_array_equal(read_image(path).pixels, array)


def test_tiff_palette_and_white_is_zero(tmp_path: Path) -> None:
    index = noise(np.uint8, 1)[..., 0]
    colors = np.random.default_rng(0).integers(0, 256, (3, 256)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "palette.tif", index, photometric="palette", colormap=colors * 257)
    np.testing.assert_array_equal(read_image(tmp_path / "palette.tif").pixels, colors.T[index])
    tifffile.imwrite(tmp_path / "negative.tif", index, photometric="miniswhite")
    np.testing.assert_array_equal(read_image(tmp_path / "negative.tif").pixels[..., 0], 255 - index)


def test_the_first_page_of_a_tiff(tmp_path: Path) -> None:
    pages = noise(np.uint8, 3)
    tifffile.imwrite(tmp_path / "pages.tif", np.moveaxis(pages, -1, 0), photometric="minisblack")
    picture = read_image(tmp_path / "pages.tif")
    np.testing.assert_array_equal(picture.pixels[..., 0], pages[..., 0])
    assert picture.notes == ("only the first of its pages is read",)


@pytest.mark.parametrize(
    ("array", "options", "words"),
    [
        (np.zeros((8, 8, 5), np.uint8), {"photometric": "rgb"}, "5 channels"),
        (np.zeros((8, 8), np.int16), {}, "signed values of 16 bits"),
        (np.zeros((8, 8), np.complex64), {}, "complex"),
        (np.zeros((8, 8), bool), {}, "1 bits"),
        (np.zeros((8, 8, 4), np.uint8), {"photometric": "separated"}, "SEPARATED"),
    ],
)
def test_odd_tiffs_are_refused_politely(tmp_path: Path, array: np.ndarray, options: Any, words: str) -> None:
    tifffile.imwrite(tmp_path / "odd.tif", array, **options)
    assert words in refusal(tmp_path / "odd.tif")


def exr(path: Path, channels: dict[str, np.ndarray]) -> Path:
    OpenEXR.File({"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}, channels).write(str(path))
    return path


def test_half_exr_is_read_as_float_and_not_clipped(tmp_path: Path) -> None:
    half = (noise(np.float32, 4) * 100).astype(np.float16)
    picture = read_image(exr(tmp_path / "half.exr", {"RGBA": half}))
    np.testing.assert_array_equal(picture.pixels, half.astype(np.float32))
    assert picture.peak == float(half.max()) > 1


def test_exr_channels(tmp_path: Path) -> None:
    plane = noise(np.float32, 1)[..., 0].copy()
    np.testing.assert_array_equal(read_image(exr(tmp_path / "z.exr", {"Z": plane})).pixels[..., 0], plane)
    assert "Z, id" in refusal(exr(tmp_path / "odd.exr", {"Z": plane, "id": plane}))
    picture = read_image(exr(tmp_path / "more.exr", {"R": plane, "G": plane, "B": plane, "Z": plane}))
    assert picture.n_channels == 3
    assert picture.notes == ("of its channels Z are not read",)
    assert "integers" in refusal(exr(tmp_path / "id.exr", {"id": plane.astype(np.uint32)}))


def test_exr_parts(tmp_path: Path) -> None:
    parts = []
    for i in range(2):
        header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
        parts.append(OpenEXR.Part(header, {"Y": np.full((4, 5), i, np.float32)}, f"part{i}"))
    OpenEXR.File(parts).write(str(tmp_path / "parts.exr"))
    picture = read_image(tmp_path / "parts.exr")
    assert not picture.pixels.any()
    assert picture.notes == ("only the first of 2 parts is read",)


def rgbe(mantissas: np.ndarray, exponents: np.ndarray) -> np.ndarray:
    """Ward's definition, value = mantissa / 256 * 2^(exponent - 128)."""
    return mantissas / 256 * 2.0 ** (exponents.astype(float)[..., None] - 128)


@pytest.mark.parametrize("size_line", ["-Y 5 +X 9", "+Y 5 +X 9", "-Y 5 -X 9", "+X 9 -Y 5", "-X 9 +Y 5"])
def test_radiance_from_every_corner(tmp_path: Path, size_line: str) -> None:
    random = np.random.default_rng(0)
    upright = random.integers(1, 256, (5, 9, 4), np.uint8)
    upright[..., 3] = random.integers(120, 140, (5, 9))
    first, second = re.findall(r"[-+][XY]", size_line)
    stored = upright if first[1] == "Y" else upright.swapaxes(0, 1)
    for axis, sign in enumerate((first, second)):
        if sign in ("+Y", "-X"):
            stored = np.flip(stored, axis)
    header = f"#?RADIANCE\n# made by a test\nEXPOSURE=2\nFORMAT=32-bit_rle_rgbe\n\n{size_line}\n"
    (tmp_path / "light.hdr").write_bytes(header.encode() + stored.tobytes())
    picture = read_image(tmp_path / "light.hdr")
    np.testing.assert_allclose(picture.pixels, rgbe(upright[..., :3], upright[..., 3]), rtol=1e-6)
    assert picture.color_space == "linear"


def test_radiance_keeps_a_bright_sun(tmp_path: Path) -> None:
    light = np.abs(noise(np.float32, 3)) * 1e4
    write_image(tmp_path / "sun.hdr", light, color_space="linear")
    theirs = cv2.imread(str(tmp_path / "sun.hdr"), cv2.IMREAD_UNCHANGED)[..., ::-1]
    np.testing.assert_array_equal(read_image(tmp_path / "sun.hdr").pixels, theirs)
    error = np.abs(theirs - light)
    assert (error <= light.max(-1, keepdims=True) / 127).all()  # 8 bits under one exponent a pixel


def test_content_decides_not_the_suffix(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(ASTRONAUT.read_bytes())
    assert read_image(tmp_path / "photo.jpg").pixels.shape == (512, 512, 3)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 40, 1), (40, 1, 4)])
@pytest.mark.parametrize("suffix", ["png", "tif", "exr"])
def test_sides_of_one_pixel(tmp_path: Path, shape: tuple[int, ...], suffix: str) -> None:
    write_image(tmp_path / f"thin.{suffix}", np.ones(shape, np.float32), bits=None)
    assert read_image(tmp_path / f"thin.{suffix}").pixels.shape == shape


# What is refused


@pytest.mark.parametrize("address", ["http://example.org/a.png", "https://example.org/a.png", "s3://bucket/a.png"])
def test_nothing_is_downloaded(address: str) -> None:
    with pytest.raises(ImageError, match=re.escape(address) + ".*download it"):
        read_image(address)


def test_what_is_not_a_file(tmp_path: Path) -> None:
    assert "folder" in refusal(tmp_path)
    assert "no such file" in refusal(tmp_path / "missing.png")
    (tmp_path / "empty.png").touch()
    assert "empty" in refusal(tmp_path / "empty.png")
    os.mkfifo(tmp_path / "pipe.png")
    assert "regular file" in refusal(tmp_path / "pipe.png")
    (tmp_path / "text.png").write_text("Call me Ishmael.")
    assert "not a picture" in refusal(tmp_path / "text.png")
    (tmp_path / "drawing.png").write_text("<svg xmlns=''/>")
    assert "SVG" in refusal(tmp_path / "drawing.png")
    with pytest.raises(ImageError, match="cannot be opened"):
        read_image("zero\0byte.png")


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(ASTRONAUT.read_bytes())
    path.chmod(0)
    if os.access(path, os.R_OK):  # the superuser may read everything

        def refuse(*_: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("fieldforge.apps.images.read.FileIO", refuse)
    assert "may not be read" in refusal(path)


@pytest.mark.parametrize("suffix", ["png", "deep.png", "jpg", "webp", "tif", "exr", "hdr"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_truncated_files(tmp_path: Path, suffix: str, share: float, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"cut.{suffix}"
    array = noise(np.uint16, 3) if suffix == "deep.png" else noise(np.uint8, 3)
    write_image(path, array, **({"quality": 100} if suffix == "webp" else {}))
    code = path.read_bytes()
    path.write_bytes(code[: max(12, int(share * len(code)))])
    assert re.search("cut short|damaged", refusal(path))
    assert capfd.readouterr() == ("", "")


def test_non_finite_values_are_counted_and_located(tmp_path: Path) -> None:
    array = noise(np.float32, 3)
    array[7, 9, 2], array[20, 0, 0] = np.nan, np.inf
    exr(tmp_path / "holes.exr", {"RGB": array})
    tifffile.imwrite(tmp_path / "holes.tif", array, photometric="rgb")
    for name in ("holes.exr", "holes.tif"):
        assert f"2 of {array.size} values are not finite, the first is nan at row 7, column 9, channel 2" in refusal(
            tmp_path / name
        )


def png_header(width: int, height: int, depth: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("depth", [8, 16])
def test_bombs_and_empty_sides(tmp_path: Path, depth: int) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(30000, 30000, depth))
    assert "bomb" in refusal(path)
    path.write_bytes(png_header(2**31 - 1, 2**31 - 1, depth))
    assert "more than max_pixels=1,073,741,824" in refusal(path)
    path.write_bytes(png_header(0, 10, depth))
    assert "at least one pixel" in refusal(path) or "damaged" in refusal(path)


def test_max_pixels_is_the_callers(tmp_path: Path) -> None:
    assert "has 512x512 = 262,144 pixels, more than max_pixels=1,000" in refusal(ASTRONAUT, max_pixels=1000)
    assert read_image(ASTRONAUT, max_pixels=512 * 512).width == 512


def test_pillows_limit_is_neither_used_nor_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200_000)  # the photo has 262144: Image.open would warn
    assert read_image(ASTRONAUT).width == 512
    assert Image.MAX_IMAGE_PIXELS == 200_000


def test_filters_of_warnings_are_as_before_also_with_threads() -> None:
    before, level = list(warnings.filters), cv2.utils.logging.getLogLevel()
    threads = [threading.Thread(target=read_image, args=(ASTRONAUT,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before
    assert cv2.utils.logging.getLogLevel() == level


# Pictures of arrays


def test_values_scale_by_the_code_of_white() -> None:
    for dtype, white in ((np.uint8, 255), (np.uint16, 65535)):
        array = noise(dtype, 3)
        picture = Picture.from_array(array)
        index = np.array([[0, 30], [31, -1]])
        expected = (array.reshape(-1, 3)[index] / white).astype(np.float32)
        np.testing.assert_array_equal(picture.values(index), expected)
        values = picture.values(torch.from_numpy(index))
        assert values.shape == (2, 2, 3)
        assert values.dtype == torch.float32
        np.testing.assert_array_equal(values.numpy(), expected)
        np.testing.assert_array_equal(picture.rows(1, 2).reshape(-1, 3), picture.values(np.arange(31, 62)))
        assert picture.peak == 1
    light = noise(np.float32, 1)
    np.testing.assert_array_equal(Picture.from_array(light, color_space="linear").rows(0, 23), light)
    with pytest.raises(IndexError):
        picture.values(np.array([23 * 31]))


def test_arrays_are_shared_not_copied() -> None:
    array = noise(np.uint8, 3)
    assert np.shares_memory(Picture.from_array(array).pixels, array)
    assert Picture.from_array(torch.zeros(5, 4, dtype=torch.bfloat16)).pixels.dtype == np.float32
    assert Picture.from_array(Image.fromarray(array)).pixels.shape == (23, 31, 3)
    assert Picture.from_array(np.zeros((5, 4))).pixels.shape == (5, 4, 1)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((4, 4), bool), "mask of booleans"),
        (torch.zeros(3, 40, 50), "channels come last"),
        (np.zeros((4, 4), np.int64), "got int64"),
        (np.zeros((4, 4, 5)), "1 to 4 channels"),
        (np.zeros(7), "got (7,)"),
        (np.zeros((0, 4, 3)), "at least one pixel"),
        (np.full((2, 2), np.nan), "not finite"),
        (np.full((2, 2), 1e300), "not finite"),
        ([[1, 2]], "got list"),
    ],
)
def test_arrays_that_are_not_pictures(array: Any, words: str) -> None:
    with pytest.raises(ImageError, match="photo: .*" + re.escape(words)):
        Picture.from_array(array, name="photo")


def test_a_range_beyond_white_is_noted() -> None:
    assert "-0.5 to 3" in Picture.from_array(np.array([[-0.5, 3.0]])).notes[0]
    assert Picture.from_array(np.array([[0.0, 1.0]])).notes == ()


# Colour


def test_the_srgb_curve_is_that_of_the_standard() -> None:
    # IEC 61966-2-1: the linear piece below 0.04045, and 0.5 -> 0.21404114
    np.testing.assert_allclose(srgb_to_linear(np.array([0.04, 0.5, 1.0])), [0.04 / 12.92, 0.21404114, 1], rtol=1e-7)
    x = np.linspace(-2, 2, 401)
    np.testing.assert_allclose(linear_to_srgb(srgb_to_linear(x)), x, atol=1e-6)
    np.testing.assert_allclose(linear_to_srgb(torch.from_numpy(x)).numpy(), linear_to_srgb(x), atol=1e-12)
    np.testing.assert_allclose(srgb_to_linear(torch.from_numpy(x)).numpy(), srgb_to_linear(x), atol=1e-12)


def test_the_curve_has_finite_gradients() -> None:
    x = torch.tensor([-1.0, 0.0, 1e-6, 0.5], requires_grad=True)
    linear_to_srgb(x).sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_light_is_coded_for_integer_files_and_decoded_for_float_ones(tmp_path: Path) -> None:
    light = np.full((3, 3, 4), 0.21404114, np.float32)
    write_image(tmp_path / "coded.png", light, color_space="linear")
    assert read_image(tmp_path / "coded.png").pixels[0, 0].tolist() == [128, 128, 128, 55]  # alpha is not coded
    write_image(tmp_path / "light.exr", np.full((3, 3, 3), 0.5, np.float32), color_space="srgb")
    np.testing.assert_allclose(read_image(tmp_path / "light.exr").pixels, 0.21404114, rtol=1e-6)


def test_floats_are_rounded_not_cut(tmp_path: Path) -> None:
    array = np.array([[-1.0, 0.4999 / 255, 0.5001 / 255, 254.6 / 255, 7.0]])
    write_image(tmp_path / "a.png", array)
    assert read_image(tmp_path / "a.png").pixels.ravel().tolist() == [0, 0, 1, 255, 255]
    write_image(tmp_path / "a.png", array, bits=16)
    assert read_image(tmp_path / "a.png").pixels.ravel().tolist() == [0, 128, 129, 65432, 65535]


# Writing


@pytest.mark.parametrize("suffix", ["png", "tif", "exr", "hdr", "jpg", "webp"])
def test_strips_make_the_same_file_as_the_whole(tmp_path: Path, suffix: str) -> None:
    array = np.random.default_rng(0).random((40, 31, 3), np.float32)
    options: dict[str, Any] = {"bits": 16 if suffix in ("png", "tif") else None}
    write_image(tmp_path / f"whole.{suffix}", array, **options)
    with ImageWriter(tmp_path / f"strips.{suffix}", width=31, height=40, n_channels=3, **options) as writer:
        for rows in np.split(array, [1, 2, 20, 33]):
            writer.write(rows)
    np.testing.assert_array_equal(
        read_image(tmp_path / f"strips.{suffix}").pixels, read_image(tmp_path / f"whole.{suffix}").pixels
    )
    assert sorted(os.listdir(tmp_path)) == [f"strips.{suffix}", f"whole.{suffix}"]


def test_bytes_are_the_same_every_time(tmp_path: Path) -> None:
    for suffix in ("png", "tif", "exr", "hdr", "jpg", "webp"):
        for name in "ab":
            write_image(tmp_path / f"{name}.{suffix}", noise(np.uint8, 3))
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


@pytest.mark.parametrize("suffix", ["png", "tif", "exr", "jpg"])
def test_a_failure_leaves_the_old_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"picture.{suffix}"
    write_image(path, noise(np.uint8, 3))
    old = path.read_bytes()
    for failure in (RuntimeError, KeyboardInterrupt):

        def half(failure: type[BaseException] = failure) -> None:
            with ImageWriter(path, width=31, height=40, n_channels=3) as writer:
                writer.write(noise(np.uint8, 3))
                raise failure

        with pytest.raises(failure):
            half()
    with (
        pytest.raises(ImageError, match="23 of 40 rows"),
        ImageWriter(path, width=31, height=40, n_channels=3) as writer,
    ):
        writer.write(noise(np.uint8, 3))
    with pytest.raises(ImageError, match="not finite"):
        write_image(path, np.full((3, 3), np.nan))
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == [path.name]


def test_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    suffixes = ("png", "tif", "exr", "hdr", "jpg", "webp")
    script = f"""
import resource, signal
import numpy as np
from fieldforge.apps.images import ImageError, write_image
noise = np.random.default_rng(0).integers(0, 256, (99, 99, 3), np.uint8)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
for suffix in {suffixes}:
    try:
        write_image({str(tmp_path)!r} + "/a." + suffix, noise)
    except ImageError as error:
        print(error)
"""
    run = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=60)
    for suffix, line in zip(suffixes, run.stdout.splitlines(), strict=True):
        assert line.startswith(f"{tmp_path}/a.{suffix}: cannot be written: "), run.stderr
    assert os.listdir(tmp_path) == []


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot be written: No such file or directory"):
        write_image(tmp_path / "missing" / "a.png", noise(np.uint8, 3))
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ImageError, match="is a folder"):
        write_image(tmp_path / "folder.png", noise(np.uint8, 3))
    with pytest.raises(ImageError, match=r"\.png, \.jpg, .*not '\.xyz'"):
        write_image(tmp_path / "a.xyz", noise(np.uint8, 3))
    with pytest.raises(ImageError, match="JPEG holds 1 or 3 channels, not 4"):
        write_image(tmp_path / "a.jpg", noise(np.uint8, 4))
    with pytest.raises(ImageError, match="16383"):
        write_image(tmp_path / "a.webp", np.zeros((1, 20000, 3), np.uint8))
    with pytest.raises(ImageError, match="expected at most 1 more rows"):
        with ImageWriter(tmp_path / "a.png", width=4, height=1, n_channels=3) as writer:
            writer.write(np.zeros((2, 4, 3), np.uint8))
    assert os.listdir(tmp_path) == ["folder.png"]


def test_a_link_keeps_pointing_and_permissions_are_usual(tmp_path: Path) -> None:
    (tmp_path / "real.png").touch()
    (tmp_path / "link.png").symlink_to("real.png")
    write_image(tmp_path / "link.png", noise(np.uint8, 3))
    assert (tmp_path / "link.png").is_symlink()
    (tmp_path / "usual").touch()
    usual = stat.S_IMODE((tmp_path / "usual").stat().st_mode)
    assert stat.S_IMODE((tmp_path / "real.png").stat().st_mode) == usual


def test_a_large_render_is_written_in_bounded_memory(tmp_path: Path) -> None:
    script = f"""
import resource
import numpy as np
from fieldforge.apps.images import ImageWriter
rows = np.zeros((16, 8192, 3), np.uint8)
rows[:] = np.arange(8192, dtype=np.uint8)[:, None]
with ImageWriter({str(tmp_path)!r} + "/warm.png", width=8192, height=16, n_channels=3) as writer:
    writer.write(rows)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for suffix in ("png", "tif"):
    with ImageWriter({str(tmp_path)!r} + "/large." + suffix, width=8192, height=1024, n_channels=3) as writer:
        for _ in range(64):
            writer.write(rows)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=100)
    assert float(run.stdout) < 16  # MiB, for a picture of 24


def test_fifty_eight_megapixels_stay_eight_bit(shared_data: Path) -> None:
    path = shared_data / "images" / "big" / "shadedrelief_10800x5400.jpg"
    script = f"""
import re, resource, sys
from fieldforge.apps.images import read_image
picture = read_image({str(path)!r})
if sys.platform == "linux":  # what getrusage says of a child begins with its parent's memory
    peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(picture.pixels.shape, picture.pixels.dtype, peak // 1024)
"""
    run = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=100)
    assert run.stdout.startswith("(5400, 10800, 3) uint8 "), run.stderr
    assert int(run.stdout.split()[-1]) < 1000  # MiB, of which Python and torch are a quarter


@pytest.mark.slow
def test_four_hundred_megapixels(tmp_path: Path) -> None:
    rows = np.broadcast_to(np.arange(20000, dtype=np.uint8)[:, None], (500, 20000, 1))
    with ImageWriter(tmp_path / "large.png", width=20000, height=20000, n_channels=1) as writer:
        for _ in range(40):
            writer.write(rows)
    pixels = read_image(tmp_path / "large.png").pixels
    np.testing.assert_array_equal(pixels[-500:], rows)
    with ImageWriter(tmp_path / "large.tif", width=20000, height=20000, n_channels=1) as writer:
        writer.write(pixels)
    np.testing.assert_array_equal(read_image(tmp_path / "large.tif").pixels, pixels)
