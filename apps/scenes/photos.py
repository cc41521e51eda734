"""The photos of a scene as one store of 8-bit pixels, decoded when first needed, within a memory budget.

    photos.gather(view, pixels)     # (n_rays, 3 or 4) float32, any mixture of views

Where the pixels are kept depends on how many they are, and `plan` says so in words: in memory, in a temporary file
that is mapped (the system keeps in memory what fits), or, where the disk is full too, decoded again and again behind
a cache of bounded size.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fieldforge.apps.scenes.scene import SceneError

MEMORY = 2**30
"""Bytes of decoded photos that are kept in memory unless told otherwise."""


_DECODERS = 4  # threads; each holds one decoded photo


@dataclass(frozen=True)
class Plan:
    """How decoded photos are kept: "memory", "file" or "cache"; and the sentence that says why."""

    kept: str
    n_bytes: int
    sentence: str


def plan(sizes: np.ndarray, n_channels: int, *, memory: int = MEMORY, disk: int | None = None) -> Plan:
    """Decide where decoded photos go.

    Args:
        sizes: (n, 2) width and height of each, after downscaling.
        n_channels: of each pixel, one byte each.
        memory: bytes that may be taken in memory.
        disk: bytes free for temporary files; None asks the system.

    Example:
        >>> plan(np.array([[4000, 3000]] * 300), 3, disk=10**12).sentence
        '300 photos of 4000x3000: 10.8 GB decoded; kept as bytes in a temporary file that is mapped into memory'
    """
    areas = sizes.astype(np.float64).prod(1)  # float: sizes out of damaged headers must not wrap around
    n_bytes = int(areas.sum() * n_channels)
    same = len(sizes) and (sizes == sizes[0]).all()
    shape = f"of {sizes[0, 0]}x{sizes[0, 1]}" if same else f"of up to {int(areas.max(initial=0)) / 1e6:.1f} megapixels"
    what = f"{len(sizes)} photos {shape}: {_amount(n_bytes)} decoded; kept as bytes "
    if n_bytes <= memory:
        return Plan("memory", n_bytes, what + "in memory")
    disk = _roomiest()[1] if disk is None else disk
    if n_bytes <= 0.9 * disk:
        return Plan("file", n_bytes, what + "in a temporary file that is mapped into memory")
    largest = int(areas.max()) * n_channels
    if largest > memory:
        raise SceneError(
            f"photos: {_amount(n_bytes)} decoded, with {_amount(disk)} free for temporary files, and one alone has "
            f"{_amount(largest)}; use downscale, or set TMPDIR to a larger disk"
        )
    return Plan(
        "cache", n_bytes,
        f"{len(sizes)} photos {shape}: {_amount(n_bytes)} decoded; {_amount(disk)} free for temporary files, so at "
        f"most {_amount(memory)} are kept and the rest decoded each time, which is slow; downscale, or enlarge TMPDIR",
    )  # fmt: skip


def _amount(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.1f} MB"


class Photos:
    """Pixels of all views.

    Args:
        sizes: (n, 2) width and height of each view.
        n_channels: 3, or 4 with straight alpha.
        decode: the view's number to its (height, width, n_channels) uint8 pixels; called when they are needed.
        memory: bytes that may be taken in memory.
        disk: bytes free for temporary files; None asks the system.

    Attributes:
        plan: how pixels are kept.
    """

    def __init__(
        self,
        sizes: Sequence[tuple[int, int]] | np.ndarray,
        n_channels: int,
        decode: Callable[[int], np.ndarray],
        *,
        memory: int = MEMORY,
        disk: int | None = None,
    ) -> None:
        self.sizes = np.asarray(sizes, dtype=np.int64).reshape(-1, 2)
        self.n_channels = n_channels
        self.plan = plan(self.sizes, n_channels, memory=memory, disk=disk)
        self._decode = decode
        self._memory = memory
        areas = self.sizes.prod(1)
        self._first = torch.from_numpy(np.concatenate([[0], areas.cumsum()[:-1]]).astype(np.int64))
        self._width = torch.from_numpy(self.sizes[:, 0].copy())
        self._is_loaded = np.zeros(len(self), bool)
        self._recent: OrderedDict[int, np.ndarray] = OrderedDict()  # of plan "cache"
        self._pixels: np.ndarray | None = None
        n_pixels = int(areas.sum())
        if self.plan.kept == "memory":
            self._pixels = np.zeros((n_pixels, n_channels), np.uint8)
        elif self.plan.kept == "file":
            self._pixels = _temporary(n_pixels, n_channels)

    def __len__(self) -> int:
        return len(self.sizes)

    @classmethod
    def from_array(cls, pictures: np.ndarray) -> Photos:
        """Of (n, height, width, 3 or 4) uint8."""
        n, height, width, n_channels = pictures.shape
        return cls([(width, height)] * n, n_channels, lambda view: pictures[view], memory=2**62)

    def load(self, views: Sequence[int] | Tensor | None = None) -> None:
        """Decode now what would be decoded when first needed; with plan "cache" this does nothing."""
        if self._pixels is None:
            return
        wanted = np.arange(len(self)) if views is None else np.unique(np.asarray(views))
        waiting = wanted[~self._is_loaded[wanted]].tolist()
        if len(waiting) > 1:
            with ThreadPoolExecutor(min(_DECODERS, os.cpu_count() or 1)) as pool:
                for _ in pool.map(self._store, waiting):  # raises what a decoder raised
                    pass
        elif waiting:
            self._store(waiting[0])

    def _store(self, view: int) -> None:
        assert self._pixels is not None
        first, (width, height) = int(self._first[view]), self.sizes[view]
        self._pixels[first : first + width * height] = self._decoded(view).reshape(-1, self.n_channels)
        self._is_loaded[view] = True

    @property
    def pixels(self) -> tuple[Tensor, Tensor, np.ndarray] | None:
        """Where each view begins among the pixels and its width, (n,) int64; and all pixels, (N, n_channels) uint8, all
        of them decoded now. None where they are not kept in memory."""
        if self.plan.kept != "memory" or self._pixels is None:
            return None
        self.load()
        return self._first, self._width, self._pixels

    def gather(self, view: Tensor, pixels: Tensor) -> Tensor:
        """Colours of pixels of any mixture of views.

        Args:
            view: (n,) int64.
            pixels: (n, 2) int64 x and y.

        Returns:
            (n, n_channels) float32 in [0, 1], sRGB, alpha straight; on the device of `view`.

        Raises:
            SceneError: a photo is damaged.
        """
        where, view, pixels = view.device, view.cpu(), pixels.cpu()
        if self._pixels is None:
            stored = self._gather_decoding(view, pixels)
        else:
            if not self._is_loaded.all():
                self.load(view)
            index = self._first[view] + pixels[:, 1] * self._width[view] + pixels[:, 0]
            stored = torch.from_numpy(self._pixels[index.numpy()])
        return stored.to(where).float() / 255

    def picture(self, view: int) -> Tensor:
        """(height, width, n_channels) float32 of one view; sRGB, alpha straight."""
        width, height = (int(side) for side in self.sizes[view])
        if self._pixels is None:
            stored = self._cached(view)
        else:
            self.load([view])
            first = int(self._first[view])
            stored = self._pixels[first : first + width * height].reshape(height, width, self.n_channels)
        return torch.from_numpy(np.array(stored)).float() / 255

    def _gather_decoding(self, view: Tensor, pixels: Tensor) -> Tensor:
        stored = torch.empty(len(view), self.n_channels, dtype=torch.uint8)
        for one in view.unique().tolist():
            rows = (view == one).nonzero()[:, 0]
            x, y = pixels[rows].numpy().T
            stored[rows] = torch.from_numpy(self._cached(one)[y, x])
        return stored

    def _cached(self, view: int) -> np.ndarray:
        if view in self._recent:
            self._recent.move_to_end(view)
            return self._recent[view]
        picture = self._decoded(view)
        while self._recent and sum(one.nbytes for one in self._recent.values()) + picture.nbytes > self._memory:
            self._recent.popitem(last=False)
        self._recent[view] = picture
        return picture

    def _decoded(self, view: int) -> np.ndarray:
        picture = self._decode(view)
        width, height = self.sizes[view]
        if picture.shape != (height, width, self.n_channels) or picture.dtype != np.uint8:
            raise SceneError(
                f"view {view}: expected {width}x{height} pixels of {self.n_channels} bytes, got {picture.shape} "
                f"{picture.dtype}; the photo changed while it was in use"
            )
        return picture


def _roomiest() -> tuple[str, int]:
    """A folder for temporary files that is on a disk, not itself in memory, and its free bytes."""
    places = [tempfile.gettempdir(), "/var/tmp"]
    on_disk = [place for place in places if Path(place).is_dir() and not _in_memory(place)]
    return max(((place, shutil.disk_usage(place).free) for place in on_disk), key=lambda one: one[1], default=("", 0))


def _in_memory(place: str) -> bool:
    """Whether a folder is a tmpfs, as /tmp is on many machines; where that cannot be found out, no."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:
        return False
    path = Path(place).resolve()
    holding = sorted((len(point), i) for i, (point, _) in enumerate(mounts) if path.is_relative_to(point))
    return bool(holding) and mounts[holding[-1][1]][1] in ("tmpfs", "ramfs")


def _temporary(n_pixels: int, n_channels: int) -> np.ndarray:
    """Mapped bytes of a file that no other program sees, and that is gone when the array is, even after a crash."""
    folder = tempfile.mkdtemp(prefix="fieldforge-photos-", dir=_roomiest()[0] or None)
    path = Path(folder) / "pixels"
    try:
        with path.open("wb") as file:
            if hasattr(os, "posix_fallocate"):  # a full disk is an error here, and a crash later
                os.posix_fallocate(file.fileno(), 0, n_pixels * n_channels)
            else:
                file.truncate(n_pixels * n_channels)
        mapped = np.memmap(path, np.uint8, "r+", shape=(n_pixels, n_channels))
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # the mapping keeps the file's content
    if path.exists():  # where open files cannot be removed
        weakref.finalize(mapped, shutil.rmtree, folder, ignore_errors=True)
    return mapped
