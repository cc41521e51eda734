"""``fieldforge info``: what a .field file is, from its header alone; no part is built and no tensor is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fieldforge.fields.container import Reader
from fieldforge.fields.file import FieldFileError, read_header
from fieldforge.fields.weightspace.model_file import ModelHeader, read_model_header, said

_UNSAID = ("sha256", "cameras")
"""Of a signal: what programs read, and people do not."""


def print_info(path: Path, *, as_json: bool = False) -> int:
    """Print the header of a file of a field, or of a model of weights, as a table, or whole as JSON."""
    with Reader(path) as reader:
        if reader.kind == "model":
            return _print_model(read_model_header(path), as_json)
    header = read_header(path)
    n_bytes = path.stat().st_size
    if as_json:
        print(json.dumps({"bytes": n_bytes, "config": header.config, "metadata": header.metadata}, sort_keys=True))
        return 0
    try:
        lines = describe(header.config, header.metadata, n_bytes)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        raise FieldFileError(path, "has a header that no fit of ours writes; --json prints it whole") from None
    _print(path, lines)
    return 0


def _print(path: Path, lines: dict[str, str]) -> None:
    table = Table("", "", title=str(path), title_justify="left", show_header=False)
    for name, value in lines.items():
        table.add_row(name, Text("".join(c if c.isprintable() else "?" for c in value)))  # the file may be a stranger's
    Console().print(table)


def _print_model(header: ModelHeader, as_json: bool) -> int:
    """Of a model of weights."""
    if as_json:
        whole = {"bytes": header.n_bytes, "slot": header.slot, "config": header.config, "layout": header.layout.pairs(),
                 "field": header.field_config, "metadata": header.metadata}  # fmt: skip
        print(json.dumps(whole, sort_keys=True))
        return 0
    lines = {"kind": f"{header.slot.replace('_', ' ')}: {header.config.get('otype', '?')}"}
    lines |= {key: one_line(value) for key, value in header.config.items() if isinstance(value, dict)}
    lines["of fields"] = f"{said(header.layout)}"
    if header.field_config is not None:
        lines["which are"] = str(header.field_config.get("otype", "?"))
    for key, value in sorted(header.metadata.items()):
        if isinstance(value, dict):
            lines[key] = ", ".join(
                f"{name} {of:.5g}" if isinstance(of, float) else f"{name} {of}"
                for name, of in value.items()
                if not isinstance(of, (dict, list)) and not name.endswith(("digest", "identity"))
            )
    lines["size"] = f"{header.n_bytes:,} bytes"
    _print(header.path, lines)
    return 0


def describe(config: dict[str, Any], metadata: dict[str, Any], n_bytes: int) -> dict[str, str]:
    """Name -> text of the lines of the table."""
    lines = {"kind": str(config.get("otype", "?"))}
    signal = metadata.get("signal", {})
    if signal:
        lines["signal"] = ", ".join(f"{key} {value}" for key, value in sorted(signal.items()) if key not in _UNSAID)
    for section in ("encoding", "network"):
        if section in config:
            lines[section] = one_line(config[section])
    quality = metadata.get("metrics", {})
    if quality:
        lines["quality"] = ", ".join(
            f"{key} {value:.4g}" for key, value in sorted(quality.items()) if value is not None
        )
    history = metadata.get("history", [])
    if history:
        name = next(key for key in history[0] if key != "step" and all(key in row for row in history))
        rows = (f"{row[name]:.4g} at step {row['step']:.0f}" for row in _spread(history, 5))
        lines["history"] = f"{name} {'  '.join(rows)}"
    lines["size"] = f"{n_bytes:,} bytes"
    run = metadata.get("run", {})
    for section in ("loss", "optimizer", "schedule", "fit"):
        if section in run:
            lines[section] = one_line(run[section])
    if "parent" in run:
        parent = run["parent"]
        lines["converted from"] = f"{parent['name']}, {parent['otype']}, sha256 {str(parent['sha256'])[:16]}"
    if "command" in run:
        lines["command"] = str(run["command"])
    if "training_step" in run:
        lines["training step"] = str(run["training_step"])
    return lines


def one_line(section: dict[str, Any]) -> str:
    """A part of a configuration, as 'HashGrid(n_levels=8)'."""
    rest = ", ".join(f"{key}={_short(value)}" for key, value in section.items() if key != "otype")
    if "otype" not in section:
        return rest
    return f"{section['otype']}({rest})" if rest else str(section["otype"])


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return one_line(value)
    if isinstance(value, list):
        return f"[{', '.join(_short(item) for item in value)}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _spread(rows: list[Any], n: int) -> list[Any]:
    if len(rows) <= n:
        return rows
    return [rows[round(i * (len(rows) - 1) / (n - 1))] for i in range(n)]
