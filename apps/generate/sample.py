"""``fieldforge generate sample``: new fields, a sheet of pictures of them, and meshes of shapes.

rows = sample_rows(model, 64, seed=0)
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fieldforge.apps.cli.words import UsageError, print_json
from fieldforge.apps.generate.looks import SolidLooks, looks_of
from fieldforge.apps.generate.telling import Stages
from fieldforge.apps.generate.thumbnails import beside, thumbnails
from fieldforge.apps.images import write_image
from fieldforge.apps.mesh import write_mesh
from fieldforge.checks import expect_int
from fieldforge.devices import arrived, device_of, find_device, home, move, seeded
from fieldforge.fields.container import FieldFileError, replacing
from fieldforge.fields.file import save_field
from fieldforge.fields.weightspace.generators.base import Generator
from fieldforge.fields.weightspace.generators.diffusion import WeightDiffusion
from fieldforge.fields.weightspace.model_file import ModelFile, load_model
from fieldforge.renderers.isosurface import Isosurface

BATCH = 256
"""Fields that a diffusion model makes at once."""

ON_SHEET = 100
"""Fields that the sheet shows, the first ones."""


def sample_rows(
    model: Generator,
    n: int,
    *,
    seed: int = 0,
    label: int | Tensor | None = None,
    guidance: float = 1.0,
    n_steps: int | None = None,
    observe: Callable[[float], None] = lambda share: None,
) -> Tensor:
    """New vectors, (n, P) float32, on the CPU.

    Args:
        model: a fitted generator.
        n: how many.
        seed: same seed, same vectors.
        label: the number of the class that all should be of, or (n,) of each, anywhere; None: anything.
        guidance: how much more than the label's own prediction; 1: no more.
        n_steps: steps back from noise instead of the model's.
        observe: told the share of the work that is done.

    Raises:
        ValueError: the model knows no labels, or takes no steps.
    """
    generator = seeded(expect_int("seed", seed, 0, 2**63 - 1), torch.device("cpu"))  # the same start on every device
    if not isinstance(model, WeightDiffusion):
        if label is not None or n_steps is not None or guidance != 1.0:
            raise ValueError(f"model: {model.otype} makes fields in one step and without labels; "
                             "it has no --label, --guidance or --steps-of-sampling")  # fmt: skip
        with torch.no_grad():
            rows = torch.from_numpy(home(model.sample(n, generator=generator).float()))
        observe(1.0)
        return rows
    if isinstance(label, int):
        expect_int("label", label, 0, model.denoiser.n_classes - 1)
        label = torch.full((n,), label)
    if label is None and guidance != 1.0:
        raise ValueError("guidance: leads towards a label; give --label with it")
    if label is not None:
        label = arrived(label, device_of(model))
    with steps_taken(model, n_steps) as total:
        parts = []
        for first in range(0, n, BATCH):
            size = min(BATCH, n - first)
            labels = None if label is None else label[first : first + size]
            steps = model.sampling(size, generator=generator, labels=labels, guidance=guidance)
            parts.append(last(steps, Batch(first, size, n, total, observe)))
    return torch.from_numpy(home(torch.cat(parts).float()))


@dataclass(frozen=True)
class Batch:
    """Tells the share of all the work from the step of a batch.

    Args:
        first, size: which of the `n` fields the batch makes.
        n: of all.
        n_steps: of each batch.
        observe: told the share.
    """

    first: int
    size: int
    n: int
    n_steps: int
    observe: Callable[[float], None]

    def __call__(self, step: int) -> None:
        self.observe((self.first + self.size * step / self.n_steps) / self.n)


def last(steps: Iterable[Tensor], observe: Callable[[int], None]) -> Tensor:
    """The last of some tensors; told the number of each as it comes, from 1."""
    found = torch.zeros(0)
    for number, one in enumerate(steps, 1):
        found = one
        observe(number)
    return found


@contextmanager
def steps_taken(model: WeightDiffusion, n_steps: int | None) -> Iterator[int]:
    """Inside the block the model takes another number of steps; gives the number."""
    kept = model.n_sampling_steps
    if n_steps is not None:
        model.n_sampling_steps = expect_int("steps-of-sampling", n_steps, 1, model.noise.n_steps)
    try:
        yield model.n_sampling_steps or model.noise.n_steps
    finally:
        model.n_sampling_steps = kept


def class_of(found: ModelFile, label: str | None) -> int | None:
    """The number of a label, as it was written on the command line.

    Raises:
        UsageError: the model knows no labels, or not this one.
    """
    if label is None:
        return None
    names = [str(name) for name in found.metadata.get("labels") or []]
    if not names:
        raise UsageError(f"{found.path}: knows no labels; train it with --condition label")
    if label not in names:
        raise UsageError(f"--label {label}: {found.path} knows {', '.join(names[:20])}{' ...' if names[20:] else ''}")
    return names.index(label)


def sheet(pictures: list[np.ndarray]) -> np.ndarray:
    """Pictures in a square of rows, small ones enlarged so that they can be seen."""
    factor = max(1, 56 // pictures[0].shape[0])
    large = [picture.repeat(factor, 0).repeat(factor, 1) for picture in pictures]
    n_columns = math.ceil(math.sqrt(len(large)))
    blank = np.ones_like(large[0])
    large += [blank] * (-len(large) % n_columns)
    return beside([large[first : first + n_columns] for first in range(0, len(large), n_columns)])


def sample_command(options: argparse.Namespace) -> int:
    """``fieldforge generate sample``; returns the exit code."""
    device = find_device(options.device)
    found = load_model(options.model)
    if found.field_config is None:
        raise UsageError(f"{options.model}: does not say what its fields are; train it on a collection")
    label = class_of(found, options.label)
    looks = looks_of(found.field_config, found.layout)
    has_meshes = isinstance(looks, SolidLooks) and not options.no_meshes
    folder = _folder(options.output)
    style = "quiet" if options.quiet else "json" if options.json else "auto"
    with Stages(style, 3 + has_meshes) as stages:
        rows = sample_rows(
            move(found.model, device), options.n, seed=options.seed, label=label, guidance=options.guidance,
            n_steps=options.steps_of_sampling, observe=stages.stage("sampling"),
        )  # fmt: skip
        is_finite = torch.isfinite(rows).all(1)
        width = max(5, len(str(options.n - 1)))
        names = [f"sample-{number:0{width}d}" for number in range(options.n)]
        summary: dict[str, Any] = {
            "model": str(options.model), "otype": found.model.otype, "n": options.n, "seed": options.seed,
            "label": options.label, "guidance": options.guidance, "steps_of_sampling": options.steps_of_sampling,
            "n_finite": int(is_finite.sum()),
        }  # fmt: skip
        _write_fields(folder, found, rows, names, is_finite.tolist(), summary, stages.stage("writing fields"))
        stages.stage("sheet")
        write_image(folder / "sheet.png", sheet(thumbnails(looks, rows[:ON_SHEET])).astype(np.float32))
        if has_meshes:
            assert isinstance(looks, SolidLooks)
            summary |= _write_meshes(folder, found, rows, names, options.resolution, stages.stage("meshing"))
    text = json.dumps(summary, indent=1, sort_keys=True)
    with replacing(folder / "summary.json") as file:
        file.write(text.encode())
    if options.json:
        print_json({"event": "result", "output": str(folder), **summary})
    elif not options.quiet:
        print(describe(folder, summary))
    return 0


def describe(folder: Path, summary: Mapping[str, Any]) -> str:
    """What is printed at the end."""
    lines = [f"{folder}: {summary['n_finite']} fields and sheet.png, seed {summary['seed']}"]
    bad = summary["n"] - summary["n_finite"]
    if bad:
        lines.append(f"{bad} were not finite and are not written")
    if "n_closed" in summary:
        lines.append(
            f"meshes at {summary['resolution']} cells a side: {summary['n_closed']} of {summary['n']} closed and not "
            f"empty, {summary['n_open']} open, {summary['n_empty']} empty"
        )
    return "\n".join(lines)


def _folder(path: Path) -> Path:
    """A new folder, or an empty one.

    Raises:
        UsageError: it holds something.
        FieldFileError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise UsageError(f"{path}: holds other things; name a new folder, or an empty one")
    except OSError as error:
        raise FieldFileError(path, f"cannot be a folder of fields ({error.strerror or error})") from error
    return path


