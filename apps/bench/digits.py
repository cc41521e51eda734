"""The digits that suites on weights fit fields to: MNIST's, made smaller, and collections of them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from fieldforge.apps.fit.collection.items import ItemError
from fieldforge.apps.fit.collection.job import fit_collection
from fieldforge.apps.scenes.arrays import open_npz
from fieldforge.fields.collection import Collection

DIGITS = "digits/mnist_t10k_8000.npz"
"""In the data folder."""
LAZY = ("network.n_neurons=29", "network.activation.omega=20", "optimizer.learning_rate=5e-4")
LAZY_STEPS = 80


def lazy_digits(data: Path, to: Path, *, limit: int | None = None) -> Collection:
    """Sine fields of 987 parameters of the digits at 8 x 8 pixels, which all begin where the first one ended and are
    fitted for a short time: their weights are nearly linear in the picture.

    Args:
        data: folder of `DIGITS`.
        to: folder of the collection.
        limit: the first so many digits.
    """
    with tempfile.TemporaryDirectory() as scratch:
        source = shrunk(data / DIGITS, 8, Path(scratch) / "digits.npz")
        return fit_collection(source, to, init="first", overrides=LAZY, steps=LAZY_STEPS, limit=limit,
                              progress="quiet")  # fmt: skip


def shrunk(source: Path, side: int, to: Path, n: int | None = None) -> Path:
    """The first n digits of an NPZ file as pictures of side x side pixels, each the mean of a square block of them.

    What the blocks do not cover is cut off at the borders, which are black.

    Raises:
        ItemError: there is no such file, or it holds no such digits.
    """
    if not source.is_file():
        raise ItemError(f"{source}: there is no such file; --data names the folder that holds {DIGITS}")
    arrays = open_npz(source)
    images, labels = arrays.get("images"), arrays.get("labels")
    if images is None or labels is None or images.ndim != 3 or images.dtype != np.uint8:
        raise ItemError(f"{source}: expected arrays images, uint8 (n, height, width), and labels")
    if len(images) < (n or 1) or min(images.shape[1:]) < side:
        raise ItemError(f"{source}: expected at least {n or 1} images of at least {side} x {side} pixels")
    block = min(images.shape[1:]) // side
    top, left = ((size - side * block) // 2 for size in images.shape[1:])
    cut = images[:n, top : top + side * block, left : left + side * block].astype(np.float32)
    means = cut.reshape(len(cut), side, block, side, block).mean((2, 4))
    np.savez(to, images=np.rint(means).astype(np.uint8), labels=labels[:n])
    return to
