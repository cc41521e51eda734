"""Damaged picture files: thousands of mutations of small valid files of every format.

Each gives a Picture or an ImageError of one line: never another exception, a warning, a crash of a C decoder, a hang,
or more than 256 MiB of memory. The loop runs in a process of its own, so that a crash is seen and names its seed:

    python tests/apps/test_images_fuzz.py FIRST COUNT FOLDER         # prints one JSON line of findings
"""

from __future__ import annotations

import io
import json
import os
import random
import re
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest

MOST_BYTES = 256 * 2**20
MOST_SECONDS = 10.0
SIDES = (0, 1, 2**14 - 1, 2**16 - 1, 2**20, 2**27, 2**31 - 1, 2**32 - 1)


def check(first: int, count: int, folder: Path) -> dict[str, int]:
    worker = subprocess.run(
        [sys.executable, "-W", "error", __file__, str(first), str(count), str(folder)],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=1500,
        env=os.environ | {"MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"},
    )
    seed = (folder / "seed").read_text()
    assert worker.returncode == 0, f"died with {worker.returncode} at mutation {seed}: {worker.stderr[-2000:]}"
    found = json.loads(worker.stdout.splitlines()[-1])
    assert found["failures"] == []
    assert found["n_pictures"] + found["n_errors"] == count
    return found


def test_six_hundred_damaged_files_give_a_picture_or_a_sentence(tmp_path: Path) -> None:
    found = check(0, 600, tmp_path)
    assert found["n_pictures"] > 30
    assert found["n_errors"] > 200


@pytest.mark.slow
def test_ten_thousand_damaged_files_give_a_picture_or_a_sentence(tmp_path: Path) -> None:
    found = check(600, 10_000, tmp_path)
    assert found["n_pictures"] > 500
    assert found["n_errors"] > 3000