def _write_fields(
    folder: Path, found: ModelFile, rows: Tensor, names: list[str], is_finite: list[bool], summary: Mapping[str, Any],
    observe: Callable[[float], None],
) -> None:  # fmt: skip
    collection = found.metadata.get("collection")
    kind = collection.get("kind") if isinstance(collection, dict) else None
    about = {key: summary[key] for key in ("otype", "seed", "label", "guidance", "steps_of_sampling")}
    for number, (row, name) in enumerate(zip(rows, names, strict=True)):
        if is_finite[number]:
            metadata = {"signal": {"kind": str(kind), "name": name}, "generated": about | {"number": number}}
            save_field(folder / f"{name}.field", found.field(row), metadata=metadata)
        observe((number + 1) / len(rows))


def _write_meshes(
    folder: Path, found: ModelFile, rows: Tensor, names: list[str], resolution: int, observe: Callable[[float], None]
) -> dict[str, Any]:
    """A PLY file of each surface; how many are closed, open and empty."""
    assert found.field_config is not None
    looks = looks_of(found.field_config, found.layout, resolution=resolution)
    assert isinstance(looks, SolidLooks)
    low, side = np.asarray(looks.field.box[0]), float(looks.field.box[1][0] - looks.field.box[0][0])
    n_closed = n_empty = 0
    for number, (row, name) in enumerate(zip(rows, names, strict=True)):
        unit = looks.surface(looks.levels(row[None])[0])
        if unit is None:
            n_empty += 1
        else:
            n_closed += unit.n_open_edges == 0
            surface = Isosurface(low + unit.vertices * side, unit.faces, unit.n_evaluated, unit.n_cells)
            write_mesh(folder / f"{name}.ply", surface)
        observe((number + 1) / len(rows))
    n_open = len(rows) - n_closed - n_empty
    return {"n_closed": n_closed, "n_open": n_open, "n_empty": n_empty, "resolution": resolution}
