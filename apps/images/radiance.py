"""Radiance HDR (.hdr, .pic): four bytes a pixel, a shared exponent; Greg Ward, "Real Pixels", Graphics Gems II, 1991.

OpenCV does the decoding. It is given a header that is written here from the size that was checked, so that what was
checked is what is decoded.
"""

from __future__ import annotations

import re
from typing import BinaryIO

import numpy as np

from fieldforge.apps.images.limits import Budget, Refusal

_HEADER_BYTES = 2**16


def read_radiance(file: BinaryIO, budget: Budget) -> np.ndarray:
    """(height, width, 3) float32 linear light, upright. EXPOSURE is not divided out, as other readers do not."""
    import cv2

    start = file.read(_HEADER_BYTES)
    end = start.find(b"\n\n")
    size = re.compile(rb"([-+])([XY]) +(\d{1,9}) +([-+])([XY]) +(\d{1,9})\r?\n").match(start, end + 2)
    if end < 0 or size is None or size[2] == size[5]:
        raise Refusal("the Radiance header has no line such as '-Y 512 +X 768' after an empty line; it is damaged")
    coding = re.search(rb"^FORMAT=(\S*)", start[:end], re.MULTILINE)
    if coding is not None and coding[1] != b"32-bit_rle_rgbe":
        raise Refusal(
            f"is coded as {coding[1][:40].decode('latin-1')}; only 32-bit_rle_rgbe is read; convert it to .exr"
        )
    n_lines, n_across = int(size[3]), int(size[6])
    budget.expect(n_across, n_lines, 12)
    file.seek(size.end())
    data = file.read()
    is_run_length = data[:2] == b"\2\2" and n_across.to_bytes(2, "big") == data[2:4] if n_across < 2**15 else False
    if not is_run_length and len(data) < 4 * n_lines * n_across:
        raise Refusal(
            "the pixel data is cut short, or packed in the run-length form of before 1991; convert it to .exr"
        )
    canonical = b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y %d +X %d\n" % (n_lines, n_across) + data
    lines = cv2.imdecode(np.frombuffer(canonical, np.uint8), cv2.IMREAD_UNCHANGED)
    if lines is None or lines.shape != (n_lines, n_across, 3):
        raise Refusal("the pixel data is damaged or cut short; get the file again")
    lines = lines[:: -1 if size[1] == (b"+" if size[2] == b"Y" else b"-") else 1]
    lines = lines[:, :: -1 if size[4] == (b"+" if size[5] == b"Y" else b"-") else 1]
    return np.ascontiguousarray((lines if size[2] == b"Y" else lines.swapaxes(0, 1))[..., ::-1])


def write_radiance(pixels: np.ndarray) -> bytes:
    """A .hdr file of (height, width, 1 or 3) linear light; grey is repeated and negative values become 0."""
    import cv2

    color = np.broadcast_to(pixels[..., ::-1], (*pixels.shape[:2], 3))
    done, data = cv2.imencode(".hdr", np.maximum(color, 0).astype(np.float32))
    assert done
    return data.tobytes()