@pytest.mark.slow
def test_blank_pictures_as_large_as_small_files_may_be(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
import cv2, numpy as np
from PIL import Image
from fieldforge.apps.images import read_image, write_image
from test_images_fuzz import MOST_BYTES, memory
if sys.argv[1] == "make":
    Image.new("RGBA", (4000, 2790)).save("a.webp", lossless=True)
    Image.new("RGB", (5500, 4000)).save("a.jpg", progressive=True)
    Image.new("CMYK", (4180, 4000)).save("b.jpg", progressive=True)
    Image.new("P", (5500, 4000)).save("a.gif")
    Image.new("1", (8000, 8000)).save("a.png")
    write_image("b.png", np.zeros((3300, 3300, 3), np.uint16))
    write_image("c.png", np.zeros((2890, 2890, 2), np.uint16))
    write_image("a.tif", np.zeros((5500, 4000, 3), np.uint8))
    tags = [cv2.IMWRITE_TIFF_COMPRESSION, 5, cv2.IMWRITE_TIFF_ROWSPERSTRIP, 1300]
    cv2.imwrite("b.tif", np.zeros((5500, 4000, 3), np.uint8), tags)
    write_image("a.exr", np.zeros((2300, 2400, 3), np.float32))
else:
    read_image(sys.argv[2])
    before = memory("VmSize")
    for path in sorted(Path().glob("?.*")):
        assert read_image(path).pixels.nbytes > 30_000_000, path
        assert memory("VmPeak") - before <= MOST_BYTES, path
"""
    astronaut = Path(__file__).parents[2] / "data" / "images" / "astronaut.png"
    environment = os.environ | {"MALLOC_ARENA_MAX": "1", "PYTHONPATH": str(Path(__file__).parent)}
    for step in ("make", "read"):
        command = [sys.executable, "-W", "error", "-c", script, step, str(astronaut)]
        run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
        assert run.returncode == 0, run.stderr


def valid_files(folder: Path) -> dict[str, bytes]:
    """Small files of every format, by name."""
    import cv2
    import OpenEXR
    import tifffile
    from PIL import Image

    from fieldforge.apps.images import write_image

    y, x = np.mgrid[:24, :37] / 20
    wave = (0.5 + 0.5 * np.stack([np.sin(3 * x), np.cos(2 * y), np.sin(x * y)], -1)).astype(np.float32)
    byte, word = (wave * 255).astype(np.uint8), (wave * 65535).astype(np.uint16)
    files = {}

    def ours(name: str, array: np.ndarray, **options: str) -> None:
        write_image(folder / name, array, **options)
        files[name] = (folder / name).read_bytes()

    def pillow(name: str, array: np.ndarray, mode: str, **options: object) -> None:
        image, buffer = Image.fromarray(array).convert(mode), io.BytesIO()
        image.save(buffer, Path(name).suffix[1:].replace("jpg", "jpeg"), **options)
        files[name] = buffer.getvalue()

    exif = Image.Exif()
    exif[0x0112] = 6
    pillow("rgb.png", byte, "RGB", exif=exif)
    pillow("palette.png", byte, "P", transparency=3)
    pillow("bits.png", byte, "1")
    pillow("photo.jpg", byte, "RGB", exif=exif)
    pillow("progressive.jpg", byte, "RGB", progressive=True)
    pillow("cmyk.jpg", byte, "CMYK")
    pillow("lossy.webp", byte, "RGB", exif=exif)
    pillow("lossless.webp", byte, "RGBA", lossless=True)
    pillow("frame.gif", byte, "P")
    pillow("frame.bmp", byte, "RGB")
    ours("word.png", word)
    ours("grey_alpha.png", word[..., :2])
    ours("byte.tif", byte)
    ours("word.tif", word)
    ours("float.tif", wave, color_space="linear")
    ours("light.hdr", wave, color_space="linear")
    for name, compression, array in (("lzw.tif", 5, word), ("packbits.tif", 32773, byte), ("lzw_float.tif", 5, wave)):
        files[name] = cv2.imencode(".tif", array, [cv2.IMWRITE_TIFF_COMPRESSION, compression])[1].tobytes()
    plain = io.BytesIO()
    tifffile.imwrite(plain, word, tile=(16, 16), photometric="rgb", bigtiff=True, byteorder=">")
    files["tiles.tif"] = plain.getvalue()
    for name in ("NO", "RLE", "ZIPS", "ZIP", "PIZ", "PXR24", "B44", "DWAA"):
        header = {"compression": getattr(OpenEXR, f"{name}_COMPRESSION"), "type": OpenEXR.scanlineimage}
        array = wave if name in ("ZIP", "PXR24") else wave.astype(np.float16)
        OpenEXR.File(header, {"RGB": array}).write(str(folder / "seed.exr"))
        files[f"{name}.exr"] = (folder / "seed.exr").read_bytes()
    tiles = OpenEXR.TileDescription()
    tiles.xSize, tiles.ySize = 16, 16
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.tiledimage, "tiles": tiles}
    OpenEXR.File(header, {"Y": wave[..., 0].copy()}).write(str(folder / "seed.exr"))
    files["tiles.exr"] = (folder / "seed.exr").read_bytes()
    return files


def mutated(name: str, data: bytes, chance: random.Random) -> bytes:
    """A damaged copy."""
    if chance.random() < 0.25:
        data = resized(name, data, chance)
        if chance.random() < 0.5:
            return data
    code = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 5))):
        if not code:
            break
        at = chance.randrange(len(code) if chance.random() < 0.5 else min(300, len(code)))
        how = chance.randrange(7)
        if how == 0:
            code[at] ^= 1 << chance.randrange(8)
        elif how == 1:
            code = code[: max(1, at)]
        elif how == 2:
            code[at:at] = chance.randbytes(chance.randrange(1, 9))
        elif how == 3:
            code[at : at + 4] = struct.pack(chance.choice("<>") + "I", chance.choice(SIDES))
        elif how == 4:
            start = chance.randrange(len(code))
            code[at:at] = code[start : start + chance.randrange(64)]
        elif how == 5:
            del code[at : at + chance.randrange(1, 9)]
        else:
            code[at] = chance.randrange(256)
    if name.endswith(".png") and chance.random() < 0.7:
        return with_right_sums(bytes(code))
    return bytes(code)


def resized(name: str, data: bytes, chance: random.Random) -> bytes:
    """The same file with other numbers where the header gives width or height."""
    code = bytearray(data)
    suffix = Path(name).suffix
    width, height = chance.choice(SIDES), chance.choice((24, *SIDES))
    if suffix == ".png":
        code[16:24] = struct.pack(">II", width, height)
        return with_right_sums(bytes(code))
    if suffix == ".jpg":
        start = re.search(rb"\xff[\xc0\xc2]..\x08", data, re.DOTALL)
        assert start is not None
        code[start.end() : start.end() + 4] = struct.pack(">HH", height & 0xFFFF, width & 0xFFFF)
    if suffix == ".webp":
        code[24:30] = struct.pack("<I", width)[:3] + struct.pack("<I", height)[:3]
    if suffix == ".gif":
        at = chance.choice((6, data.rindex(b",") + 5))
        code[at : at + 4] = struct.pack("<HH", width & 0xFFFF, height & 0xFFFF)
    if suffix == ".bmp":
        code[18:26] = struct.pack("<II", width, height)
    if suffix == ".exr":
        for window in (b"dataWindow\0box2i\0\x10\0\0\0", b"displayWindow\0box2i\0\x10\0\0\0"):
            at = data.index(window) + len(window)
            code[at + 8 : at + 16] = struct.pack("<II", width, height)
    if suffix == ".hdr":
        return re.sub(rb"-Y \d+ \+X \d+", b"-Y %d +X %d" % (height, width), data, count=1)
    if suffix == ".tif":
        entry = {b"II*\0": "<HHI", b"II+\0": "<HHQ", b"MM\0+": ">HHQ"}[data[:4]]
        for tag, side in ((256, width), (257, height), (chance.choice((277, 278, 322, 325)), chance.choice(SIDES))):
            for kind in (3, 4, 16):
                at = data.find(struct.pack(entry, tag, kind, 1))
                if at >= 0:
                    value = {3: "H", 4: "I", 16: "Q"}[kind]
                    packed = struct.pack(entry[0] + value, side & (0xFFFF if kind == 3 else 0xFFFFFFFF))
                    at += struct.calcsize(entry)
                    code[at : at + len(packed)] = packed
    return bytes(code)


def with_right_sums(data: bytes) -> bytes:
    """A PNG whose chunk checksums are right again, so that the damage reaches the decoder."""
    code, at = bytearray(data), 8
    while at + 12 <= len(code):
        length = int.from_bytes(code[at : at + 4], "big")
        if at + 12 + length > len(code):
            break
        code[at + 8 + length : at + 12 + length] = zlib.crc32(code[at + 4 : at + 8 + length]).to_bytes(4, "big")
        at += 12 + length
    return bytes(code)


def memory(field: str) -> int:
    """Bytes that this process has (VmSize) or once had (VmPeak) asked for."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def main(first: int, count: int, folder: Path) -> None:
    import resource

    from fieldforge.apps.images import ImageError, read_image

    files = valid_files(folder)
    for name, data in files.items():  # every decoder is loaded and its threads run before memory is measured
        (folder / name).write_bytes(data)
        assert read_image(folder / name).pixels.size > 0
    before = memory("VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (before + 2**31, before + 2**31))
    names = sorted(files)
    most, failures, n_pictures, n_errors = MOST_BYTES, [], 0, 0
    for seed in range(first, first + count):
        chance = random.Random(seed)
        name = names[seed % len(names)]
        path = folder / f"damaged{Path(name).suffix}"
        path.write_bytes(mutated(name, files[name], chance))
        (folder / "seed").write_text(f"{seed} ({name})")
        start = time.monotonic()
        try:
            picture = read_image(path)
            assert picture.pixels.dtype in (np.uint8, np.uint16, np.float32)
            assert picture.pixels.flags.c_contiguous
            n_pictures += 1
        except ImageError as error:
            n_errors += 1
            if not str(error).startswith(f"{path}: ") or "\n" in str(error) or len(str(error)) > 600:
                failures.append(f"{seed} {name}: message {error}")
        except BaseException as error:
            failures.append(f"{seed} {name}: {type(error).__name__}: {error}")
        if time.monotonic() - start > MOST_SECONDS:
            failures.append(f"{seed} {name}: took {time.monotonic() - start:.1f} s")
        if memory("VmPeak") - before > most:
            most = memory("VmPeak") - before
            failures.append(f"{seed} {name}: {most >> 20} MiB")
    peak = memory("VmPeak") - before
    print(json.dumps({"failures": failures, "n_pictures": n_pictures, "n_errors": n_errors, "peak_mib": peak >> 20}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
