"""`fieldforge collection`."""

from __future__ import annotations

import argparse
from pathlib import Path

from fieldforge.apps.cli.words import Commands, add_command


def add_collection(commands: Commands) -> None:
    collection = commands.add_parser("collection", help="bring collections of fields in and out, and check them")
    collection.set_defaults(parser=collection)
    ways = collection.add_subparsers(title="ways", metavar="WAY")
    out = add_command(ways, "export", _collection, "write a collection as HDF5, or fields of it as .field files")
    out.add_argument("collection", type=Path, help="folder of a collection")
    out.add_argument("-o", "--output", type=Path, required=True, help="HDF5 file, or a folder for .field files")
    out.add_argument("--only", metavar="NUMBERS", help="of .field files: which, e.g. 3,17-20")
    back = add_command(ways, "import", _collection, "make a collection of an HDF5 file (fit-a-nef)")
    back.add_argument("file", type=Path, help="HDF5 file with params and param_config")
    back.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="the folder to write")
    back.add_argument("--config", type=Path, help="JSON or TOML file of what the fields are, if the file does not say")
    check = add_command(ways, "check", _collection, "read all of a collection and name the fields that cannot be used")
    check.add_argument("collection", type=Path, help="folder of a collection")


def _collection(options: argparse.Namespace) -> int:
    from fieldforge.apps.collections import command

    runs = {"export": command.export_command, "import": command.import_command, "check": command.check_command}
    return runs[options.parser.prog.split()[-1]](options)
