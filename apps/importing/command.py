"""``fieldforge import``: a network that was trained elsewhere to a field file; and parameters of ours to elsewhere."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fieldforge.apps.cli.words import UsageError
from fieldforge.apps.fit.command import expect_another_file, expect_writable
from fieldforge.apps.fit.config import load_config
from fieldforge.apps.importing import vectors
from fieldforge.apps.importing.snapshot import Imported, import_snapshot
from fieldforge.fields import tcnn
from fieldforge.fields.container import FieldFileError
from fieldforge.fields.file import build_field, save_field
from fieldforge.fields.kinds.base import Field
from fieldforge.fields.kinds.image import ImageField
from fieldforge.fields.kinds.radiance import RadianceField
from fieldforge.fields.kinds.shape import SDFField
from fieldforge.fields.networks.mlp import MLP

SNAPSHOTS = (".msgpack", ".ingp")
KINDS = {"image": (2, 3), "shape": (3, 1)}
"""What a vector may be of -> coordinates and outputs. A scene has a box and cells besides: give its snapshot."""


def import_command(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    expect_writable(options.output)
    expect_another_file(options.output, options.file)
    suffix = options.file.suffix.lower()
    if suffix in SNAPSHOTS:
        for name in ("config", "kind"):
            if getattr(options, name) is not None:
                raise UsageError(f"--{name}: is of vectors in a .npy file; a snapshot has its own")
        found = import_snapshot(options.file, size=options.size)
    elif suffix == ".npy":
        found = import_vector(options.file, config=options.config, kind=options.kind, size=options.size)
    else:
        raise UsageError(f"{options.file}: expected a snapshot, {' or '.join(SNAPSHOTS)}, or a vector, .npy")
    metadata = found.metadata | {"imported": {"file": options.file.name}}
    n_bytes = save_field(
        options.output, found.field, metadata=metadata, dtype={"encoding": "float16"} if found.is_half else None
    )
    if not options.quiet:
        for note in found.notes:
            print(note)
        n = sum(parameter.numel() for parameter in found.field.parameters())
        print(f"{options.output}: {found.field.otype} with {n:,} parameters, {n_bytes:,} bytes")
    return 0


def import_vector(path: Path, *, config: Path | None, kind: str | None, size: tuple[int, int] | None) -> Imported:
    """A field of tiny-cuda-nn's flat parameters (``module.params`` of a NetworkWithInputEncoding), saved by numpy.

    Args:
        path: .npy file of float16 or float32, one axis.
        config: JSON file of tiny-cuda-nn with the sections encoding and network.
        kind: one of `KINDS`.
        size: of a picture.
    """
    if config is None or kind is None:
        raise UsageError(f"{path}: a vector tells nothing of itself; give --config FILE.json and --kind image or shape")
    if (kind == "image") != (size is not None):
        raise UsageError("--size: is of pictures, and needed there" if kind == "image" else "--size: is of pictures")
    vector = _vector(path)
    sections, notes = vectors.checked(load_config(config), ("encoding", "network"))
    n_inputs, n_outputs = KINDS[kind]
    model = vectors.model_of(sections, n_inputs, n_outputs, vector.size)
    parts: dict[str, Any] = {"encoding": model.encoding, "network": model.network}
    if size is not None:
        field = build_field({"otype": "ImageField", "width": size[0], "height": size[1], **parts})
    else:
        field = build_field({"otype": "SDFField", "low": [0.0, 0.0, 0.0], "side": 1.0, **parts})
    numbers = torch.from_numpy(vector.astype(np.float32))
    vectors.fill_model(numbers, field.encoding, field.network, model)  # type: ignore[arg-type]
    metadata = {"signal": {"kind": kind}, "run": {"trained_with": "tiny-cuda-nn"}}
    return Imported(field, metadata, notes, vector.dtype == np.float16)


def export_vector(field: Field, path: Path) -> tuple[Path, int]:
    """Write a field's parameters as tiny-cuda-nn keeps them: a .npy file of float32, and the JSON that they go with.

    Returns:
        The path of the JSON file beside it, and how many numbers there are.

    Raises:
        ValueError: tiny-cuda-nn has no such field; says why.
    """
    if isinstance(field, RadianceField):
        vector, config = vectors.pack_radiance(field), vectors.radiance_config(field)
    elif isinstance(field, (ImageField, SDFField)):
        _expect_plain(field)
        assert isinstance(field.network, MLP) or tcnn.network_misfit(field.network)
        vector = tcnn.pack(field.encoding, field.network)  # type: ignore[arg-type]  # refuses what is no MLP
        config = {"encoding": tcnn.encoding_config(field.encoding), "network": _network_config(field)}
    else:
        raise ValueError(f"field: tiny-cuda-nn has pictures, signed distances and scenes, not a {field.otype}")
    beside = path.with_suffix(".json")
    numbers = vector.detach().cpu().numpy().astype(np.float32)
    with path.open("wb") as file:
        np.save(file, numbers, allow_pickle=False)
    beside.write_text(json.dumps(config, indent=1) + "\n")
    return beside, numbers.size


def _network_config(field: Field) -> dict[str, Any]:
    assert isinstance(field.network, MLP)
    return tcnn.network_config(field.network)


def _expect_plain(field: Field) -> None:
    scale, offset = list(field.output_scale), list(field.output_offset)
    if any(value != 1 for value in scale) or any(value != 0 for value in offset):
        raise ValueError(
            f"output_scale: tiny-cuda-nn has none, and this field has {scale} and {offset}; its answers are not the "
            "network's"
        )


def _vector(path: Path) -> np.ndarray:
    """(n,) of a .npy file, mapped and not read; its header is checked against the file's size by numpy."""
    try:
        vector = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, SyntaxError) as error:
        raise FieldFileError(path, f"is no array that numpy can read without unpickling: {error}") from None
    if vector.dtype not in (np.float16, np.float32) or vector.ndim != 1:
        raise FieldFileError(path, f"expected one axis of float16 or float32, got {vector.dtype} {vector.shape}")
    if not np.isfinite(vector).all():
        raise FieldFileError(path, "has numbers that are not finite; the training had diverged")
    return vector
