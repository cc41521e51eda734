"""What a collection is, in lines: for ``fieldforge info`` and ``fieldforge collection check``."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fieldforge.apps.fit.collection.progress import said
from fieldforge.apps.info import one_line
from fieldforge.fields.collection import INDEX, Collection

N_NAMED = 5


def is_collection(path: Path) -> bool:
    """Whether a folder looks like one."""
    return (path / INDEX).exists()


def describe(fields: Collection) -> dict[str, str]:
    """Name -> text of the lines of a table."""
    body, init = fields.body, fields.body["init"]
    lines = {
        "kind": f"collection of {fields.config.get('otype', '?')}",
        "fields": f"{len(fields):,} of {body['n_fields']:,}, of {fields.n_parameters:,} parameters",
        "items": f"{len(set(fields.items)):,}, {init.get('inits_per_item', 1)} of each",
        "begun": f"init {init.get('policy', '?')}, seed {init.get('seed', '?')}",
    }
    for section in ("encoding", "network"):
        if isinstance(fields.config.get(section), dict):
            lines[section] = one_line(fields.config[section])
    lines["quality"] = quality_of(fields)
    labels = Counter(str(label) for label in fields.labels if label is not None)
    if labels:
        lines["labels"] = ", ".join(f"{name}: {count:,}" for name, count in sorted(labels.items())[:20])
    run = body.get("run")
    for section in ("loss", "optimizer", "schedule", "fit"):
        if isinstance(run, dict) and isinstance(run.get(section), dict):
            lines[section] = one_line(run[section])
    n_bytes = sum(file.stat().st_size for file in fields.path.glob("shard-*.safetensors"))
    lines["size"] = f"{n_bytes:,} bytes in {len(body['shards'])} shards"
    return lines


def quality_of(fields: Collection) -> str:
    """Mean, median and worst fields."""
    figure = fields.body["quality"]
    known = [(quality, index) for index, quality in enumerate(fields.qualities) if quality is not None]
    if figure not in ("psnr", "iou") or not known:
        return "unknown"
    values = np.array([quality for quality, _ in known])
    worst = ", ".join(
        f"{fields.names[index]} {quality:.4g}" for quality, index in sorted(known, key=lambda one: one[0])[:N_NAMED]
    )
    missing = len(fields) - len(known)
    return (
        f"mean {said(figure, float(values.mean()))}, median {said(figure, float(np.median(values)))}, worst {worst}"
        + (f", {missing} not finite" if missing else "")
    )


def print_info(path: Path, *, as_json: bool = False) -> int:
    """Print what a collection is as a table, or its whole index as JSON."""
    fields = Collection(path, allow_incomplete=True)
    if as_json:
        columns = {name: fields.column(name) for name in ("name", "item", "init", "label", "quality", "split")}
        print(json.dumps({**fields.body, "fields": columns}, sort_keys=True))
        return 0
    table = Table("", "", title=str(path), title_justify="left", show_header=False)
    for name, value in describe(fields).items():
        table.add_row(name, Text("".join(c if c.isprintable() else "?" for c in value)))  # it may be a stranger's
    Console().print(table)
    return 0
