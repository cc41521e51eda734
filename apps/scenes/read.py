"""Read a folder of posed photos, whatever its format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fieldforge.apps.scenes import colmap, dtu, llff
from fieldforge.apps.scenes.arrays import open_npz, read_arrays
from fieldforge.apps.scenes.assemble import assemble
from fieldforge.apps.scenes.draft import Draft
from fieldforge.apps.scenes.photos import MEMORY
from fieldforge.apps.scenes.scene import Scene, SceneError
from fieldforge.apps.scenes.transforms import read_one, read_splits

FORMATS = (
    "transforms_train.json, poses_bounds.npy, transforms.json, a COLMAP model (sparse/0), cameras_sphere.npz, or an "
    "NPZ file of images, poses and focal"
)


def read_scene(
    path: str | Path,
    *,
    downscale: int = 1,
    allow_missing: bool = False,
    hold: int = 8,
    memory: int = MEMORY,
) -> Scene:
    """Cameras and pixels of a folder of posed photos; its format is found by looking.

    Args:
        path: the folder, or a file in it that decides which format is meant, or an NPZ file.
        downscale: blocks of so many by so many pixels become one.
        allow_missing: go on without the views whose photos are not there.
        hold: where the files tell no test views, every so-many-th is held out (the first, the ninth, ...); 0 for none.
        memory: bytes of decoded photos that may be kept in memory.

    Where a folder holds several formats, the first of this order is read, and a note names the others: transforms for
    each split, poses_bounds.npy, transforms.json, COLMAP, cameras*.npz.

    Raises:
        SceneError: nothing that is known, or something wrong with it; which file, what, and the way out.
    """
    path = Path(path)
    if downscale < 1:
        raise SceneError(f"downscale: expected 1 or more, got {downscale}")
    if path.is_file() and path.suffix == ".npz" and "images" in (arrays := open_npz(path)):
        return read_arrays(path, arrays, downscale, hold)
    return assemble(path, _look(path), downscale=downscale, allow_missing=allow_missing, hold=hold, memory=memory)


def _look(path: Path) -> Draft:
    """Of what a folder holds the first of these formats, and a note of the others."""
    if path.is_file():
        return _named_file(path)
    if not path.is_dir():
        raise SceneError(f"{path}: there is no such folder")
    model = colmap.model_folder(path)
    npz = next((path / name for name in dtu.NAMES if (path / name).is_file()), None)
    readers: dict[str, Callable[[], Draft]] = {}
    if (path / "transforms_train.json").is_file():
        readers["transforms_train.json"] = lambda: read_splits(path)
    if (path / "poses_bounds.npy").is_file():
        readers["poses_bounds.npy"] = lambda: llff.read_llff(path, path / "poses_bounds.npy")
    if (path / "transforms.json").is_file():
        readers["transforms.json"] = lambda: read_one(path, path / "transforms.json")
    if model is not None:
        place = model
        readers[str(colmap.either(model, "images").relative_to(path))] = lambda: colmap.read_colmap(path, place)
    if npz is not None:
        file = npz
        readers[npz.name] = lambda: dtu.read_dtu(path, file)
    if not readers:
        raise SceneError(f"{path}: holds no scene that is known; expected {FORMATS}")
    first, *others = readers
    draft = readers[first]()
    if others:
        draft.notes.append(f"there is {', '.join(others)} too; name that file to read it instead")
    return draft


def _named_file(path: Path) -> Draft:
    """The format that a file's name says."""
    if path.suffix == ".json":
        return read_splits(path.parent) if path.name == "transforms_train.json" else read_one(path.parent, path)
    if path.suffix == ".npy":
        return llff.read_llff(path.parent, path)
    if path.suffix == ".npz":
        return dtu.read_dtu(path.parent, path)
    if path.stem in ("cameras", "images") and path.suffix in (".bin", ".txt"):
        above = [place for place in path.parents if place.name not in ("sparse", "colmap") and not place.name.isdigit()]
        return colmap.read_colmap(above[0], path.parent)
    raise SceneError(f"{path}: is no scene that is known; expected {FORMATS}")
