"""``fieldforge collection export|import|check``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fieldforge.apps.cli.words import UsageError
from fieldforge.apps.collections.describe import quality_of
from fieldforge.apps.collections.hdf5 import export_hdf5, import_hdf5
from fieldforge.apps.fit.command import expect_writable
from fieldforge.apps.fit.config import load_config
from fieldforge.fields.collection import Collection
from fieldforge.fields.file import save_field

HDF5 = (".hdf5", ".h5", ".h5py")


def export_command(options: argparse.Namespace) -> int:
    """A collection to an HDF5 file, or fields of it to ``.field`` files."""
    fields = Collection(options.collection)
    output: Path = options.output
    if output.suffix.lower() in HDF5:
        if options.only is not None:
            raise UsageError(f"{output}: an HDF5 file holds all fields; --only is for .field files in a folder")
        expect_writable(output)
        export_hdf5(fields, output)
        print(f"{output}: {len(fields)} fields of {fields.n_parameters:,} parameters, {output.stat().st_size:,} bytes")
        return 0
    chosen = range(len(fields)) if options.only is None else _numbers(options.only, len(fields))
    output.mkdir(parents=True, exist_ok=True)
    width = max(5, len(str(len(fields) - 1)))
    for index in chosen:
        save_field(output / f"{index:0{width}d}.field", fields[index], metadata=_metadata(fields, index))
    print(f"{output}: {len(chosen)} fields")
    return 0


def _metadata(fields: Collection, index: int) -> dict[str, Any]:
    quality, label = fields.qualities[index], fields.labels[index]
    signal = {"name": fields.names[index], "sha256": fields.column("source_sha256")[index]}
    signal |= {} if label is None else {"label": label}
    return {
        "signal": {"kind": str(fields.body.get("kind", "unknown")), **signal},
        "metrics": {} if quality is None else {fields.body["quality"]: quality},
    }


def import_command(options: argparse.Namespace) -> int:
    """An HDF5 file of fit-a-nef to a collection."""
    config = None if options.config is None else load_config(options.config)
    fields = import_hdf5(options.file, options.output, config)
    print(f"{options.output}: {len(fields)} fields of {fields.n_parameters:,} parameters")
    return 0


def check_command(options: argparse.Namespace) -> int:
    """Read all of a collection; exit code 1 if a field cannot be used."""
    fields = Collection(options.collection, allow_incomplete=True)
    problems = fields.problems()
    for problem in problems:
        print(problem)
    missing = fields.body["n_fields"] - len(fields)
    if missing:
        print(f"{missing} of {fields.body['n_fields']} fields are not fitted yet")
    print(f"{options.collection}: {len(fields)} fields, {quality_of(fields)}; {len(problems) or 'no'} problems")
    return 1 if problems or missing else 0


def _numbers(text: str, n: int) -> list[int]:
    """'3,17-20' -> [3, 17, 18, 19, 20]."""
    found = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()) or len(first) > 9 or len(last) > 9:
            raise UsageError(f"--only: expected numbers such as 3,17-20, got {text}")
        span = range(int(first), int(last or first) + 1)
        if not len(span) or span[-1] >= n:
            raise UsageError(f"--only: there are fields 0 to {n - 1}, got {part.strip()}")
        found += list(span)
    return found
