"""What a collection is made from: pictures of one size, or meshes; read a few at a time.

    items = open_items("digits.npz")         # or a folder of pictures or meshes, or a zip of meshes
    items.names, items.labels, len(items)
    items.read(range(32))                    # what is needed to fit those

A folder's subfolders are labels. An item that cannot be read is an error that names it; or, with `skip_bad`, it is left
out and said so.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fieldforge.apps.images import ImageError, read_image
from fieldforge.apps.scenes.arrays import open_npz
from fieldforge.apps.scenes.scene import SceneError
from fieldforge.apps.shapes.read import MAX_BYTES, Mesh, ShapeError, shape_of_bytes
from fieldforge.apps.shapes.surface import Surface

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
MESHES = (".obj", ".ply", ".stl", ".off", ".glb")
MOST_ITEMS = 10_000_000
Label = int | str | None


class ItemError(ImageError):
    """The items of a collection, or one of them, cannot be used; the message names it and says what would do."""


@dataclass(frozen=True)
class Drawing:
    """A picture: values (height, width, c) float32, of which 1 is white."""

    values: np.ndarray
    sha256: str


@dataclass(frozen=True)
class Solid:
    """A mesh, cleaned and placed in the unit cube."""

    surface: Surface
    sha256: str


Item = Drawing | Solid


class Items(ABC):
    """Named items that are read when they are wanted.

    Attributes:
        source: what to call the whole.
        kind: "image" or "shape".
        names: of each, all different.
        labels: of each; None where nothing says.
        is_slow: reading one takes long, or cannot fail; all are not tried beforehand.
        notes: sentences for the user.
    """

    kind: str
    is_slow = True

    def __init__(self, source: str, names: Sequence[str], labels: Sequence[Label]) -> None:
        self.source, self.names, self.labels = source, list(names), list(labels)
        self.notes: list[str] = []
        if not self.names:
            raise ItemError(f"{source}: holds nothing to fit")
        if len(self.names) > MOST_ITEMS:
            raise ItemError(f"{source}: holds {len(self.names):,} items, and {MOST_ITEMS:,} is the most")

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def read_one(self, number: int) -> Item:
        """One item.

        Raises:
            ItemError, ImageError, ShapeError: it cannot be used.
        """

    def read(self, numbers: Sequence[int]) -> list[Item]:
        """Several."""
        return [self.read_one(number) for number in numbers]

    @property
    @abstractmethod
    def size(self) -> tuple[int, int, int]:
        """Of pictures: (height, width, channels) of all; of meshes (0, 0, 0)."""

    def keep(self, numbers: Sequence[int]) -> None:
        """Forget all other items."""
        self.names = [self.names[number] for number in numbers]
        self.labels = [self.labels[number] for number in numbers]
        self._keep(numbers)

    def expect_all(self) -> None:
        """Look at the items before the work, where that is quick.

        Raises:
            ItemError, ImageError: one of them cannot be used.
        """
        if not self.is_slow:
            for number in range(len(self)):
                self.read_one(number)

    @abstractmethod
    def _keep(self, numbers: Sequence[int]) -> None: ...

    @property
    def fingerprint(self) -> str:
        """A digest of names, labels and content (of files their sizes): a fit goes on only with the same items."""
        text = json.dumps([self.names, self.labels])
        return hashlib.sha256(text.encode() + self._content()).hexdigest()

    @abstractmethod
    def _content(self) -> bytes: ...


class ArrayItems(Items):
    """Pictures of an array (n, height, width[, c]), as NPZ files of digits hold them.

    Args:
        images: uint8, uint16 or floats.
        labels: (n,) integers, or None.
        source: what to call it.
        white: the number that stands for 1; None: 255, 65535 or 1 as the type says.
    """

    kind = "image"

    def __init__(self, images: np.ndarray, labels: np.ndarray | None, source: str, white: float | None = None) -> None:
        if images.ndim not in (3, 4) or (images.ndim == 4 and not 1 <= images.shape[3] <= 4) or 0 in images.shape:
            raise ItemError(f"{source}: images: expected (n, height, width) or (n, height, width, 1 to 4), "
                            f"got {images.shape}")  # fmt: skip
        if images.dtype.kind == "f":
            if not np.isfinite(images).all():
                bad = int(np.flatnonzero(~np.isfinite(images.reshape(len(images), -1)).all(1))[0])
                raise ItemError(f"{source}: item {bad} holds numbers that are not finite")
        elif images.dtype not in (np.uint8, np.uint16):
            raise ItemError(f"{source}: images: expected uint8, uint16 or floats, got {images.dtype}")
        if labels is not None and (labels.shape != (len(images),) or labels.dtype.kind not in "iu"):
            raise ItemError(f"{source}: labels: expected ({len(images)},) integers, one for each image, "
                            f"got {labels.shape} {labels.dtype}")  # fmt: skip
        self._images = images if images.ndim == 4 else images[..., None]
        one = float(np.iinfo(images.dtype).max) if images.dtype.kind == "u" else 1.0
        self._white = one if white is None else white
        width = max(5, len(str(len(images) - 1)))
        names = [f"{number:0{width}d}" for number in range(len(images))]
        super().__init__(source, names, [None] * len(images) if labels is None else labels.tolist())
        brightest = float(images.max())
        if white is None and images.dtype.kind == "u" and brightest < one / 4:
            self.notes.append(f"the brightest value of {source} is {brightest:g} of {one:g}; "
                              f"--white {brightest:g} says that this is white")  # fmt: skip

    @property
    def size(self) -> tuple[int, int, int]:
        _, height, width, n_channels = self._images.shape
        return height, width, n_channels

    def read_one(self, number: int) -> Drawing:
        stored = np.ascontiguousarray(self._images[number])
        digest = hashlib.sha256(f"{stored.dtype.str} {stored.shape}".encode() + stored.tobytes()).hexdigest()
        return Drawing((stored / np.float32(self._white)).astype(np.float32), digest)

    def _keep(self, numbers: Sequence[int]) -> None:
        self._images = self._images[list(numbers)]

    def _content(self) -> bytes:
        white = f"white {self._white:g}".encode()
        return hashlib.sha256(white + np.ascontiguousarray(self._images).tobytes()).digest()


class PictureItems(Items):
    """Picture files of one size."""

    kind = "image"
    is_slow = False

    def __init__(self, folder: Path, files: Sequence[Path]) -> None:
        self._folder, self._files = folder, list(files)
        self._size: tuple[int, int, int] | None = None
        super().__init__(str(folder), *_named(folder, files))

    @property
    def size(self) -> tuple[int, int, int]:
        """That of the first that can be read."""
        for file in self._files:
            if self._size is None:
                try:
                    height, width, n_channels = read_image(file).pixels.shape
                except ImageError:
                    continue
                self._size, self._first = (height, width, n_channels), file.name
        if self._size is None:
            raise ItemError(f"{self.source}: none of its {len(self)} pictures can be read")
        return self._size

    def read_one(self, number: int) -> Drawing:
        picture = read_image(self._files[number])
        if picture.pixels.shape != self.size:
            height, width, n_channels = picture.pixels.shape
            raise ItemError(
                f"{self._files[number]}: has {width}x{height} pixels of {n_channels} channels, and "
                f"{self._first} has {self.size[1]}x{self.size[0]} of {self.size[2]}; the pictures of a "
                "collection are of one size: crop or scale them first, or leave this one out with --skip-bad"
            )
        assert picture.sha256 is not None
        return Drawing(picture.rows(0, picture.height), picture.sha256)

    def _keep(self, numbers: Sequence[int]) -> None:
        self._files = [self._files[number] for number in numbers]

    def _content(self) -> bytes:
        return json.dumps([file.stat().st_size for file in self._files]).encode()


class MeshItems(Items):
    """Mesh files, in a folder or in a zip archive."""

    kind = "shape"
    size = (0, 0, 0)

    def __init__(
        self, source: str, names: Sequence[str], labels: Sequence[Label], load: Callable[[str], bytes],
        files: Sequence[str], sizes: Sequence[int],
    ) -> None:  # fmt: skip
        self._load, self._files, self._sizes = load, list(files), list(sizes)
        super().__init__(source, names, labels)

    def read_one(self, number: int) -> Solid:
        name = f"{self.source}: {self._files[number]}"
        data = self._load(self._files[number])
        shape = shape_of_bytes(data, Path(self._files[number]).suffix.lower(), name)
        if not isinstance(shape, Mesh):
            raise ItemError(f"{name}: is a cloud of points; a collection of shapes is made of meshes")
        return Solid(Surface.of(shape), shape.sha256)

    def _keep(self, numbers: Sequence[int]) -> None:
        self._files = [self._files[number] for number in numbers]
        self._sizes = [self._sizes[number] for number in numbers]

    def _content(self) -> bytes:
        return json.dumps(self._sizes).encode()


def open_items(path: str | Path, kind: str | None = None, *, white: float | None = None) -> Items:
    """The items of an NPZ file, a folder, or a zip archive.

    Args:
        path: NPZ with ``images`` (and ``labels``); folder of pictures or meshes, of which subfolders are labels; or zip
            archive of meshes.
        kind: "image" or "shape"; None: what is found.
        white: of arrays, the number that stands for 1.

    Raises:
        ItemError, ShapeError: nothing there that can be fitted.
    """
    path = Path(path)
    if path.is_dir():
        return _of_folder(path, kind)
    if not path.is_file():
        raise ItemError(f"{path}: there is no such file or folder")
    if path.suffix.lower() == ".zip":
        if kind == "image":
            raise ItemError(f"{path}: pictures are read from a folder or an NPZ file; unpack it")
        return _of_zip(path)
    if path.suffix.lower() == ".npz":
        if kind == "shape":
            raise ItemError(f"{path}: meshes are read from a folder or a zip archive")
        try:
            arrays = open_npz(path)
        except SceneError as error:
            raise ItemError(str(error)) from error
        if "images" not in arrays:
            raise ItemError(f"{path}: has no array images; it holds {', '.join(arrays) or 'nothing'}")
        return ArrayItems(arrays["images"], arrays.get("labels"), str(path), white)
    raise ItemError(f"{path}: expected an NPZ file of images, a folder of pictures or meshes, or a zip of meshes")


def leave_out_bad(items: Items) -> None:
    """Forget the items that cannot be used; the notes say which.

    Raises:
        ItemError: none can.
    """
    good = []
    for number, name in enumerate(items.names):
        try:
            items.read_one(number)
        except (ImageError, ShapeError) as error:
            items.notes.append(f"left out: {name}: {error}")
        else:
            good.append(number)
    if not good:
        raise ItemError(f"{items.source}: none of its {len(items)} items can be used; {items.notes[-1]}")
    items.keep(good)


def _of_folder(folder: Path, kind: str | None) -> Items:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    pictures = [file for file in files if file.suffix.lower() in PICTURES]
    meshes = [file for file in files if file.suffix.lower() in MESHES]
    if kind is None and pictures and meshes:
        raise ItemError(f"{folder}: holds pictures and meshes; --kind says which are meant")
    if (kind == "image" or kind is None) and pictures:
        return PictureItems(folder, pictures)
    if (kind == "shape" or kind is None) and meshes:
        names, labels = _named(folder, meshes)
        paths, sizes = [str(mesh) for mesh in meshes], [mesh.stat().st_size for mesh in meshes]
        return MeshItems(str(folder), names, labels, lambda name: Path(name).read_bytes(), paths, sizes)
    what = {"image": "pictures", "shape": "meshes", None: "pictures or meshes"}[kind]
    raise ItemError(f"{folder}: holds no {what} ({', '.join((*PICTURES, *MESHES))})")


def _of_zip(path: Path) -> Items:
    try:
        archive = zipfile.ZipFile(path)
        entries = [entry for entry in archive.infolist() if Path(entry.filename).suffix.lower() in MESHES]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ItemError(f"{path}: is no zip archive that can be read ({error})") from error
    entries.sort(key=lambda entry: entry.filename)
    if not entries:
        raise ItemError(f"{path}: holds no meshes ({', '.join(MESHES)})")
    files = [entry.filename for entry in entries]
    if len(set(files)) < len(files):
        raise ItemError(f"{path}: holds two files of one name")
    sizes = {entry.filename: entry.file_size for entry in entries}

    def load(name: str) -> bytes:
        if sizes[name] > min(MAX_BYTES, 1100 * path.stat().st_size):
            raise ItemError(f"{path}: {name} unpacks to {sizes[name]:,} bytes, which is too much")
        try:
            with archive.open(name) as file:
                return file.read(sizes[name] + 1)[: sizes[name]]
        except Exception as error:  # zipfile and zlib raise all kinds of things about damaged files
            raise ItemError(f"{path}: {name} is damaged ({error}); get the archive again") from error

    names = [str(Path(name).with_suffix("")) for name in files]
    names = names if len(set(names)) == len(names) else files
    return MeshItems(str(path), names, [_label(name) for name in files], load, files, list(sizes.values()))


def _named(folder: Path, files: Sequence[Path]) -> tuple[list[str], list[Label]]:
    """Names, without suffix where that is enough, and labels."""
    inside = [file.relative_to(folder).as_posix() for file in files]
    names = [re.sub(r"\.\w+$", "", name) for name in inside]
    return names if len(set(names)) == len(names) else inside, [_label(name) for name in inside]


def _label(name: str) -> Label:
    """The first folder of a path; a number if it is one."""
    folder, slash, _ = name.partition("/")
    if not slash:
        return None
    return int(folder) if folder.isascii() and folder.isdigit() and len(folder) < 10 else folder
